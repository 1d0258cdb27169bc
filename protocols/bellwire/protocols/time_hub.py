"""A source of the network's time: it serves whoever leases its bursts (spec 4 §2). Nothing is configured per node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bellwire.protocols.departures import Departure
from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.hardware_clock import HARDWARE, ClockClaim
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
from bellwire.protocols.time_path import Datagram, Direction, SidePath, path_id_of
from bellwire.protocols.time_sources import UNUSABLE_CLASS, TimeSettings
from bellwire.protocols.timers import Timer

DEFAULT_PRIORITY = 128

OWN_CLASS = 13
"""A clock whose own time is the network's (IEEE 1588-2019 table 4: an application's own timescale)."""

HOLDOVER_CLASS = 14
"""A clock of that class which has lost what it follows."""

MAX_UNANSWERED_BURSTS = 2
"""After so many a side path is none, until another lease: the exchange goes on by way of the session."""


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
    path: SidePath | None = None
    address: object = None
    """Where the holder's datagrams come from; `None` while none came, or none that is sent there arrives."""
    unanswered: int = 0


class TimeHub:
    """Announces itself and exchanges with the holders of its leases. `node`: whom it follows itself, if anybody."""

    def __init__(self, endpoint: Endpoint, *, priority: int = DEFAULT_PRIORITY, node: TimeNode | None = None) -> None:
        self._endpoint = endpoint
        self._priority = priority
        self._node = node
        self._leases: dict[NodeId, _Lease] = {}
        self._sequence = 0
        self._offers: tuple[str, int, Callable[[], bytes]] | None = None
        self._paths: dict[int, NodeId] = {}
        self._path_ids = 0
        self._datagrams: list[Datagram] = []
        endpoint.handle(TimeLease, self.grant)
        endpoint.hear(TimeDelayReq, self._delay_req)
        endpoint.on_peer_lost.append(self._peer_lost)

    @property
    def followers(self) -> tuple[NodeId, ...]:
        """Who holds a lease."""
        return tuple(sorted(self._leases))

    @property
    def paths(self) -> int:
        """How many side paths there are: no more than leases."""
        return len(self._paths)

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
        if self._offers is None or not message.exchanges:
            grant = TimeGrant(lease_ns=message.lease_ns)
        else:
            host, port, make_key = self._offers
            self._path_ids += 1
            grant = TimeGrant(
                lease_ns=message.lease_ns,
                path_id=self._path_ids,
                path_host=host,
                path_port=port,
                path_key=make_key(),
            )
            lease.path = SidePath(grant.path_id, grant.path_key, Direction.TO_NODE)
            self._paths[grant.path_id] = peer
        lease.timer = endpoint.timers.at(first_ns, lambda: self._burst(peer, lease))
        return grant

    def _end(self, peer: NodeId) -> None:
        lease = self._leases.pop(peer, None)
        if lease is not None and lease.timer is not None:
            lease.timer.cancel()
        if lease is not None:
            self._forget_path(lease)

    def _forget_path(self, lease: _Lease) -> None:
        """From now on the exchanges of a lease go by way of the session."""
        if lease.path is not None:
            del self._paths[lease.path.path_id]
        lease.path = lease.address = None

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
            if lease.address is not None:
                lease.unanswered += 1
                if lease.unanswered > MAX_UNANSWERED_BURSTS:
                    self._forget_path(lease)
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
        lease.departure = self._send(lease, sync) or self._endpoint.tell_timed(peer, sync)

    def _send(self, lease: _Lease, message: TimeSync | TimeFollowUp | TimeDelayResp) -> Departure | None:
        """Send by the side path, if the holder was heard on it."""
        if lease.path is None or lease.address is None:
            return None
        departure = Departure(self._endpoint.now_ns)
        self._datagrams.append(Datagram(lease.address, lease.path.seal(message), departure))
        return departure

    def offer_path(self, port: int, make_key: Callable[[], bytes], *, host: str = "") -> None:
        """From now on offer a side path by UDP; `make_key` gives a new key of 32 random octets.

        `host` is this host's address; without one it is where sessions with this participant are reached.
        """
        self._offers = (host, port, make_key)

    def take_datagrams(self) -> list[Datagram]:
        """Take the datagrams to be sent."""
        datagrams, self._datagrams = self._datagrams, []
        return datagrams

    def receive_datagram(self, data: bytes, address: object, arrived_ns: int, now_ns: int) -> None:
        """Take a datagram that came from `address` and arrived at `arrived_ns`, which may have been a while ago."""
        peer = self._paths.get(path_id_of(data) or 0)
        lease = None if peer is None else self._leases.get(peer)
        if peer is None or lease is None or lease.path is None:
            return
        authentic, message = lease.path.open(data)
        if not authentic:
            return
        self._endpoint.catch_up(now_ns)
        self._endpoint.begin(now_ns)
        lease.address = address
        if isinstance(message, TimeDelayReq):
            lease.unanswered = 0
            self._delay_req(peer, message, arrived_ns)

    def _delay_req(self, peer: NodeId, message: TimeDelayReq, arrived_ns: int | None = None) -> None:
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
        delay_resp = TimeDelayResp(sequence=message.sequence, received_ns=endpoint.network_time_ns(arrived_ns))
        for answer in (follow_up, delay_resp):
            if self._send(lease, answer) is None:
                endpoint.tell(peer, answer)


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

    def claimed(self, claim: ClockClaim) -> None:
        """The backend's own clock says what the time is. A grandmaster does not listen: its own clock is the network's time."""
        if self.node is not None:
            self.node.claimed(claim)

    def backend_lost(self, _why: str) -> None:
        """The backend is gone, and its clock with it."""
        if self.node is not None:
            self.node.lose_hardware()

    def _status(self, _: NodeId, __: TimeStatus) -> Reply:
        endpoint, node = self._endpoint, self.node
        followers = () if self.hub is None else self.hub.followers
        if node is None:
            return TimeReport(state=ClockState.LOCKED, grandmaster=endpoint.node, uncertainty_ns=0, followers=followers)
        announcement, source = node.sources.announcement(), node.sources.chosen or NodeId("")
        grandmaster = NodeId("") if announcement is None else announcement.grandmaster
        claim = node.hardware.claim if node.follows_hardware else None
        if claim is not None:
            source, grandmaster = HARDWARE, grandmaster or endpoint.node
        return TimeReport(
            state=node.machine.state,
            source=source,
            grandmaster=grandmaster,
            offset_ns=endpoint.network_time_ns() - endpoint.now_ns,
            uncertainty_ns=endpoint.clock.uncertainty_ns(endpoint.now_ns),
            uncertainty_ps=None if claim is None else claim.uncertainty_ps,
            drift_ppb=node.servo.drift_ppb,
            path_delay_ns=node.path_delay_ns,
            followers=followers,
        )
