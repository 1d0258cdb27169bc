"""Finds double clicks in a stream of time tags: Barrett and Kok, PRA 71, 060310 (2005), and polarisation-encoded photons.

A coincidence is exactly two clicks in the gates of one attempt, on two channels that a pattern names:

* A click belongs to the latest attempt that began no later than it, and counts when it lies within one of the attempt's
  gates: `begin <= click - attempt < end`. Other clicks are ignored, and so are channels of no pattern.
* Before that, a detector's clicks within the dead time of a click of its own that was not dropped are dropped.
* More than two clicks in the gates reject the attempt: one of them at least was dark.

All of it is done on whole arrays. What a part of the stream leaves to the next is one attempt's begin and at most three clicks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from bellwire.protocols.instructions import BellState
from bellwire.tags.attempts import attempts_of
from bellwire.tags.dead_time import DeadTime
from bellwire.tags.order import Orderer
from bellwire.tags.settings import FinderSettings
from bellwire.tags.stream import Channels, Tags, Times

Numbers = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int8]

STATES: Final = tuple(BellState)

_TRIGGER: Final = -1
_START: Final = -2
_OTHER: Final = -3
_CROWD: Final = 3
"""Clicks of one attempt that are too many. More of them are not kept."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Found:
    """Coincidences, in order of time. All of shape (n,); times are less the delays of their channels.

    Attributes:
        windows: the window of each, from 1.
        attempts: the number of the attempt within its window, from 1.
        states: the Bell state that it heralds, as a place in `STATES`.
        begins_ps: when the attempt began.
        clicks_ps: times of the two clicks, shape (n, 2).
        channels: channels of the two clicks, shape (n, 2).
    """

    windows: Numbers
    attempts: Numbers
    states: Codes
    begins_ps: Times
    clicks_ps: Times
    channels: Channels

    def __len__(self) -> int:
        """How many there are."""
        return len(self.attempts)

    @classmethod
    def joined(cls, parts: Iterable[Found]) -> Found:
        """Put parts one behind the other."""
        parts = [NOTHING_FOUND, *parts]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in cls.__slots__})


NOTHING_FOUND: Final = Found(
    windows=np.empty(0, dtype=np.int64),
    attempts=np.empty(0, dtype=np.int64),
    states=np.empty(0, dtype=np.int8),
    begins_ps=np.empty(0, dtype=np.int64),
    clicks_ps=np.empty((0, 2), dtype=np.int64),
    channels=np.empty((0, 2), dtype=np.int16),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FinderCounts:
    """What became of a stream's tags.

    Attributes:
        tags: all of them, those of the clock and late ones included.
        late: dropped, because they came out of order by more than the horizon.
        attempts: that have begun.
        clicks: of detectors.
        dead: clicks dropped for dead time.
        outside: clicks outside of every gate.
        single: attempts with one click in their gates.
        crowded: attempts rejected for more than two.
        unmatched: attempts with two clicks that are no pattern.
        heralds: coincidences by Bell state.
    """

    tags: int
    late: int
    attempts: int
    clicks: int
    dead: int
    outside: int
    single: int
    crowded: int
    unmatched: int
    heralds: dict[BellState, int]


class Finder:
    """Finds coincidences in tags that are in order and less their delays. Its memory does not grow with the stream."""

    def __init__(self, settings: FinderSettings) -> None:
        self.attempts = attempts_of(settings)
        self.clicks = self.dead = self.outside = self.single = self.crowded = self.unmatched = 0
        self.heralds = np.zeros(len(STATES), dtype=np.int64)
        """Coincidences by place in `STATES`."""

        self._has_trigger, self._has_start = settings.trigger is not None, settings.start is not None
        self._detectors = np.array(settings.detectors, dtype=np.int16)
        self._dead_time = DeadTime(settings.dead_time_ps, len(self._detectors))
        self._gates_ps = settings.gates_ps
        self._codes = _channel_codes(settings)
        self._patterns = _pattern_table(settings)
        self._open = _Clicks.none()

    def feed(self, tags: Tags, until_ps: int) -> Found:
        """Take the next part of the stream: all tags before `until_ps` that were not in a part before."""
        codes = self._codes[tags.channels.view(np.uint16)]
        triggers_ps = tags.times_ps[codes == _TRIGGER] if self._has_trigger else tags.times_ps[:0]
        starts_ps = tags.times_ps[codes == _START] if self._has_start else tags.times_ps[:0]
        self.attempts.feed(triggers_ps, starts_ps, until_ps)
        clicked = np.flatnonzero(codes >= 0)
        return self._pairs(self._finished(self._in_gates(tags.times_ps[clicked], codes[clicked])))

    def finish(self) -> Found:
        """The stream has ended: every attempt is over."""
        self.attempts.finish()
        return self._pairs(self._finished(_Clicks.none()))

    def _in_gates(self, times_ps: Times, detectors: Codes) -> _Clicks:
        """Give the clicks that count."""
        self.clicks += len(times_ps)
        alive = self._dead_time.alive(times_ps, detectors)
        if alive is not None:
            self.dead += len(times_ps) - int(np.count_nonzero(alive))
            times_ps, detectors = times_ps[alive], detectors[alive]
        begins_ps = self.attempts.begins(times_ps)
        since_ps = times_ps - begins_ps
        in_gates = [(begin_ps <= since_ps) & (since_ps < end_ps) for begin_ps, end_ps in self._gates_ps]
        inside = np.flatnonzero(np.logical_or.reduce(in_gates))
        self.outside += len(times_ps) - len(inside)
        modes = detectors[inside].astype(np.int16) * len(in_gates)
        for gate, in_gate in enumerate(in_gates[1:], 1):
            modes += gate * in_gate[inside].astype(np.int16)
        return _Clicks(begins_ps[inside], times_ps[inside], modes)

    def _finished(self, clicks: _Clicks) -> _Clicks:
        """Give the clicks of attempts that are over, and keep those of the one that may be not."""
        clicks = clicks.after(self._open)
        if not len(clicks.begins_ps):
            return clicks
        last_ps = int(clicks.begins_ps[-1])
        if self.attempts.is_over(last_ps):
            self._open = _Clicks.none()
            return clicks
        cut = int(np.searchsorted(clicks.begins_ps, last_ps))
        self._open = clicks.part(cut, cut + _CROWD).copy()
        return clicks.part(0, cut)

    def _pairs(self, clicks: _Clicks) -> Found:
        """Give the attempts with two clicks that are a pattern."""
        begins_ps = clicks.begins_ps
        if not len(begins_ps):
            return NOTHING_FOUND
        first = np.concatenate([[0], np.flatnonzero(begins_ps[1:] != begins_ps[:-1]) + 1])
        number = np.diff(first, append=len(begins_ps))
        one = first[number == 2]
        states = self._patterns[clicks.modes[one], clicks.modes[one + 1]]
        matched = states >= 0
        self.single += int(np.count_nonzero(number == 1))
        self.crowded += int(np.count_nonzero(number > 2))
        self.unmatched += len(one) - int(np.count_nonzero(matched))
        if not matched.any():
            return NOTHING_FOUND
        one, states = one[matched], states[matched]
        self.heralds += np.bincount(states, minlength=len(STATES))
        windows, attempts = self.attempts.numbers(begins_ps[one])
        both = np.stack([one, one + 1], axis=1)
        return Found(
            windows=windows,
            attempts=attempts,
            states=states,
            begins_ps=begins_ps[one],
            clicks_ps=clicks.times_ps[both],
            channels=self._detectors[clicks.modes[both] // len(self._gates_ps)],
        )


class Search:
    """Finds coincidences in tags as they come: delays, order, then coincidences. The outcome does not depend on the parts."""

    def __init__(self, settings: FinderSettings) -> None:
        self.orderer = Orderer(dict(settings.delays_ps), settings.horizon_ps)
        self.finder = Finder(settings)
        self._tags = 0

    def feed(self, tags: Tags) -> Found:
        """Take the next tags of the stream.

        Raises:
            BackendError: when too many of them wait for others (`Orderer.feed`).
        """
        self._tags += len(tags)
        return self.finder.feed(*self.orderer.feed(tags))

    def finish(self) -> Found:
        """The stream is over: give what was not certain yet."""
        found = self.finder.feed(*self.orderer.finish())
        return Found.joined([found, self.finder.finish()])

    @property
    def counts(self) -> FinderCounts:
        """What became of the tags so far."""
        finder = self.finder
        return FinderCounts(
            tags=self._tags,
            late=self.orderer.late,
            attempts=finder.attempts.total,
            clicks=finder.clicks,
            dead=finder.dead,
            outside=finder.outside,
            single=finder.single,
            crowded=finder.crowded,
            unmatched=finder.unmatched,
            heralds={state: int(finder.heralds[place]) for place, state in enumerate(STATES) if finder.heralds[place]},
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Clicks:
    """Clicks within gates: when their attempts began, their times and their modes, which are detector and gate."""

    begins_ps: Times
    times_ps: Times
    modes: npt.NDArray[np.int16]

    @classmethod
    def none(cls) -> _Clicks:
        return cls(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int16))

    def part(self, first: int, last: int) -> _Clicks:
        return _Clicks(self.begins_ps[first:last], self.times_ps[first:last], self.modes[first:last])

    def copy(self) -> _Clicks:
        return _Clicks(self.begins_ps.copy(), self.times_ps.copy(), self.modes.copy())

    def after(self, others: _Clicks) -> _Clicks:
        if not len(others.begins_ps):
            return self
        return _Clicks(
            np.concatenate([others.begins_ps, self.begins_ps]),
            np.concatenate([others.times_ps, self.times_ps]),
            np.concatenate([others.modes, self.modes]),
        )


def _channel_codes(settings: FinderSettings) -> Codes:
    """What each channel is, as an unsigned number: a detector by its place among them, the trigger, the start, or neither."""
    codes = np.full(2**16, _OTHER, dtype=np.int8)
    for place, channel in enumerate(settings.detectors):
        codes[channel % 2**16] = place
    for mark, code in ((settings.trigger, _TRIGGER), (settings.start, _START)):
        if mark is not None:
            codes[mark % 2**16] = code
    return codes


def _pattern_table(settings: FinderSettings) -> Codes:
    """The place in `STATES` of what two clicks herald, by the modes of the earlier and the later; -1 for nothing."""
    gates, detectors = len(settings.gates_ps), settings.detectors
    table = np.full((len(detectors) * gates,) * 2, -1, dtype=np.int8)
    for first, second, state in settings.patterns:
        one, two, code = detectors.index(first), detectors.index(second), STATES.index(state)
        if gates == 1:
            table[one, two] = table[two, one] = code
        else:
            table[one * gates, two * gates + 1] = code
    return table
