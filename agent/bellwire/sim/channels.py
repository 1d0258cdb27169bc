"""Noise and gates as channels: amplitude damping, dephasing, depolarising, idling, and the unitaries of `Gate`.

A channel is kept as its Pauli transfer matrix, R_ij = Tr(P_i E(P_j)) / 2ⁿ (Greenbaum, arXiv 1509.02921),
which acts on the Pauli vectors of `states` and composes by multiplication; Kraus operators go in and come out again.
Closed forms are those of Nielsen and Chuang, §8.3.

Depolarising with probability p means that with probability p the state is replaced by the maximally mixed one:
E(ρ) = (1 - p) ρ + p I/d. Its average gate fidelity is F = 1 - p (d - 1)/d, its process fidelity 1 - p (d² - 1)/d².
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import numpy as np

from bellwire.protocols.errors import BackendError
from bellwire.protocols.instructions import Gate
from bellwire.sim.states import ComplexArray, FloatArray, pauli_products

Matrix = ComplexArray | Sequence[Sequence[complex]]

COMPLETENESS_TOLERANCE: Final = 1e-9


@dataclass(frozen=True, kw_only=True, eq=False)
class Channel:
    """A trace-preserving map on one or two qubits.

    Attributes:
        transfer: Pauli transfer matrix, real, shape (4ⁿ, 4ⁿ), first qubit slowest; read-only once it is here.
        qubits: 1 or 2, found from the shape.

    Raises:
        BackendError: when the shape is not that of 1 or 2 qubits, or the trace is not preserved.
    """

    transfer: FloatArray
    qubits: int = field(init=False)

    def __post_init__(self) -> None:
        if self.transfer.shape not in ((4, 4), (16, 16)):
            raise BackendError(f"expected a channel on 1 or 2 qubits, got a transfer matrix of {self.transfer.shape}")
        row = self.transfer[0]
        if not (abs(row[0] - 1) <= COMPLETENESS_TOLERANCE and np.abs(row[1:]).max() <= COMPLETENESS_TOLERANCE):
            raise BackendError("channel does not preserve the trace")
        exact = np.ascontiguousarray(self.transfer, dtype=np.float64).copy()
        exact[0] = 0.0
        exact[0, 0] = 1.0
        exact.setflags(write=False)
        object.__setattr__(self, "transfer", exact)
        object.__setattr__(self, "qubits", 1 if len(exact) == 4 else 2)

    def then(self, after: Channel) -> Channel:
        """Give the channel that does this one and then `after`."""
        if after.qubits != self.qubits:
            raise BackendError(f"cannot follow a channel on {self.qubits} qubits by one on {after.qubits}")
        return Channel(transfer=after.transfer @ self.transfer)

    def beside(self, second: Channel) -> Channel:
        """Give the two-qubit channel with this one on the first qubit and `second` on the second."""
        if self.qubits != 1 or second.qubits != 1:
            raise BackendError("only channels on one qubit go side by side")
        return Channel(transfer=np.kron(self.transfer, second.transfer).astype(np.float64))

    def choi(self) -> ComplexArray:
        """Give the Choi state (E ⊗ 1)(|Ω⟩⟨Ω|), trace 1, output qubits first. Shape (4ⁿ, 4ⁿ)."""
        products = pauli_products(self.qubits)
        size = len(products)
        grid = np.einsum("ij,iab,jdc->acbd", self.transfer, products, products)
        state: ComplexArray = grid.reshape(size, size) / size
        return state

    def kraus(self) -> list[ComplexArray]:
        """Give Kraus operators of shape (2ⁿ, 2ⁿ), strongest first; those with no weight are left out."""
        side = 2**self.qubits
        weights, vectors = np.linalg.eigh(self.choi())
        pairs = sorted(zip(weights, vectors.T, strict=True), key=lambda pair: -float(pair[0]))
        return [math.sqrt(weight * side) * vector.reshape(side, side) for weight, vector in pairs if weight > 1e-12]

    def process_fidelity(self, ideal: Channel) -> float:
        """Give the overlap of the Choi states of this channel and of a unitary one: Tr(R_idealᵀ R) / d²."""
        return float(np.sum(ideal.transfer * self.transfer)) / len(self.transfer)


def from_kraus(operators: Sequence[Matrix]) -> Channel:
    """Make a channel of Kraus operators, each of shape (2, 2) or (4, 4).

    Raises:
        BackendError: when there are none, their shapes differ, or Σ K†K is not the identity within 1e-9.
    """
    matrices = [np.asarray(operator, dtype=np.complex128) for operator in operators]
    if not matrices or any(matrix.shape not in ((2, 2), (4, 4)) for matrix in matrices):
        raise BackendError("expected Kraus operators on 1 or 2 qubits")
    if len({matrix.shape for matrix in matrices}) != 1:
        raise BackendError("expected Kraus operators of one shape")
    side = len(matrices[0])
    gap = float(np.abs(sum(matrix.conj().T @ matrix for matrix in matrices) - np.eye(side)).max())
    if not gap <= COMPLETENESS_TOLERANCE:
        raise BackendError(f"Kraus operators are not complete: sum of K†K is {gap:.3g} from the identity")
    products = pauli_products(1 if side == 2 else 2)
    transfer = np.zeros((len(products), len(products)))
    for matrix in matrices:
        moved = matrix @ products @ matrix.conj().T
        transfer += np.einsum("iab,jba->ij", products, moved).real / side
    return Channel(transfer=transfer)


def from_unitary(matrix: Matrix) -> Channel:
    """Make a channel of a unitary of shape (2, 2) or (4, 4). Raises BackendError when it is not unitary."""
    return from_kraus([matrix])


def identity(qubits: int) -> Channel:
    """Give the channel that does nothing, on 1 or 2 qubits."""
    return Channel(transfer=np.eye(4**qubits))


def _probability(value: float, what: str, highest: float = 1.0) -> float:
    if not 0 <= value <= highest:
        raise BackendError(f"expected {what} in [0, {highest:.6g}], got {value}")
    return value


def amplitude_damping(probability: float) -> Channel:
    """Let |1⟩ decay to |0⟩ with that probability (Nielsen and Chuang §8.3.5)."""
    _probability(probability, "a decay probability")
    keep = math.sqrt(1 - probability)
    return from_kraus([[[1, 0], [0, keep]], [[0, math.sqrt(probability)], [0, 0]]])


def dephasing(probability: float) -> Channel:
    """Apply Z with that probability: coherences shrink by 1 - 2p (Nielsen and Chuang §8.3.3)."""
    _probability(probability, "a phase flip probability")
    return Channel(transfer=np.diag([1, 1 - 2 * probability, 1 - 2 * probability, 1]))


def bit_flip(probability: float) -> Channel:
    """Apply X with that probability: an initialisation error, or a readout error put before the measurement."""
    _probability(probability, "a bit flip probability")
    return Channel(transfer=np.diag([1, 1, 1 - 2 * probability, 1 - 2 * probability]))


def depolarising(probability: float, qubits: int = 1) -> Channel:
    """Replace the state by the maximally mixed one with that probability, on 1 or 2 qubits.

    Up to d²/(d² - 1) the map is physical (all Paulis but the identity); the limit is there.
    """
    size = 4**qubits
    _probability(probability, "a depolarising probability", size / (size - 1))
    return Channel(transfer=np.diag([1.0] + [1 - probability] * (size - 1)))


def depolarising_probability(average_fidelity_ratio: float, qubits: int) -> float:
    """Give the probability of the depolarising channel with that average gate fidelity: p = (1 - F) d/(d - 1).

    Raises:
        BackendError: when no depolarising channel has it (below 1/(d + 1), or above 1).
    """
    side = 2 if qubits == 1 else 4
    if not 1 / (side + 1) - 1e-12 <= average_fidelity_ratio <= 1:
        raise BackendError(f"expected an average gate fidelity in [1/{side + 1}, 1], got {average_fidelity_ratio}")
    return min((1 - average_fidelity_ratio) * side / (side - 1), side**2 / (side**2 - 1))


def depolarising_from_fidelity(average_fidelity_ratio: float, qubits: int) -> Channel:
    """Give the depolarising channel with that average gate fidelity, on 1 or 2 qubits."""
    return depolarising(depolarising_probability(average_fidelity_ratio, qubits), qubits)


def idle_transfer(elapsed_ns: float, t1_ns: float, t2_ns: float) -> FloatArray:
    """Give the transfer matrix of waiting: ⟨X⟩ and ⟨Y⟩ shrink by exp(-t/T2), ⟨Z⟩ tends to 1 (|0⟩) by exp(-t/T1).

    Shape (4, 4). The times are not checked here: `check_times` does that once. Infinite times are allowed.
    """
    transverse = math.exp(-elapsed_ns / t2_ns)
    longitudinal = math.exp(-elapsed_ns / t1_ns)
    transfer = np.zeros((4, 4))
    transfer[0, 0] = 1.0
    transfer[1, 1] = transfer[2, 2] = transverse
    transfer[3, 0] = 1.0 - longitudinal
    transfer[3, 3] = longitudinal
    return transfer


def check_times(t1_ns: float, t2_ns: float) -> None:
    """Check that relaxation times are positive and T2 <= 2 T1. Raises ValueError when they are not."""
    if not (t1_ns > 0 and t2_ns > 0):
        raise ValueError(f"expected positive t1 and t2, got {t1_ns} ns and {t2_ns} ns")
    if t2_ns > 2 * t1_ns:
        raise ValueError(f"t2 of {t2_ns} ns is longer than twice t1 of {t1_ns} ns: no physical channel has that")


def idle(elapsed_ns: float, t1_ns: float, t2_ns: float) -> Channel:
    """Give the channel of waiting for `elapsed_ns`: amplitude damping and the dephasing that T2 leaves over.

    Raises:
        BackendError: when a time is not positive, T2 > 2 T1, or the elapsed time is negative.
    """
    try:
        check_times(t1_ns, t2_ns)
    except ValueError as error:
        raise BackendError(str(error)) from None
    if not elapsed_ns >= 0:
        raise BackendError(f"expected an elapsed time of at least 0 ns, got {elapsed_ns}")
    return Channel(transfer=idle_transfer(elapsed_ns, t1_ns, t2_ns))


_H = 1 / math.sqrt(2)
_FIXED: Final[dict[Gate, Matrix]] = {
    Gate.X: [[0, 1], [1, 0]],
    Gate.Y: [[0, -1j], [1j, 0]],
    Gate.Z: [[1, 0], [0, -1]],
    Gate.H: [[_H, _H], [_H, -_H]],
    Gate.S: [[1, 0], [0, 1j]],
    Gate.SDG: [[1, 0], [0, -1j]],
    Gate.SX: [[0.5 + 0.5j, 0.5 - 0.5j], [0.5 - 0.5j, 0.5 + 0.5j]],
    Gate.SXDG: [[0.5 - 0.5j, 0.5 + 0.5j], [0.5 + 0.5j, 0.5 - 0.5j]],
    Gate.T: [[1, 0], [0, cmath.exp(0.25j * math.pi)]],
    Gate.TDG: [[1, 0], [0, cmath.exp(-0.25j * math.pi)]],
    Gate.CX: [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]],
    Gate.CZ: np.diag([1, 1, 1, -1]).astype(np.complex128),
    Gate.SWAP: [[1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]],
}


def gate_unitary(gate: Gate, angle: float = 0.0) -> ComplexArray:
    """Give the matrix of a gate, as OpenQASM 3's standard library has it. Shape (2, 2) or (4, 4); angle in radians."""
    cos, sin = math.cos(angle / 2), math.sin(angle / 2)
    if gate is Gate.RX:
        return np.array([[cos, -1j * sin], [-1j * sin, cos]])
    if gate is Gate.RY:
        return np.array([[cos, -sin], [sin, cos]], dtype=np.complex128)
    if gate is Gate.RZ:
        return np.array([[cos - 1j * sin, 0], [0, cos + 1j * sin]])
    return np.asarray(_FIXED[gate], dtype=np.complex128)


@lru_cache(maxsize=1024)
def gate_channel(gate: Gate, angle: float = 0.0) -> Channel:
    """Give the noiseless channel of a gate; angle in radians for the gates that take one.

    Raises:
        BackendError: when the angle is not finite.
    """
    if not math.isfinite(angle):
        raise BackendError(f"expected a finite angle for {gate}, got {angle}")
    return from_unitary(gate_unitary(gate, angle))
