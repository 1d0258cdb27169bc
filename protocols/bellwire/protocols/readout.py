"""How an end measures its half of a pair: in which basis, and what the two ends' outcomes must have in common (spec 2 §4.6)."""

from __future__ import annotations

import math
from enum import StrEnum
from itertools import accumulate
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from bellwire.protocols.ids import QubitName
from bellwire.protocols.instructions import AnyInstruction, Apply, BellState, Gate


class Basis(StrEnum):
    """A basis of one qubit. The two with an angle are Z turned by it around the Y axis; `rotated` is Z turned by a rotation."""

    Z = "z"
    X = "x"
    Y = "y"
    Z_PLUS = "z+pi/4"
    Z_MINUS = "z-pi/4"
    ROTATED = "rotated"


MAX_BASES: Final = 3
Weight = Annotated[int, Meta(ge=0, le=255)]
Angle = Annotated[float, Meta(ge=-2 * math.pi, le=2 * math.pi)]


class Readout(msgspec.Struct, frozen=True, kw_only=True):
    """What one end measures its halves in: one basis, or one of several that is drawn anew for every pair.

    `weights` are the odds of the bases in their order; none given: all alike. `rotation` turns `rotated` around X, then around
    Y, then around X again, by angles in radians.
    """

    bases: Annotated[tuple[Basis, ...], Meta(min_length=1, max_length=MAX_BASES)] = (Basis.Z,)
    weights: Annotated[tuple[Weight, ...], Meta(max_length=MAX_BASES)] = ()
    rotation: Annotated[tuple[Angle, ...], Meta(max_length=3)] = ()

    def mistake(self) -> str:
        """What is wrong with the fields together; empty when nothing is. Only a readout without a mistake can be used."""
        if len(set(self.bases)) != len(self.bases):
            return "a basis is named twice"
        if self.weights and (len(self.weights) != len(self.bases) or not any(self.weights)):
            return "there is one weight for each basis, and not all of them are 0"
        if bool(self.rotation) != (Basis.ROTATED in self.bases) or len(self.rotation) not in (0, 3):
            return "the basis `rotated` needs a rotation of three angles, and no other basis does"
        return ""

    def draw(self, number: float) -> Basis:
        """The basis that a number, drawn evenly from 0 (included) to 1 (excluded), chooses."""
        sums = list(accumulate(self.weights or (1,) * len(self.bases)))
        return next(basis for basis, upto in zip(self.bases, sums, strict=True) if number * sums[-1] < upto)

    def turn(self, basis: Basis, qubit: QubitName) -> list[AnyInstruction]:
        """The instructions that turn a basis into the computational one."""
        if basis is Basis.ROTATED:
            first, second, third = self.rotation
            return [_turn(Gate.RX, qubit, -third), _turn(Gate.RY, qubit, -second), _turn(Gate.RX, qubit, -first)]
        return {
            Basis.Z: [],
            Basis.X: [_turn(Gate.H, qubit)],
            Basis.Y: [_turn(Gate.SDG, qubit), _turn(Gate.H, qubit)],
            Basis.Z_PLUS: [_turn(Gate.RY, qubit, -math.pi / 4)],
            Basis.Z_MINUS: [_turn(Gate.RY, qubit, math.pi / 4)],
        }[basis]


IN_Z: Final = Readout()


def _turn(gate: Gate, qubit: QubitName, angle: float = 0.0) -> AnyInstruction:
    return Apply(gate=gate, qubits=(qubit,), angle=angle)


PAULI_BASES: Final = (Basis.X, Basis.Y, Basis.Z)


def parity(bell_state: BellState, basis: Basis) -> int:
    """1 when the outcomes of both ends in one of `PAULI_BASES` differ for a perfect pair, 0 when they agree."""
    return {Basis.X: bell_state.z, Basis.Z: bell_state.x, Basis.Y: 1 ^ bell_state.x ^ bell_state.z}[basis]
