"""Rates, held by counting within stretches of time (spec 1 §2.7). Sans I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

TURN_NS: Final = 100_000_000
"""How long a stretch is: the turn of a time is that time divided by this."""

TURNS_PER_S: Final = 1_000_000_000 // TURN_NS


@dataclass(slots=True, eq=False)
class Rate:
    """Counts what comes, and lets `per_s` of it through per second."""

    per_s: int
    turn: int = -1
    count: int = 0

    def allows(self, turn: int) -> bool:
        """Count one more in the present turn; `False` when it is too many."""
        if self.turn != turn:
            self.turn, self.count = turn, 0
        self.count += 1
        return self.count * TURNS_PER_S <= self.per_s
