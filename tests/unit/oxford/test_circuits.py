"""The circuits, as ideal unitaries."""

from __future__ import annotations

import numpy as np
import pytest
from oxford.circuits import MARKED, PREPARATIONS, ROTATIONS, Circuit, cz, gates_unitary, grover, iswap, swap

ISWAP = np.array([[1, 0, 0, 0], [0, 0, 1j, 0], [0, 1j, 0, 0], [0, 0, 0, 1]])
SWAP = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
CZ = np.diag([1, 1, 1, -1])


@pytest.mark.parametrize(("circuit", "ideal", "gates"), [(cz(), CZ, 1), (iswap(), ISWAP, 2), (swap(), SWAP, 3)])
def test_circuit_without_noise_is_the_gate_of_its_name(circuit: Circuit, ideal: np.ndarray, gates: int) -> None:
    overlap = abs(np.trace(ideal.conj().T @ circuit.unitary())) / 4
    assert overlap == pytest.approx(1.0, abs=1e-12)
    assert circuit.teleported_gates == gates


@pytest.mark.parametrize("marked", MARKED)
def test_grover_without_noise_finds_the_marked_item_with_one_query(marked: str) -> None:
    amplitudes = grover(marked).unitary()[:, 0]
    assert abs(amplitudes[int(marked, 2)]) ** 2 == pytest.approx(1.0, abs=1e-12)
    assert grover(marked).teleported_gates == 2


@pytest.mark.parametrize(("pauli", "plus", "minus"), [("X", "+", "-"), ("Y", "+i", "-i"), ("Z", "0", "1")])
def test_rotation_of_a_basis_undoes_the_preparation_of_its_eigenstates(pauli: str, plus: str, minus: str) -> None:
    for bit, state in enumerate((plus, minus)):
        amplitudes = gates_unitary(PREPARATIONS[state] + ROTATIONS[pauli])[:, 0]
        assert abs(amplitudes[bit]) == pytest.approx(1.0, abs=1e-12)
