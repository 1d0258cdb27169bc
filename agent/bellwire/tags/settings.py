"""What is a coincidence: the table `[finder]` of a station's backend, or a file for `bellwire tags find`. All in picoseconds.

trigger = 0                                  # the channel whose tags begin attempts; or period_ps, and start
gates_ps = [[10_000, 30_000]]                # after an attempt's beginning; two of them for time bins: early, late
patterns = [[1, 2, "psi+"], [3, 4, "psi+"],  # which two clicks herald what; with two gates the early one comes first
            [1, 4, "psi-"], [2, 3, "psi-"]]
delays_ps = [[2, 1_350], [4, -720]]          # what the cables add, as calibrated: it is taken off
dead_time_ps = 50_000                        # after a detector's click its clicks are not believed for so long
horizon_ps = 1_000_000                       # how far tags may come out of order
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from bellwire.protocols.errors import ConfigError
from bellwire.protocols.instructions import BellState
from bellwire.shell.config import Table
from bellwire.tags.stream import HIGHEST_CHANNEL, LOWEST_CHANNEL

LONGEST_PS: Final = 1_000_000_000_000
"""Gates, delays, periods and horizons are at most a second, so that what waits for them is bounded."""

MAX_DETECTORS: Final = 64

Channel = Annotated[int, Meta(ge=LOWEST_CHANNEL, le=HIGHEST_CHANNEL)]
Duration = Annotated[int, Meta(ge=0, le=LONGEST_PS)]
Period = Annotated[int, Meta(ge=1, le=LONGEST_PS)]
Offset = Annotated[int, Meta(ge=-LONGEST_PS, le=LONGEST_PS)]
Gate = tuple[Duration, Duration]
Pattern = tuple[Channel, Channel, BellState]


class FinderSettings(Table, frozen=True, kw_only=True):
    """How attempts begin, when photons of an attempt may arrive, and which two clicks herald which Bell state.

    Attempts begin with each tag of the channel `trigger`; or every `period_ps` from each tag of the channel `start`, or without
    one from `origin_ps` on. With a trigger and a start, attempts are numbered anew from each start.

    With one gate an attempt's two photons both arrive in it, and a pattern is two channels in any order. With two (time bins)
    one photon arrives in each, and a pattern is the channel of the early one, then of the late one.

    Raises:
        ConfigError: when the settings contradict each other.
    """

    trigger: Channel | None = None
    period_ps: Period | None = None
    origin_ps: int = 0
    start: Channel | None = None
    gates_ps: Annotated[tuple[Gate, ...], Meta(min_length=1, max_length=2)]
    patterns: Annotated[tuple[Pattern, ...], Meta(min_length=1, max_length=256)]
    delays_ps: Annotated[tuple[tuple[Channel, Offset], ...], Meta(max_length=256)] = ()
    dead_time_ps: Duration = 0
    horizon_ps: Duration = 1_000_000

    def __post_init__(self) -> None:
        if (self.trigger is None) == (self.period_ps is None):
            raise ConfigError("expected one of trigger and period_ps: what begins an attempt")
        if self.origin_ps and (self.start is not None or self.period_ps is None):
            raise ConfigError("origin_ps is where attempts by period_ps begin that have no start")
        end_ps = 0
        for begin_ps, gate_end_ps in self.gates_ps:
            if not end_ps <= begin_ps < gate_end_ps:
                raise ConfigError(
                    f"gates_ps: [{begin_ps}, {gate_end_ps}] is empty, or the one before it ends after {end_ps}"
                )
            end_ps = gate_end_ps
        if self.period_ps is not None and end_ps > self.period_ps:
            raise ConfigError(f"gates_ps: they end after {end_ps} ps, when the next attempt has begun")
        marks = [channel for channel in (self.trigger, self.start) if channel is not None]
        if len(set(marks)) < len(marks) or set(marks) & set(self.detectors):
            raise ConfigError("trigger, start and the channels of patterns have to differ from each other")
        if len(dict(self.delays_ps)) < len(self.delays_ps):
            raise ConfigError("delays_ps: there are two for one channel")
        if len(self.detectors) > MAX_DETECTORS:
            raise ConfigError(
                f"patterns: they name {len(self.detectors)} channels, at most {MAX_DETECTORS} are allowed"
            )
        self._check_patterns()

    def _check_patterns(self) -> None:
        seen: set[tuple[int, int]] = set()
        for first, second, state in self.patterns:
            if first == second and len(self.gates_ps) == 1:
                raise ConfigError(f"patterns: [{first}, {second}, {state}]: with one gate, two detectors have to click")
            pairs = {(first, second)} if len(self.gates_ps) == 2 else {(first, second), (second, first)}
            if pairs & seen:
                raise ConfigError(f"patterns: there are two for the channels {first} and {second}")
            seen |= pairs

    @property
    def detectors(self) -> tuple[int, ...]:
        """The channels of the patterns, each once, in order."""
        return tuple(sorted({channel for first, second, _ in self.patterns for channel in (first, second)}))

    @property
    def attempt_ps(self) -> int:
        """When an attempt's last gate ends, from its beginning."""
        return self.gates_ps[-1][1]
