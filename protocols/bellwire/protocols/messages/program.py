"""Family `program`: straight-line local programs that an application runs on one node (spec 3 §4)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from bellwire.protocols.instructions import Gate, Qubit
from bellwire.protocols.limits import MAX_GATE_PEERS, MAX_PROGRAM_STEPS
from bellwire.protocols.messages.base import Node, Operand, Reply, Request


class StepKind(StrEnum):
    """What a step does. `release` gives a qubit, or the node's half of a pair, back."""

    INITIALISE = "initialise"
    APPLY = "apply"
    MEASURE = "measure"
    RELEASE = "release"


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step. An operand is a name that the application chose, or the id of a pair that it was given."""

    kind: StepKind
    qubits: Annotated[tuple[Operand, ...], Meta(min_length=1, max_length=2)]
    gate: Gate | None = None
    angle: float = 0.0
    reference: bool = False
    """`initialise` only: take a reference qubit, which a simulation may offer to find exact fidelities with."""
    gates_with: Annotated[tuple[Node, ...], Meta(max_length=MAX_GATE_PEERS)] | None = None
    """`initialise` only: the nodes that may open gates on the qubit; every neighbour may when it is nil."""


class ProgramResult(Reply, frozen=True, kw_only=True, tag="program.result"):
    """The bits of the program's measurements in order, and the hardware qubits behind its `initialise` steps in order."""

    bits: Annotated[tuple[Annotated[int, Meta(ge=0, le=1)], ...], Meta(max_length=MAX_PROGRAM_STEPS)]
    qubits: Annotated[tuple[Qubit, ...], Meta(max_length=MAX_PROGRAM_STEPS)]


class ProgramRun(Request, frozen=True, kw_only=True, tag="program.run"):
    """Run the steps in order, on qubits that the sender owns at this node. Either all are carried out or an error says."""

    answered_by = (ProgramResult,)

    steps: Annotated[tuple[Step, ...], Meta(min_length=1, max_length=MAX_PROGRAM_STEPS)]
