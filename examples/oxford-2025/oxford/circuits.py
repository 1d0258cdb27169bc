"""The distributed circuits: local gates in two modules, and teleported CZ gates between them.

A circuit is its layers of local gates. Between two layers there is one teleported CZ of Alice's circuit qubit and Bob's,
so that a circuit of n + 1 layers uses n pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bellwire.protocols.instructions import Gate
from bellwire.sim.channels import gate_unitary
from bellwire.sim.states import PAULIS, ComplexArray

Gates = tuple[Gate, ...]

CZ_UNITARY = gate_unitary(Gate.CZ)

PREPARATIONS: dict[str, Gates] = {
    "0": (),
    "1": (Gate.X,),
    "+": (Gate.H,),
    "-": (Gate.X, Gate.H),
    "+i": (Gate.H, Gate.S),
    "-i": (Gate.H, Gate.SDG),
}
"""What turns |0⟩ into each eigenstate of a Pauli operator."""

ROTATIONS: dict[str, Gates] = {"X": (Gate.H,), "Y": (Gate.SDG, Gate.H), "Z": ()}
"""What turns a measurement of Z into one of each Pauli operator."""

MARKED = ("00", "01", "10", "11")
"""The items that Grover's search can look for; Alice's bit first."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Local gates, in order, on the circuit qubit of each module."""

    alice: Gates = ()
    bob: Gates = ()

    def unitary(self) -> ComplexArray:
        """Give the matrix of the layer, Alice's qubit first. Shape (4, 4)."""
        return np.asarray(np.kron(gates_unitary(self.alice), gates_unitary(self.bob)), dtype=np.complex128)


@dataclass(frozen=True, kw_only=True)
class Circuit:
    """A distributed circuit of two qubits."""

    name: str
    layers: tuple[Layer, ...]

    @property
    def teleported_gates(self) -> int:
        """How many gates are teleported: the pairs that one shot uses."""
        return len(self.layers) - 1

    def unitary(self) -> ComplexArray:
        """Give the matrix of the circuit without noise, Alice's qubit first. Shape (4, 4)."""
        matrix = self.layers[0].unitary()
        for layer in self.layers[1:]:
            matrix = layer.unitary() @ CZ_UNITARY @ matrix
        return matrix


def gates_unitary(gates: Gates) -> ComplexArray:
    """Give the matrix of one-qubit gates, the first in the tuple applied first. Shape (2, 2)."""
    matrix: ComplexArray = PAULIS[0]
    for gate in gates:
        matrix = gate_unitary(gate) @ matrix
    return matrix


def cz() -> Circuit:
    """One teleported CZ."""
    return Circuit(name="CZ", layers=(Layer(), Layer()))


def iswap() -> Circuit:
    """iSWAP of two teleported gates: S S, H, CNOT one way, CNOT the other way, H (as in OpenQASM's libraries).

    Each CNOT is a CZ between two H on its target.
    """
    h, s = Gate.H, Gate.S
    return Circuit(
        name="iSWAP",
        layers=(Layer(alice=(s, h), bob=(s, h)), Layer(alice=(h,), bob=(h,)), Layer(alice=(h,), bob=(h,))),
    )


def swap() -> Circuit:
    """SWAP of three teleported gates: three CNOT, the middle one the other way round."""
    h = Gate.H
    return Circuit(
        name="SWAP",
        layers=(Layer(bob=(h,)), Layer(alice=(h,), bob=(h,)), Layer(alice=(h,), bob=(h,)), Layer(bob=(h,))),
    )


def grover(marked: str) -> Circuit:
    """Grover's search for one of four items with one query, of two teleported gates: oracle and diffusion.

    On |00⟩ it gives the marked item with certainty.
    """
    h, x = Gate.H, Gate.X
    flip_alice, flip_bob = ((x,) if bit == "0" else () for bit in marked)
    return Circuit(
        name=f"Grover {marked}",
        layers=(
            Layer(alice=(h, *flip_alice), bob=(h, *flip_bob)),
            Layer(alice=(*flip_alice, h, x), bob=(*flip_bob, h, x)),
            Layer(alice=(x, h), bob=(x, h)),
        ),
    )
