"""The invariant of gates: a gate that is done has acted exactly once, one that failed has touched nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from bellwire.protocols.events import Event
from bellwire.protocols.ids import GateId, NodeId, QubitName
from bellwire.protocols.instructions import BellState
from bellwire.protocols.messages import GateKind, GateStatus
from bellwire.sim.states import bell_vector
from bellwire.virtual.checker import EXACT, Checker


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Qubits that an application has prepared at one node: an ideal reference, and a circuit qubit entangled with it."""

    application: NodeId
    asked_ns: int
    node: NodeId
    reference: QubitName
    circuit: QubitName
    lease: int


def ideal_choi(kind: GateKind) -> npt.NDArray[np.complex128]:
    """The Choi state of an ideal gate, as a vector over (reference, circuit) of the source, then of the target."""
    state = np.zeros((2, 2, 2, 2), dtype=np.complex128)
    for control in (0, 1):
        for target in (0, 1):
            if kind is GateKind.CZ:
                state[control, control, target, target] += 0.5 * (-1) ** (control * target)
            else:
                state[control, control, target, control ^ target] += 0.5
    return state.reshape(16)


_CHOI: Final = {kind: ideal_choi(kind) for kind in (GateKind.CZ, GateKind.CNOT)}
_PLUS: Final = bell_vector(BellState.PHI_PLUS)


class ExactCorrection(Checker):
    """A gate that is reported done acted exactly once; one that failed touched nothing."""

    name = "exact-correction"

    def watch(self) -> None:
        """Register with the oracle."""
        self._ended: dict[GateId, tuple[NodeId, str]] = {}
        self._lost: dict[tuple[NodeId, str], int] = {}
        self.oracle.listeners.noted.append(self._noted)
        self.checked = 0

    def _noted(self, node: NodeId, event: Event) -> None:
        if event.name == "PeerLost":
            self._lost[node, event.subjects[0]] = self.now_ns
        if event.name != "GateEnded":
            return
        gate_id, status = GateId(event.subjects[0]), event.detail.partition(" ")[0]
        first = self._ended.pop(gate_id, None)
        if first is None:
            self._ended[gate_id] = (node, status)
        elif {first[1], status} == {GateStatus.DONE, GateStatus.FAILED}:
            self.violate(f"gate {gate_id} is {first[1]} at {first[0]} and {status} at {node}")

    def intact(self, *prepared: Prepared) -> bool:
        """Whether the qubits are those that were prepared: no node has lost the world or the application since."""
        hardware = self.oracle.bed.hardware
        return all(
            each.lease == hardware.lease(each.node)
            and self._lost.get((each.node, each.application), -1) < each.asked_ns
            for each in prepared
        )

    def answered(self, gate_id: str, kind: GateKind, status: GateStatus, source: Prepared, target: Prepared) -> None:
        """An application has its answer, and its qubits are as it left them: look at the world."""
        if status is GateStatus.INDETERMINATE or not self.intact(source, target):
            return
        self.checked += 1
        if status is GateStatus.FAILED:
            for each in (source, target):
                self._expect(gate_id, "failed", [(each.node, each.reference), (each.node, each.circuit)], _PLUS)
        elif kind is GateKind.STATE:
            self._expect(gate_id, "done", [(source.node, source.reference), (target.node, target.circuit)], _PLUS)
        else:
            qubits = [(each.node, qubit) for each in (source, target) for qubit in (each.reference, each.circuit)]
            self._expect(gate_id, "done", qubits, _CHOI[kind])

    def _expect(
        self, gate_id: str, how: str, qubits: list[tuple[NodeId, QubitName]], ideal: npt.NDArray[np.complex128]
    ) -> None:
        bed = self.oracle.bed
        missing = [f"{node}:{qubit}" for node, qubit in qubits if qubit not in bed.world.held(node)]
        if missing:
            self.violate(f"gate {gate_id} is {how}, and {', '.join(missing)} is gone")
            return
        state = bed.world.inspect(qubits, bed.net.now_ns)
        fidelity = float((ideal.conj() @ state @ ideal).real)
        if abs(fidelity - 1) > EXACT:
            self.violate(f"gate {gate_id} is {how}, with a process fidelity of {fidelity:.6f}")
