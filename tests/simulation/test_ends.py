"""Two ends of a link, and of gates, over a network that does its worst, as Hypothesis thinks of it (spec 2, spec 3)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ends import REQUEST_NS, REST_NS, Ends, agents
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule, run_state_machine_as_test
from scene import ALICE, BOB, apply, ideal_with, initialise, measure, release
from unruly import examples

from bellwire.protocols.endpoint import Answer
from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.events import Event
from bellwire.protocols.ids import NodeId, PairId
from bellwire.protocols.instructions import Gate
from bellwire.protocols.messages import (
    GateKind,
    GateRequest,
    GateResult,
    GateStatus,
    GateVariant,
    LinkCreate,
    LinkCreated,
    LinkOk,
    ProgramResult,
    ProgramRun,
    Reply,
)
from bellwire.protocols.readout import Basis
from bellwire.protocols.session import Loss
from bellwire.sim.preset import load_preset, parse_preset
from bellwire.sim.virtual import SECOND_NS, VirtualNode
from bellwire.simnet.fabric import Frame
from bellwire.virtual.gate_checkers import Prepared

IDEAL = load_preset("ideal")
DOUBTFUL = parse_preset(
    ideal_with(
        """heralds = ["phi+", "phi-", "psi+", "psi-"]
attempt_period = { value = 1.0, unit = "us", tag = "assumed", source = "test" }
success_probability = { value = 0.4, unit = "1", tag = "assumed", source = "test" }
werner_fidelity = { value = 1.0, unit = "1", tag = "assumed", source = "test" }
"""
    ),
    "test",
)
"""Ideal pairs, of which a window of three attempts brings one or none."""

seeds = st.integers(0, 2**16)
places = st.integers(0, 9)


def peer_of(node: NodeId) -> NodeId:
    return BOB if node == ALICE else ALICE


@dataclass(eq=False)
class Created:
    """A CREATE of the application, with the incarnations of those who took part."""

    node: NodeId
    number: int
    between: tuple[int, int]
    answers: list[Answer] = field(default_factory=list)


class LinkEnds(Ends):
    """Pairs that are asked for, measured, refused and left alone."""

    def __init__(self) -> None:
        super().__init__()
        self.created: list[Created] = []
        self.measured: dict[PairId, dict[NodeId, int]] = {}
        self.fed_up = 0
        self.silences: set[str] = set()
        """Why the ends have thought each other silent."""

    @initialize(seed=seeds, doubtful=st.booleans())
    def begins(self, seed: int, doubtful: bool) -> None:
        node = VirtualNode(communication=2, storage=1)
        self.begin(DOUBTFUL if doubtful else IDEAL, seed=seed, node=node, attempts=3 if doubtful else 1)
        self.oracle.listeners.noted.append(self._noted)

    def _noted(self, node: NodeId, event: Event) -> None:
        """A silent peer may hold its half and use it: a lease is not broken for that (2 §4.3)."""
        if event.name == "PeerLost" and event.subjects[0] == peer_of(node):
            loss, _, why = event.detail.partition(": ")
            self.silences.update({why} if loss == Loss.SILENT else ())
        elif event.name == "PairEnded":
            assert event.detail.partition(": ")[2] not in self.silences

    def ok(self, peer: NodeId, message: LinkOk) -> Reply:
        acknowledged = super().ok(peer, message)
        if self.fed_up:
            self.fed_up -= 1
            raise RequestError(ErrorCode.DENIED, "enough of them")
        return acknowledged

    def _between(self, node: NodeId) -> tuple[int, int]:
        return self.bed.agents[node].endpoint.epoch, self.left

    @rule(node=agents, number=st.integers(1, 3), refused=st.sampled_from([0, 0, 1]), smoothly=st.booleans())
    def create(self, node: NodeId, number: int, refused: int, smoothly: bool) -> None:
        """Ask for pairs. The next one of them may be refused, so that its ends release it."""
        self.fed_up = refused
        request = LinkCreate(peer=peer_of(node), number=number, max_time_ns=REQUEST_NS)
        created = Created(node, number, self._between(node))
        self.created.append(created)
        created.answers = self.asks(node, request)
        if smoothly:
            self.rest(SECOND_NS)

    @precondition(lambda self: self.told)
    @rule(place=places, halves=st.sampled_from([(ALICE,), (BOB,), (ALICE, BOB), (BOB, ALICE)]))
    def measure(self, place: int, halves: tuple[NodeId, ...]) -> None:
        """Measure one half of a pair or both, and compare when both were."""
        pair_id = list(self.told)[-1 - place % len(self.told)]
        bits = self.measured.setdefault(pair_id, {})
        in_x = sum(map(ord, pair_id)) % 2
        steps = (*([apply(Gate.H, pair_id)] if in_x else []), measure(pair_id), release(pair_id))
        for node in halves:
            answer = self.asked(node, ProgramRun(steps=steps))
            if isinstance(answer, ProgramResult):
                assert node not in bits
                bits[node] = answer.bits[0]
        if len(bits) == 2:
            bell_state = next(iter(self.told[pair_id].values())).bell_state
            self.frames.correlate(pair_id, bell_state, Basis.X if in_x else Basis.Z, (bits[ALICE], bits[BOB]))

    def teardown(self) -> None:
        """Every CREATE has come to its pairs or to an error, and nobody holds anything."""
        self.delays_ns = dict.fromkeys(self.delays_ns, 0)
        self.rest(REQUEST_NS + REST_NS)
        failed = {error.create_id for error in self.application.errors}
        for created in self.created:
            (answer,) = created.answers
            if isinstance(answer, LinkCreated) and created.between == self._between(created.node):
                oks = [told for told in self.told.values() if created.node in told]
                own = [told for told in oks if told[created.node].create_id == answer.create_id]
                assert answer.create_id in failed or len(own) == created.number
        self._check_that_every_herald_is_confirmed()
        self.finish()

    def _check_that_every_herald_is_confirmed(self) -> None:
        """The network is perfect again: a pair that is heralded is a pair, and is had at both ends."""
        noted: Counter[str] = Counter()
        self.oracle.listeners.noted.append(lambda _, event: noted.update([event.name]))
        for node in (ALICE, BOB):
            before = len(self.told)
            self.create(node, 1, refused=0, smoothly=True)
            self.rest(3 * SECOND_NS)
            assert [len(told) for told in list(self.told.values())[before:]] == [2]
        assert noted["PairHeralded"] == noted["PairConfirmed"] == 4


@dataclass(eq=False, kw_only=True)
class Teleport:
    """A gate that the application has asked for, between qubits that it has prepared."""

    kind: GateKind
    variant: GateVariant
    number: int
    source: Prepared
    target: Prepared
    answers: list[Answer] = field(default_factory=list)


class GateEnds(Ends):
    """Gates over a link whose windows fare well: what is between the two ends themselves does not."""

    def __init__(self) -> None:
        super().__init__()
        self.teleports: list[Teleport] = []
        self.numbers = 0
        self.acted: set[tuple[NodeId, str]] = set()
        self.ended: dict[str, dict[NodeId, str]] = {}
        self.symmetric: set[str] = set()
        """What the nodes have noted of their gates, by the gate's id."""

    @initialize(seed=seeds)
    def begins(self, seed: int) -> None:
        self.begin(IDEAL, seed=seed, node=VirtualNode(communication=2, storage=6, reference=6))
        self.oracle.listeners.noted.append(self._noted)

    def unruly(self, frame: Frame) -> bool:
        between = {frame.sender, frame.receiver} == {ALICE, BOB}
        return between and not frame.type.startswith(("link.", "herald."))

    def _noted(self, node: NodeId, event: Event) -> None:
        """An end that has failed did nothing; one that does not know has acted, or has asked a peer that may have (3 §2.4)."""
        if event.name == "GateOpened":
            if self.bed.agents[node].gates.gates[event.subjects[0]].half.symmetric:  # type: ignore[index]
                self.symmetric.add(event.subjects[0])
        elif event.name == "GateActing":
            self.acted.add((node, event.subjects[0]))
        elif event.name == "GateEnded":
            gate_id, status = event.subjects[0], event.detail.partition(" ")[0]
            self.ended.setdefault(gate_id, {})[node] = status
            acted = (node, gate_id) in self.acted
            asked = gate_id.startswith(f"{node}-") and gate_id in self.symmetric
            assert status != GateStatus.FAILED or not acted
            assert status != GateStatus.INDETERMINATE or acted or asked, event

    def _prepare(self, node: NodeId, number: int) -> Prepared | None:
        """Entangle a circuit qubit with an ideal reference."""
        lease, asked_ns = self.bed.hardware.lease(node), self.now_ns
        reference, circuit = f"r{number}", f"c{number}"
        held = (initialise(reference, reference=True), initialise(circuit))
        answer = self.asked(
            node, ProgramRun(steps=(*held, apply(Gate.H, reference), apply(Gate.CX, reference, circuit)))
        )
        if not isinstance(answer, ProgramResult):
            return None
        application, (reference_qubit, qubit) = self.application.endpoint.node, answer.qubits
        return Prepared(
            application=application,
            asked_ns=asked_ns,
            node=node,
            lease=lease,
            reference=reference_qubit,
            circuit=qubit,
        )

    @rule(node=agents)
    def create(self, node: NodeId) -> None:
        """Ask for a pair that a gate can be given."""
        self.asks(node, LinkCreate(peer=peer_of(node), max_time_ns=REQUEST_NS))
        self.rest(SECOND_NS)

    @rule(node=agents, kind=st.sampled_from(GateKind), variant=st.sampled_from(GateVariant), given_pair=st.booleans())
    def teleport(self, node: NodeId, kind: GateKind, variant: GateVariant, given_pair: bool) -> None:
        self.numbers += 1
        source, target = self._prepare(node, self.numbers), self._prepare(peer_of(node), self.numbers)
        if source is None or target is None:
            self._release(self.numbers)
            return
        pairs = [pair_id for pair_id, told in self.told.items() if len(told) == 2]
        request = GateRequest(
            kind=kind,
            variant=variant,
            qubit=f"c{self.numbers}",
            peer=target.node,
            peer_qubit=f"c{self.numbers}",
            pair_id=pairs[-1] if pairs and given_pair else PairId(""),
            max_time_ns=REQUEST_NS,
        )
        teleport = Teleport(kind=kind, variant=variant, number=self.numbers, source=source, target=target)
        self.teleports.append(teleport)
        teleport.answers = self.asks(node, request)

    def _judge(self, teleport: Teleport) -> None:
        """Hold what was answered against the world."""
        (answer,) = teleport.answers
        if isinstance(answer, GateResult):
            ended = self.ended.get(answer.gate_id, {})
            assert ended.get(teleport.source.node, answer.status) == answer.status
            self.gates.answered(answer.gate_id, teleport.kind, answer.status, teleport.source, teleport.target)

    def _release(self, number: int) -> bool:
        """Give the qubits of a gate back. Returns whether none is in use any more."""
        steps = [ProgramRun(steps=(release(name),)) for name in (f"r{number}", f"c{number}")]
        answers = [self.asked(node, step) for node in (ALICE, BOB) for step in steps]
        codes = {answer.code for answer in answers if isinstance(answer, RequestError)}
        return codes <= {ErrorCode.UNKNOWN_ID}

    @precondition(lambda self: any(teleport.answers for teleport in self.teleports))
    @rule(place=places)
    def give_back(self, place: int) -> None:
        answered = [teleport for teleport in self.teleports if teleport.answers]
        teleport = answered[place % len(answered)]
        self._judge(teleport)
        if self._release(teleport.number):
            self.teleports.remove(teleport)

    @invariant()
    def ends_agree(self) -> None:
        for statuses in self.ended.values():
            assert set(statuses.values()) != {GateStatus.DONE, GateStatus.FAILED}

    def teardown(self) -> None:
        """Every gate has ended, as the world says, and no operand is locked."""
        self.delays_ns = dict.fromkeys(self.delays_ns, 0)
        self.rest(REQUEST_NS + REST_NS)
        for teleport in self.teleports:
            self._judge(teleport)
            assert self._release(teleport.number)
        self.teleports.clear()
        for gate_id, statuses in self.ended.items():
            source, target = (ALICE, BOB) if gate_id.startswith(f"{ALICE}-") else (BOB, ALICE)
            assert statuses.get(source) != GateStatus.FAILED or (target, gate_id) not in self.acted
        self._check_that_the_next_gate_is_done()
        self.finish()

    def _check_that_the_next_gate_is_done(self) -> None:
        """The network is perfect again."""
        for node in (ALICE, BOB):
            self.teleport(node, GateKind.CNOT, GateVariant.SYMMETRIC, given_pair=False)
            self.rest(SECOND_NS)
            (teleport,) = self.teleports
            self._judge(teleport)
            assert [getattr(answer, "status", None) for answer in teleport.answers] == [GateStatus.DONE]
            self.give_back(0)


def test_link_ends_over_any_network_share_every_pair_or_none_and_leak_nothing() -> None:
    run_state_machine_as_test(LinkEnds, settings=examples(3))


def test_gate_ends_over_any_network_agree_on_how_a_gate_ended_and_lock_nothing() -> None:
    run_state_machine_as_test(GateEnds, settings=examples(4))
