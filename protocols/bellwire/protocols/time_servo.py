"""From exchanges to a rate and a bound: what each proves, and the line through the best of them (spec 4 §3)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from operator import mul
from typing import Final

from bellwire.protocols.network_clock import BILLION, Bound, scaled

FILTER_LENGTH: Final = 8
"""Bursts of which the best one bounds the offset."""

HISTORY_LENGTH: Final = 16
"""Bursts through which the line is laid, and which bound its slope. More would be slower to notice that a clock has changed."""

MAX_SLEW_PPB: Final = 500_000
"""How much faster or slower than measured time may run while it is slewed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockSpec:
    """What is promised of a participant's own clock: how fast or slow it may be, and how much that changes in a second."""

    max_drift_ppb: int = 100_000
    wander_ppb_per_s: int = 50

    def __post_init__(self) -> None:
        if not 0 <= self.max_drift_ppb <= 100_000_000 or not 0 <= self.wander_ppb_per_s <= 1_000_000_000:
            raise ValueError("max_drift_ppb lies in 0..1e8, wander_ppb_per_s in 0..1e9")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one exchange proves: at `local_ns`, the network's time is the own clock's plus `offset_ns` ± `half_ns`.

    Or what the node's own hardware claims, `by_hardware`, with the drift that it knows of.
    """

    local_ns: int
    offset_ns: int
    half_ns: int
    delay_ns: int
    by_hardware: bool = False
    drift_ppb: int | None = None


def sample_of(
    t1_ns: int, t2_ns: int, t3_ns: int, t4_ns: int, *, uncertainty_ns: int, clock: ClockSpec
) -> Sample | None:
    """What an exchange proves: Sync left at t1 and came at t2, Delay_Req left at t3 and came at t4 (IEEE 1588-2019 §11.3).

    Nothing arrives before it leaves, so the offset lies between t1 − t2 and t4 − t3, whatever the two paths are. t1 and t4 are
    the source's, right to `uncertainty_ns`; t2 and t3 the own clock's. `None` when the four contradict each other.
    """
    least_ns, most_ns = t1_ns - t2_ns, t4_ns - t3_ns
    if t3_ns < t2_ns or t4_ns < t1_ns or least_ns > most_ns + 2 * uncertainty_ns:
        return None
    delay_ns = max(0, (most_ns - least_ns + 1) // 2)
    turnaround_ns = scaled(t3_ns - t2_ns, clock.max_drift_ppb) + 1
    return Sample(
        local_ns=(t2_ns + t3_ns) // 2,
        offset_ns=(least_ns + most_ns) // 2,
        half_ns=delay_ns + uncertainty_ns + turnaround_ns,
        delay_ns=delay_ns,
    )


class Servo:
    """Keeps the best samples, and says what rate the clock should run at and how far off it may be."""

    def __init__(self, clock: ClockSpec) -> None:
        self.clock = clock
        self.drift_ppb = 0
        """How much the network's time is believed to gain on the own clock."""
        self._rate_error_ppb = clock.max_drift_ppb
        self._history: deque[Sample] = deque(maxlen=HISTORY_LENGTH)
        self._since_ns = self._middle_ns = 0

    def __len__(self) -> int:
        return len(self._history)

    @property
    def oldest_ns(self) -> int | None:
        """The local time of the oldest sample that counts."""
        return self._history[0].local_ns if self._history else None

    def restart(self) -> None:
        """The own clock, or the source, is not what it was: forget the samples, and doubt the drift."""
        self._history.clear()
        self._rate_error_ppb = self._limit_ppb

    def agrees(self, sample: Sample) -> bool:
        """Whether a sample can be true together with those before it."""
        return all(self.are_compatible(earlier, sample) for earlier in self._history)

    def are_compatible(self, earlier: Sample, later: Sample) -> bool:
        """Whether two samples can both be true."""
        bound = self._bound(earlier)
        apart_ns = abs(bound.offset_at(later.local_ns) - later.offset_ns)
        return apart_ns <= bound.half_at(later.local_ns) + later.half_ns

    def take(self, sample: Sample) -> None:
        """Take the best sample of a burst."""
        self._history.append(sample)
        self._fit()

    def best(self, local_ns: int) -> Sample | None:
        """The sample that proves the most of a local time, of the last ones."""
        recent = list(self._history)[-FILTER_LENGTH:]
        return min(recent, key=lambda each: self._bound(each).half_at(local_ns), default=None)

    def bound(self, local_ns: int) -> Bound | None:
        """What that sample proves."""
        best = self.best(local_ns)
        return None if best is None else self._bound(best)

    def half_ns(self, sample: Sample, local_ns: int) -> int:
        """How far off what a sample proves may be at a local time."""
        return self._bound(sample).half_at(local_ns)

    def offset_at(self, local_ns: int) -> int:
        """The best guess of the offset at a local time: the line through the samples, within what is proved."""
        bound = self.bound(local_ns)
        if bound is None:
            return 0
        guess_ns = self._middle_ns + scaled(local_ns - self._since_ns, self.drift_ppb)
        middle_ns, half_ns = bound.offset_at(local_ns), bound.half_at(local_ns)
        return min(max(guess_ns, middle_ns - half_ns), middle_ns + half_ns)

    def rate_ppb(self, error_ns: int, interval_ns: int) -> int:
        """The rate for the next interval of a clock that is behind by `error_ns`: half of that is made up in it."""
        slew_ppb = error_ns * BILLION // (2 * interval_ns)
        return self.drift_ppb + min(max(slew_ppb, -MAX_SLEW_PPB), MAX_SLEW_PPB)

    @property
    def _limit_ppb(self) -> int:
        return self.clock.max_drift_ppb + abs(self.drift_ppb)

    def _bound(self, sample: Sample) -> Bound:
        return Bound(
            local_ns=sample.local_ns,
            offset_ns=sample.offset_ns,
            half_ns=sample.half_ns,
            rate_ppb=self.drift_ppb,
            rate_error_ppb=self._rate_error_ppb,
            rate_limit_ppb=self._limit_ppb,
            wander_ppb_per_s=self.clock.wander_ppb_per_s,
        )

    def _fit(self) -> None:
        """Least squares over the last samples, each with the weight that its excess of delay leaves it.

        With few samples the promise that the clock is right to `max_drift_ppb` counts as one more: a drift of none.
        """
        samples = self._history
        self._since_ns = samples[-1].local_ns
        least_ns = min(sample.delay_ns for sample in samples)
        floor_ns = least_ns / 4 + 100
        weights = [(sample.delay_ns - least_ns + floor_ns) ** -2 for sample in samples]
        times = [sample.local_ns - self._since_ns for sample in samples]
        base_ns = samples[-1].offset_ns
        offsets = [sample.offset_ns - base_ns for sample in samples]
        total = sum(weights)
        mean_time = sum(map(mul, weights, times)) / total
        mean_offset = sum(map(mul, weights, offsets)) / total
        spread = sum(weight * (time - mean_time) ** 2 for weight, time in zip(weights, times, strict=True))
        together = sum(
            weight * (time - mean_time) * (offset - mean_offset)
            for weight, time, offset in zip(weights, times, offsets, strict=True)
        )
        slope = together / (spread + (BILLION / max(self.clock.max_drift_ppb, 1)) ** 2)
        limit_ppb, claimed_ppb = self.clock.max_drift_ppb, samples[-1].drift_ppb
        drift_ppb = round(slope * BILLION) if claimed_ppb is None else claimed_ppb
        self.drift_ppb = min(max(drift_ppb, -limit_ppb), limit_ppb)
        self._middle_ns = base_ns + round(mean_offset - mean_time * self.drift_ppb / BILLION)
        self._bound_drift()

    def _bound_drift(self) -> None:
        """Two samples prove in what range the mean drift between them was, and the drift wanders from there."""
        newest, least_ppb = self._history[-1], self._limit_ppb
        for old in self._history:
            passed_ns = newest.local_ns - old.local_ns
            if passed_ns <= 0:
                continue
            slope_ppb = (newest.offset_ns - old.offset_ns) * BILLION // passed_ns
            error_ppb = (newest.half_ns + old.half_ns) * BILLION // passed_ns + 1
            wander_ppb = scaled(passed_ns, self.clock.wander_ppb_per_s)
            least_ppb = min(least_ppb, abs(slope_ppb - self.drift_ppb) + error_ppb + wander_ppb)
        self._rate_error_ppb = least_ppb
