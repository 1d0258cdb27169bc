"""Windows of attempts: who is armed, when a window begins and ends, and with what (spec 2 §7).

The table knows times, on the clock of the world's caller, and draws the chances; it knows no qubits. What ended is
taken from it as `WindowOutcome`s.

    gathering  some of the parties are armed; each leaves at its own timeout or by its cancel
    scheduled  all of them are armed: beginning, end and herald are drawn at once, by waiting time
    ended      remembered by its name in a bounded table, so that nobody arms it again

Before a scheduled window has begun a party can still leave; then it will never begin, and the others wait for their
timeouts. Once it has begun, the first party that leaves ends it for all.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from bellwire.protocols.errors import BackendError
from bellwire.protocols.ids import LinkId, NodeId, QubitName, WindowId
from bellwire.protocols.instructions import AnyCompletion, BellState
from bellwire.protocols.limits import MAX_TOMBSTONES
from bellwire.sim.physics import LinkPhysics
from bellwire.sim.states import ComplexArray

MAX_OPEN_WINDOWS_PER_LINK: Final = 256
"""Windows of one link that have an armed party."""


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowLink:
    """A link as its windows see it: its two ends, its station, and its physics."""

    link_id: LinkId
    ends: tuple[NodeId, NodeId]
    station: NodeId
    physics: LinkPhysics

    @property
    def parties(self) -> tuple[NodeId, ...]:
        """Both ends and the station, which may be one of them."""
        return tuple(dict.fromkeys((*self.ends, self.station)))


class Party(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One armed party of a window.

    Attributes:
        qubit: the end's communication qubit; None for the station.
        completions: those of the batch's instructions before the Arm.
        begin_ns: the earliest that this party lets the window begin.
        timeout_ns: when this party leaves.
        keeps_time: whether it emits on its own clock, from `begin_ns`. Otherwise the others trigger it.
        bright_ratio: the population of the bright state that it prepares; None for the link's own, or at a station.
    """

    node: NodeId
    batch_id: int
    completions: tuple[AnyCompletion, ...]
    qubit: QubitName | None
    begin_ns: int
    timeout_ns: int
    attempts: int
    keeps_time: bool = False
    bright_ratio: float | None = None


class WindowOutcome(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A window is over for these parties, at `at_ns` on the caller's clock, after `attempts` attempts.

    `bell_state` is None when nothing was heralded; when something was, all parties are there and it left `state`, of
    shape (4, 4), first end's qubit slowest.
    """

    link: WindowLink
    window_id: WindowId
    parties: tuple[Party, ...]
    attempts: int
    bell_state: BellState | None
    state: ComplexArray | None
    at_ns: int


class _Window:
    """A window with at least one armed party. `begin_ns` is None while it gathers; `heralding` is known afterwards.

    `due_ns` is what its timer was set for.
    """

    __slots__ = (
        "attempts",
        "begin_ns",
        "bell_state",
        "due_ns",
        "end_ns",
        "heralding",
        "left",
        "link",
        "parties",
        "window_id",
    )

    def __init__(self, link: WindowLink, window_id: WindowId) -> None:
        self.link = link
        self.window_id = window_id
        self.parties: dict[NodeId, Party] = {}
        self.left: set[NodeId] = set()
        self.begin_ns: int | None = None
        self.end_ns = 0
        self.due_ns = 0
        self.attempts = 0
        self.bell_state: BellState | None = None
        self.heralding = link.physics.usual

    def deadline_ns(self) -> int:
        """When something happens to this window by itself."""
        timeout_ns = min(party.timeout_ns for party in self.parties.values())
        return timeout_ns if self.begin_ns is None else min(timeout_ns, self.end_ns)

    def has_begun(self, now_ns: int) -> bool:
        return self.begin_ns is not None and self.begin_ns <= now_ns


def first_success(probability: float, rng: np.random.Generator) -> float:
    """Draw the number of the first attempt that succeeds, counted from 1: geometric, by inversion, with one draw.

    Infinite when no attempt ever will.
    """
    draw = rng.random()
    if probability >= 1:
        return 1.0
    if probability <= 0:
        return math.inf
    return 1.0 + math.floor(min(math.log1p(-draw) / math.log1p(-probability), 1e300))


class WindowTable:
    """All windows of a world.

    Args:
        time_scale: world nanoseconds that pass in one nanosecond of the caller's clock.
        rng: where chances are drawn from.
    """

    def __init__(self, *, time_scale: float, rng: np.random.Generator) -> None:
        self._time_scale = time_scale
        self._rng = rng
        self._open: dict[tuple[LinkId, WindowId], _Window] = {}
        self._open_per_link: dict[LinkId, int] = {}
        self._ended: dict[LinkId, OrderedDict[WindowId, None]] = {}
        self._timers: list[tuple[int, int, _Window]] = []
        self._timer_number = 0
        self._outcomes: list[WindowOutcome] = []

    def __len__(self) -> int:
        """Count the open windows."""
        return len(self._open)

    def check(self, link: WindowLink, window_id: WindowId, node: NodeId, bright_ratio: float | None = None) -> None:
        """Check that a party of the link may arm in this window. Changes nothing.

        Raises:
            BackendError: when the window has ended, has lost a party, has this party already, or the link has too many;
                when the link has no such bright ratio, or the other end has armed with another.
        """
        link.physics.heralding(bright_ratio, 0.0)
        if window_id in self._ended.get(link.link_id, ()):
            raise BackendError(f"window {window_id!r} of link {link.link_id!r} has ended")
        window = self._open.get((link.link_id, window_id))
        if window is None:
            if self._open_per_link.get(link.link_id, 0) >= MAX_OPEN_WINDOWS_PER_LINK:
                raise BackendError(f"link {link.link_id!r} has {MAX_OPEN_WINDOWS_PER_LINK} open windows")
            return
        if node in window.parties or node in window.left:
            raise BackendError(f"{node} has armed in window {window_id!r} of link {link.link_id!r} before")
        if window.left:
            gone = ", ".join(sorted(window.left))
            raise BackendError(f"window {window_id!r} of link {link.link_id!r} will not begin: {gone} has left it")
        if node in link.ends:
            for party in window.parties.values():
                if party.qubit is not None and party.bright_ratio != bright_ratio:
                    text = f"{party.node} with bright ratio {party.bright_ratio}, {node} with {bright_ratio}"
                    raise BackendError(f"window {window_id!r} of link {link.link_id!r} is armed by {text}")

    def arm(self, link: WindowLink, window_id: WindowId, party: Party, now_ns: int) -> None:
        """Add a party to a window; with the last, the window is scheduled. Raises BackendError as `check` does."""
        self.check(link, window_id, party.node, party.bright_ratio)
        key = (link.link_id, window_id)
        window = self._open.get(key)
        if window is None:
            window = self._open[key] = _Window(link, window_id)
            self._open_per_link[link.link_id] = self._open_per_link.get(link.link_id, 0) + 1
        window.parties[party.node] = party
        if len(window.parties) == len(link.parties):
            self._schedule(window)
            if window.end_ns <= now_ns:
                self._end(window, window.attempts, window.end_ns, window.bell_state)
                return
        self._set_timer(window)

    def cancel(self, link: WindowLink, window_id: WindowId, node: NodeId, now_ns: int) -> None:
        """Let a party ask for the window's end. Nothing happens when it is not armed there.

        Before the window has begun the party leaves at once. After, the window ends for all with the attempt under
        way: its photons have left, and it may still herald.
        """
        window = self._open.get((link.link_id, window_id))
        if window is None or node not in window.parties:
            return
        if window.has_begun(now_ns):
            self._stop(window, now_ns)
        else:
            self._leave(window, [node], now_ns)

    def release(self, node: NodeId, now_ns: int) -> None:
        """Take a node out of all of its windows; for it, nothing comes out of them. Begun ones end with no herald."""
        for window in [window for window in self._open.values() if node in window.parties]:
            begun = window.has_begun(now_ns)
            del window.parties[node]
            window.left.add(node)
            window.bell_state = None
            if not window.parties:
                self._forget(window)
            elif begun:
                self._stop(window, now_ns)
            else:
                window.begin_ns = None
                self._set_timer(window)

    def next_deadline_ns(self) -> int | None:
        """Tell when `advance` has something to do, on the caller's clock; None when nothing is open."""
        timers = self._timers
        while timers:
            deadline_ns, _, window = timers[0]
            if self._is_current(deadline_ns, window):
                return deadline_ns
            heapq.heappop(timers)
        return None

    def advance(self, now_ns: int) -> None:
        """Let happen, in order of time, what is due by `now_ns`."""
        while self._timers and self._timers[0][0] <= now_ns:
            deadline_ns, _, window = heapq.heappop(self._timers)
            if self._is_current(deadline_ns, window):
                self._expire(window, deadline_ns)

    def take_outcomes(self) -> list[WindowOutcome]:
        """Drain what has ended, in order."""
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def _schedule(self, window: _Window) -> None:
        parties = window.parties.values()
        ends = [window.parties[end] for end in window.link.ends]
        late_ns = ends[0].begin_ns - ends[1].begin_ns if all(end.keeps_time for end in ends) else 0
        heralding = window.link.physics.heralding(ends[0].bright_ratio, late_ns * self._time_scale)
        window.heralding = heralding
        attempts = min(party.attempts for party in parties)
        success = first_success(heralding.success_probability, self._rng)
        if success <= attempts:
            attempts = int(success)
            heralds = tuple(heralding.states)
            window.bell_state = heralds[int(self._rng.random() * len(heralds))] if len(heralds) > 1 else heralds[0]
        window.begin_ns = max(party.begin_ns for party in parties)
        self._end_with(window, attempts)

    def _end_with(self, window: _Window, attempts: int) -> None:
        assert window.begin_ns is not None
        world_ns = window.link.physics.clock.end_ns(attempts)
        window.attempts = attempts
        window.end_ns = window.begin_ns + math.ceil(world_ns / self._time_scale)

    def _stop(self, window: _Window, now_ns: int) -> None:
        """End a window that has begun with the attempt under way."""
        assert window.begin_ns is not None
        elapsed_ns = (now_ns - window.begin_ns) * self._time_scale
        attempts = window.link.physics.clock.attempts_started(elapsed_ns)
        if attempts < window.attempts:
            window.bell_state = None
            self._end_with(window, attempts)
        if window.end_ns <= now_ns:
            self._end(window, window.attempts, now_ns, window.bell_state)
        else:
            self._set_timer(window)

    def _expire(self, window: _Window, at_ns: int) -> None:
        """Handle a deadline: the planned end, or else the timeout of one party or more."""
        if window.begin_ns is not None and window.end_ns <= at_ns:
            self._end(window, window.attempts, at_ns, window.bell_state)
        elif window.begin_ns is not None and window.begin_ns <= at_ns:
            elapsed_ns = (at_ns - window.begin_ns) * self._time_scale
            attempts = min(window.link.physics.clock.attempts_ended(elapsed_ns), window.attempts - 1)
            self._end(window, attempts, at_ns, None)
        else:
            self._leave(window, [node for node, party in window.parties.items() if party.timeout_ns <= at_ns], at_ns)

    def _leave(self, window: _Window, nodes: list[NodeId], at_ns: int) -> None:
        """Take parties out of a window that has not begun, and now never will."""
        gone = tuple(window.parties.pop(node) for node in nodes)
        window.left.update(nodes)
        window.begin_ns = None
        window.bell_state = None
        self._report(window, gone, 0, at_ns, None)
        if window.parties:
            self._set_timer(window)
        else:
            self._forget(window)

    def _end(self, window: _Window, attempts: int, at_ns: int, bell_state: BellState | None) -> None:
        self._report(window, tuple(window.parties.values()), attempts, at_ns, bell_state)
        self._forget(window)

    def _report(
        self, window: _Window, parties: tuple[Party, ...], attempts: int, at_ns: int, bell_state: BellState | None
    ) -> None:
        self._outcomes.append(
            WindowOutcome(
                link=window.link,
                window_id=window.window_id,
                parties=parties,
                attempts=attempts,
                bell_state=bell_state,
                state=None if bell_state is None else window.heralding.states[bell_state],
                at_ns=at_ns,
            )
        )

    def _forget(self, window: _Window) -> None:
        """Close a window, and remember its name for a while."""
        link_id = window.link.link_id
        del self._open[link_id, window.window_id]
        self._open_per_link[link_id] -= 1
        ended = self._ended.setdefault(link_id, OrderedDict())
        ended[window.window_id] = None
        if len(ended) > MAX_TOMBSTONES:
            ended.popitem(last=False)

    def _is_current(self, deadline_ns: int, window: _Window) -> bool:
        return window.due_ns == deadline_ns and self._open.get((window.link.link_id, window.window_id)) is window

    def _set_timer(self, window: _Window) -> None:
        """Put a window's deadline on the heap. Old ones stay there as stale until they are many."""
        self._timer_number += 1
        window.due_ns = window.deadline_ns()
        heapq.heappush(self._timers, (window.due_ns, self._timer_number, window))
        if len(self._timers) > 4 * len(self._open) + 64:
            self._timers = [(window.due_ns, number, window) for number, window in enumerate(self._open.values())]
            heapq.heapify(self._timers)
            self._timer_number = len(self._timers)
