"""Attempts: when they begin, and their numbers; by a trigger's tags, or by a period.

Attempts are numbered from 1 in each window, and windows from 1. A window begins with each start, and ends the one before it
with its attempts; without a channel of starts there is one window.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

from bellwire.tags.settings import FinderSettings
from bellwire.tags.stream import BEFORE_ALL_PS, Times

Numbers = npt.NDArray[np.int64]


class Attempts(ABC):
    """The attempts of a stream that comes in parts. What is asked is answered for the latest part."""

    def __init__(self, settings: FinderSettings) -> None:
        self.windows = 0 if settings.start is not None else 1
        """How many windows have begun."""

        self._has_starts = settings.start is not None
        self._attempt_ps = settings.attempt_ps
        self._until_ps = BEFORE_ALL_PS
        self._has_ended = False
        self._starts_ps = np.array([BEFORE_ALL_PS], dtype=np.int64)
        """The latest start before this part, or none; then those of this part."""

    @abstractmethod
    def feed(self, triggers_ps: Times, starts_ps: Times, until_ps: int) -> None:
        """Take the triggers and starts of the next part of the stream, in order: all that there are before `until_ps`."""

    def finish(self) -> None:
        """The stream has ended, and all of its attempts are over."""
        self._has_ended = True

    @abstractmethod
    def begins(self, clicks_ps: Times) -> Times:
        """Tell when the attempts began that clicks lie in; `BEFORE_ALL_PS` for none. Both of shape (n,)."""

    @abstractmethod
    def begin_ps(self, number: int) -> int:
        """Tell when an attempt of the latest window began that was not over before this part."""

    @property
    @abstractmethod
    def begun(self) -> int:
        """How many attempts of the latest window have begun."""

    @property
    @abstractmethod
    def over(self) -> int:
        """How many attempts of the latest window are over: no click of theirs can come any more."""

    @property
    @abstractmethod
    def total(self) -> int:
        """How many attempts of all windows have begun."""

    def is_over(self, begin_ps: int) -> bool:
        """Tell whether no click of the attempt that began then can come any more."""
        return self._has_ended or begin_ps + self._attempt_ps <= self._until_ps or begin_ps < self._latest_ps()

    def numbers(self, begins_ps: Times) -> tuple[Numbers, Numbers]:
        """Give windows and numbers of the attempts that began then. All of shape (n,)."""
        place = np.searchsorted(self._starts_ps, begins_ps, side="right") - 1
        return place + (self.windows - len(self._starts_ps) + 1), self._numbers(begins_ps, place)

    @abstractmethod
    def _latest_ps(self) -> int:
        """When the latest attempt or window began: every attempt that began before is over."""

    @abstractmethod
    def _numbers(self, begins_ps: Times, place: Numbers) -> Numbers:
        """Give numbers within windows, whose starts are at these places in `_starts_ps`."""

    def _add_starts(self, starts_ps: Times) -> None:
        self.windows += len(starts_ps)
        self._starts_ps = np.concatenate([self._starts_ps[-1:], starts_ps])


class TriggeredAttempts(Attempts):
    """Attempts that begin with a trigger's tags, and end with the next or with their last gate."""

    def __init__(self, settings: FinderSettings) -> None:
        super().__init__(settings)
        self._times_ps = np.array([BEFORE_ALL_PS], dtype=np.int64)
        """The latest trigger before this part, or none; then those of this part."""

        self._before = 0
        """Triggers up to the first of `_times_ps`, that one included."""

        self._bases = np.zeros(1, dtype=np.int64)
        """Triggers before each of `_starts_ps`."""

    def feed(self, triggers_ps: Times, starts_ps: Times, until_ps: int) -> None:
        """Take the triggers and starts of the next part of the stream. What comes before every start is dropped."""
        self._until_ps = until_ps
        if not self.windows:
            first = starts_ps[0] if len(starts_ps) else None
            triggers_ps = triggers_ps[np.searchsorted(triggers_ps, first) :] if first is not None else triggers_ps[:0]
        self._before += len(self._times_ps) - 1
        self._times_ps = np.concatenate([self._times_ps[-1:], triggers_ps])
        if len(starts_ps):
            bases = self._before + np.searchsorted(self._times_ps, starts_ps) - 1
            self._bases = np.concatenate([self._bases[-1:], bases])
            self._add_starts(starts_ps)

    def begins(self, clicks_ps: Times) -> Times:
        """Tell when the attempts began that clicks lie in; `BEFORE_ALL_PS` for none. Both of shape (n,)."""
        begins_ps: Times = self._times_ps[np.searchsorted(self._times_ps, clicks_ps, side="right") - 1]
        if self._has_starts:
            starts_ps = self._starts_ps[np.searchsorted(self._starts_ps, clicks_ps, side="right") - 1]
            begins_ps[begins_ps < starts_ps] = BEFORE_ALL_PS
        return begins_ps

    def begin_ps(self, number: int) -> int:
        """Tell when an attempt of the latest window began that was not over before this part."""
        return int(self._times_ps[self._bases[-1] + number - self._before])

    @property
    def begun(self) -> int:
        """How many attempts of the latest window have begun."""
        return self.total - int(self._bases[-1])

    @property
    def over(self) -> int:
        """How many attempts of the latest window are over: no click of theirs can come any more."""
        return self.begun if self.is_over(int(self._times_ps[-1])) else max(0, self.begun - 1)

    @property
    def total(self) -> int:
        """How many attempts of all windows have begun."""
        return self._before + len(self._times_ps) - 1

    def _latest_ps(self) -> int:
        return max(int(self._times_ps[-1]), int(self._starts_ps[-1]))

    def _numbers(self, begins_ps: Times, place: Numbers) -> Numbers:
        numbers = np.searchsorted(self._times_ps, begins_ps, side="right") + (self._before - 1)
        return numbers - self._bases[place]


class PeriodicAttempts(Attempts):
    """Attempts that begin every so often from each start, or from the origin on when there is no channel of starts."""

    def __init__(self, settings: FinderSettings) -> None:
        super().__init__(settings)
        assert settings.period_ps is not None
        self._period_ps = settings.period_ps
        self._before = 0
        """Attempts of all windows but the latest."""

        if settings.start is None:
            self._starts_ps = np.array([BEFORE_ALL_PS, settings.origin_ps], dtype=np.int64)

    def feed(self, triggers_ps: Times, starts_ps: Times, until_ps: int) -> None:
        """Take the starts of the next part of the stream. There are no triggers."""
        assert not len(triggers_ps)
        self._until_ps = until_ps
        if len(starts_ps):
            began = self.windows > 0
            self._add_starts(starts_ps)
            ended_ps = np.diff(self._starts_ps if began else self._starts_ps[1:])
            self._before += int(np.sum(-(-ended_ps // self._period_ps)))

    def begins(self, clicks_ps: Times) -> Times:
        """Tell when the attempts began that clicks lie in; `BEFORE_ALL_PS` for none. Both of shape (n,)."""
        if self.windows and len(clicks_ps) and clicks_ps[0] >= self._latest_ps():
            start_ps = self._latest_ps()  # as nearly always: all of them lie in one window
            return start_ps + (clicks_ps - start_ps) // self._period_ps * self._period_ps
        starts_ps = self._starts_ps[np.searchsorted(self._starts_ps, clicks_ps, side="right") - 1]
        begins_ps = clicks_ps - (clicks_ps - starts_ps) % self._period_ps
        return np.where(starts_ps == BEFORE_ALL_PS, BEFORE_ALL_PS, begins_ps)

    def begin_ps(self, number: int) -> int:
        """Tell when an attempt of the latest window began."""
        return self._latest_ps() + (number - 1) * self._period_ps

    @property
    def begun(self) -> int:
        """How many attempts of the latest window have begun."""
        return max(0, -(-(self._until_ps - self._latest_ps()) // self._period_ps)) if self.windows else 0

    @property
    def over(self) -> int:
        """How many attempts of the latest window are over: no click of theirs can come any more."""
        if self._has_ended or not self.windows:
            return self.begun
        return max(0, (self._until_ps - self._attempt_ps - self._latest_ps()) // self._period_ps + 1)

    @property
    def total(self) -> int:
        """How many attempts of all windows have begun."""
        return self._before + self.begun

    def _latest_ps(self) -> int:
        return int(self._starts_ps[-1])

    def _numbers(self, begins_ps: Times, place: Numbers) -> Numbers:
        numbers: Numbers = (begins_ps - self._starts_ps[place]) // self._period_ps + 1
        return numbers


def attempts_of(settings: FinderSettings) -> Attempts:
    """Make the attempts that settings describe."""
    return PeriodicAttempts(settings) if settings.trigger is None else TriggeredAttempts(settings)
