"""Fidelity from test rounds, against what is known of the intervals, and against chance made to order (spec 2 §4.7)."""

from __future__ import annotations

from random import Random

import pytest

from bellwire.protocols.fidelity import ENOUGH_ROUNDS, Goodness, TestRounds, wilson
from bellwire.protocols.limits import MAX_TEST_ROUNDS
from bellwire.protocols.readout import PAULI_BASES, Basis


def rounds_of(errors: dict[Basis, int], rounds: int) -> TestRounds:
    log = TestRounds()
    for number in range(rounds):
        for basis in PAULI_BASES:
            log.add(basis, as_expected=number >= errors.get(basis, 0))
    return log


@pytest.mark.parametrize(
    ("errors", "rounds", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (1, 100, 0.0018, 0.0545)],
)
def test_wilson_interval_is_the_published_one(errors: int, rounds: int, low: float, high: float) -> None:
    assert wilson(errors, rounds) == pytest.approx((low, high), abs=1e-4)


def test_estimate_is_one_less_half_the_sum_of_the_error_rates() -> None:
    estimate = rounds_of({Basis.X: 10, Basis.Y: 20, Basis.Z: 5}, 100).estimate()
    assert estimate is not None
    assert estimate.estimated
    assert estimate.value == pytest.approx(1 - 0.35 / 2)
    assert 0.75 < estimate.low < estimate.value < estimate.high < 0.9


def test_estimate_without_an_error_is_one_and_still_has_a_lower_end() -> None:
    estimate = rounds_of({}, 100).estimate()
    assert isinstance(estimate, Goodness)
    assert (estimate.value, estimate.high) == (1.0, 1.0)
    assert estimate.low == pytest.approx(1 - 3**0.5 * wilson(0, 100)[1] / 2)


def test_estimate_needs_enough_rounds_in_every_basis() -> None:
    log = rounds_of({}, ENOUGH_ROUNDS - 1)
    assert log.estimate() is None
    log.add(Basis.X, as_expected=True)
    log.add(Basis.Y, as_expected=True)
    assert log.estimate() is None
    log.add(Basis.Z, as_expected=True)
    assert log.estimate() is not None


def test_old_rounds_are_forgotten_and_their_errors_with_them() -> None:
    log = rounds_of(dict.fromkeys(PAULI_BASES, 50), 50)
    for number in range(MAX_TEST_ROUNDS):
        log.add(PAULI_BASES[number % 3], as_expected=True)
    assert len(log) == MAX_TEST_ROUNDS
    estimate = log.estimate()
    assert estimate is not None
    assert estimate.value == 1.0


def test_interval_holds_the_true_fidelity_about_as_often_as_it_says() -> None:
    random, held = Random(1), 0
    for _ in range(400):
        log = TestRounds()
        for number in range(240):
            log.add(PAULI_BASES[number % 3], as_expected=random.random() >= 0.06)
        estimate = log.estimate()
        assert estimate is not None
        held += estimate.low <= 1 - 0.09 <= estimate.high
    assert 370 <= held <= 395
