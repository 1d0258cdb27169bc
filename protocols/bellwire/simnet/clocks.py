"""A participant's own clock in virtual time: wrong by an offset, and by a drift that grows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PARTS_PER_BILLION: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SkewedClock:
    """A clock that shows `offset_ns` too much at `since_ns` of true time, and gains `drift_ppb` nanoseconds each second."""

    offset_ns: int = 0
    drift_ppb: int = 0
    since_ns: int = 0

    def __post_init__(self) -> None:
        if abs(self.drift_ppb) >= PARTS_PER_BILLION:
            raise ValueError("a clock must run forwards, at less than twice the speed")

    def local_ns(self, true_ns: int) -> int:
        """What the clock shows."""
        return true_ns + self.offset_ns + (true_ns - self.since_ns) * self.drift_ppb // PARTS_PER_BILLION

    def true_ns(self, local_ns: int) -> int:
        """The first moment at which the clock shows `local_ns` or more."""
        elapsed_ns = (local_ns - self.offset_ns - self.since_ns) * PARTS_PER_BILLION
        true_ns = self.since_ns + elapsed_ns // (PARTS_PER_BILLION + self.drift_ppb)
        while self.local_ns(true_ns) < local_ns:
            true_ns += 1
        while self.local_ns(true_ns - 1) >= local_ns:
            true_ns -= 1
        return true_ns


TRUE_CLOCK: Final = SkewedClock()
