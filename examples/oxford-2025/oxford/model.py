"""What the preset says of every row, exactly: no sockets, no shots.

The world itself teleports the CZ, on Choi halves whose partners are reference qubits, once for every herald, every outcome
of the two mid-circuit measurements and every way in which they may be misread. Their mean, weighed by their probabilities,
is the channel of the teleported gate. The channels of circuits follow by multiplication, because each gate has a pair of
its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np

from bellwire.protocols.ids import LinkId, NodeId, QubitName, WindowId
from bellwire.protocols.instructions import (
    AnyInstruction,
    Apply,
    Arm,
    BellState,
    Discard,
    Gate,
    Initialise,
    Measure,
    Measured,
    WindowEnded,
)
from bellwire.protocols.messages import GateKind, GateVariant
from bellwire.protocols.node import QubitKind
from bellwire.protocols.teleport import Half
from bellwire.sim.channels import idle_transfer
from bellwire.sim.physics import LinkPhysics, NodePhysics, QubitPhysics, noisy_gate
from bellwire.sim.preset import NodeModel, Preset
from bellwire.sim.quantity import Quantity
from bellwire.sim.states import ComplexArray, FloatArray, to_pauli_vector
from bellwire.sim.topology import WorldLink, WorldNode
from bellwire.sim.world import World
from oxford.circuits import MARKED, Circuit, Gates, cz, grover, iswap, swap
from oxford.paulis import average_fidelity, process_fidelity, transfer_of_choi

ALICE, BOB, STATION = NodeId("alice"), NodeId("bob"), NodeId("station")
NODES: Final = (ALICE, BOB)
LINK: Final = LinkId("link")
LINK_MODEL: Final = "photonic"

_KINDS: Final = {
    QubitName("network"): QubitKind.COMMUNICATION,
    QubitName("circuit"): QubitKind.STORAGE,
    QubitName("reference"): QubitKind.REFERENCE,
    QubitName("spare"): QubitKind.REFERENCE,
}
_NETWORK, _CIRCUIT, _REFERENCE, _SPARE = _KINDS
_MOST_SHOTS: Final = 2_000

_BITS: Final = ((0, 0), (0, 1), (1, 0), (1, 1))


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the preset gives, exactly, for each row of the table. Fidelities are average gate fidelities."""

    bell_fidelity: float
    pairs_per_s: float
    cz: float
    grover: float
    iswap: float
    swap: float


def with_crosstalk(preset: Preset, probability: float) -> Preset:
    """Give the preset with another value of its one free parameter, in every module."""
    nodes = {
        name: msgspec.structs.replace(
            model, measurement_crosstalk=msgspec.structs.replace(model.measurement_crosstalk, value=probability)
        )
        for name, model in preset.nodes.items()
    }
    return msgspec.structs.replace(preset, nodes=nodes)


def crosstalk(preset: Preset) -> float:
    """Give the value of the one free parameter.

    Raises:
        ValueError: when the modules have different ones.
    """
    values = {model.measurement_crosstalk.value for model in preset.nodes.values()}
    if len(values) != 1:
        raise ValueError(f"measurement_crosstalk is one parameter, but the modules have {sorted(values)}")
    return values.pop()


def mean_wait_ns(preset: Preset) -> float:
    """Give the mean time from the first attempt to the herald."""
    return 1e9 / LinkPhysics.of(preset.links[LINK_MODEL]).pairs_per_s


def storage_physics(preset: Preset, node: NodeId) -> QubitPhysics:
    """Give the noise of a module's circuit qubit."""
    return NodePhysics.of(preset.nodes[node]).kinds[QubitKind.STORAGE]


def _exact(value: float, unit: str) -> Quantity:
    return Quantity(value=value, unit=unit, tag="derived", source="oxford.model")


def _stratified(preset: Preset) -> Preset:
    """Take the chances out that `teleported_cz` puts back as weights: waiting time, misread bits, initialisation."""
    nodes: dict[str, NodeModel] = {}
    for name, model in preset.nodes.items():
        changes: dict[str, Any] = {
            "communication": msgspec.structs.replace(model.communication, readout_error=_exact(0.0, "1"))
        }
        nodes[name] = msgspec.structs.replace(model, **changes)
    link = msgspec.structs.replace(
        preset.links[LINK_MODEL],
        photonics=None,
        burst=None,
        success_probability=_exact(1.0, "1"),
        attempt_period=_exact(mean_wait_ns(preset), "ns"),
    )
    return msgspec.structs.replace(preset, nodes=nodes, links={LINK_MODEL: link})


class _Laboratory:
    """A world of two modules, its clock, and one shot at a time."""

    def __init__(self, preset: Preset, seed: int) -> None:
        self._world = World(
            preset=_stratified(preset),
            nodes=[WorldNode(node=node, model=node, qubits=_KINDS) for node in NODES],
            links=[WorldLink(link_id=LINK, ends=(ALICE, BOB), station=STATION, model=LINK_MODEL)],
            seed=seed,
            start_ns=0,
        )
        self._now_ns = 0
        self._batches = 0

    def run(self, node: NodeId, instructions: Sequence[AnyInstruction]) -> list[int]:
        """Carry out a batch; give the bits that it measured."""
        self._batches += 1
        self._world.submit(node, self._batches, instructions, self._now_ns)
        (completed,) = self._world.take_completions()
        return [done.bit for done in completed.completions if isinstance(done, Measured)]

    def prepare_choi(self) -> None:
        """Put each circuit qubit into half of a perfect Φ+ with its reference, by way of a spare reference qubit."""
        for node in NODES:
            self.run(
                node,
                [
                    *(Initialise(qubit=name) for name in (_CIRCUIT, _REFERENCE, _SPARE)),
                    Apply(gate=Gate.H, qubits=(_REFERENCE,)),
                    Apply(gate=Gate.CX, qubits=(_REFERENCE, _SPARE)),
                    Apply(gate=Gate.SWAP, qubits=(_SPARE, _CIRCUIT)),
                    Discard(qubit=_SPARE),
                ],
            )

    def herald(self) -> BellState:
        """Wait for a pair."""
        self._batches += 1
        for node, qubit in ((ALICE, _NETWORK), (BOB, _NETWORK), (STATION, None)):
            window_id = WindowId(f"w{self._batches}")
            arm = Arm(window_id=window_id, link_id=LINK, qubit=qubit, attempts=1, timeout_ns=10**12)
            self._world.submit(node, self._batches, [arm], self._now_ns)
        deadline_ns = self._world.next_deadline_ns()
        assert deadline_ns is not None
        self._now_ns = deadline_ns
        self._world.handle_deadline(deadline_ns)
        ends = [completed.completions[-1] for completed in self._world.take_completions()]
        (seen,) = (end.bell_state for end in ends if isinstance(end, WindowEnded) and end.bell_state is not None)
        return seen

    def state(self, name: QubitName, *more: QubitName) -> ComplexArray:
        """Look at qubits of both modules: Alice's first of each name."""
        return self._world.inspect([(node, each) for each in (name, *more) for node in NODES], self._now_ns)


def _halves(herald: BellState) -> dict[NodeId, Half]:
    return {
        node: Half(
            kind=GateKind.CZ,
            variant=GateVariant.SYMMETRIC,
            source=node == ALICE,
            bell_state=herald,
            pair_qubit=_NETWORK,
            qubit=_CIRCUIT,
        )
        for node in NODES
    }


def teleported_cz(preset: Preset, seed: int = 1) -> FloatArray:
    """Give the transfer matrix of the teleported CZ, waiting for its pair included. Shape (16, 16).

    The seed decides the order in which heralds and outcomes come up, and nothing else.
    """
    here = _Laboratory(preset, seed)
    errors = [NodePhysics.of(preset.nodes[node]).kinds[QubitKind.COMMUNICATION].readout_error for node in NODES]
    heralds = preset.links[LINK_MODEL].heralds
    wanted = {(herald, true, flip) for herald in heralds for true in _BITS for flip in _BITS}
    choi = np.zeros((16, 16), dtype=np.complex128)
    for _ in range(_MOST_SHOTS):
        here.prepare_choi()
        herald = here.herald()
        halves = _halves(herald)
        for node in NODES:
            *gates, measure = halves[node].act(())
            assert isinstance(measure, Measure)
            here.run(node, gates)
        chances = np.clip(np.diag(here.state(_NETWORK)).real, 0, 1)
        (alice,), (bob,) = (here.run(node, [Measure(qubit=_NETWORK)]) for node in NODES)
        open_flips = sorted(flip for at, true, flip in wanted if (at, true) == (herald, (alice, bob)))
        if not open_flips:
            continue
        flip = open_flips[0]
        wanted.remove((herald, (alice, bob), flip))
        here.run(ALICE, halves[ALICE].correct((bob ^ flip[1],)))
        here.run(BOB, halves[BOB].correct((alice ^ flip[0],)))
        weight = chances[2 * alice + bob] / chances.sum() / len(heralds)
        weight *= math.prod(error if f else 1 - error for error, f in zip(errors, flip, strict=True))
        choi += weight * here.state(_CIRCUIT, _REFERENCE)
        if not wanted:
            return transfer_of_choi(choi)
    raise AssertionError(f"cases that never came up: {sorted(wanted)}")


def idle(preset: Preset, elapsed_ns: float) -> FloatArray:
    """Give the transfer matrix of both circuit qubits waiting. Shape (16, 16)."""
    alice, bob = (
        idle_transfer(elapsed_ns, physics.t1_ns, physics.t2_ns)
        for physics in (storage_physics(preset, node) for node in NODES)
    )
    return np.asarray(np.kron(alice, bob), dtype=np.float64)


def layer_transfer(preset: Preset, alice: Gates, bob: Gates) -> FloatArray:
    """Give the transfer matrix of a layer of local gates with their noise. Shape (16, 16)."""
    factors = []
    for node, gates in ((ALICE, alice), (BOB, bob)):
        fidelity = storage_physics(preset, node).gate_fidelity_ratio[0]
        factor = np.eye(4)
        for gate in gates:
            factor = noisy_gate(gate, 0.0, fidelity).transfer @ factor
        factors.append(factor)
    return np.asarray(np.kron(*factors), dtype=np.float64)


def circuit_transfer(preset: Preset, circuit: Circuit, gate: FloatArray) -> FloatArray:
    """Give the transfer matrix of a circuit whose teleported CZ has that one. Shape (16, 16)."""
    first, *rest = circuit.layers
    transfer = layer_transfer(preset, first.alice, first.bob)
    for layer in rest:
        transfer = layer_transfer(preset, layer.alice, layer.bob) @ gate @ transfer
    return transfer


def circuit_fidelity(preset: Preset, circuit: Circuit, gate: FloatArray) -> float:
    """Give the average gate fidelity of a circuit whose teleported CZ has that transfer matrix."""
    return average_fidelity(process_fidelity(circuit_transfer(preset, circuit, gate), circuit.unitary()))


def readout(preset: Preset, vector: FloatArray) -> FloatArray:
    """Give the probabilities of reading 00, 01, 10, 11 from a state's Pauli vector, misread bits included. Shape (4,)."""
    diagonal = [vector[0], vector[3], vector[12], vector[15]]
    signs = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
    flips = [1 - 2 * storage_physics(preset, node).readout_error for node in NODES]
    shrink = np.array([1, flips[1], flips[0], flips[0] * flips[1]])
    chances: FloatArray = signs @ (shrink * np.array(diagonal)) / 4
    return chances


def grover_success(preset: Preset, gate: FloatArray) -> float:
    """Give the probability, averaged over the marked items, that the search reads the marked one."""
    initial = np.kron(*(to_pauli_vector(storage_physics(preset, node).initial) for node in NODES))
    chances = [
        readout(preset, circuit_transfer(preset, grover(marked), gate) @ initial)[int(marked, 2)] for marked in MARKED
    ]
    return float(np.mean(chances))


def predict(preset: Preset) -> Prediction:
    """Give what the preset says of every row."""
    return Facts.of(preset).prediction


@dataclass(frozen=True, kw_only=True, eq=False)
class Facts:
    """A preset and the transfer matrix of its teleported CZ, shape (16, 16), which takes a moment to find."""

    preset: Preset
    gate: FloatArray

    @classmethod
    def of(cls, preset: Preset) -> Facts:
        """Find them."""
        return cls(preset=preset, gate=teleported_cz(preset))

    @property
    def mean_wait_ns(self) -> float:
        """Mean time from the first attempt to the herald, in world time."""
        return mean_wait_ns(self.preset)

    @property
    def prediction(self) -> Prediction:
        """What the preset says of every row."""
        return self.predict(extra_ns=0.0)

    def predict(self, *, extra_ns: float) -> Prediction:
        """Give every row, when circuit qubits wait that much longer in each teleported gate, in world time."""
        gate = idle(self.preset, extra_ns) @ self.gate
        link = LinkPhysics.of(self.preset.links[LINK_MODEL])
        return Prediction(
            bell_fidelity=link.fidelity_ratio,
            pairs_per_s=link.pairs_per_s,
            cz=circuit_fidelity(self.preset, cz(), gate),
            grover=grover_success(self.preset, gate),
            iswap=circuit_fidelity(self.preset, iswap(), gate),
            swap=circuit_fidelity(self.preset, swap(), gate),
        )


def solve_crosstalk(preset: Preset, cz_fidelity: float) -> float:
    """Find the value of the free parameter at which the teleported CZ has that average gate fidelity, by bisection.

    Raises:
        ValueError: when no value has it.
    """

    def fidelity(probability: float) -> float:
        changed = with_crosstalk(preset, probability)
        return circuit_fidelity(changed, cz(), teleported_cz(changed))

    low, high = 0.0, 0.5
    if not fidelity(high) <= cz_fidelity <= fidelity(low):
        raise ValueError(f"no measurement_crosstalk gives a CZ of {cz_fidelity}: without any it is {fidelity(low):.4f}")
    while high - low > 1e-5:
        middle = (low + high) / 2
        low, high = (middle, high) if fidelity(middle) > cz_fidelity else (low, middle)
    return (low + high) / 2
