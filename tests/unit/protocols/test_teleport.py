"""The algebra of teleported gates by plain state vectors (spec 3 §3): exact for every frame, outcome, kind and variant.

Six qubits: a reference and a data qubit at either end, and the two halves of the pair. Each data qubit begins maximally
entangled with its reference, so that the final state tells the whole process and not one input only.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from bellwire.protocols.ids import QubitName
from bellwire.protocols.instructions import AnyInstruction, Apply, BellState, Gate, Measure
from bellwire.protocols.messages import GateKind, GateVariant
from bellwire.protocols.teleport import Bits, Half

State = NDArray[np.complex128]
NAMES = ("source-reference", "source", "source-half", "target-half", "target", "target-reference")
PLACE = {QubitName(name): place for place, name in enumerate(NAMES)}

_I, _X, _Z = np.eye(2), np.array([[0, 1], [1, 0]]), np.diag([1, -1])
_H = np.array([[1, 1], [1, -1]]) / np.sqrt(2)
ONE = {Gate.X: _X, Gate.Z: _Z, Gate.H: _H}
TWO = {
    Gate.CX: np.eye(4)[[0, 1, 3, 2]],
    Gate.CZ: np.diag([1, 1, 1, -1]),
    Gate.SWAP: np.eye(4)[[0, 2, 1, 3]],
}


class Case(NamedTuple):
    kind: GateKind
    variant: GateVariant
    bell_state: BellState


CASES = [Case(*case) for case in product(GateKind, GateVariant, BellState)]


def apply(state: State, matrix: NDArray[np.float64], *places: int) -> State:
    count = len(places)
    tensor = matrix.reshape((2,) * (2 * count)).astype(complex)
    moved = np.tensordot(tensor, state, axes=(range(count, 2 * count), places))
    return np.moveaxis(moved, range(count), places)


def project(state: State, place: int, bit: int) -> tuple[State, float]:
    kept = apply(state, np.diag([1.0 - bit, float(bit)]), place)
    probability = float(np.vdot(kept, kept).real)
    return kept / np.sqrt(probability), probability


def bell(state: State, first: int, second: int) -> State:
    return apply(apply(state, _H, first), TWO[Gate.CX], first, second)


def prepared(bell_state: BellState) -> State:
    """Both data qubits entangled with their references, and the pair in (I ⊗ X^x Z^z)|Φ+⟩, the source's half first."""
    state = np.zeros((2,) * 6, dtype=complex)
    state[(0,) * 6] = 1
    for first, second in ((0, 1), (2, 3), (5, 4)):
        state = bell(state, first, second)
    if bell_state.z:
        state = apply(state, _Z, 3)
    return apply(state, _X, 3) if bell_state.x else state


def half(case: Case, *, source: bool) -> Half:
    end = "source" if source else "target"
    return Half(
        kind=case.kind,
        variant=case.variant,
        source=source,
        bell_state=case.bell_state,
        pair_qubit=QubitName(f"{end}-half"),
        qubit=QubitName(end),
    )


class Run:
    """One gate with outcomes that are chosen. `dropped` is the number of the correction to leave out."""

    def __init__(self, case: Case, outcomes: Bits, dropped: int | None = None) -> None:
        self.state = prepared(case.bell_state)
        self.outcomes = iter(outcomes)
        self.dropped = dropped
        self.corrections = 0
        self.probability = 1.0
        source, target = half(case, source=True), half(case, source=False)
        given = self.execute(source.act(()))
        back = self.execute(target.act(given if target.waits else ()), corrects=target.waits)
        self.measured = (given, back)
        if source.receives:
            self.execute(source.correct(back), corrects=True)
        if not target.waits:
            self.execute(target.correct(given), corrects=True)

    def execute(self, instructions: list[AnyInstruction], *, corrects: bool = False) -> Bits:
        bits: list[int] = []
        for instruction in instructions:
            if isinstance(instruction, Measure):
                bit = next(self.outcomes)
                self.state, probability = project(self.state, PLACE[instruction.qubit], bit)
                self.probability *= probability
                bits.append(bit)
                continue
            assert isinstance(instruction, Apply)
            if corrects and instruction.gate in (Gate.X, Gate.Z):
                self.corrections += 1
                if self.corrections - 1 == self.dropped:
                    continue
            places = [PLACE[qubit] for qubit in instruction.qubits]
            self.state = apply(self.state, (ONE if len(places) == 1 else TWO)[instruction.gate], *places)
        return tuple(bits)


def fidelity(run: Run, case: Case) -> float:
    """The overlap with the ideal: the gate on the two data qubits, and the measured qubits in what was measured."""
    state = np.zeros((2,) * 6, dtype=complex)
    given, back = run.measured
    if case.kind is GateKind.STATE:
        measured = {1: given[0], 2: given[1]}
        entangled = ((0, 4), (5, 3))
    else:
        measured = {2: given[0], 3: back[0]}
        entangled = ((0, 1), (5, 4))
    index = [0] * 6
    for place, bit in measured.items():
        index[place] = bit
    state[tuple(index)] = 1
    for first, second in entangled:
        state = bell(state, first, second)
    if case.kind is not GateKind.STATE:
        state = apply(state, TWO[Gate.CZ if case.kind is GateKind.CZ else Gate.CX], 1, 4)
    return float(abs(np.vdot(state, run.state)) ** 2)


def ends(case: Case) -> list[Bits]:
    return list(product((0, 1), repeat=2))


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_gate_for_every_outcome_is_exact_and_outcomes_are_fair(case: Case) -> None:
    for outcomes in ends(case):
        run = Run(case, outcomes)
        assert fidelity(run, case) == pytest.approx(1.0, abs=1e-12)
        assert run.probability == pytest.approx(0.25, abs=1e-12)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_gate_without_any_one_of_its_corrections_is_wrong(case: Case) -> None:
    dropped = 0
    for outcomes in ends(case):
        for number in range(Run(case, outcomes).corrections):
            assert fidelity(Run(case, outcomes, dropped=number), case) < 1e-12
            dropped += 1
    assert dropped == 4  # each of the two corrections is due for half of the four outcomes


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_gate_corrected_for_another_bell_state_is_wrong(case: Case) -> None:
    for outcomes in ends(case):
        right = Run(case, outcomes)
        for other in BellState:
            if other is not case.bell_state:
                assert fidelity(mistaken(case, other, outcomes), case) < 1e-12 < fidelity(right, case)


def mistaken(case: Case, believed: BellState, outcomes: Bits) -> Run:
    """A gate over one Bell state whose ends believe in another."""

    class Mistaken(Run):
        def execute(self, instructions: list[AnyInstruction], *, corrects: bool = False) -> Bits:
            if not started:
                self.state = prepared(case.bell_state)
                started.append(True)
            return super().execute(instructions, corrects=corrects)

    started: list[bool] = []
    return Mistaken(case._replace(bell_state=believed), outcomes)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_half_sends_as_many_bits_as_the_other_receives_and_as_it_measures(case: Case) -> None:
    source, target = half(case, source=True), half(case, source=False)
    assert (source.sends, target.sends) == (target.receives, source.receives)
    bits = (0,) * target.receives
    for end in (source, target):
        measured = sum(isinstance(instruction, Measure) for instruction in end.act(bits))
        assert measured == end.sends
    assert not source.waits
    assert target.waits is not target.symmetric
