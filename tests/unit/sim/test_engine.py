"""The density matrix engine against a brute-force density matrix of the whole space."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bellwire.protocols.errors import BackendError
from bellwire.protocols.instructions import BellState, Gate
from bellwire.sim import channels
from bellwire.sim.engine import DensityMatrixEngine, StateEngineCapable
from bellwire.sim.states import GROUND, MIXED, bell_density_matrix, werner_state

Matrix = NDArray[np.complex128]


class WholeSpace:
    """All qubits in one density matrix, by Kraus operators padded with identities. Slow and plain."""

    def __init__(self) -> None:
        self.qubits: list[Hashable] = []
        self.state: Matrix = np.ones((1, 1), dtype=np.complex128)

    def create(self, qubits: Sequence[Hashable], density_matrix: Matrix) -> None:
        for qubit in qubits:
            if qubit in self.qubits:
                self.discard(qubit)
        self.state = np.kron(self.state, density_matrix).astype(np.complex128)
        self.qubits += qubits

    def discard(self, qubit: Hashable) -> None:
        self.state = self.density_matrix([other for other in self.qubits if other != qubit])
        self.qubits.remove(qubit)

    def padded(self, operator: Matrix, qubits: Sequence[Hashable]) -> Matrix:
        """Give the operator on the whole space, element by element."""
        count, at = len(self.qubits), [self.qubits.index(qubit) for qubit in qubits]
        whole = np.zeros((2**count, 2**count), dtype=np.complex128)
        for column in range(2**count):
            bits = [(column >> (count - 1 - place)) & 1 for place in range(count)]
            inner = sum(bits[place] << (len(at) - 1 - index) for index, place in enumerate(at))
            for row in range(2 ** len(at)):
                out = list(bits)
                for index, place in enumerate(at):
                    out[place] = (row >> (len(at) - 1 - index)) & 1
                whole[sum(bit << (count - 1 - place) for place, bit in enumerate(out)), column] += operator[row, inner]
        return whole

    def apply(self, operators: Sequence[Matrix], qubits: Sequence[Hashable]) -> None:
        wholes = [self.padded(operator, qubits) for operator in operators]
        self.state = np.sum([whole @ self.state @ whole.conj().T for whole in wholes], axis=0)

    def measure(self, qubit: Hashable, rng: np.random.Generator) -> int:
        one = self.padded(np.diag([0, 1]).astype(np.complex128), [qubit])
        bit = int(rng.random() < (one @ self.state).trace().real)
        seen = one if bit else np.eye(len(one)) - one
        self.state = seen @ self.state @ seen
        self.state /= self.state.trace()
        return bit

    def density_matrix(self, qubits: Sequence[Hashable]) -> Matrix:
        count, at = len(self.qubits), [self.qubits.index(qubit) for qubit in qubits]
        tensor = self.state.reshape((2,) * (2 * count))
        rest = [place for place in range(count) if place not in at]
        order = [*at, *rest, *(count + place for place in at), *(count + place for place in rest)]
        tensor = tensor.transpose(order).reshape(2 ** len(at), 2 ** len(rest), 2 ** len(at), 2 ** len(rest))
        reduced: Matrix = np.trace(tensor, axis1=1, axis2=3)
        return reduced


QUBITS = st.integers(0, 3)
PAIRS = st.permutations(range(4)).map(lambda order: tuple(order[:2]))
ANGLES = st.floats(-7, 7)
STEPS = st.one_of(
    st.tuples(st.just("gate"), st.sampled_from([gate for gate in Gate if gate.qubits == 1]), QUBITS, ANGLES),
    st.tuples(st.just("gate2"), st.sampled_from([gate for gate in Gate if gate.qubits == 2]), PAIRS),
    st.tuples(st.just("damp"), QUBITS, st.floats(0, 1)),
    st.tuples(st.just("idle"), QUBITS, st.floats(0, 3)),
    st.tuples(st.just("depolarise2"), PAIRS, st.floats(0, 1)),
    st.tuples(st.just("measure"), QUBITS),
    st.tuples(st.just("discard"), QUBITS),
    st.tuples(st.just("reset"), QUBITS),
    st.tuples(st.just("pair"), PAIRS, st.floats(0, 1)),
)


def transform(step: Any, engine: DensityMatrixEngine, brute: WholeSpace) -> None:
    """Apply one random channel to both, to the brute force by its Kraus operators."""
    match step:
        case ("gate", gate, qubit, angle):
            engine.apply(channels.gate_channel(gate, angle), [qubit])
            brute.apply([channels.gate_unitary(gate, angle)], [qubit])
        case ("gate2", gate, pair):
            engine.apply(channels.gate_channel(gate), pair)
            brute.apply([channels.gate_unitary(gate)], pair)
        case ("damp", qubit, probability):
            keep = np.sqrt(1 - probability)
            engine.apply(channels.amplitude_damping(probability), [qubit])
            operators = [np.diag([1, keep]), np.array([[0, np.sqrt(probability)], [0, 0]])]
            brute.apply([operator.astype(np.complex128) for operator in operators], [qubit])
        case ("idle", qubit, elapsed_ns):
            engine.idle(qubit, elapsed_ns, 2.0, 1.5)
            brute.apply(channels.idle(elapsed_ns, 2.0, 1.5).kraus(), [qubit])
        case ("depolarise2", pair, probability):
            engine.apply(channels.depolarising(probability, 2), pair)
            brute.apply(channels.depolarising(probability, 2).kraus(), pair)


def take(step: Any, engine: DensityMatrixEngine, brute: WholeSpace, rngs: list[np.random.Generator]) -> None:
    """Do one random step on both, with the same draws."""
    both: list[Any] = [engine, brute]
    match step:
        case ("measure", qubit):
            assert engine.measure(qubit, rngs[0]) == brute.measure(qubit, rngs[1])
            assert engine.group(qubit) == (qubit,)
        case ("discard", qubit):
            for one in both:
                one.discard(qubit)
                one.create([qubit], MIXED)
        case ("reset", qubit):
            for one in both:
                one.create([qubit], GROUND)
        case ("pair", pair, fidelity):
            for one in both:
                one.create(pair, werner_state(fidelity))
        case _:
            transform(step, engine, brute)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, max_size=25), st.integers(0, 2**32))
def test_engine_on_a_random_noisy_circuit_agrees_with_brute_force(steps: list[Any], seed: int) -> None:
    engine, brute = DensityMatrixEngine(group_qubits=4), WholeSpace()
    rngs = [np.random.default_rng(seed), np.random.default_rng(seed)]
    for qubit in range(4):
        engine.create([qubit], GROUND)
        brute.create([qubit], GROUND)
    for step in steps:
        take(step, engine, brute, rngs)
        np.testing.assert_allclose(engine.density_matrix([2, 0, 3, 1]), brute.density_matrix([2, 0, 3, 1]), atol=1e-9)
    for some in ([3], [1, 3], [2, 1, 0]):
        np.testing.assert_allclose(engine.density_matrix(some), brute.density_matrix(some), atol=1e-9)


def test_engine_groups_merge_by_a_gate_and_split_by_a_measurement() -> None:
    engine = DensityMatrixEngine()
    engine.create(["a", "b"], bell_density_matrix(BellState.PHI_PLUS))
    engine.create(["c"], GROUND)
    assert set(engine.group("a")) == {"a", "b"}
    engine.apply(channels.gate_channel(Gate.CX), ["b", "c"])
    assert set(engine.group("a")) == {"a", "b", "c"}
    bit = engine.measure("c", np.random.default_rng(1))
    assert engine.group("c") == ("c",)
    assert set(engine.group("a")) == {"a", "b"}
    engine.discard("b")
    assert engine.group("a") == ("a",)
    assert "b" not in engine
    assert len(engine) == 2
    assert engine.density_matrix(["a"])[bit, bit].real == pytest.approx(1)
    engine.create(["a"], GROUND)
    assert engine.density_matrix(["a", "c"])[bit, bit].real == pytest.approx(1)


def test_engine_is_a_state_engine() -> None:
    engine: StateEngineCapable = DensityMatrixEngine()
    engine.create(["a"], GROUND)
    assert "a" in engine


def test_engine_group_beyond_its_bound_is_refused_and_changes_nothing() -> None:
    engine = DensityMatrixEngine(group_qubits=2)
    engine.create(["a", "b"], bell_density_matrix(BellState.PSI_MINUS))
    engine.create(["c"], GROUND)
    with pytest.raises(BackendError, match="3 qubits would become entangled, 2 are allowed"):
        engine.apply(channels.gate_channel(Gate.CZ), ["a", "c"])
    assert engine.group("c") == ("c",)
    np.testing.assert_allclose(engine.density_matrix(["a", "b"]), bell_density_matrix(BellState.PSI_MINUS), atol=1e-12)


def test_engine_measuring_a_state_just_outside_the_positive_ones_clips() -> None:
    engine = DensityMatrixEngine()
    engine.create(["a", "b"], np.diag([1.001, -0.001, 0, 0]).astype(np.complex128))
    assert engine.measure("b", np.random.default_rng(3)) == 0
    np.testing.assert_allclose(engine.density_matrix(["a"]), GROUND, atol=1e-12)


@pytest.mark.parametrize(
    "misuse",
    [
        lambda engine: engine.apply(channels.identity(1), ["nobody"]),
        lambda engine: engine.apply(channels.identity(2), ["a"]),
        lambda engine: engine.apply(channels.identity(2), ["a", "a"]),
        lambda engine: engine.measure("nobody", np.random.default_rng(1)),
        lambda engine: engine.discard("nobody"),
        lambda engine: engine.create(["x", "y"], GROUND),
        lambda engine: engine.create(["x", "x"], werner_state(1)),
        lambda engine: engine.create(["x"], GROUND * 2),
        lambda engine: engine.create(["x"], np.eye(3)),
        lambda engine: engine.density_matrix([]),
        lambda engine: engine.density_matrix(["a", "a"]),
        lambda engine: engine.density_matrix(["a", "nobody"]),
        lambda engine: DensityMatrixEngine(group_qubits=20),
    ],
)
def test_engine_misused_raises_backend_error(misuse: Callable[[DensityMatrixEngine], object]) -> None:
    engine = DensityMatrixEngine()
    engine.create(["a"], GROUND)
    with pytest.raises(BackendError):
        misuse(engine)
