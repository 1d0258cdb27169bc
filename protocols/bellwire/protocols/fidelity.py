"""The fidelity of a link's pairs, estimated from test rounds (spec 2 §4.7)."""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass
from typing import Final

from bellwire.protocols.limits import MAX_TEST_ROUNDS
from bellwire.protocols.readout import PAULI_BASES, Basis

ENOUGH_ROUNDS: Final = 20
"""Test rounds in each basis from which on a link's fidelity is estimated."""

CONFIDENCE_Z: Final = 1.959964
"""Standard deviations on either side of a 95 % confidence interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goodness:
    """What fidelity a link's pairs are expected to have, from `low` to `high`; `estimated` from test rounds, or configured."""

    value: float
    low: float = 0.0
    high: float = 1.0
    estimated: bool = False


def wilson(errors: int, rounds: int) -> tuple[float, float]:
    """The 95 % confidence interval of a probability, from so many errors in so many rounds (Wilson, JASA 22, 209 (1927))."""
    z2 = CONFIDENCE_Z**2
    middle = (errors + z2 / 2) / (rounds + z2)
    half = CONFIDENCE_Z / (rounds + z2) * math.sqrt(errors * (rounds - errors) / rounds + z2 / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


class TestRounds:
    """The last test rounds of a link, and what they say of its fidelity."""

    __test__ = False

    def __init__(self) -> None:
        self._rounds: deque[tuple[Basis, bool]] = deque()
        self._made: Counter[Basis] = Counter()
        self._errors: Counter[Basis] = Counter()

    def __len__(self) -> int:
        return len(self._rounds)

    def add(self, basis: Basis, *, as_expected: bool) -> None:
        """Note whether the outcomes of both ends in one basis were those of a perfect pair. The oldest round goes when full."""
        if len(self._rounds) >= MAX_TEST_ROUNDS:
            oldest, expected = self._rounds.popleft()
            self._made[oldest] -= 1
            self._errors[oldest] -= not expected
        self._rounds.append((basis, as_expected))
        self._made[basis] += 1
        self._errors[basis] += not as_expected

    def estimate(self) -> Goodness | None:
        """The fidelity, 1 - (e_x + e_y + e_z) / 2 of the error rates, with its interval; `None` before there are enough rounds.

        The interval joins those of the rates by the square-and-add rule (Zou and Donner, Stat. Med. 27, 1693 (2008)).
        """
        if any(self._made[basis] < ENOUGH_ROUNDS for basis in PAULI_BASES):
            return None
        value, below, above = 1.0, 0.0, 0.0
        for basis in PAULI_BASES:
            made, errors = self._made[basis], self._errors[basis]
            rate, (low, high) = errors / made, wilson(errors, made)
            value -= rate / 2
            below += (high - rate) ** 2 / 4
            above += (rate - low) ** 2 / 4
        ends = (value, value - math.sqrt(below), value + math.sqrt(above))
        value, low, high = (min(1.0, max(0.0, end)) for end in ends)
        return Goodness(value=value, low=low, high=high, estimated=True)
