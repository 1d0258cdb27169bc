"""Who has a station's detectors: sets of them behind a switch, and a fair queue of links (spec 2 §3.6). Pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

from bellwire.protocols.ids import LinkId, WindowId


@dataclass(frozen=True, slots=True, kw_only=True)
class StationSettings:
    """What a station has: `sets` of detectors behind a switch that takes `switch_ns` from one link to another.

    `None`: a set for every link, and no switch.
    """

    sets: int | None = None
    switch_ns: int = 0

    def __post_init__(self) -> None:
        if (self.sets is not None and self.sets < 1) or self.switch_ns < 0:
            raise ValueError("a station has at least one set of detectors, and a switch takes no negative time")


@dataclass(frozen=True, slots=True)
class Turn:
    """A window's turn: it has a set of detectors, which takes so long to be turned to its link."""

    window_id: WindowId
    switch_ns: int


class Detectors:
    """Gives windows their turns: a link after the other, and the windows of one link in the order in which they came."""

    def __init__(self, settings: StationSettings) -> None:
        self.settings = settings
        self._free: list[LinkId | None] = [None] * (settings.sets or 0)
        """The links that free sets are turned to, the one that was used last at the end."""
        self._taken: dict[WindowId, LinkId] = {}
        self._queues: OrderedDict[LinkId, deque[WindowId]] = OrderedDict()

    @property
    def waiting(self) -> int:
        """How many windows wait for their turn."""
        return sum(map(len, self._queues.values()))

    @property
    def taken(self) -> int:
        """How many windows have their turn."""
        return len(self._taken)

    @property
    def free(self) -> bool:
        """Whether a window could have its turn at once."""
        return bool(self._free) or not self.shared

    @property
    def shared(self) -> bool:
        """Whether windows of different links have to take turns."""
        return self.settings.sets is not None

    def queue(self, link_id: LinkId, window_id: WindowId) -> int:
        """Let a window wait for its turn. Returns how many windows there are before it: 0 when its turn is now."""
        ahead = self.waiting + self.taken if not self.free else 0
        self._queues.setdefault(link_id, deque()).append(window_id)
        return ahead

    def leave(self, link_id: LinkId, window_id: WindowId) -> None:
        """Take a window out that was not begun: out of the queue, or out of its turn."""
        if window_id in self._taken:
            self.give_back(window_id)
            return
        queue = self._queues[link_id]
        queue.remove(window_id)
        if not queue:
            del self._queues[link_id]

    def take_turns(self) -> list[Turn]:
        """Give free sets to windows that wait, in order."""
        turns = []
        while self._queues and self.free:
            link_id, queue = self._queues.popitem(last=False)
            window_id = queue.popleft()
            if queue:
                self._queues[link_id] = queue
            self._taken[window_id] = link_id
            turns.append(Turn(window_id, self._turn_to(link_id)))
        return turns

    def _turn_to(self, link_id: LinkId) -> int:
        """Take a free set, one that need not be turned before the one that was not used for longest. Returns the time."""
        if not self.shared:
            return 0
        if link_id in self._free:
            self._free.remove(link_id)
            return 0
        del self._free[0]
        return self.settings.switch_ns

    def give_back(self, window_id: WindowId) -> None:
        """The hardware is done with a window."""
        link_id = self._taken.pop(window_id)
        if self.shared:
            self._free.append(link_id)
