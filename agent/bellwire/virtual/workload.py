"""What applications ask for: gates on halves of ideal pairs, so that the world can tell what they did, and pairs to measure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import msgspec

from bellwire.protocols.endpoint import Answer
from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.ids import NodeId, PairId
from bellwire.protocols.instructions import Gate
from bellwire.protocols.messages import (
    Delivered,
    GateKind,
    GateRequest,
    GateResult,
    GateStatus,
    GateVariant,
    LinkCreate,
    LinkCreated,
    LinkMeasured,
    LinkOk,
    ProgramResult,
    ProgramRun,
    RequestType,
    Step,
)
from bellwire.protocols.messages.program import StepKind
from bellwire.protocols.readout import IN_Z, PAULI_BASES, Basis, Readout
from bellwire.sim.virtual import SECOND_NS, VirtualLink
from bellwire.virtual.application import Application, Ask, Sleep, Until, Wish, Work
from bellwire.virtual.endings import Progress, Termination
from bellwire.virtual.gate_checkers import ExactCorrection, Prepared
from bellwire.virtual.pair_checkers import OneFrame
from bellwire.virtual.scenario import WorkloadKind, WorkloadTable
from bellwire.virtual.service_checkers import Service

ANY_PAULI: Final = Readout(bases=PAULI_BASES)
_TURNS: Final[dict[Basis, tuple[Gate, ...]]] = {Basis.X: (Gate.H,), Basis.Y: (Gate.SDG, Gate.H), Basis.Z: ()}

TRIES: Final = 6
"""How often a worker tries to give its qubits back while a gate still holds them."""


def step(kind: StepKind, *qubits: str, gate: Gate | None = None, reference: bool = False) -> Step:
    """Make a step of a program."""
    return Step(kind=kind, qubits=qubits, gate=gate, reference=reference)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judges:
    """The checkers that want to know what applications were told, and whether a fault excuses a late answer."""

    frames: OneFrame
    service: Service
    gates: ExactCorrection
    termination: Termination
    progress: Progress
    calm: Callable[[NodeId, NodeId, int], bool]
    """Whether no fault has touched an application and a node since a time."""


class Workload:
    """Workers for one application."""

    def __init__(
        self,
        application: Application,
        links: tuple[VirtualLink, ...],
        table: WorkloadTable,
        judges: Judges,
        outcomes: Counter[str],
        until_ns: int,
    ) -> None:
        self._application = application
        self._bed = application.bed
        self._links = links
        self._table = table
        self._judges = judges
        self._outcomes = outcomes
        self._until_ns = until_ns
        self._timeout_ns = round(table.timeout_s * SECOND_NS)

    def start(self) -> None:
        """Hire the workers."""
        for _ in range(self._table.workers):
            self._application.hire(self._worker)

    def _worker(self) -> Work:
        """Ask for one thing after another, until it is time to go home."""
        random, table = self._application.random, self._table
        yield Sleep(duration_ns=random.randint(1, SECOND_NS // 10))
        while self._bed.net.now_ns < self._until_ns:
            link = random.choice(self._links)
            source, target = link.ends if random.random() < 0.5 else link.ends[::-1]
            if random.randrange(1000) < table.gates_permille:
                yield from self._gate(random, source, target)
            else:
                yield from self._pairs(random, source, target)
            if table.kind is WorkloadKind.SPARSE:
                pause_ms = random.expovariate(1.0) * table.pause_ms
                yield Sleep(duration_ns=max(1, round(pause_ms)) * 1_000_000)
            else:
                yield Sleep(duration_ns=1)

    def _count(self, what: str, answer: object) -> None:
        how = str(answer.code) if isinstance(answer, RequestError) else "OK"
        if isinstance(answer, GateResult):
            how = answer.status if answer.code is None else f"{answer.status} {answer.code}"
        self._note(what, how)

    def _note(self, what: str, how: str) -> None:
        self._outcomes[f"{what}: {how}"] += 1
        self._judges.progress.answered(what, how)

    def _judge_answer(self, what: str, peer: NodeId, asked_ns: int, answer: Answer) -> None:
        now_ns = self._bed.net.now_ns
        calm = self._judges.calm(self._application.name, peer, asked_ns)
        self._judges.termination.answered(what, now_ns - asked_ns - self._timeout_ns, calm=calm)
        if isinstance(answer, RequestError) and answer.code is ErrorCode.TIMEOUT and calm and "did not" in answer.text:
            self._judges.termination.unnamed(what, str(answer))

    # Gates.

    def _prepare(self, node: NodeId, number: int) -> Generator[Wish, Any, Prepared | None]:
        """Entangle a circuit qubit with an ideal reference."""
        reference, circuit = f"r{number}", f"c{number}"
        lease, asked_ns = self._bed.hardware.lease(node), self._bed.net.now_ns
        steps = (
            step(StepKind.INITIALISE, reference, reference=True),
            step(StepKind.INITIALISE, circuit),
            step(StepKind.APPLY, reference, gate=Gate.H),
            step(StepKind.APPLY, reference, circuit, gate=Gate.CX),
        )
        answer = yield Ask(peer=node, request=ProgramRun(steps=steps), limit_ns=self._timeout_ns)
        self._count("prepare", answer)
        if isinstance(answer, ProgramResult):
            return Prepared(
                application=self._application.name,
                asked_ns=asked_ns,
                node=node,
                reference=answer.qubits[0],
                circuit=answer.qubits[1],
                lease=lease,
            )
        return None

    def _gate(self, random: Random, source: NodeId, target: NodeId) -> Work:
        number = self._application.number()
        held: list[Prepared] = []
        for node in (source, target):
            prepared = yield from self._prepare(node, number)
            if prepared is not None:
                held.append(prepared)
        if len(held) == 2:
            pair_id = PairId("")
            if random.randrange(1000) < self._table.given_pair_permille:
                oks = yield from self._create(random, source, target, 1)
                pair_id = oks[0][0].pair_id if oks else PairId("")
                yield from self._hold(random)
            yield from self._teleport(random, number, held[0], held[1], pair_id)
        for node in (source, target):
            yield from self._release(node, f"r{number}", f"c{number}")

    def _teleport(self, random: Random, number: int, source: Prepared, target: Prepared, pair_id: PairId) -> Work:
        kind = random.choice((GateKind.CZ, GateKind.CNOT))
        if random.randrange(1000) < self._table.states_permille:
            kind = GateKind.STATE
        request = GateRequest(
            kind=kind,
            variant=random.choice(tuple(GateVariant)),
            qubit=f"c{number}",
            peer=target.node,
            peer_qubit=f"c{number}",
            pair_id=pair_id,
            max_time_ns=self._timeout_ns,
        )
        asked_ns = self._bed.net.now_ns
        answer = yield Ask(peer=source.node, request=request, limit_ns=self._timeout_ns)
        self._count("gate", answer)
        self._judge_answer(
            f"the gate {source.node}:{target.node} of {self._application.name}", source.node, asked_ns, answer
        )
        if isinstance(answer, GateResult):
            if answer.status is not GateStatus.DONE and not answer.code:
                self._judges.termination.unnamed(f"gate {answer.gate_id}", answer.status)
            self._judges.gates.answered(answer.gate_id, kind, answer.status, source, target)

    def _release(self, node: NodeId, *operands: str) -> Work:
        """Give operands back, when the gate that may hold them has ended."""
        for operand in operands:
            for _ in range(TRIES):
                request = ProgramRun(steps=(step(StepKind.RELEASE, operand),))
                answer = yield Ask(peer=node, request=request, limit_ns=self._timeout_ns)
                if not (isinstance(answer, RequestError) and answer.code is ErrorCode.NORES):
                    break
                yield Sleep(duration_ns=SECOND_NS)

    # Pairs.

    def _create(
        self, random: Random, source: NodeId, target: NodeId, number: int, *, measured: bool = False
    ) -> Generator[Wish, Any, list[tuple[Delivered, Delivered]]]:
        """Ask for pairs. The outcome is the OKs of both ends, those of the source first, for every pair that both have."""
        application = self._application
        request = self._request(random, target, number, measured=measured)
        if request.atomic:
            number = min(number, *(self._bed.communication(node) for node in (source, target)))
            request = msgspec.structs.replace(request, number=number)
        asked_ns = self._bed.net.now_ns
        answer = yield Ask(peer=source, request=request, limit_ns=self._timeout_ns)
        self._count("create", answer)
        if not isinstance(answer, LinkCreated):
            return []
        delivered = application.delivered(answer.create_id)

        def complete() -> bool:
            both = (len(delivered.oks.get(node, ())) == number for node in (source, target))
            lost = any(application.lost_ns.get(node, -1) >= asked_ns for node in (source, target))
            return all(both) or bool(delivered.errors) or lost

        yield Until(done=complete, limit_ns=self._timeout_ns + SECOND_NS)
        self._judge_create(answer.create_id, request, source, asked_ns)
        oks = {node: {ok.pair_id: ok for ok in delivered.oks.get(node, ())} for node in (source, target)}
        self._note("create", "all pairs" if len(oks[source]) == number else "not all pairs")
        del application.creates[answer.create_id]
        return [(ok, oks[target][pair_id]) for pair_id, ok in oks[source].items() if pair_id in oks[target]]

    def _request(self, random: Random, target: NodeId, number: int, *, measured: bool) -> LinkCreate:
        table = self._table
        return LinkCreate(
            peer=target,
            number=number,
            max_time_ns=self._timeout_ns,
            priority=random.randrange(table.priorities),
            request_type=RequestType.MEASURE if measured else RequestType.KEEP,
            atomic=not measured and random.randrange(1000) < table.atomic_permille,
            consecutive=random.randrange(1000) < table.consecutive_permille,
            local=ANY_PAULI,
            remote=random.choice((ANY_PAULI, IN_Z)),
        )

    def _judge_create(self, create_id: str, request: LinkCreate, source: NodeId, asked_ns: int) -> None:
        """By its deadline a CREATE has brought as many OKs as were asked for, or an ERR, from the end where it was made."""
        delivered, number, target = self._application.delivered(create_id), request.number, request.peer
        calm = self._judges.calm(self._application.name, source, asked_ns)
        lost = self._application.lost_ns.get(source, -1) >= asked_ns
        oks = delivered.oks.get(source, [])
        late = self._bed.net.now_ns >= asked_ns + self._timeout_ns + SECOND_NS
        if late and calm and not lost and len(oks) != number and not delivered.errors:
            self._judges.termination.unnamed(f"{create_id}", f"{len(oks)} of {number} pairs and no error")
        for node in (source, target):
            numbers = [ok.sequence_number for ok in delivered.oks.get(node, [])]
            if len(set(numbers)) != len(numbers):
                self._judges.frames.violate(f"{node} gave pairs of {create_id} the numbers {numbers}")
            kind = LinkMeasured if request.request_type is RequestType.MEASURE else LinkOk
            if not all(isinstance(ok, kind) for ok in delivered.oks.get(node, [])):
                self._judges.service.violate(f"{node} answers {create_id} of type {request.request_type} otherwise")
            node_is_calm = calm and self._judges.calm(self._application.name, node, asked_ns)
            if request.atomic and late and node_is_calm and len(numbers) not in (0, number):
                self._judges.service.violate(f"{node} gave {len(numbers)} of the {number} pairs of {create_id}, atomic")

    def _pairs(self, random: Random, source: NodeId, target: NodeId) -> Work:
        number = random.randint(1, self._table.pairs_at_once)
        if random.randrange(1000) < self._table.hasty_permille:
            yield from self._hurry(random, source, target)
            return
        if random.randrange(1000) < self._table.measured_permille:
            measured = yield from self._create(random, source, target, number, measured=True)
            for first, second in measured:
                self._compare(first, second)
            return
        oks = yield from self._create(random, source, target, number)
        if random.randrange(1000) < self._table.idle_permille:
            return
        yield from self._hold(random)
        for ok in oks:
            yield from self._measure(random, source, target, ok)

    def _hold(self, random: Random) -> Work:
        """Hold a pair for a while, or not."""
        if random.randrange(1000) < self._table.held_permille:
            yield Sleep(duration_ns=random.randint(1, self._table.held_ms) * 1_000_000)

    def _hurry(self, random: Random, source: NodeId, target: NodeId) -> Work:
        """Measure each half of a pair as soon as its own end says OK."""
        application = self._application
        request = LinkCreate(peer=target, number=1, max_time_ns=self._timeout_ns)
        answer = yield Ask(peer=source, request=request, limit_ns=self._timeout_ns)
        if not isinstance(answer, LinkCreated):
            return
        delivered = application.delivered(answer.create_id)
        basis = random.choice(PAULI_BASES)
        bits, ok = [], None
        for node in (source, target):
            yield Until(done=lambda node=node: node in delivered.oks, limit_ns=self._timeout_ns)  # type: ignore[misc]
            if node not in delivered.oks:
                break
            ok = delivered.oks[node][0]
            measured = yield from self._look(node, ok.pair_id, basis)
            bits += measured
        if ok is not None and len(bits) == 2:
            self._judges.frames.correlate(ok.pair_id, ok.bell_state, basis, (bits[0], bits[1]))

    def _look(self, node: NodeId, pair_id: PairId, basis: Basis) -> Generator[Wish, Any, list[int]]:
        """Measure one half of a pair and give it back. The bit, or none."""
        turn = [step(StepKind.APPLY, pair_id, gate=gate) for gate in _TURNS[basis]]
        steps = (*turn, step(StepKind.MEASURE, pair_id), step(StepKind.RELEASE, pair_id))
        answer = yield Ask(peer=node, request=ProgramRun(steps=steps), limit_ns=self._timeout_ns)
        self._count("measure", answer)
        return [answer.bits[0]] if isinstance(answer, ProgramResult) else []

    def _agree(self, ok: Delivered, other: Delivered) -> None:
        """Both ends say the same of a pair."""
        if (ok.bell_state, ok.sequence_number) != (other.bell_state, other.sequence_number):
            self._judges.frames.violate(f"applications were told different things of {ok.pair_id}: {ok}, {other}")

    def _compare(self, ok: Delivered, other: Delivered) -> None:
        """Compare what the two ends have measured for a request of type M."""
        self._agree(ok, other)
        if isinstance(ok, LinkMeasured) and isinstance(other, LinkMeasured) and ok.basis is other.basis:
            self._note("measure at once", "OK")
            self._judges.frames.correlate(ok.pair_id, ok.bell_state, ok.basis, (ok.outcome, other.outcome))

    def _measure(self, random: Random, source: NodeId, target: NodeId, oks: tuple[Delivered, Delivered]) -> Work:
        """Measure both halves of a pair in one basis, and compare."""
        ok, other = oks
        self._agree(ok, other)
        basis = random.choice(PAULI_BASES)
        bits: list[int] = []
        for node in (source, target):
            bits += yield from self._look(node, ok.pair_id, basis)
        if len(bits) == 2:
            self._judges.frames.correlate(ok.pair_id, ok.bell_state, basis, (bits[0], bits[1]))
