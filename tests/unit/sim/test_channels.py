"""Channels against closed forms (Nielsen and Chuang §8.3)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bellwire.protocols.errors import BackendError
from bellwire.protocols.instructions import BellState, Gate
from bellwire.sim import channels
from bellwire.sim.states import (
    bell_density_matrix,
    bell_vector,
    measured_state,
    shift_frame,
    state_fidelity,
    to_density_matrix,
    to_pauli_vector,
    werner_state,
)

RHO = np.array([[0.3, 0.2 + 0.1j], [0.2 - 0.1j, 0.7]], dtype=np.complex128)
PROBABILITIES = st.floats(0, 1)


def after(channel: channels.Channel, density_matrix: NDArray[np.complex128]) -> NDArray[np.complex128]:
    return to_density_matrix(channel.transfer @ to_pauli_vector(density_matrix), channel.qubits)


@given(PROBABILITIES)
def test_amplitude_damping_of_a_state_matches_its_closed_form(probability: float) -> None:
    keep = math.sqrt(1 - probability)
    expected = [
        [RHO[0, 0] + probability * RHO[1, 1], keep * RHO[0, 1]],
        [keep * RHO[1, 0], (1 - probability) * RHO[1, 1]],
    ]
    np.testing.assert_allclose(after(channels.amplitude_damping(probability), RHO), expected, atol=1e-12)


@given(PROBABILITIES)
def test_dephasing_and_bit_flip_of_a_state_match_their_closed_forms(probability: float) -> None:
    z, x = np.diag([1, -1]), np.array([[0, 1], [1, 0]])
    flipped = (1 - probability) * RHO + probability * z @ RHO @ z
    np.testing.assert_allclose(after(channels.dephasing(probability), RHO), flipped, atol=1e-12)
    flipped = (1 - probability) * RHO + probability * x @ RHO @ x
    np.testing.assert_allclose(after(channels.bit_flip(probability), RHO), flipped, atol=1e-12)


@given(PROBABILITIES)
def test_depolarising_of_one_and_two_qubits_matches_its_closed_form(probability: float) -> None:
    expected = (1 - probability) * RHO + probability * np.eye(2) / 2
    np.testing.assert_allclose(after(channels.depolarising(probability), RHO), expected, atol=1e-12)
    pair = werner_state(0.8)
    expected = (1 - probability) * pair + probability * np.eye(4) / 4
    np.testing.assert_allclose(after(channels.depolarising(probability, 2), pair), expected, atol=1e-12)


@pytest.mark.parametrize("qubits", [1, 2])
@pytest.mark.parametrize("fidelity_ratio", [1.0, 0.98, 0.862, 0.5])
def test_depolarising_from_fidelity_has_that_average_gate_fidelity(qubits: int, fidelity_ratio: float) -> None:
    channel = channels.depolarising_from_fidelity(fidelity_ratio, qubits)
    side = 2**qubits
    process = channel.process_fidelity(channels.identity(qubits))
    assert (side * process + 1) / (side + 1) == pytest.approx(fidelity_ratio, abs=1e-12)


def test_depolarising_of_three_teleported_gates_gives_the_one_parameter_row() -> None:
    # one depolarising parameter for one, two and three gates: lambda = (4F-1)/3 from F = 0.862, then 0.862, 0.749, 0.658
    assert 1 - channels.depolarising_probability(0.862, 2) == pytest.approx(0.816, abs=5e-4)
    gate = channels.depolarising_from_fidelity(0.862, 2)
    product, found = gate, []
    for _ in range(3):
        found.append((4 * product.process_fidelity(channels.identity(2)) + 1) / 5)
        product = product.then(gate)
    assert found == pytest.approx([0.862, 0.749, 0.658], abs=1e-3)


@given(st.floats(0, 50), st.floats(0.1, 10), st.floats(0.05, 2))
def test_idle_for_a_time_matches_exponential_decay(elapsed_ns: float, t1_ns: float, t2_over_t1: float) -> None:
    t2_ns = t1_ns * t2_over_t1
    found = after(channels.idle(elapsed_ns, t1_ns, t2_ns), RHO)
    excited = RHO[1, 1] * math.exp(-elapsed_ns / t1_ns)
    coherence = RHO[0, 1] * math.exp(-elapsed_ns / t2_ns)
    np.testing.assert_allclose(found, [[1 - excited, coherence], [coherence.conjugate(), excited]], atol=1e-12)
    kraus = channels.idle(elapsed_ns, t1_ns, t2_ns).kraus()
    np.testing.assert_allclose(channels.from_kraus(kraus).transfer @ [1, 0, 0, 1], [1, 0, 0, 1], atol=1e-9)


def test_idle_in_two_steps_equals_idle_in_one() -> None:
    both = channels.idle(3, 10, 7).then(channels.idle(4, 10, 7))
    np.testing.assert_allclose(both.transfer, channels.idle(7, 10, 7).transfer, atol=1e-12)


@pytest.mark.parametrize(("t1_ns", "t2_ns"), [(1, 2.1), (0, 1), (1, 0), (-1, -2), (math.nan, 1), (1, math.inf)])
def test_idle_with_unphysical_times_is_refused(t1_ns: float, t2_ns: float) -> None:
    with pytest.raises(BackendError):
        channels.idle(1, t1_ns, t2_ns)


@pytest.mark.parametrize("gate", list(Gate))
def test_gate_channel_acts_as_its_unitary(gate: Gate) -> None:
    unitary = channels.gate_unitary(gate, 0.7)
    state = RHO if gate.qubits == 1 else np.kron(RHO, werner_state(0.9)[:2, :2] * 2 / werner_state(0.9)[:2, :2].trace())
    state = state / state.trace()
    np.testing.assert_allclose(
        after(channels.gate_channel(gate, 0.7), state), unitary @ state @ unitary.conj().T, atol=1e-12
    )


def test_gate_channel_of_named_gates_keeps_their_identities() -> None:
    def unitary(gate: Gate, angle: float = 0.0) -> NDArray[np.float64]:
        return channels.gate_channel(gate, angle).transfer

    np.testing.assert_allclose(unitary(Gate.S) @ unitary(Gate.S), unitary(Gate.Z), atol=1e-12)
    np.testing.assert_allclose(unitary(Gate.T) @ unitary(Gate.T), unitary(Gate.S), atol=1e-12)
    np.testing.assert_allclose(unitary(Gate.SX) @ unitary(Gate.SX), unitary(Gate.X), atol=1e-12)
    for gate, inverse in ((Gate.S, Gate.SDG), (Gate.T, Gate.TDG), (Gate.SX, Gate.SXDG)):
        np.testing.assert_allclose(unitary(gate) @ unitary(inverse), np.eye(4), atol=1e-12)
    for gate, rotation in ((Gate.X, Gate.RX), (Gate.Y, Gate.RY), (Gate.Z, Gate.RZ)):
        np.testing.assert_allclose(unitary(rotation, math.pi), unitary(gate), atol=1e-12)


@pytest.mark.parametrize("channel", [channels.amplitude_damping(0.3), channels.depolarising(0.2, 2)])
def test_kraus_of_a_channel_make_the_same_channel(channel: channels.Channel) -> None:
    np.testing.assert_allclose(channels.from_kraus(channel.kraus()).transfer, channel.transfer, atol=1e-9)
    assert channel.choi().trace() == pytest.approx(1)


def test_channels_side_by_side_act_each_on_its_qubit() -> None:
    both = channels.amplitude_damping(0.3).beside(channels.dephasing(0.1))
    other = np.ascontiguousarray(RHO.T)
    product = np.kron(RHO, other).astype(np.complex128)
    expected = np.kron(after(channels.amplitude_damping(0.3), RHO), after(channels.dephasing(0.1), other))
    np.testing.assert_allclose(np.abs(after(both, product) - expected), 0, atol=1e-12)


@pytest.mark.parametrize(
    "operators", [[], [np.eye(3)], [np.eye(2) / 2], [np.eye(2), np.eye(4)], [np.diag([1, math.nan])]]
)
def test_from_kraus_with_incomplete_operators_is_refused(operators: list[NDArray[np.complex128]]) -> None:
    with pytest.raises(BackendError):
        channels.from_kraus(operators)


@pytest.mark.parametrize(
    "make",
    [
        lambda: channels.amplitude_damping(1.1),
        lambda: channels.dephasing(-0.1),
        lambda: channels.bit_flip(math.nan),
        lambda: channels.depolarising(1.4),
        lambda: channels.depolarising_from_fidelity(0.1, 2),
        lambda: channels.gate_channel(Gate.RX, math.inf),
        lambda: channels.Channel(transfer=np.eye(3)),
        lambda: channels.Channel(transfer=np.zeros((4, 4))),
        lambda: channels.identity(1).then(channels.identity(2)),
        lambda: channels.identity(2).beside(channels.identity(1)),
        lambda: werner_state(1.2),
    ],
)
def test_channel_out_of_its_range_is_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(BackendError):
        make()


@pytest.mark.parametrize("bell_state", list(BellState))
def test_werner_state_has_its_fidelity_in_every_frame(bell_state: BellState) -> None:
    state = shift_frame(werner_state(0.97), BellState.PSI_PLUS, bell_state)
    np.testing.assert_allclose(state, werner_state(0.97, bell_state), atol=1e-12)
    assert state_fidelity(state, bell_vector(bell_state)) == pytest.approx(0.97)
    assert state_fidelity(bell_density_matrix(bell_state), bell_vector(bell_state)) == pytest.approx(1)


def test_shift_frame_from_psi_plus_to_psi_minus_is_z_on_the_second_qubit() -> None:
    rng = np.random.default_rng(1)
    root = rng.normal(size=(4, 4)) + 1j * rng.normal(size=(4, 4))
    state = root @ root.conj().T
    state /= state.trace()
    z = np.kron(np.eye(2), np.diag([1, -1]))
    turned = shift_frame(state, BellState.PSI_PLUS, BellState.PSI_MINUS)
    np.testing.assert_allclose(turned, z @ state @ z, atol=1e-12)


@pytest.mark.parametrize(
    ("matrix", "text"),
    [
        (np.eye(2) / 2, "4x4"),
        (np.eye(4) / 4 * math.nan, "finite"),
        (np.eye(4), "trace"),
        (np.diag([1.1, -0.1, 0, 0]), "positive"),
        (np.eye(4) / 4 + np.triu(np.ones((4, 4)), 1) * 0.1, "Hermitian"),
    ],
)
def test_measured_state_that_is_no_state_is_refused(matrix: NDArray[np.complex128], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        measured_state(matrix)
