"""One end of a teleported gate, as a machine (spec 3 §2)."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.ids import GateId, NetworkTimeNs, NodeId, QubitName
from bellwire.protocols.instructions import AnyCompletion, Discard, Measured
from bellwire.protocols.machine import Machine, Row
from bellwire.protocols.messages import GateStatus
from bellwire.protocols.node import Node, failure
from bellwire.protocols.pairs import PairEnd
from bellwire.protocols.teleport import Bits, Half
from bellwire.protocols.timers import Timer


class GateState(StrEnum):
    """States of a gate at one end."""

    OPENING = "opening"
    PREPARED = "prepared"
    ACTING = "acting"
    AWAITING = "awaiting"
    CORRECTING = "correcting"
    CLOSING = "closing"
    DONE = "done"
    FAILED = "failed"
    INDETERMINATE = "indeterminate"


class GateInput(StrEnum):
    """Inputs of a gate at one end.

    OUTCOME_AT_ONCE: a symmetric target's bits, which say that it is ready too when they overtake its answer.
    UNANSWERED: the open got no answer, and the target may (symmetric) or cannot (otherwise) have acted. ACTED has three
    forms: bits cross both ways, this end only sends, this end only receives.
    """

    READY = "ready"
    BEGIN = "begin"
    REFUSED = "refused"
    UNANSWERED = "unanswered"
    UNANSWERED_SYMMETRIC = "unanswered-symmetric"
    OUTCOME = "outcome"
    OUTCOME_AT_ONCE = "outcome-at-once"
    ACTED = "acted"
    ACTED_SENDING = "acted-sending"
    ACTED_RECEIVING = "acted-receiving"
    CORRECTED = "corrected"
    PEER_DONE = "peer-done"
    BROKEN = "broken"
    LOST = "lost"


_S, _I = GateState, GateInput


class GateEnd(Machine[GateState, GateInput]):
    """One end of a teleported gate. Nothing touches the application's qubit before ACTING; after it, failure is no answer."""

    name = "gate"
    rule = "3 §2.2"
    initial = GateState.OPENING
    table = {
        (_S.OPENING, _I.READY): Row(_S.ACTING, "act", "3 §2.2"),
        (_S.OPENING, _I.OUTCOME_AT_ONCE): Row(_S.ACTING, "keep_and_act", "3 §2.3"),
        (_S.OPENING, _I.REFUSED): Row(_S.FAILED, "ended", "3 §2.2"),
        (_S.OPENING, _I.UNANSWERED): Row(_S.FAILED, "ended", "3 §2.4"),
        (_S.OPENING, _I.UNANSWERED_SYMMETRIC): Row(_S.INDETERMINATE, "ended", "3 §2.4"),
        (_S.PREPARED, _I.BEGIN): Row(_S.ACTING, "act", "3 §2.2"),
        (_S.PREPARED, _I.OUTCOME): Row(_S.ACTING, "keep_and_act", "3 §2.3"),
        (_S.PREPARED, _I.LOST): Row(_S.FAILED, "ended", "3 §2.4"),
        (_S.ACTING, _I.OUTCOME): Row(_S.ACTING, "keep", "3 §2.3"),
        (_S.ACTING, _I.ACTED): Row(_S.AWAITING, "send_and_wait", "3 §2.3"),
        (_S.ACTING, _I.ACTED_SENDING): Row(_S.CLOSING, "send", "3 §2.3"),
        (_S.ACTING, _I.ACTED_RECEIVING): Row(_S.DONE, "close", "3 §2.3"),
        (_S.ACTING, _I.BROKEN): Row(_S.INDETERMINATE, "ended", "3 §2.4"),
        (_S.ACTING, _I.LOST): Row(_S.INDETERMINATE, "ended", "3 §2.4"),
        (_S.AWAITING, _I.OUTCOME): Row(_S.CORRECTING, "keep_and_correct", "3 §2.3"),
        (_S.AWAITING, _I.PEER_DONE): Row(_S.AWAITING, "note_done", "3 §2.3"),
        (_S.AWAITING, _I.LOST): Row(_S.INDETERMINATE, "ended", "3 §2.4"),
        (_S.CORRECTING, _I.PEER_DONE): Row(_S.CORRECTING, "note_done", "3 §2.3"),
        (_S.CORRECTING, _I.CORRECTED): Row(_S.CLOSING, "answer", "3 §2.3"),
        (_S.CORRECTING, _I.BROKEN): Row(_S.INDETERMINATE, "ended", "3 §2.4"),
        (_S.CORRECTING, _I.LOST): Row(_S.INDETERMINATE, "ended", "3 §2.4"),
        (_S.CLOSING, _I.PEER_DONE): Row(_S.DONE, "finished", "3 §2.3"),
        (_S.CLOSING, _I.LOST): Row(_S.INDETERMINATE, "ended", "3 §2.4"),
    }

    def __init__(
        self,
        node: Node,
        *,
        gate_id: GateId,
        half: Half,
        pair: PairEnd,
        application: NodeId,
        operand: str,
        deadline_ns: NetworkTimeNs,
        send: Callable[[GateEnd], None],
        done: Callable[[GateEnd], None],
        ended: Callable[[GateEnd, RequestError | None], None],
    ) -> None:
        super().__init__()
        if not half.source:
            self.state = GateState.PREPARED
        self._node = node
        self.gate_id = gate_id
        self.half = half
        self.pair = pair
        self.application = application
        self.operand = operand
        self.deadline_ns = deadline_ns
        self.bits: Bits = ()
        self.peer_bits: Bits | None = None
        self.outcome_request: int | None = None
        """The peer's outcome, unanswered until this end is done."""
        self.timer: Timer | None = None
        self.locked = True
        self._peer_done = False
        self._send, self._done, self._ended = send, done, ended

    @property
    def status(self) -> GateStatus:
        """How an ended gate ended."""
        return GateStatus(self.state.value)

    def lose(self, error: RequestError) -> None:
        """The peer, the pair or the time is gone."""
        if self.state is GateState.OPENING:
            symmetric = self.half.symmetric
            self.step(GateInput.UNANSWERED_SYMMETRIC if symmetric else GateInput.UNANSWERED, error)
        elif self.allows(GateInput.LOST):
            self.step(GateInput.LOST, error)

    # Actions.

    def act(self) -> None:
        """Carry out this end's half up to its measurements, and let the pair's qubit go."""
        qubit: QubitName = self.pair.qubit
        instructions = self.half.act(self.peer_bits or ())
        self._node.note("GateActing", self.gate_id, self.pair.pair_id)
        self._node.execute([*instructions, Discard(qubit=qubit)], self._acted)

    def _acted(self, completions: tuple[AnyCompletion, ...]) -> None:
        broken = failure(completions)
        if broken is None:
            self._node.freed(self.pair.qubit)
        else:
            self._node.discard(self.pair.qubit)
        if self.state is not GateState.ACTING:
            return
        if broken is not None:
            self.step(GateInput.BROKEN, RequestError(ErrorCode.INDETERMINATE, broken))
            return
        self.bits = tuple(done.bit for done in completions if isinstance(done, Measured))
        if not self.half.sends:
            self.step(GateInput.ACTED_RECEIVING)
        elif not self.half.receives:
            self.step(GateInput.ACTED_SENDING)
        else:
            self.step(GateInput.ACTED)

    def keep(self, request: int, bits: Bits) -> None:
        """Keep the peer's bits until this end has measured."""
        self.outcome_request, self.peer_bits = request, bits

    def keep_and_act(self, request: int, bits: Bits) -> None:
        """The bits that this end waited for to act."""
        self.keep(request, bits)
        self.act()

    def send(self) -> None:
        """Send this end's bits."""
        self._send(self)

    def send_and_wait(self) -> None:
        """Send this end's bits; go on with the peer's if they are here."""
        self._send(self)
        if self.peer_bits is not None and self.state is GateState.AWAITING:
            self.step(GateInput.OUTCOME, self.outcome_request, self.peer_bits)

    def keep_and_correct(self, request: int, bits: Bits) -> None:
        """Correct by the peer's bits."""
        self.keep(request, bits)
        instructions = self.half.correct(bits)
        if instructions:
            self._node.execute(instructions, self._corrected)
        else:
            self.step(GateInput.CORRECTED)

    def _corrected(self, completions: tuple[AnyCompletion, ...]) -> None:
        if self.state is not GateState.CORRECTING:
            return
        broken = failure(completions)
        if broken is None:
            self.step(GateInput.CORRECTED)
        else:
            self.step(GateInput.BROKEN, RequestError(ErrorCode.INDETERMINATE, broken))

    def note_done(self) -> None:
        """The peer is done before this end is."""
        self._peer_done = True

    def answer(self) -> None:
        """This end is done: tell the peer, whose outcome waits for it."""
        self._done(self)
        if self._peer_done:
            self.step(GateInput.PEER_DONE)

    def close(self) -> None:
        """This end only received: with its corrections the gate is done."""
        self._done(self)
        self._ended(self, None)

    def finished(self) -> None:
        """Both ends are done."""
        self._ended(self, None)

    def ended(self, error: RequestError) -> None:
        """The gate ends without being known to be done."""
        self._ended(self, error)
