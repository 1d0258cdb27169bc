"""Steps of local programs, in the order in which one would say them.

A qubit's name is the application's own, or the id of a pair that it was given. Each function raises `ConfigError` for a text
that cannot name a qubit.
"""

from __future__ import annotations

from collections.abc import Sequence

from bellwire.protocols.ids import node_id
from bellwire.protocols.instructions import Gate
from bellwire.protocols.messages import Step
from bellwire.protocols.messages.program import StepKind
from bellwire.shell.operand import qubit_name


def initialise(qubit: str, *, reference: bool = False, gates_with: Sequence[str] | None = None) -> Step:
    """Take a qubit by a name of your own, in |0⟩. `reference` asks for an ideal one, which only simulations have.

    With `gates_with`, only gates that these neighbours open may act on the qubit from outside of its node.
    """
    peers = None if gates_with is None else tuple(map(node_id, gates_with))
    return Step(kind=StepKind.INITIALISE, qubits=(qubit_name(qubit),), reference=reference, gates_with=peers)


def gate(name: str, *qubits: str, angle: float = 0.0) -> Step:
    """Apply a gate by its OpenQASM name (`h`, `cx`, `rz`, …); `angle` in radians for those that take one.

    Raises:
        ValueError: when there is no such gate.
    """
    return Step(kind=StepKind.APPLY, qubits=tuple(map(qubit_name, qubits)), gate=Gate(name), angle=angle)


def measure(qubit: str) -> Step:
    """Measure in the computational basis. A pair's half is named by the pair's id."""
    return Step(kind=StepKind.MEASURE, qubits=(qubit_name(qubit),))


def release(qubit: str) -> Step:
    """Give a qubit, or the node's half of a pair, back."""
    return Step(kind=StepKind.RELEASE, qubits=(qubit_name(qubit),))
