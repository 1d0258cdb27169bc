"""What each end of a teleported gate does, as data (spec 3 §3). Pure functions of the frame and the peer's bits.

The pair is (I ⊗ X^x Z^z)|Φ+⟩ with the source's half first; `e` is a node's half, `q` its application's qubit.

Sequential (the cat-entangler of Yimsiriwattana and Lomonaco, quant-ph/0402148): the source copies its control into the pair
and measures, the target acts with its half as the control and measures, and each corrects by the other's bit.

Symmetric (as in Main et al., Nature 638, 383, 2025): with the target's half turned by H the pair is a two-qubit graph state;
both ends join their qubit to it by CZ and measure X. On the path q - e - e' - q' this leaves CZ between q and q', up to Z
on each end by the other end's bit.

State teleportation: Bennett et al., PRL 70, 1895 (1993).
"""

from __future__ import annotations

import msgspec

from bellwire.protocols.ids import QubitName
from bellwire.protocols.instructions import AnyInstruction, Apply, BellState, Gate, Measure
from bellwire.protocols.messages import GateKind, GateVariant

Bits = tuple[int, ...]


def _one(gate: Gate, qubit: QubitName) -> Apply:
    return Apply(gate=gate, qubits=(qubit,))


def _two(gate: Gate, first: QubitName, second: QubitName) -> Apply:
    return Apply(gate=gate, qubits=(first, second))


class Half(msgspec.Struct, frozen=True, kw_only=True):
    """One end's part of a gate: its qubits, and which of the two ends it is."""

    kind: GateKind
    variant: GateVariant
    source: bool
    bell_state: BellState
    pair_qubit: QubitName
    qubit: QubitName

    @property
    def waits(self) -> bool:
        """Whether this end acts only after it has the other end's bits."""
        return not self.source and not self.symmetric

    @property
    def symmetric(self) -> bool:
        """Whether both ends act at once."""
        return self.variant is GateVariant.SYMMETRIC and self.kind is not GateKind.STATE

    @property
    def sends(self) -> int:
        """How many bits this end measures and sends."""
        if self.kind is GateKind.STATE:
            return 2 if self.source else 0
        return 1

    @property
    def receives(self) -> int:
        """How many bits the other end sends."""
        if self.kind is GateKind.STATE:
            return 0 if self.source else 2
        return 1

    def act(self, bits: Bits) -> list[AnyInstruction]:
        """The instructions up to and including this end's measurements. `bits` are the other end's, for an end that waits."""
        e, q = self.pair_qubit, self.qubit
        if self.kind is GateKind.STATE:
            return self._act_state(bits)
        if self.symmetric:
            if self.source:
                return [_two(Gate.CZ, q, e), _one(Gate.H, e), Measure(qubit=e)]
            turn = [_one(Gate.H, q)] if self.kind is GateKind.CNOT else []
            return [*turn, _one(Gate.H, e), _two(Gate.CZ, e, q), _one(Gate.H, e), Measure(qubit=e)]
        if self.source:
            return [_two(Gate.CX, q, e), Measure(qubit=e)]
        flip = [_one(Gate.X, e)] if bits[0] ^ self.bell_state.x else []
        gate = Gate.CX if self.kind is GateKind.CNOT else Gate.CZ
        return [*flip, _two(gate, e, q), _one(Gate.H, e), Measure(qubit=e)]

    def _act_state(self, bits: Bits) -> list[AnyInstruction]:
        e, q = self.pair_qubit, self.qubit
        if self.source:
            return [_two(Gate.CX, q, e), _one(Gate.H, q), Measure(qubit=q), Measure(qubit=e)]
        flip = [_one(Gate.X, q)] if bits[1] ^ self.bell_state.x else []
        turn = [_one(Gate.Z, q)] if bits[0] ^ self.bell_state.z else []
        return [_two(Gate.SWAP, e, q), *flip, *turn]

    def correct(self, bits: Bits) -> list[AnyInstruction]:
        """The instructions that follow from the other end's bits after this end has measured."""
        if self.kind is GateKind.STATE or self.waits:
            return []
        frame = self.bell_state.x if self.source and self.symmetric else self.bell_state.z
        turn = [_one(Gate.Z, self.qubit)] if bits[0] ^ frame else []
        back = [_one(Gate.H, self.qubit)] if self.kind is GateKind.CNOT and not self.source else []
        return [*turn, *back]
