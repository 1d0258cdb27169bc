"""Process tomography on counts of channels that are known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from oxford.circuits import CZ_UNITARY, iswap
from oxford.paulis import average_fidelity, process_fidelity
from oxford.tomography import ALL_INPUTS, FEWEST_INPUTS, Inputs, Plan, Setting, probabilities

from bellwire.sim.channels import depolarising, from_unitary

FloatArray = NDArray[np.float64]
NOISY_CZ = from_unitary(CZ_UNITARY).then(depolarising(0.2, 2)).transfer
"""Depolarised with p = 0.2: process fidelity 1 - 0.2 · 15/16 = 0.8125, average 0.85."""


def exact_counts(transfer: FloatArray, plan: Plan, shots: float = 1e6) -> dict[Setting, FloatArray]:
    return {setting: shots * probabilities(transfer, setting) for setting in plan.settings}


def sampled_counts(transfer: FloatArray, plan: Plan, shots: int, rng: np.random.Generator) -> dict[Setting, FloatArray]:
    chances = {setting: np.clip(probabilities(transfer, setting), 0, 1) for setting in plan.settings}
    return {setting: rng.multinomial(shots, p / p.sum()).astype(np.float64) for setting, p in chances.items()}


@pytest.mark.parametrize("inputs", [FEWEST_INPUTS, ALL_INPUTS], ids=["16", "36"])
@pytest.mark.parametrize("transfer", [NOISY_CZ, from_unitary(iswap().unitary()).transfer], ids=["noisy-cz", "iswap"])
def test_reconstruction_without_shot_noise_is_the_channel(inputs: Inputs, transfer: FloatArray) -> None:
    plan = Plan(inputs=inputs)
    np.testing.assert_allclose(plan.reconstruct(exact_counts(transfer, plan)), transfer, atol=1e-9)


@pytest.mark.parametrize("inputs", [FEWEST_INPUTS, ALL_INPUTS], ids=["16", "36"])
def test_fidelity_without_shot_noise_is_that_of_the_channel(inputs: Inputs) -> None:
    plan = Plan(inputs=inputs)
    estimate = plan.average_gate_fidelity(exact_counts(NOISY_CZ, plan), CZ_UNITARY)
    assert estimate.value == pytest.approx(0.85, abs=1e-9)
    assert estimate.value == pytest.approx(average_fidelity(process_fidelity(NOISY_CZ, CZ_UNITARY)), abs=1e-9)


@pytest.mark.parametrize("inputs", [FEWEST_INPUTS, ALL_INPUTS], ids=["16", "36"])
def test_standard_error_with_few_shots_is_the_scatter_of_repeated_tomographies(inputs: Inputs) -> None:
    plan, rng = Plan(inputs=inputs), np.random.default_rng(1)
    estimates = [plan.average_gate_fidelity(sampled_counts(NOISY_CZ, plan, 5, rng), CZ_UNITARY) for _ in range(150)]
    scatter = float(np.std([estimate.value for estimate in estimates]))
    assert np.mean([estimate.sigma for estimate in estimates]) == pytest.approx(scatter, rel=0.2)
    assert np.mean([estimate.value for estimate in estimates]) == pytest.approx(0.85, abs=4 * scatter / 150**0.5)
    assert estimates[0].shots == 5 * 9 * len(inputs)


def test_standard_error_of_36_inputs_is_less_than_half_that_of_16_with_as_many_shots() -> None:
    sigmas = []
    for inputs in (ALL_INPUTS, FEWEST_INPUTS):
        plan = Plan(inputs=inputs)
        counts = exact_counts(NOISY_CZ, plan, shots=14_400 / len(inputs) / 9)
        sigmas.append(plan.average_gate_fidelity(counts, CZ_UNITARY).sigma)
    assert sigmas[0] / sigmas[1] == pytest.approx(0.43, abs=0.03)


def test_tomography_with_a_setting_missing_says_which() -> None:
    plan = Plan()
    counts = exact_counts(NOISY_CZ, plan)
    del counts[Setting(inputs=("+", "-i"), basis="XY")]
    with pytest.raises(ValueError, match=r"\('\+', '-i'\) was not measured in XY"):
        plan.reconstruct(counts)


def test_tomography_with_inputs_that_do_not_span_is_refused() -> None:
    with pytest.raises(ValueError, match="do not span"):
        Plan(inputs=ALL_INPUTS[:12])
