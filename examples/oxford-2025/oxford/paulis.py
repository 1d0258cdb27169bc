"""Pauli operators of two qubits and what they do to circuits and channels.

A label such as "XZ" names X on Alice's qubit and Z on Bob's. Vectors and transfer matrices have the 16 labels in the order
of `LABELS`, which is that of `bellwire.sim.states`. R is the Pauli transfer matrix, R_ij = Tr(P_i E(P_j)) / 4.
"""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np

from bellwire.sim.channels import from_unitary
from bellwire.sim.states import ComplexArray, FloatArray, pauli_products
from oxford.circuits import PREPARATIONS, gates_unitary

LABELS = tuple("".join(pair) for pair in itertools.product("IXYZ", repeat=2))


def transfer_matrix(unitary: ComplexArray) -> FloatArray:
    """Give the transfer matrix of a unitary on two qubits. Shape (16, 16)."""
    return from_unitary(unitary).transfer


def process_fidelity(transfer: FloatArray, unitary: ComplexArray) -> float:
    """Give the process (entanglement) fidelity of a channel to a unitary: Tr(R_idealᵀ R) / 16."""
    return float(np.sum(transfer_matrix(unitary) * transfer)) / 16


def average_fidelity(process_fidelity_ratio: float) -> float:
    """Give the average gate fidelity that goes with a process fidelity, for d = 4: (4 F + 1) / 5 (Nielsen 2002)."""
    return (4 * process_fidelity_ratio + 1) / 5


def transfer_of_choi(choi: ComplexArray) -> FloatArray:
    """Give the transfer matrix of a channel from its Choi state, shape (16, 16), both outputs before both references.

    The references' partners went in with Φ+, so that ⟨P_i ⊗ P_jᵀ⟩ = R_ij.
    """
    products = pauli_products(2)
    grid = choi.reshape(4, 4, 4, 4)
    transfer: FloatArray = np.einsum("abcd,ica,jbd->ij", grid, products, products, optimize=True).real
    return transfer


@lru_cache(maxsize=64)
def product_state_vector(alice: str, bob: str) -> FloatArray:
    """Give the Pauli vector of a product of named states (the keys of `PREPARATIONS`). Shape (16,)."""
    amplitudes = np.kron(gates_unitary(PREPARATIONS[alice])[:, 0], gates_unitary(PREPARATIONS[bob])[:, 0])
    vector: FloatArray = np.einsum("a,iab,b->i", amplitudes.conj(), pauli_products(2), amplitudes).real
    return vector


def conjugated(unitary: ComplexArray, label: str) -> tuple[str, int]:
    """Give what a Clifford unitary makes of a Pauli operator, U P U†: a label and a sign.

    Raises:
        ValueError: when it is no Pauli operator: the unitary is not Clifford.
    """
    column = transfer_matrix(unitary)[:, LABELS.index(label)]
    at = int(np.argmax(np.abs(column)))
    if not np.isclose(abs(column[at]), 1.0):
        raise ValueError(f"U {label} U† is not a Pauli operator: the circuit is not Clifford")
    return LABELS[at], 1 if column[at] > 0 else -1
