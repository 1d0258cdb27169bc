"""The teleported gates of one node: asked for by applications, opened by neighbours (spec 3 §2)."""

from __future__ import annotations

from collections.abc import Callable

from bellwire.protocols.asks import UNSURE, Answer
from bellwire.protocols.errors import ErrorCode, RemoteProtocolError, RequestError
from bellwire.protocols.gate_end import GateEnd, GateInput, GateState
from bellwire.protocols.ids import GateId, NetworkTimeNs, NodeId, PairId
from bellwire.protocols.limits import MAX_GATES
from bellwire.protocols.link import LinkEnd
from bellwire.protocols.messages import (
    GateDone,
    GateOpen,
    GateOutcome,
    GateReady,
    GateRequest,
    GateResult,
    GateStatus,
    Reply,
)
from bellwire.protocols.node import Node
from bellwire.protocols.pairs import PairEnd, PairInput, PairState
from bellwire.protocols.queue import CreateSpec, LinkRequest
from bellwire.protocols.registers import Registers
from bellwire.protocols.session import Loss
from bellwire.protocols.teleport import Half

GATE_PURPOSE = 1
"""The purpose that the agents give to pairs that they make for a gate."""


def _check_operand(operand: str, pair_id: PairId) -> None:
    """A gate acts on qubits over a pair, never on the pair's own halves."""
    if operand == pair_id:
        raise RequestError(ErrorCode.UNSUPP, f"{operand} cannot be the pair and a qubit of one gate")


class Gates:
    """The coordinator of a node's gates."""

    def __init__(
        self,
        node: Node,
        registers: Registers,
        link_to: Callable[[NodeId], LinkEnd],
        find_pair: Callable[[PairId], PairEnd | None],
    ) -> None:
        self._node = node
        self._registers = registers
        self._link_to = link_to
        self._find_pair = find_pair
        self.gates: dict[GateId, GateEnd] = {}
        self._making: dict[GateId, LinkRequest] = {}
        self._answers: dict[GateId, tuple[NodeId, int]] = {}
        self._opened = 0

    @property
    def unanswered(self) -> int:
        """How many applications await the end of a gate, those included whose pair is still being made."""
        return len(self._answers)

    # At the source.

    def request(self, application: NodeId, message: GateRequest, number: int) -> None:
        """An application wants a gate. The answer is given when the gate has ended.

        Raises:
            RequestError: UNSUPP without a link to the peer, LIMIT with too many gates under way, UNKNOWN_ID or NORES when
                the qubit or the pair cannot be used, and whatever the link refuses with.
        """
        endpoint = self._node.endpoint
        self._check_room()
        _check_operand(message.qubit, message.pair_id)
        _check_operand(message.peer_qubit, message.pair_id)
        link = self._link_to(message.peer)
        deadline_ns = NetworkTimeNs(endpoint.network_time_ns() + message.max_time_ns)
        self._opened += 1
        gate_id = GateId(f"{endpoint.node}-{endpoint.epoch:x}-{self._opened}")
        if message.pair_id:
            pair = self._find_pair(message.pair_id)
            if pair is None or pair.owner != application or pair.peer != message.peer:
                raise RequestError(ErrorCode.UNKNOWN_ID, f"{application} holds no pair {message.pair_id} here")
            if pair.state is not PairState.CONFIRMED:
                raise RequestError(ErrorCode.NORES, f"{message.pair_id} is {pair.state}")
            self._registers.lock(application, message.qubit)
            self._answers[gate_id] = (application, number)
            self._start(gate_id, application, message, pair, deadline_ns)
            return
        spec = CreateSpec(min_fidelity=message.min_fidelity, deadline_ns=deadline_ns, purpose_id=GATE_PURPOSE)
        self._registers.lock(application, message.qubit)
        try:
            made = link.create(spec)
        except RequestError:
            self._registers.unlock(application, message.qubit)
            raise
        self._answers[gate_id] = (application, number)
        self._making[gate_id] = made
        self._node.note("GateRequested", gate_id, made.create_id)
        made.on_pair = lambda pair: self._pair_made(gate_id, application, message, pair, deadline_ns)
        made.on_failed = lambda error: self._pair_failed(gate_id, application, message, error)

    def _check_room(self) -> None:
        if len(self.gates) + len(self._making) >= MAX_GATES:
            raise RequestError(ErrorCode.LIMIT, f"{MAX_GATES} gates are under way")

    def _pair_made(
        self, gate_id: GateId, application: NodeId, message: GateRequest, pair: PairEnd, deadline_ns: NetworkTimeNs
    ) -> None:
        del self._making[gate_id]
        self._start(gate_id, application, message, pair, deadline_ns)

    def _pair_failed(self, gate_id: GateId, application: NodeId, message: GateRequest, error: RequestError) -> None:
        if self._making.pop(gate_id, None) is None:
            return
        self._registers.unlock(application, message.qubit)
        self._answer(gate_id, PairId(""), GateStatus.FAILED, error)

    def _start(
        self, gate_id: GateId, application: NodeId, message: GateRequest, pair: PairEnd, deadline_ns: NetworkTimeNs
    ) -> None:
        endpoint = self._node.endpoint
        deadline_ns = min(deadline_ns, pair.expires_ns)
        gate = self._make(gate_id, message, pair, application, message.qubit, deadline_ns, source=True)
        opening = GateOpen(
            gate_id=gate_id,
            pair_id=pair.pair_id,
            kind=message.kind,
            variant=message.variant,
            application=application,
            qubit=message.peer_qubit,
            deadline_ns=deadline_ns,
        )

        def opened(answer: Answer) -> None:
            if gate_id not in self.gates or gate.state is not GateState.OPENING:
                return
            if not isinstance(answer, RequestError):
                gate.pair.step(PairInput.CONSUME)
                gate.step(GateInput.READY)
            elif answer.code in UNSURE:
                gate.lose(answer)
            else:
                gate.step(GateInput.REFUSED, answer)

        endpoint.ask(pair.peer, opening, endpoint.local_time_ns(deadline_ns), opened)

    # At the target.

    def open(self, peer: NodeId, message: GateOpen) -> Reply:
        """A neighbour opens a gate over a pair that both ends have confirmed."""
        self._check_room()
        _check_operand(message.qubit, message.pair_id)
        if message.gate_id in self.gates:
            raise RequestError(ErrorCode.REJECTED, f"{message.gate_id} is open already")
        if message.deadline_ns <= self._node.endpoint.network_time_ns():
            raise RequestError(ErrorCode.NOTIME, "the gate's deadline is past")
        pair = self._find_pair(message.pair_id)
        if pair is None or pair.peer != peer:
            raise RequestError(ErrorCode.UNKNOWN_ID, f"{peer} and this node share no pair {message.pair_id}")
        self._link_to(peer).pairs.used_by_peer(pair)
        if pair.state is not PairState.CONFIRMED:
            raise RequestError(ErrorCode.REJECTED, f"{message.pair_id} is {pair.state} at the target")
        if pair.owner not in ("", message.application):
            raise RequestError(ErrorCode.DENIED, f"{message.pair_id} belongs to another application")
        self._registers.lock_for(peer, message.application, message.qubit)
        gate = self._make(
            message.gate_id, message, pair, message.application, message.qubit, message.deadline_ns, source=False
        )
        if not gate.half.waits:
            pair.step(PairInput.CONSUME)
            gate.step(GateInput.BEGIN)
        return GateReady()

    def outcome(self, peer: NodeId, message: GateOutcome, number: int) -> Reply | None:
        """The other end has measured. The answer, `gate.done`, is given when this end has done all of its part."""
        gate = self.gates.get(message.gate_id)
        if gate is None or gate.pair.peer != peer:
            raise RequestError(ErrorCode.UNKNOWN_ID, f"{message.gate_id} is not under way here")
        if len(message.bits) != gate.half.receives:
            raise RequestError(ErrorCode.PROTOCOL, f"{gate.half.receives} bits were expected, {len(message.bits)} came")
        if gate.outcome_request is not None:
            raise RequestError(ErrorCode.PROTOCOL, f"the outcome of {message.gate_id} was told before")
        overtaking = gate.state is GateState.OPENING and gate.half.symmetric
        given = GateInput.OUTCOME_AT_ONCE if overtaking else GateInput.OUTCOME
        if gate.allows(given) and gate.pair.allows(PairInput.CONSUME):
            gate.pair.step(PairInput.CONSUME)
        gate.step(given, number, message.bits)
        return None

    # At either end.

    def _make(
        self,
        gate_id: GateId,
        message: GateRequest | GateOpen,
        pair: PairEnd,
        application: NodeId,
        operand: str,
        deadline_ns: NetworkTimeNs,
        *,
        source: bool,
    ) -> GateEnd:
        half = Half(
            kind=message.kind,
            variant=message.variant,
            source=source,
            bell_state=pair.bell_state,
            pair_qubit=pair.qubit,
            qubit=self._registers.locked(application, operand),
        )
        gate = GateEnd(
            self._node,
            gate_id=gate_id,
            half=half,
            pair=pair,
            application=application,
            operand=operand,
            deadline_ns=deadline_ns,
            send=self._send,
            done=self._done,
            ended=self._ended,
        )
        try:
            pair.step(PairInput.RESERVE)
        except RemoteProtocolError:
            self._registers.unlock(application, operand)
            raise
        self.gates[gate_id] = gate
        pair.on_ended = lambda why: self._pair_gone(gate, why)
        endpoint = self._node.endpoint
        late = RequestError(ErrorCode.TIMEOUT, "the gate's deadline came first")
        gate.timer = endpoint.at_network(deadline_ns, lambda: gate.lose(late))
        self._node.note("GateOpened", gate_id, pair.pair_id)
        return gate

    def _pair_gone(self, gate: GateEnd, why: str) -> None:
        gate.lose(RequestError(ErrorCode.EXPIRE, f"its pair is gone: {why}"))

    def _send(self, gate: GateEnd) -> None:
        endpoint = self._node.endpoint

        def answered(answer: Answer) -> None:
            if gate.gate_id not in self.gates:
                return
            if isinstance(answer, RequestError) and answer.code is ErrorCode.PEER_LOST:
                return  # Silent: the gate goes on until its deadline. Gone for certain: `peer_lost` ends it right now.
            if isinstance(answer, RequestError):
                gate.lose(RequestError(ErrorCode.INDETERMINATE, answer.text))
            else:
                gate.step(GateInput.PEER_DONE)

        message = GateOutcome(gate_id=gate.gate_id, bits=gate.bits)
        endpoint.ask(gate.pair.peer, message, endpoint.local_time_ns(gate.deadline_ns), answered)

    def _unlock(self, gate: GateEnd) -> None:
        if gate.locked:
            gate.locked = False
            self._registers.unlock(gate.application, gate.operand)

    def _done(self, gate: GateEnd) -> None:
        """This end has done all of its part: its qubit is the application's again before the peer can call the gate done."""
        self._unlock(gate)
        if gate.outcome_request is not None:
            done = GateDone(gate_id=gate.gate_id)
            self._node.endpoint.reply(gate.pair.peer, gate.outcome_request, done)

    def _ended(self, gate: GateEnd, error: RequestError | None) -> None:
        """A gate is over at this end: let its qubit and its pair go, and tell whom it concerns."""
        del self.gates[gate.gate_id]
        if gate.timer is not None:
            gate.timer.cancel()
        self._node.note("GateEnded", gate.gate_id, gate.pair.pair_id, detail=f"{gate.status} {error or ''}")
        endpoint = self._node.endpoint
        gate.pair.on_ended = None
        link = self._link_to(gate.pair.peer)
        if gate.pair.state is PairState.CONSUMED:
            link.pairs.forget(gate.pair)
        elif error is not None and gate.pair.state is PairState.RESERVED:
            link.pairs.release(gate.pair, f"its gate ended: {error}")
        if error is not None and gate.outcome_request is not None:
            endpoint.fail(gate.pair.peer, gate.outcome_request, error)
        self._unlock(gate)
        self._answer(gate.gate_id, gate.pair.pair_id, gate.status, error)

    def _answer(self, gate_id: GateId, pair_id: PairId, status: GateStatus, error: RequestError | None) -> None:
        waiting = self._answers.pop(gate_id, None)
        if waiting is None:
            return
        application, number = waiting
        result = GateResult(
            gate_id=gate_id,
            status=status,
            pair_id=pair_id,
            code=error.code if error is not None else None,
            text=error.text if error is not None else "",
        )
        self._node.endpoint.reply(application, number, result)

    def peer_lost(self, peer: NodeId, loss: Loss, why: str) -> None:
        """A neighbour is lost: when it is gone for certain its gates end now, otherwise at their deadline or before."""
        if loss is Loss.SILENT:
            return
        for gate in list(self.gates.values()):
            if gate.pair.peer == peer and gate.gate_id in self.gates:
                gate.lose(RequestError(ErrorCode.PEER_LOST, why))

    def backend_lost(self, why: str) -> None:
        """Every qubit of this node is gone, those of gates under way too."""
        for gate in list(self.gates.values()):
            if gate.gate_id in self.gates:
                gate.lose(RequestError(ErrorCode.BACKEND, why))
