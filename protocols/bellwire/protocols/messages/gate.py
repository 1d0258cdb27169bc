"""Family `gate`: one gate between qubits of two nodes, over one confirmed pair (spec 3)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from bellwire.protocols.errors import ErrorCode
from bellwire.protocols.ids import PairId
from bellwire.protocols.messages.base import (
    DurationNs,
    GateIdField,
    Node,
    Operand,
    Pair,
    PairOrNone,
    Ratio,
    Reply,
    Request,
    Text,
    TimeNs,
)


class GateKind(StrEnum):
    """What is teleported: CZ, CNOT (control at the source) or the state of the source's qubit."""

    CZ = "cz"
    CNOT = "cnot"
    STATE = "state"


class GateVariant(StrEnum):
    """How: the cat-entangler, one measurement after the other; or both ends measure and bits cross once."""

    SEQUENTIAL = "sequential"
    SYMMETRIC = "symmetric"


class GateStatus(StrEnum):
    """How a gate ended. FAILED promises that no operation reached the application's qubits; INDETERMINATE does not."""

    DONE = "done"
    FAILED = "failed"
    INDETERMINATE = "indeterminate"


Bits = Annotated[tuple[Annotated[int, Meta(ge=0, le=1)], ...], Meta(min_length=1, max_length=2)]


class GateResult(Reply, frozen=True, kw_only=True, tag="gate.result"):
    """How a requested gate ended, to the application. `code` and `text` say why when it is not `done`."""

    gate_id: GateIdField
    status: GateStatus
    pair_id: PairOrNone = PairId("")
    code: ErrorCode | None = None
    text: Text = ""


class GateRequest(Request, frozen=True, kw_only=True, tag="gate.request"):
    """An application asks the source's agent for a gate between its `qubit` and `peer_qubit` of the node `peer`.

    Without a `pair_id` the agents make a pair for it first, of at least `min_fidelity`.
    """

    answered_by = (GateResult,)

    kind: GateKind
    variant: GateVariant = GateVariant.SYMMETRIC
    qubit: Operand
    peer: Node
    peer_qubit: Operand
    pair_id: PairOrNone = PairId("")
    min_fidelity: Ratio = 0.0
    max_time_ns: DurationNs


class GateReady(Reply, frozen=True, kw_only=True, tag="gate.ready"):
    """The target has reserved the pair and its qubit for the gate."""


class GateOpen(Request, frozen=True, kw_only=True, tag="gate.open"):
    """The source opens a gate over a confirmed pair. `application` owns `qubit`, which is the target's qubit."""

    answered_by = (GateReady,)

    gate_id: GateIdField
    pair_id: Pair
    kind: GateKind
    variant: GateVariant
    application: Node
    qubit: Operand
    deadline_ns: TimeNs


class GateDone(Reply, frozen=True, kw_only=True, tag="gate.done"):
    """The sender has carried out every operation of its half, corrections included."""

    gate_id: GateIdField


class GateOutcome(Request, frozen=True, kw_only=True, tag="gate.outcome"):
    """The sender's measurement outcomes, in the order that spec 3 §3 gives for each kind and variant."""

    answered_by = (GateDone,)

    gate_id: GateIdField
    bits: Bits
