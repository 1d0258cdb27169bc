"""A source of the network's time: it serves whoever leases its bursts (spec 4 §2). Nothing is configured per node."""

from __future__ import annotations

from dataclasses import dataclass

from bellwire.protocols.departures import Departure
from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.ids import NodeId
from bellwire.protocols.limits import MAX_TIME_LEASES, MIN_TIME_INTERVAL_NS
from bellwire.protocols.messages import (
    ClockState,
    Reply,
    TimeAnnounce,
    TimeDelayReq,
    TimeDelayResp,
    TimeFollowUp,
    TimeGrant,
    TimeLease,
    TimeReport,
    TimeStatus,
    TimeSync,
)
from bellwire.protocols.session import Loss
from bellwire.protocols.time_node import TimeNode
from bellwire.protocols.time_sources import UNUSABLE_CLASS, TimeSettings
from bellwire.protocols.timers import Timer

DEFAULT_PRIORITY = 128

OWN_CLASS = 13
"""A clock whose own time is the network's (IEEE 1588-2019 table 4: an application's own timescale)."""

HOLDOVER_CLASS = 14
"""A clock of that class which has lost what it follows."""


@dataclass(slots=True)
class _Lease:
    """What one participant was promised. `sequence` and `exchange` are those of the Sync that was sent last."""

    message: TimeLease
    until_ns: int
    timer: Timer | None = None
    began_ns: int = 0
    sequence: int = 0
    exchange: int = 0
    departure: Departure | None = None


class TimeHub:
    """Announces itself and exchanges with the holders of its leases. `node`: whom it follows itself, if anybody."""

    def __init__(self, endpoint: Endpoint, *, priority: int = DEFAULT_PRIORITY, node: TimeNode | None = None) -> None:
        self._endpoint = endpoint
        self._priority = priority
        self._node = node
        self._leases: dict[NodeId, _Lease] = {}
        self._sequence = 0
        endpoint.handle(TimeLease, self.grant)
        endpoint.hear(TimeDelayReq, self._delay_req)
        endpoint.on_peer_lost.append(self._peer_lost)

    @property
    def followers(self) -> tuple[NodeId, ...]:
        """Who holds a lease."""
        return tuple(sorted(self._leases))

    def grant(self, peer: NodeId, message: TimeLease) -> Reply:
        """Grant a lease in the place of the one before."""
        endpoint, before = self._endpoint, self._leases.get(peer)
        if before is None and len(self._leases) >= MAX_TIME_LEASES:
            raise RequestError(ErrorCode.LIMIT, f"{endpoint.node} has given {MAX_TIME_LEASES} leases of time")
        lease = _Lease(message, endpoint.now_ns + message.lease_ns)
        first_ns = endpoint.now_ns
        if before is not None:
            self._end(peer)
            lease.began_ns = before.began_ns
            first_ns = max(first_ns, before.began_ns + MIN_TIME_INTERVAL_NS)
        self._leases[peer] = lease
        lease.timer = endpoint.timers.at(first_ns, lambda: self._burst(peer, lease))
        return TimeGrant(lease_ns=message.lease_ns)

    def _end(self, peer: NodeId) -> None:
        lease = self._leases.pop(peer, None)
        if lease is not None and lease.timer is not None:
            lease.timer.cancel()

    def _peer_lost(self, peer: NodeId, _loss: Loss, _why: str) -> None:
        self._end(peer)

    def _burst(self, peer: NodeId, lease: _Lease) -> None:
        """Announce, and begin the exchanges of a burst; then wait for the next one."""
        endpoint = self._endpoint
        if endpoint.now_ns >= lease.until_ns:
            self._end(peer)
            return
        lease.began_ns = endpoint.now_ns
        lease.timer = endpoint.timers.at(endpoint.now_ns + lease.message.interval_ns, lambda: self._burst(peer, lease))
        announce = self._announcement()
        endpoint.tell(peer, announce)
        if lease.message.exchanges and announce.clock_class < UNUSABLE_CLASS:
            self._sync(peer, lease, 0)

    def _announcement(self) -> TimeAnnounce:
        endpoint, node = self._endpoint, self._node
        uncertainty_ns = endpoint.clock.uncertainty_ns(endpoint.now_ns)
        followed = None if node is None else node.sources.announcement()
        clock_class = OWN_CLASS
        if uncertainty_ns is None or not endpoint.clock.known:
            clock_class = UNUSABLE_CLASS
        elif node is not None and node.machine.state is ClockState.HOLDOVER:
            clock_class = HOLDOVER_CLASS
        return TimeAnnounce(
            priority=self._priority,
            clock_class=clock_class,
            uncertainty_ns=uncertainty_ns or 0,
            grandmaster=endpoint.node if followed is None else followed.grandmaster,
            steps_removed=0 if followed is None else min(followed.steps_removed + 1, 255),
        )

    def _sync(self, peer: NodeId, lease: _Lease, exchange: int) -> None:
        self._sequence += 1
        lease.sequence, lease.exchange = self._sequence, exchange
        sync = TimeSync(sequence=lease.sequence, exchange=exchange)
        lease.departure = self._endpoint.tell_timed(peer, sync)

    def _delay_req(self, peer: NodeId, message: TimeDelayReq) -> None:
        """Answer the one Delay_Req that is due. The next Sync goes first: it finds the path as warm as it gets."""
        endpoint, lease = self._endpoint, self._leases.get(peer)
        if lease is None or lease.departure is None or message.sequence != lease.sequence:
            return
        left_ns, lease.departure = lease.departure.at_ns, None
        if lease.exchange + 1 < lease.message.exchanges:
            self._sync(peer, lease, lease.exchange + 1)
        follow_up = TimeFollowUp(
            sequence=message.sequence,
            origin_ns=endpoint.network_time_ns(left_ns),
            uncertainty_ns=endpoint.clock.uncertainty_ns(endpoint.now_ns) or 0,
        )
        endpoint.tell(peer, follow_up)
        endpoint.tell(peer, TimeDelayResp(sequence=message.sequence, received_ns=endpoint.network_time_ns()))


class TimePart:
    """A participant's part in the agreed time: it follows sources unless its own clock is the network's, and may be one.

    It tells whoever asks what it believes (`time.status`).
    """

    def __init__(self, endpoint: Endpoint, settings: TimeSettings | None = None) -> None:
        settings = settings or TimeSettings()
        own = endpoint.clock.known
        priority = DEFAULT_PRIORITY if own and settings.priority is None else settings.priority
        self._endpoint = endpoint
        self.node = None if own else TimeNode(endpoint, settings)
        self.hub = None if priority is None else TimeHub(endpoint, priority=priority, node=self.node)
        endpoint.handle(TimeStatus, self._status)

    def start(self) -> None:
        """Begin to look for sources."""
        if self.node is not None:
            self.node.start()

    def _status(self, _: NodeId, __: TimeStatus) -> Reply:
        endpoint, node = self._endpoint, self.node
        followers = () if self.hub is None else self.hub.followers
        if node is None:
            return TimeReport(state=ClockState.LOCKED, grandmaster=endpoint.node, uncertainty_ns=0, followers=followers)
        announcement = node.sources.announcement()
        return TimeReport(
            state=node.machine.state,
            source=node.sources.chosen or NodeId(""),
            grandmaster=NodeId("") if announcement is None else announcement.grandmaster,
            offset_ns=endpoint.network_time_ns() - endpoint.now_ns,
            uncertainty_ns=endpoint.clock.uncertainty_ns(endpoint.now_ns),
            drift_ppb=node.servo.drift_ppb,
            path_delay_ns=node.path_delay_ns,
            followers=followers,
        )
