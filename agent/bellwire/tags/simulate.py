"""A simulated time tagger: attempts of two nodes whose photons meet at a beam splitter, and what its detectors make of them.

Each node's attempt emits a photon that is entangled with its emitter in one of two ways, its polarisation or its time bin.
It reaches a detector with its node's efficiency. Of two photons that both do, a quarter herald Ψ+ (one of each kind, at the
same output), a quarter Ψ− (at different outputs), and half are of one kind and bunch at one output (Braunstein and Mann,
PRA 51, R1727): p = η_a η_b / 2. Beside them the detectors have dark counts, jitter and dead time.

What was heralded in truth is told beside the tags.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from bellwire.protocols.errors import ConfigError
from bellwire.protocols.instructions import BellState
from bellwire.shell.config import Ratio, Table
from bellwire.tags.dead_time import DeadTime
from bellwire.tags.format import Header
from bellwire.tags.settings import Duration, FinderSettings, Pattern, Period
from bellwire.tags.stream import NO_TAGS, Tags, Times

Indices = npt.NDArray[np.int64]

TRIGGER: Final = 0
START: Final = 9
PICOSECONDS_PER_S: Final = 1_000_000_000_000
CHUNK_ATTEMPTS: Final = 65_536
HERALDED: Final = (BellState.PSI_PLUS, BellState.PSI_MINUS)

Rate = Annotated[float, Meta(ge=0.0, le=1e9)]
Jitter = Annotated[float, Meta(ge=0.0, le=1e9)]


class Encoding(StrEnum):
    """What of a photon is entangled with its emitter: with polarisation there are four detectors, with time bins two."""

    POLARISATION = "polarisation"
    TIME_BIN = "time-bin"


class SimulationSettings(Table, frozen=True, kw_only=True):
    """What is simulated. Times in picoseconds.

    Channel 0 is the trigger, which begins each attempt, and channel 9 begins a window. With polarisation, detectors 1 and 2
    are at the first output, 3 and 4 at the second, and the odd ones see one polarisation. With time bins, detector 1 is at the
    first output and 2 at the second.

    Attributes:
        efficiencies: that a photon of the first and of the second node makes a click, detectors included.
        period_ps: from attempt to attempt.
        photon_ps: from an attempt's trigger to the middle of the gate: flight and cables.
        gate_ps: how long a gate is.
        bin_ps: from the early to the late time bin.
        dark_hz: dark counts of one detector.
        jitter_ps: standard deviation of a click's time.
        dead_time_ps: of a detector, after each click.

    Raises:
        ConfigError: when the gates do not lie within an attempt.
    """

    encoding: Encoding = Encoding.POLARISATION
    efficiencies: tuple[Ratio, Ratio] = (0.2, 0.2)
    period_ps: Period = 1_000_000
    photon_ps: Duration = 100_000
    gate_ps: Period = 20_000
    bin_ps: Duration = 200_000
    dark_hz: Rate = 100.0
    jitter_ps: Jitter = 100.0
    dead_time_ps: Duration = 50_000

    def __post_init__(self) -> None:
        first_ps = self.photon_ps - self.gate_ps // 2
        if first_ps < 0:
            raise ConfigError(
                f"photon_ps: {self.photon_ps}: a gate of {self.gate_ps} around it begins before its attempt"
            )
        self.finder()

    @property
    def detectors(self) -> int:
        """How many detectors there are; their channels are 1 and up."""
        return 4 if self.encoding is Encoding.POLARISATION else 2

    def finder(self) -> FinderSettings:
        """Give the settings with which a finder understands these tags.

        Raises:
            ConfigError: when there are none: gates overlap, or end after the period.
        """
        first_ps = self.photon_ps - self.gate_ps // 2
        bins = (0,) if self.encoding is Encoding.POLARISATION else (0, self.bin_ps)
        gates = tuple((first_ps + bin_ps, first_ps + bin_ps + self.gate_ps) for bin_ps in bins)
        if gates[-1][1] > self.period_ps:
            raise ConfigError(f"period_ps: {self.period_ps}: the last gate ends after {gates[-1][1]}")
        plus, minus = HERALDED
        patterns: tuple[Pattern, ...] = ((1, 2, plus), (3, 4, plus), (1, 4, minus), (2, 3, minus))
        if self.encoding is Encoding.TIME_BIN:
            patterns = ((1, 1, plus), (2, 2, plus), (1, 2, minus), (2, 1, minus))
        return FinderSettings(trigger=TRIGGER, gates_ps=gates, patterns=patterns, dead_time_ps=self.dead_time_ps)

    def header(self) -> Header:
        """Give the header of a stream of these tags."""
        names = ["output 1 H", "output 1 V", "output 2 H", "output 2 V"]
        if self.encoding is Encoding.TIME_BIN:
            names = ["output 1", "output 2"]
        return Header(channels={TRIGGER: "trigger", **dict(enumerate(names, 1)), START: "window"})


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Truth:
    """Attempts in which both photons reached detectors, in a way that heralds. Shapes (n,).

    Attributes:
        attempts: their numbers in the window, from 1.
        states: what is heralded, as a place in `HERALDED`.
    """

    attempts: Indices
    states: Indices

    def rows(self) -> list[tuple[int, BellState]]:
        """Give pairs of attempt and Bell state."""
        return [(attempt, HERALDED[s]) for attempt, s in zip(self.attempts.tolist(), self.states.tolist(), strict=True)]


class SimulatedTagger:
    """Makes tags, window by window. Its clock, `now_ps`, goes on with them."""

    def __init__(self, settings: SimulationSettings, rng: np.random.Generator, *, begin_ps: int = 0) -> None:
        self.settings = settings
        self.now_ps = begin_ps
        self._rng = rng
        self._dead_time = DeadTime(settings.dead_time_ps, settings.detectors)
        self._after = NO_TAGS
        """Tags that were made already, of later than `now_ps`."""

    def window(self, attempts: int) -> Iterator[tuple[Tags, Truth]]:
        """Make a window of attempts, in parts. What it heralds is in the truth that comes with each part."""
        for first in range(1, attempts + 1, CHUNK_ATTEMPTS):
            number = min(CHUNK_ATTEMPTS, attempts - first + 1)
            photons = self._drawn(number)
            yield self._attempts(first, number, photons), photons.truth(first)

    def window_with(self, attempts: int, herald: BellState | None) -> Iterator[Tags]:
        """Make a window whose photons herald once, in the last attempt, or never; in parts. Dark counts are as they come.

        Raises:
            ConfigError: when two clicks herald no such state.
        """
        if herald is not None and herald not in HERALDED:
            raise ConfigError(f"a double click heralds {' or '.join(HERALDED)}, not {herald}")
        for first in range(1, attempts + 1, CHUNK_ATTEMPTS):
            number = min(CHUNK_ATTEMPTS, attempts - first + 1)
            photons = self._drawn(number).without_heralds()
            if herald is not None and first + number > attempts:
                photons = photons.with_herald(number - 1, HERALDED.index(herald))
            yield self._attempts(first, number, photons)

    def quiet(self, duration_ps: int) -> Tags:
        """Let time pass without attempts. The last tag is one of the clock."""
        return Tags.joined([self._emit(duration_ps, []), Tags.clock(self.now_ps - 1)])

    def _drawn(self, number: int) -> _Photons:
        """Draw the photons that reach detectors in so many attempts."""
        one, two = (successes(self._rng, number, ratio) for ratio in self.settings.efficiencies)
        both = np.intersect1d(one, two, assume_unique=True)
        return _Photons(np.setxor1d(one, two, assume_unique=True), both, self._rng.integers(0, 4, len(both)))

    def _attempts(self, first: int, number: int, photons: _Photons) -> Tags:
        """Let time pass with so many attempts. Number `first` is the first of them."""
        settings, rng = self.settings, self._rng
        attempt, output, kind = photons.modes(rng)
        late_ps = settings.photon_ps + rng.normal(0.0, settings.jitter_ps, len(attempt))
        if settings.encoding is Encoding.TIME_BIN:
            late_ps += settings.bin_ps * kind
            channels = 1 + output
        else:
            channels = 1 + 2 * output + kind
        begins_ps = self.now_ps + settings.period_ps * np.arange(number)
        times_ps = begins_ps[attempt] + np.maximum(np.rint(late_ps).astype(np.int64), 0)
        starts = [Tags.of([(self.now_ps, START)])] if first == 1 else []
        triggers = Tags(begins_ps, np.full(number, TRIGGER, dtype=np.int16))
        return self._emit(number * settings.period_ps, [*starts, triggers, Tags(times_ps, channels.astype(np.int16))])

    def _emit(self, duration_ps: int, made: list[Tags]) -> Tags:
        """Let time pass: add dark counts, put everything in order, and let detectors be dead."""
        begin_ps, end_ps = self.now_ps, self.now_ps + duration_ps
        tags = Tags.joined([self._after, *made, self._dark_counts(begin_ps, end_ps)])
        order = np.argsort(tags.times_ps, kind="stable")
        times_ps, channels = tags.times_ps[order], tags.channels[order]
        cut = int(np.searchsorted(times_ps, end_ps))
        self._after = Tags(times_ps[cut:].copy(), channels[cut:].copy())
        self.now_ps = end_ps
        return self._detected(times_ps[:cut], channels[:cut])

    def _dark_counts(self, begin_ps: int, end_ps: int) -> Tags:
        mean = self.settings.dark_hz * (end_ps - begin_ps) / PICOSECONDS_PER_S
        counts = self._rng.poisson(mean, self.settings.detectors)
        times_ps = (
            self._rng.integers(begin_ps, end_ps, int(counts.sum())) if end_ps > begin_ps else np.empty(0, np.int64)
        )
        return Tags(times_ps, np.repeat(np.arange(1, len(counts) + 1), counts).astype(np.int16))

    def _detected(self, times_ps: Times, channels: npt.NDArray[np.int16]) -> Tags:
        clicked = np.flatnonzero((channels >= 1) & (channels <= self.settings.detectors))
        alive = self._dead_time.alive(times_ps[clicked], (channels[clicked] - 1).astype(np.int8))
        if alive is None:
            return Tags(times_ps, channels)
        kept = np.ones(len(times_ps), dtype=np.bool_)
        kept[clicked] = alive
        return Tags(times_ps[kept], channels[kept])


@dataclass(frozen=True, slots=True, eq=False)
class _Photons:
    """Photons that reach detectors. Attempts count from 0, in a part of a window. Shapes (n,).

    Attributes:
        alone: attempts with one photon.
        both: attempts with two.
        fates: what becomes of these two. A place in `HERALDED`, or more: both of one kind, at one output.
    """

    alone: Indices
    both: Indices
    fates: Indices

    def truth(self, first: int) -> Truth:
        """What they herald, when the part begins with attempt `first`."""
        heralds = self.fates < len(HERALDED)
        return Truth(attempts=self.both[heralds] + first, states=self.fates[heralds])

    def without_heralds(self) -> _Photons:
        """The same, but of two photons that herald one is lost."""
        heralds = self.fates < len(HERALDED)
        return _Photons(np.concatenate([self.alone, self.both[heralds]]), self.both[~heralds], self.fates[~heralds])

    def with_herald(self, attempt: int, state: int) -> _Photons:
        """The same, but this attempt heralds."""
        others = self.both != attempt
        both, fates = np.append(self.both[others], attempt), np.append(self.fates[others], state)
        return _Photons(self.alone[self.alone != attempt], both, fates)

    def modes(self, rng: np.random.Generator) -> tuple[Indices, Indices, Indices]:
        """Draw where each photon arrives: attempts, outputs (0 or 1) and kinds (0 or 1)."""
        output, kind = rng.integers(0, 2, len(self.both)), rng.integers(0, 2, len(self.both))
        apart, unlike = self.fates == HERALDED.index(BellState.PSI_MINUS), self.fates < len(HERALDED)
        return (
            np.concatenate([self.alone, self.both, self.both]),
            np.concatenate([rng.integers(0, 2, len(self.alone)), output, output ^ apart]),
            np.concatenate([rng.integers(0, 2, len(self.alone)), kind, kind ^ unlike]),
        )


def successes(rng: np.random.Generator, number: int, probability: float) -> Indices:
    """Draw which of so many independent attempts succeed, from 0, in order: by waiting times, few draws for rare ones."""
    if probability <= 0 or number == 0:
        return np.empty(0, dtype=np.int64)
    if probability >= 1:
        return np.arange(number, dtype=np.int64)
    parts, last = [], -1
    while last < number:
        enough = int(number * probability + 4 * (number * probability) ** 0.5) + 8
        places = last + np.cumsum(np.minimum(rng.geometric(probability, enough), number + 1))
        parts.append(places)
        last = int(places[-1])
    every = np.concatenate(parts)
    return every[: np.searchsorted(every, number)]
