"""Two-qubit states, and the Pauli vectors in which the engines think of any state.

A density matrix ρ of n qubits and its Pauli vector r hold the same numbers: r_i = Tr(P_i ρ), ρ = 2⁻ⁿ Σ r_i P_i, where
P_i runs over the n-fold products of (I, X, Y, Z), the first qubit's factor slowest. r is real, r_0 is the trace, and
a channel acts on it as a real matrix (Greenbaum, arXiv 1509.02921).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bellwire.protocols.errors import BackendError
from bellwire.protocols.instructions import BellState

ComplexArray = NDArray[np.complex128]
FloatArray = NDArray[np.float64]

STATE_TOLERANCE: Final = 2e-3
"""How far a measured matrix, given to three digits, may be from Hermitian, of trace one and positive."""


def frozen(values: Any) -> ComplexArray:
    """Make a complex array, of anything that NumPy takes, that can't be written to."""
    array = np.array(values, dtype=np.complex128)
    array.setflags(write=False)
    return array


PAULIS: Final[ComplexArray] = frozen([[[1, 0], [0, 1]], [[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]])
"""I, X, Y, Z. Shape (4, 2, 2)."""

_PAULI_ENTRIES: Final[ComplexArray] = PAULIS.reshape(4, 4)

GROUND: Final[ComplexArray] = frozen([[1, 0], [0, 0]])
"""|0⟩⟨0|. Shape (2, 2)."""

MIXED: Final[ComplexArray] = frozen([[0.5, 0], [0, 0.5]])
"""The state of a qubit of which nothing is known. Shape (2, 2)."""


@lru_cache(maxsize=8)
def _pauli_rows(qubits: int) -> ComplexArray:
    """Give the Pauli products of `qubits` qubits, each conjugated and flattened: shape (4ⁿ, 4ⁿ)."""
    products = PAULIS
    for _ in range(qubits - 1):
        products = np.einsum("aij,bkl->abikjl", products, PAULIS).reshape(
            len(products) * 4, products.shape[1] * 2, products.shape[2] * 2
        )
    return frozen(products.conj().reshape(len(products), -1))


def pauli_products(qubits: int) -> ComplexArray:
    """Give the products of Pauli matrices of 1 or 2 qubits, first qubit slowest. Shape (4ⁿ, 2ⁿ, 2ⁿ)."""
    side = 2**qubits
    return _pauli_rows(qubits).conj().reshape(-1, side, side)


def to_pauli_vector(density_matrix: ComplexArray) -> FloatArray:
    """Give the Pauli vector of a density matrix of 1 or 2 qubits. Shape (4ⁿ,); its first element is the trace.

    Raises:
        BackendError: when the matrix is not 2x2 or 4x4.
    """
    if density_matrix.shape not in ((2, 2), (4, 4)):
        raise BackendError(f"expected the density matrix of 1 or 2 qubits, got shape {density_matrix.shape}")
    return np.ascontiguousarray(np.dot(_pauli_rows(len(density_matrix) // 2), density_matrix.reshape(-1)).real)


def to_density_matrix(pauli_vector: FloatArray, qubits: int) -> ComplexArray:
    """Give the density matrix of a Pauli vector of shape (4ⁿ,). Shape (2ⁿ, 2ⁿ), first qubit slowest."""
    tensor: ComplexArray = pauli_vector.astype(np.complex128)
    for _ in range(qubits):
        tensor = np.dot(tensor.reshape(4, -1).T, _PAULI_ENTRIES)
    side = 2**qubits
    tensor = tensor.reshape((2,) * (2 * qubits)).transpose([*range(0, 2 * qubits, 2), *range(1, 2 * qubits, 2)])
    matrix: ComplexArray = tensor.reshape(side, side) / side
    return matrix


def bell_vector(bell_state: BellState) -> ComplexArray:
    """Give the amplitudes of (I ⊗ X^x Z^z)|Φ+⟩. Shape (4,)."""
    phi_plus = np.array([1, 0, 0, 1], dtype=np.complex128) / np.sqrt(2)
    amplitudes: ComplexArray = np.kron(np.eye(2), pauli_frame(bell_state.x, bell_state.z)) @ phi_plus
    return amplitudes


def pauli_frame(x: int, z: int) -> ComplexArray:
    """Give X^x Z^z. Shape (2, 2)."""
    matrix: ComplexArray = (PAULIS[1] if x else PAULIS[0]) @ (PAULIS[3] if z else PAULIS[0])
    return matrix


def bell_density_matrix(bell_state: BellState) -> ComplexArray:
    """Give the projector on a Bell state. Shape (4, 4)."""
    amplitudes = bell_vector(bell_state)
    return np.outer(amplitudes, amplitudes.conj())


def werner_state(fidelity_ratio: float, bell_state: BellState = BellState.PSI_PLUS) -> ComplexArray:
    """Give the Werner state of that fidelity to a Bell state, the rest spread evenly on the other three. Shape (4, 4).

    Raises:
        BackendError: when the fidelity is outside [0, 1].
    """
    if not 0 <= fidelity_ratio <= 1:
        raise BackendError(f"expected a fidelity in [0, 1], got {fidelity_ratio}")
    target = bell_density_matrix(bell_state)
    return fidelity_ratio * target + (1 - fidelity_ratio) / 3 * (np.eye(4) - target)


def state_fidelity(density_matrix: ComplexArray, amplitudes: ComplexArray) -> float:
    """Give ⟨ψ|ρ|ψ⟩ of a density matrix of shape (d, d) and a pure state of shape (d,)."""
    return float((amplitudes.conj() @ density_matrix @ amplitudes).real)


def shift_frame(density_matrix: ComplexArray, given: BellState, wanted: BellState) -> ComplexArray:
    """Turn a state near one Bell state into the same near another, by a Pauli on the second qubit. Shape (4, 4)."""
    pauli = np.kron(np.eye(2), pauli_frame(given.x ^ wanted.x, given.z ^ wanted.z))
    turned: ComplexArray = pauli @ density_matrix @ pauli.conj().T
    return turned


def measured_state(matrix: ArrayLike, tolerance: float = STATE_TOLERANCE) -> ComplexArray:
    """Make a state of a measured 4x4 matrix: Hermitian part, divided by its trace.

    A tomography printed to three digits can have an eigenvalue slightly below zero. It is kept as it is, since the
    nearest positive matrix would have another fidelity than the one published; the engine clips the probabilities of
    outcomes.

    Raises:
        ValueError: when it is not 4x4 and finite, or is further than `tolerance` from a density matrix.
    """
    given = np.asarray(matrix, dtype=np.complex128)
    if given.shape != (4, 4) or not np.isfinite(given).all():
        raise ValueError(f"expected a finite 4x4 density matrix, got shape {given.shape}")
    skew = float(np.abs(given - given.conj().T).max())
    if skew > tolerance:
        raise ValueError(f"density matrix is not Hermitian: element and mirrored conjugate differ by {skew:.3g}")
    trace = float(given.trace().real)
    if abs(trace - 1) > tolerance:
        raise ValueError(f"density matrix has trace {trace:.6g}, expected 1 within {tolerance}")
    state: ComplexArray = (given + given.conj().T) / (2 * trace)
    lowest = float(np.linalg.eigvalsh(state)[0])
    if lowest < -tolerance:
        raise ValueError(f"density matrix is not positive: lowest eigenvalue {lowest:.3g}, allowed {-tolerance}")
    return state
