"""A participant that takes the network's time from a source, and knows how far off it may be (spec 4 §2, §3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from typing import Final

from bellwire.protocols.departures import Departure
from bellwire.protocols.endpoint import Answer, Endpoint
from bellwire.protocols.hardware_clock import HARDWARE, ClockClaim, HardwareClock
from bellwire.protocols.ids import NodeId
from bellwire.protocols.limits import PATH_KEY_BYTES
from bellwire.protocols.machine import Machine, Row
from bellwire.protocols.messages import (
    ClockState,
    TimeAnnounce,
    TimeDelayReq,
    TimeDelayResp,
    TimeFollowUp,
    TimeGrant,
    TimeLease,
    TimeSync,
)
from bellwire.protocols.session import Loss
from bellwire.protocols.time_path import Datagram, Direction, SidePath
from bellwire.protocols.time_servo import Sample, Servo, sample_of
from bellwire.protocols.time_sources import Sources, TimeSettings
from bellwire.protocols.timers import Timer


class ClockInput(StrEnum):
    """Inputs of a clock. A burst AGREES with what was known or not; SETTLED when it is the last that was wanted."""

    SOURCE = "source"
    AGREES = "agrees"
    SETTLED = "settled"
    DISAGREES = "disagrees"
    SILENCE = "silence"


_S, _I = ClockState, ClockInput

HASTY: Final = (ClockState.FREERUN, ClockState.ACQUIRING)
"""States in which bursts come fast."""


class ClockMachine(Machine[ClockState, ClockInput]):
    """What a participant's idea of the network's time is worth."""

    name = "clock"
    rule = "4 §2.1"
    initial = ClockState.FREERUN
    table = {
        (_S.FREERUN, _I.SOURCE): Row(_S.ACQUIRING, None, "4 §2.1"),
        (_S.ACQUIRING, _I.AGREES): Row(_S.ACQUIRING, "set", "4 §3.3"),
        (_S.ACQUIRING, _I.SETTLED): Row(_S.LOCKED, "set", "4 §3.3"),
        (_S.ACQUIRING, _I.DISAGREES): Row(_S.ACQUIRING, "begin_anew", "4 §3.3"),
        (_S.ACQUIRING, _I.SILENCE): Row(_S.FREERUN, None, "4 §2.3"),
        (_S.LOCKED, _I.AGREES): Row(_S.LOCKED, "slew", "4 §3.3"),
        (_S.LOCKED, _I.DISAGREES): Row(_S.ACQUIRING, "begin_anew", "4 §3.3"),
        (_S.LOCKED, _I.SILENCE): Row(_S.HOLDOVER, "coast", "4 §2.3"),
        (_S.HOLDOVER, _I.AGREES): Row(_S.LOCKED, "slew", "4 §3.3"),
        (_S.HOLDOVER, _I.DISAGREES): Row(_S.ACQUIRING, "begin_anew", "4 §3.3"),
    }

    def __init__(self, endpoint: Endpoint, servo: Servo, interval_ns: Callable[[], int]) -> None:
        super().__init__()
        self._endpoint = endpoint
        self.servo = servo
        self._interval_ns = interval_ns

    def set(self, sample: Sample) -> None:
        """Take the time that the samples give, by a step if need be."""
        servo, clock, now_ns = self.servo, self._endpoint.clock, self._endpoint.now_ns
        servo.take(sample)
        clock.bound = servo.bound(now_ns)
        clock.known = self.state is ClockState.LOCKED
        clock.step(now_ns, servo.offset_at(now_ns), servo.drift_ppb)

    def begin_anew(self, sample: Sample) -> None:
        """What was believed is disproved: what is known now is this sample alone."""
        self.servo.restart()
        self.set(sample)

    def slew(self, sample: Sample) -> None:
        """Run faster or slower, until the time is the one that the samples give."""
        servo, clock, now_ns = self.servo, self._endpoint.clock, self._endpoint.now_ns
        servo.take(sample)
        clock.bound = servo.bound(now_ns)
        error_ns = servo.offset_at(now_ns) - (clock.network_ns(now_ns) - now_ns)
        clock.steer(now_ns, servo.rate_ppb(error_ns, self._interval_ns()))

    def coast(self) -> None:
        """Go on with the drift that is known."""
        self._endpoint.clock.steer(self._endpoint.now_ns, self.servo.drift_ppb)


@dataclass(slots=True)
class _Exchange:
    """An exchange under way. `arrived_ns` is t2, the departure t3, `origin_ns` t1 and `received_ns` t4."""

    exchange: int
    arrived_ns: int
    departure: Departure
    origin_ns: int | None = None
    received_ns: int | None = None
    uncertainty_ns: int = 0


@dataclass(frozen=True, slots=True)
class _Path:
    """The side path of the chosen source's last lease. `address` is a port of the host where its session goes, or both."""

    source: NodeId
    side: SidePath
    address: int | tuple[str, int]


@dataclass(slots=True)
class _Burst:
    exchanges: dict[int, _Exchange] = field(default_factory=dict)
    best: Sample | None = None


class TimeNode:
    """Keeps leases with the sources, exchanges with the best of them, and steers the endpoint's clock.

    Where the backend has a clock of its own that knows better, it follows that one.
    """

    def __init__(self, endpoint: Endpoint, settings: TimeSettings) -> None:
        self.endpoint = endpoint
        self.settings = settings
        self.servo = Servo(settings.clock)
        self.machine = ClockMachine(endpoint, self.servo, self._interval_ns)
        self.sources = Sources(endpoint.node, self.settings)
        self.hardware = HardwareClock(settings.silence_ns)
        self.path_delay_ns: int | None = None
        self.on_state: list[Callable[[], None]] = []
        """Told whenever the state has changed."""
        self._burst = _Burst()
        self._last_sequence = 0
        """Of the Sync that came last: a copy of an earlier one would mix the times of two exchanges."""
        self._asked: dict[NodeId, int] = {}
        """The number of the request for a lease that was sent to a source last: an earlier one is not answered any more."""
        self._renewals: dict[NodeId, Timer] = {}
        self._watch: Timer | None = None
        self._hardware_watch: Timer | None = None
        self._proof: tuple[Sample, int] | None = None
        """The best exchange of the last burst with the present source, and when that ended."""
        endpoint.hear(TimeAnnounce, self._announced)
        self._path: _Path | None = None
        self._datagrams: list[Datagram] = []
        self.uses_path = False
        """Whether a transport takes datagrams: it says so."""
        endpoint.hear(TimeSync, self._sync)
        endpoint.hear(TimeFollowUp, self._follow_up)
        endpoint.hear(TimeDelayResp, self._delay_resp)
        endpoint.on_peer_up.append(self._peer_up)
        endpoint.on_peer_lost.append(self._peer_lost)

    def start(self) -> None:
        """Begin to look for sources."""
        for node in self.settings.sources:
            if node != HARDWARE:
                self.endpoint.keep_session(node)

    # Leases.

    def _peer_up(self, peer: NodeId) -> None:
        if peer in self.sources:
            self._last_sequence = 0
            self._lease(peer)

    def _peer_lost(self, peer: NodeId, _loss: Loss, _why: str) -> None:
        if peer in self.sources:
            self._stop_renewing(peer)
            self.sources.lost(peer)
            self._choose()

    def _stop_renewing(self, peer: NodeId) -> None:
        timer = self._renewals.pop(peer, None)
        if timer is not None:
            timer.cancel()

    def _lease(self, peer: NodeId) -> None:
        """Ask for a lease, or for another one in its place."""
        endpoint, settings = self.endpoint, self.settings
        self._stop_renewing(peer)
        fast = self.machine.state in HASTY
        exchanges = settings.exchanges if peer == self.sources.chosen else 0
        lease = TimeLease(
            interval_ns=settings.acquire_interval_ns if fast and exchanges else settings.interval_ns,
            exchanges=exchanges,
            lease_ns=settings.lease_ns,
        )

        def answered(answer: Answer) -> None:
            if isinstance(answer, TimeGrant) and peer == self.sources.chosen:
                self._take_path(peer, answer)
            if endpoint.is_up(peer):
                delay_ns = answer.lease_ns // 2 if isinstance(answer, TimeGrant) else settings.interval_ns
                self._stop_renewing(peer)
                self._renewals[peer] = endpoint.timers.at(endpoint.now_ns + delay_ns, lambda: self._lease(peer))

        endpoint.abandon(self._asked.get(peer, 0))
        self._asked[peer] = endpoint.ask(peer, lease, endpoint.now_ns + settings.lease_ns // 2, answered)

    def _announced(self, peer: NodeId, message: TimeAnnounce) -> None:
        self.sources.heard(peer, message, self.endpoint.now_ns)
        self._choose()
        if peer == self.sources.chosen and self._path is not None:
            self._send(self._path, None)

    # The side path.

    def _take_path(self, source: NodeId, grant: TimeGrant) -> None:
        self._path = None
        if not self.uses_path or not grant.path_port or len(grant.path_key) != PATH_KEY_BYTES:
            return
        if grant.path_host and not _is_address(grant.path_host):
            return
        address = (grant.path_host, grant.path_port) if grant.path_host else grant.path_port
        self._path = _Path(source, SidePath(grant.path_id, grant.path_key, Direction.TO_SOURCE), address)
        self._send(self._path, None)

    def _send(self, path: _Path, message: TimeDelayReq | None) -> Departure:
        """Send a datagram; an empty one tells the source where this node is reached."""
        departure = Departure(self.endpoint.now_ns)
        self._datagrams.append(Datagram(path.address, path.side.seal(message), departure))
        return departure

    def take_datagrams(self) -> list[Datagram]:
        """Take the datagrams to be sent, each to a host and port, or to a port of the host where the session goes."""
        datagrams, self._datagrams = self._datagrams, []
        return datagrams

    def receive_datagram(self, data: bytes, arrived_ns: int, now_ns: int) -> None:
        """Take a datagram that arrived at `arrived_ns`, which may have been a while ago."""
        path = self._path
        if path is None:
            return
        self.endpoint.catch_up(now_ns)
        self.endpoint.begin(now_ns)
        _, message = path.side.open(data)
        if isinstance(message, TimeSync):
            self._sync(path.source, message, (path, arrived_ns))
        elif isinstance(message, TimeFollowUp):
            self._follow_up(path.source, message)
        elif isinstance(message, TimeDelayResp):
            self._delay_resp(path.source, message)

    def _choose(self) -> None:
        """Exchange with the best source, and with that one alone."""
        before = self.sources.chosen
        chosen = self.sources.choose(self.endpoint.now_ns)
        if chosen == before:
            return
        self._burst = _Burst()
        self._proof = None
        self._last_sequence = 0
        self._path = None
        if before is not None and not self.sources.is_heard(before, self.endpoint.now_ns):
            self._step(ClockInput.SILENCE)
        for peer in (before, chosen):
            if peer is not None and self.endpoint.is_up(peer):
                self._lease(peer)
        self._look_out()

    def _look_out(self) -> None:
        """Notice when the source falls silent."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self.sources.chosen is None:
            return
        at_ns = self.endpoint.now_ns + self.settings.silence_ns
        self._watch = self.endpoint.timers.at(at_ns, self._silent)

    def _silent(self) -> None:
        """No burst has come to an end for long: the source is none, whatever it says of itself."""
        chosen = self.sources.chosen
        self._proof = None
        if chosen is not None:
            self.sources.lost(chosen)
            self._choose()
        self._step(ClockInput.SILENCE)

    # Exchanges.

    def _sync(self, peer: NodeId, message: TimeSync, way: tuple[_Path, int] | None = None) -> None:
        """Answer by the way that it came: `way` is the side path and when it arrived, when it came by datagram."""
        if peer != self.sources.chosen or message.sequence <= self._last_sequence:
            return
        self._last_sequence = message.sequence
        if message.exchange == 0:
            self._end_burst()
        if len(self._burst.exchanges) >= self.settings.exchanges:
            return
        answer = TimeDelayReq(sequence=message.sequence)
        departure = self.endpoint.tell_timed(peer, answer) if way is None else self._send(way[0], answer)
        if departure is not None:
            arrived_ns = self.endpoint.now_ns if way is None else way[1]
            exchange = _Exchange(message.exchange, arrived_ns, departure)
            self._burst.exchanges[message.sequence] = exchange

    def _follow_up(self, peer: NodeId, message: TimeFollowUp) -> None:
        exchange = self._exchange(peer, message.sequence)
        if exchange is not None:
            exchange.origin_ns, exchange.uncertainty_ns = message.origin_ns, message.uncertainty_ns
            self._complete(exchange)

    def _delay_resp(self, peer: NodeId, message: TimeDelayResp) -> None:
        exchange = self._exchange(peer, message.sequence)
        if exchange is not None:
            exchange.received_ns = message.received_ns
            self._complete(exchange)

    def _exchange(self, peer: NodeId, sequence: int) -> _Exchange | None:
        return self._burst.exchanges.get(sequence) if peer == self.sources.chosen else None

    def _complete(self, exchange: _Exchange) -> None:
        """An exchange may have all four times: the first of a burst only warms the path."""
        if exchange.origin_ns is None or exchange.received_ns is None:
            return
        last = self.settings.exchanges - 1
        if exchange.exchange > 0 or last == 0:
            sample = sample_of(
                exchange.origin_ns,
                exchange.arrived_ns,
                exchange.departure.at_ns,
                exchange.received_ns,
                uncertainty_ns=exchange.uncertainty_ns,
                clock=self.servo.clock,
            )
            best = self._burst.best
            if sample is not None and (best is None or sample.half_ns < best.half_ns):
                self._burst.best = sample
        exchange.origin_ns = None
        if exchange.exchange >= last:
            self._end_burst()

    def _end_burst(self) -> None:
        best, self._burst = self._burst.best, _Burst()
        if best is None:
            return
        self.path_delay_ns = best.delay_ns
        self._look_out()
        self._proof = (best, self.endpoint.now_ns)
        known = self.servo.best(self.endpoint.now_ns)
        if known is not None and self.follows_hardware and self._is_better(known, best):
            # It says less than is known, but it may say otherwise.
            if not self.servo.agrees(best):
                self._lose_hardware()
                self._step(ClockInput.DISAGREES, best)
            return
        self._judge(best)

    def _judge(self, sample: Sample) -> None:
        """Say what a sample is to the clock."""
        if self.machine.state is ClockState.FREERUN:
            self._step(ClockInput.SOURCE)
        if not self.servo.agrees(sample):
            self._step(ClockInput.DISAGREES, sample)
        elif self.machine.state is ClockState.ACQUIRING and len(self.servo) + 1 >= self.settings.settle_bursts:
            self._step(ClockInput.SETTLED, sample)
        else:
            self._step(ClockInput.AGREES, sample)

    def _is_better(self, known: Sample, sample: Sample) -> bool:
        """Whether what is known proves as much as a sample, or more."""
        now_ns = self.endpoint.now_ns
        return self.servo.half_ns(known, now_ns) <= self.servo.half_ns(sample, now_ns)

    # The backend's own clock.

    @property
    def follows_hardware(self) -> bool:
        """Whether it is the backend's own clock that gives the time."""
        now_ns = self.endpoint.now_ns
        best = self.servo.best(now_ns)
        return best is not None and best.by_hardware and self.hardware.is_heard(now_ns)

    def claimed(self, claim: ClockClaim) -> None:
        """The backend's clock says what the time is. It counts unless an exchange knows better, or proves that it is false."""
        now_ns, hardware = self.endpoint.now_ns, self.hardware
        sample, proof = claim.sample(), self._proof
        if claim.state is not ClockState.LOCKED:
            self.lose_hardware()
            return
        if not hardware.is_sound(claim, now_ns):
            return
        if proof is not None and now_ns - proof[1] < self.settings.silence_ns:
            if not self.servo.are_compatible(proof[0], sample):
                self.lose_hardware()
                return
            best = self.servo.best(now_ns)
            bursts = [proof[0]] if best is None or best.by_hardware else [proof[0], best]
            if any(self._is_better(burst, sample) for burst in bursts):
                return
        hardware.heard(claim)
        self._look_after_hardware()
        if hardware.is_due(claim, self.settings.acquire_interval_ns):
            hardware.taken(claim)
            self._judge(sample)

    def lose_hardware(self) -> None:
        """The backend's clock gives no time any more: go on with exchanges, if there are any."""
        if self._lose_hardware():
            self._step(ClockInput.SILENCE)

    def _lose_hardware(self) -> bool:
        was_heard = self.hardware.claim is not None
        self.hardware.lost()
        if self._hardware_watch is not None:
            self._hardware_watch.cancel()
            self._hardware_watch = None
        return was_heard

    def _look_after_hardware(self) -> None:
        """Notice when the backend's clock falls silent."""
        assert self.hardware.claim is not None
        if self._hardware_watch is not None:
            self._hardware_watch.cancel()
        at_ns = self.hardware.claim.local_ns + self.settings.silence_ns
        self._hardware_watch = self.endpoint.timers.at(at_ns, self.lose_hardware)

    def _interval_ns(self) -> int:
        """How soon the next sample is to be expected."""
        settings, now_ns = self.settings, self.endpoint.now_ns
        if not self.hardware.is_heard(now_ns):
            return settings.interval_ns
        return min(max(self.hardware.spacing_ns, settings.acquire_interval_ns), settings.interval_ns)

    def _is_told(self) -> bool:
        """Whether anything still tells the time: the hardware, or bursts of the present source."""
        now_ns, proof = self.endpoint.now_ns, self._proof
        exchanges = proof is not None and now_ns - proof[1] < self.settings.silence_ns
        return exchanges or self.hardware.is_heard(now_ns)

    def _step(self, given: ClockInput, *arguments: Sample) -> None:
        before = self.machine.state
        if given is ClockInput.SILENCE and (self._is_told() or not self.machine.allows(given)):
            return
        self.machine.step(given, *arguments)
        after = self.machine.state
        if after is before:
            return
        chosen = self.sources.chosen
        if chosen is not None and (before in HASTY) is not (after in HASTY) and self.endpoint.is_up(chosen):
            self._lease(chosen)
        for listener in self.on_state:
            listener()


def _is_address(host: str) -> bool:
    """Whether it is an address and no name, which would have to be looked up."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
