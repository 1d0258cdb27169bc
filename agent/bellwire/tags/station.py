"""A station's windows over a stream of tags, without sockets and clocks: what `Arm` and `Cancel` do, and what tags make of it.

One window is looked for at a time, as there is one set of detectors; others wait for their turn in the order of arming.

A window opens on the tagger's clock at the latest time that the stream has come to when it begins on the station's clock, and
behind the attempt that ended the window before it. Its attempts are those that begin from there on. The first coincidence ends
it, or the end of its last attempt, or a second start; or, on the station's clock, its timeout or a `Cancel`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np

from bellwire.protocols.ids import WindowId
from bellwire.protocols.instructions import (
    AnyCompletion,
    AnyInstruction,
    Arm,
    BellState,
    Cancel,
    Done,
    Failed,
    WindowEnded,
)
from bellwire.protocols.node import Batch
from bellwire.tags.finder import STATES, Finder, Found
from bellwire.tags.order import Orderer
from bellwire.tags.settings import FinderSettings
from bellwire.tags.stream import BEFORE_ALL_PS, NO_TAGS, Tags

MAX_WINDOWS: Final = 1_024
"""Windows that wait for their turn; a further one is refused."""


@dataclass(slots=True, eq=False, kw_only=True)
class _Window:
    """An armed window, and the batch that armed it.

    Attributes:
        completions: those of the instructions before.
        opened_ps: where the stream was when the window began on the station's clock; None before.
    """

    window_id: WindowId
    number: int
    completions: tuple[AnyCompletion, ...]
    attempts: int
    begin_ns: int
    timeout_ns: int
    opened_ps: int | None = None


class _Search:
    """The window whose turn it is, and what it looks for: tags from `opened_ps` on."""

    def __init__(self, window: _Window, settings: FinderSettings, opened_ps: int) -> None:
        self.window = window
        self._opened_ps = opened_ps
        self._start = settings.start
        self._finder = Finder(settings)

    @property
    def begun(self) -> int:
        """How many attempts have begun."""
        return self._finder.attempts.begun

    def feed(self, tags: Tags, until_ps: int, *, has_ended: bool) -> tuple[int, BellState | None, int] | None:
        """Take tags in order. Give how the window ends, when it does: attempts, herald, and the time that it is done with."""
        tags = tags.part(int(np.searchsorted(tags.times_ps, self._opened_ps)))
        again_ps = self._second_start_ps(tags)
        if again_ps is not None:
            tags, until_ps = tags.part(0, int(np.searchsorted(tags.times_ps, again_ps))), again_ps
        found = self._finder.feed(tags, until_ps)
        if has_ended or again_ps is not None:
            found = Found.joined([found, self._finder.finish()])
        attempts, limit = self._finder.attempts, self.window.attempts
        if len(found) and found.attempts[0] <= limit:
            return int(found.attempts[0]), STATES[found.states[0]], int(found.begins_ps[0])
        if attempts.over >= limit:
            return limit, None, attempts.begin_ps(limit)
        return None if again_ps is None else (self.begun, None, again_ps - 1)

    def _second_start_ps(self, tags: Tags) -> int | None:
        """When the hardware begins another window, with which this one is over."""
        if self._start is None:
            return None
        starts_ps = tags.times_ps[tags.channels == self._start]
        first = 1 - self._finder.attempts.windows
        return int(starts_ps[first]) if len(starts_ps) > first else None


class TagStation:
    """The detectors of a station. Drivers feed it with batches, tags and time, and take the answers.

    Args:
        settings: what a coincidence is.
        waits: whether the stream is read only while a window is open, so that no tag between windows may be dropped.
    """

    def __init__(self, settings: FinderSettings, *, waits: bool = False) -> None:
        self._settings = settings
        self._waits = waits
        self._answers: list[tuple[int, tuple[AnyCompletion, ...]]] = []
        self.reset()

    def reset(self) -> None:
        """Begin anew with another stream: windows are forgotten, and their batches not answered."""
        self._orderer = Orderer(dict(self._settings.delays_ps), self._settings.horizon_ps)
        self._windows: deque[_Window] = deque()
        self._search: _Search | None = None
        self._position_ps = BEFORE_ALL_PS
        self._unread, self._until_ps = NO_TAGS, BEFORE_ALL_PS
        self._has_ended = False
        self._answers.clear()

    @property
    def looking(self) -> bool:
        """Whether a window has begun and not ended."""
        return self._search is not None

    @property
    def unread(self) -> int:
        """How many tags are kept for the next window, because the source waits for it."""
        return len(self._unread)

    def is_armed(self, window_id: WindowId) -> bool:
        """Tell whether a window was armed and has not ended."""
        return any(window.window_id == window_id for window in self._windows)

    # What a driver calls.

    def submit(self, batch: Batch, now_ns: int) -> None:
        """Carry out a batch. One that arms is answered when its window has ended."""
        completions: list[AnyCompletion] = []
        for place, instruction in enumerate(batch.instructions, 1):
            completion = self._execute(instruction, last=place == len(batch.instructions))
            if completion is None:
                self._arm(instruction, batch.number, tuple(completions), now_ns)
                return
            completions.append(completion)
            if isinstance(completion, Failed):
                missing = len(batch.instructions) - place
                completions += [Failed(text="not executed: an instruction before it failed")] * missing
                break
        self._answers.append((batch.number, tuple(completions)))
        self._look(now_ns)

    def feed(self, tags: Tags, now_ns: int) -> None:
        """Take the next tags of the stream.

        Raises:
            BackendError: when too many of them wait for others (`Orderer.feed`).
        """
        self.handle_deadline(now_ns)
        more, self._until_ps = self._orderer.feed(tags)
        self._unread = Tags.joined([self._unread, more])
        self._look(now_ns)

    def finish(self, now_ns: int) -> None:
        """The stream is over: find what was not certain yet."""
        more, self._until_ps = self._orderer.finish()
        self._unread = Tags.joined([self._unread, more])
        self._has_ended = True
        self._look(now_ns)

    def next_deadline_ns(self) -> int | None:
        """When `handle_deadline` wants to be called next."""
        deadlines = [window.timeout_ns for window in self._windows]
        deadlines += [window.begin_ns for window in self._windows if window.opened_ps is None]
        return min(deadlines, default=None)

    def handle_deadline(self, now_ns: int) -> None:
        """Do what has come due."""
        for window in [window for window in self._windows if window.timeout_ns <= now_ns]:
            self._leave(window)
        self._look(now_ns)

    def take_answers(self) -> list[tuple[int, tuple[AnyCompletion, ...]]]:
        """Take the answers to batches, each with the batch's number."""
        answers, self._answers = self._answers, []
        return answers

    # Instructions.

    def _execute(self, instruction: AnyInstruction, *, last: bool) -> AnyCompletion | None:
        """Carry out an instruction. None is given for an `Arm` that can be."""
        if isinstance(instruction, Cancel):
            for window in self._windows:
                if window.window_id == instruction.window_id:
                    self._leave(window)
                    break
            return Done()
        if not isinstance(instruction, Arm):
            return Failed(text="the detectors of a station have no qubits")
        if not last:
            return Failed(text="arm has to come last in a batch")
        if instruction.qubit is not None:
            return Failed(text=f"the detectors of a station have no qubit {instruction.qubit}")
        if self.is_armed(instruction.window_id):
            return Failed(text=f"window {instruction.window_id} is armed already")
        if len(self._windows) >= MAX_WINDOWS:
            return Failed(text=f"{MAX_WINDOWS} windows are armed")
        return None

    def _arm(
        self, instruction: AnyInstruction, number: int, completions: tuple[AnyCompletion, ...], now_ns: int
    ) -> None:
        assert isinstance(instruction, Arm)
        self._windows.append(
            _Window(
                window_id=instruction.window_id,
                number=number,
                completions=completions,
                attempts=instruction.attempts,
                begin_ns=now_ns + instruction.start_in_ns,
                timeout_ns=now_ns + instruction.timeout_ns,
            )
        )
        self._look(now_ns)

    # Windows.

    def _look(self, now_ns: int) -> None:
        """Begin the window whose turn it is, look for its end in the tags that came, and so on with the next."""
        self._open(now_ns)
        while (search := self._begin()) is not None:
            tags, self._unread = self._unread, NO_TAGS
            ended = search.feed(tags, self._until_ps, has_ended=self._has_ended)
            if ended is None:
                return
            attempts, bell_state, done_ps = ended
            self._position_ps = done_ps + 1
            self._unread = tags.part(int(np.searchsorted(tags.times_ps, self._position_ps)))
            self._end(search.window, attempts, bell_state)
        if not self._waits:
            self._unread = NO_TAGS

    def _open(self, now_ns: int) -> None:
        """Note where the stream is for windows that begin now on the station's clock."""
        for window in self._windows:
            if window.opened_ps is None and window.begin_ns <= now_ns:
                window.opened_ps = BEFORE_ALL_PS if self._waits else self._orderer.newest_ps + 1

    def _begin(self) -> _Search | None:
        """Give the search that is under way, or begin that of the oldest window."""
        if self._search is None and self._windows:
            window = self._windows[0]
            if window.opened_ps is not None:
                self._search = _Search(window, self._settings, max(window.opened_ps, self._position_ps))
        return self._search

    def _leave(self, window: _Window) -> None:
        """End a window by the station's clock: with no herald, after the attempts that have begun."""
        attempts = 0
        if self._search is not None and self._search.window is window:
            attempts = self._search.begun
        self._end(window, attempts, None)

    def _end(self, window: _Window, attempts: int, bell_state: BellState | None) -> None:
        if self._search is not None and self._search.window is window:
            self._search = None
        self._windows.remove(window)
        ended = WindowEnded(window_id=window.window_id, attempts=attempts, bell_state=bell_state)
        self._answers.append((window.number, (*window.completions, ended)))
