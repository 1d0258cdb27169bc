"""A clock that disciplines itself, such as one of White Rabbit or PPS, and what it says of the network's time (spec 4 §3.6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bellwire.protocols.ids import NodeId
from bellwire.protocols.limits import MAX_DURATION_NS
from bellwire.protocols.messages import ClockState
from bellwire.protocols.time_servo import Sample

HARDWARE: Final = NodeId("hardware")
"""Stands for the node's own hardware among the sources of the network's time."""

MAX_CLAIMED_DRIFT_PPB: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockClaim:
    """What a hardware clock says: when the own clock showed `local_ns`, the network's time was that plus `offset_ns`.

    `uncertainty_ps` is how far off the hardware's own time may be, `reading_ns` how far off the comparison of the two clocks.
    `drift_ppb` is what the network's time gains on the own clock, where the hardware knows. Only a LOCKED one counts.
    """

    state: ClockState
    local_ns: int
    offset_ns: int = 0
    uncertainty_ps: int = 0
    reading_ns: int = 0
    drift_ppb: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.uncertainty_ps <= MAX_DURATION_NS or not 0 <= self.reading_ns <= MAX_DURATION_NS:
            raise ValueError(f"uncertainty_ps and reading_ns lie in 0..{MAX_DURATION_NS}")
        if self.drift_ppb is not None and abs(self.drift_ppb) > MAX_CLAIMED_DRIFT_PPB:
            raise ValueError(f"drift_ppb lies within {MAX_CLAIMED_DRIFT_PPB} of 0")

    @property
    def half_ns(self) -> int:
        """How far off `offset_ns` may be: whole nanoseconds, never too few."""
        return self.reading_ns + -(-self.uncertainty_ps // 1_000)

    def sample(self) -> Sample:
        """The claim as what an exchange proves."""
        return Sample(
            local_ns=self.local_ns,
            offset_ns=self.offset_ns,
            half_ns=self.half_ns,
            delay_ns=self.half_ns,
            by_hardware=True,
            drift_ppb=self.drift_ppb,
        )


class HardwareClock:
    """The claims of a node's own hardware: which of them count, and how long the last one does."""

    def __init__(self, silence_ns: int) -> None:
        self._silence_ns = silence_ns
        self._taken_ns: int | None = None
        self.claim: ClockClaim | None = None
        """The last one that counted, until it is stale."""
        self.spacing_ns = silence_ns
        """From the last but one claim that was taken to the last."""

    def is_heard(self, now_ns: int) -> bool:
        """Whether there was a claim lately."""
        return self.claim is not None and now_ns - self.claim.local_ns < self._silence_ns

    def is_sound(self, claim: ClockClaim, now_ns: int) -> bool:
        """Whether a claim is one: LOCKED, not stale, not of the future and not older than the last."""
        age_ns = now_ns - claim.local_ns
        newer = self.claim is None or claim.local_ns > self.claim.local_ns
        return claim.state is ClockState.LOCKED and 0 <= age_ns < self._silence_ns and newer

    def is_due(self, claim: ClockClaim, interval_ns: int) -> bool:
        """Whether a claim is worth a sample: so many of them would span no time that a drift could be seen in."""
        return self._taken_ns is None or claim.local_ns - self._taken_ns >= interval_ns

    def heard(self, claim: ClockClaim) -> None:
        """A claim counts."""
        self.claim = claim

    def taken(self, claim: ClockClaim) -> None:
        """A claim has become a sample."""
        if self._taken_ns is not None:
            self.spacing_ns = claim.local_ns - self._taken_ns
        self._taken_ns = claim.local_ns

    def lost(self) -> None:
        """What was claimed counts no more."""
        self.claim = None
        self._taken_ns = None
