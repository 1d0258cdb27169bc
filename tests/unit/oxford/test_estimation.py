"""Direct fidelity estimation, parities, proportions and rates, on samples of things that are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from oxford import estimation
from oxford.circuits import Circuit, cz, iswap, swap
from oxford.estimation import Probe
from oxford.paulis import LABELS
from oxford.tomography import OUTCOMES, probabilities

from bellwire.protocols.instructions import BellState, Gate
from bellwire.sim.channels import depolarising, from_unitary, gate_unitary
from bellwire.sim.preset import Preset
from bellwire.sim.states import bell_density_matrix, pauli_products, shift_frame

FloatArray = NDArray[np.float64]


def expectation(transfer: FloatArray, probe: Probe) -> float:
    """The mean sample of a probe, for a process with that transfer matrix."""
    chances = probabilities(transfer, probe.setting)
    return float(sum(p * probe.read(bits) for p, bits in zip(chances, OUTCOMES, strict=True)))


@pytest.mark.parametrize("circuit", [cz(), iswap(), swap()], ids=lambda circuit: circuit.name)
def test_probes_of_an_ideal_circuit_always_give_plus_one(circuit: Circuit) -> None:
    transfer = from_unitary(circuit.unitary()).transfer
    for label, plan in estimation.probes(circuit.unitary()).items():
        # Eigenstates of the identity stand for a mixed qubit: only their mean says something.
        assert np.mean([expectation(transfer, probe) for probe in plan]) == pytest.approx(1.0, abs=1e-12), label


@pytest.mark.parametrize("circuit", [cz(), iswap(), swap()], ids=lambda circuit: circuit.name)
def test_direct_fidelity_of_a_depolarised_circuit_is_its_fidelity(circuit: Circuit) -> None:
    # Depolarised with p = 0.2: average gate fidelity 0.85.
    transfer = from_unitary(circuit.unitary()).then(depolarising(0.2, 2)).transfer
    means = [
        np.mean([expectation(transfer, probe) for probe in plan])
        for plan in estimation.probes(circuit.unitary()).values()
    ]
    assert (4 * (1 + sum(means)) / 16 + 1) / 5 == pytest.approx(0.85, abs=1e-12)


def test_direct_fidelity_of_samples_has_their_scatter_as_error() -> None:
    rng = np.random.default_rng(3)
    estimates = []
    for _ in range(300):
        samples = {label: [1 if rng.random() < 0.9 else -1 for _ in range(12)] for label in LABELS[1:]}
        estimates.append(estimation.direct_fidelity(samples))
    values = [estimate.value for estimate in estimates]
    assert np.mean(values) == pytest.approx((4 * (1 + 15 * 0.8) / 16 + 1) / 5, abs=0.004)
    assert np.mean([estimate.sigma for estimate in estimates]) == pytest.approx(np.std(values), rel=0.15)
    assert estimates[0].shots == 180


def test_probes_of_a_circuit_that_is_not_clifford_are_refused() -> None:
    with pytest.raises(ValueError, match="not Clifford"):
        estimation.probes(np.asarray(np.kron(gate_unitary(Gate.T), gate_unitary(Gate.H)), dtype=np.complex128))


def test_direct_fidelity_without_samples_of_an_operator_names_it() -> None:
    samples: dict[str, Sequence[int]] = {label: (1, 1) for label in LABELS[1:] if label != "YZ"}
    with pytest.raises(ValueError, match="operator YZ has 0 samples"):
        estimation.direct_fidelity(samples)


@pytest.mark.parametrize("herald", [BellState.PSI_PLUS, BellState.PSI_MINUS, BellState.PHI_PLUS, BellState.PHI_MINUS])
def test_parity_by_the_herald_of_an_ideal_pair_is_that_of_psi_plus(herald: BellState) -> None:
    wanted = {"XX": 1, "YY": 1, "ZZ": -1}
    for basis, sign in wanted.items():
        operator = pauli_products(2)[LABELS.index(basis)]
        true = round(float(np.trace(operator @ bell_density_matrix(herald)).real))
        bits = (0, 0) if true == 1 else (0, 1)
        assert estimation.parity(bits, basis, herald) == sign


def test_bell_fidelity_of_the_measured_state_is_its_overlap_with_psi_plus(oxford: Preset) -> None:
    matrix = oxford.links["photonic"].density_matrix
    assert matrix is not None
    rng = np.random.default_rng(5)
    parities: dict[str, list[int]] = {}
    for basis in estimation.BELL_BASES:
        state = shift_frame(matrix.state(), BellState.PSI_PLUS, BellState.PSI_MINUS)
        mean = float(np.trace(pauli_products(2)[LABELS.index(basis)] @ state).real)
        even = rng.random(20_000) < (1 + mean) / 2
        parities[basis] = [estimation.parity((0, 0) if e else (0, 1), basis, BellState.PSI_MINUS) for e in even]
    estimate = estimation.bell_fidelity(parities)
    assert estimate.value == pytest.approx(0.96946, abs=4 * estimate.sigma)
    assert estimate.sigma == pytest.approx(0.0010, abs=0.0002)


def test_success_averages_over_cases_and_adds_their_errors() -> None:
    estimate = estimation.success({"00": [1] * 8 + [0] * 2, "01": [1] * 6 + [0] * 4})
    assert estimate.value == pytest.approx(0.7)
    assert estimate.sigma == pytest.approx((0.016 + 0.024) ** 0.5 / 2)
    assert estimate.shots == 20


def test_proportion_of_hits_alone_still_has_an_error() -> None:
    assert estimation.proportion([1] * 20).value == 1.0
    assert 0.01 < estimation.proportion([1] * 20).sigma < 0.1


def test_rate_of_waits_with_a_dead_time_is_that_of_their_exponential() -> None:
    rng = np.random.default_rng(2)
    estimates = [estimation.rate_above_dead_time(list(0.3 + rng.exponential(0.1, 100))) for _ in range(400)]
    values = [estimate.value for estimate in estimates]
    assert np.mean(values) == pytest.approx(10.0, abs=0.2)
    assert np.mean([estimate.sigma for estimate in estimates]) == pytest.approx(np.std(values), rel=0.15)
