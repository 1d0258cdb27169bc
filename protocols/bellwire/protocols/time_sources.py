"""The sources of the network's time that a participant knows, and which of them is the best (spec 4 §2.2)."""

from __future__ import annotations

from dataclasses import dataclass, field

from bellwire.protocols.hardware_clock import HARDWARE
from bellwire.protocols.ids import BROKER, NodeId
from bellwire.protocols.limits import MAX_BURST_EXCHANGES, MAX_TIME_LEASE_NS, MIN_TIME_INTERVAL_NS
from bellwire.protocols.messages import TimeAnnounce
from bellwire.protocols.time_servo import ClockSpec

SECOND_NS = 1_000_000_000

QUALIFYING_ANNOUNCEMENTS = 2
"""A source that is announced once may be gone again."""

UNUSABLE_CLASS = 255
"""The class of a clock that nobody should follow (IEEE 1588-2019 §7.6.2.5: slave-only)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeSettings:
    """From whom a participant takes the time, and how often; durations in nanoseconds (spec 4 §2.4).

    Without `sources` it is a grandmaster: its own clock is the network's time. A backend's own clock is followed wherever there
    is one; `hardware` as the only source says that there is no other.
    """

    sources: tuple[NodeId, ...] = (BROKER,)
    exchanges: int = 4
    interval_ns: int = 1 * SECOND_NS
    acquire_interval_ns: int = SECOND_NS // 16
    settle_bursts: int = 4
    silence_ns: int = 4 * SECOND_NS
    lease_ns: int = 30 * SECOND_NS
    hold_ns: int = 10 * SECOND_NS
    priority: int | None = None
    """With a priority this participant is a source too, for when better ones are gone. A grandmaster has 128."""

    clock: ClockSpec = field(default_factory=ClockSpec)

    def __post_init__(self) -> None:
        if not 1 <= self.exchanges <= MAX_BURST_EXCHANGES:
            raise ValueError(f"exchanges lies in 1..{MAX_BURST_EXCHANGES}")
        if not MIN_TIME_INTERVAL_NS <= self.acquire_interval_ns <= self.interval_ns <= self.silence_ns:
            raise ValueError("acquire_interval_ns, interval_ns and silence_ns must be in this order, 10 ms or more")
        if not 2 * self.interval_ns <= self.lease_ns <= MAX_TIME_LEASE_NS:
            raise ValueError("lease_ns must be two intervals or more, and at most an hour")
        if self.priority is not None and not 0 <= self.priority <= 255:
            raise ValueError("priority lies in 0..255")


@dataclass(slots=True)
class Source:
    """What is known of one source."""

    node: NodeId
    announce: TimeAnnounce | None = None
    heard_ns: int = 0
    times: int = 0

    @property
    def rank(self) -> tuple[int, int, int, str]:
        """What the best has the least of."""
        assert self.announce is not None
        announce = self.announce
        return announce.priority, announce.clock_class, announce.steps_removed, self.node


class Sources:
    """Chooses among the sources: the best that is heard, and no other as long as that one will do."""

    def __init__(self, own: NodeId, settings: TimeSettings) -> None:
        self._own = own
        self._settings = settings
        self._sources = {node: Source(node) for node in settings.sources if node not in (own, HARDWARE)}
        self._since_ns = 0
        self.chosen: NodeId | None = None

    def __contains__(self, node: NodeId) -> bool:
        return node in self._sources

    def heard(self, node: NodeId, announce: TimeAnnounce, now_ns: int) -> None:
        """Note what a source says of itself. One that follows this participant, or nobody should follow, is none."""
        source = self._sources.get(node)
        if source is None:
            return
        if announce.clock_class >= UNUSABLE_CLASS or announce.grandmaster == self._own:
            self.lost(node)
            return
        source.announce, source.heard_ns = announce, now_ns
        source.times += 1

    def lost(self, node: NodeId) -> None:
        """A source is gone: it must be heard anew."""
        source = self._sources.get(node)
        if source is not None:
            source.announce, source.times = None, 0

    def is_heard(self, node: NodeId, now_ns: int) -> bool:
        """Whether a source has announced itself lately."""
        source = self._sources[node]
        return source.announce is not None and now_ns - source.heard_ns < self._settings.silence_ns

    def announcement(self) -> TimeAnnounce | None:
        """What the chosen source says of itself."""
        return None if self.chosen is None else self._sources[self.chosen].announce

    def choose(self, now_ns: int) -> NodeId | None:
        """Choose anew: at once when the present source is gone; a better one must have shown itself, and not too soon."""
        heard = [source for source in self._sources.values() if self.is_heard(source.node, now_ns)]
        best = min(heard, key=lambda source: source.rank, default=None)
        present = None if self.chosen is None else self._sources[self.chosen]
        if present is not None and present in heard and best is not None:
            soon = now_ns - self._since_ns < self._settings.hold_ns
            if soon or best.times < QUALIFYING_ANNOUNCEMENTS or not best.rank < present.rank:
                return self.chosen
        chosen = None if best is None else best.node
        if chosen != self.chosen:
            self.chosen, self._since_ns = chosen, now_ns
        return chosen
