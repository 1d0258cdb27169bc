"""The world's server and a node's reach into it, wired together by hand: what reorders, repeats and loses frames."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.ids import Epoch, LinkId, NodeId, QubitName, WindowId
from bellwire.protocols.instructions import (
    AnyInstruction,
    Apply,
    Arm,
    Cancel,
    Done,
    Failed,
    Gate,
    Initialise,
    Measure,
    Measured,
    WindowEnded,
)
from bellwire.protocols.messages import Role
from bellwire.protocols.node import Batch, QubitKind
from bellwire.protocols.session import Loss, SessionSettings
from bellwire.sim import messages, reach
from bellwire.sim.messages import WORLD, WORLD_CODEC, WorldComplete, WorldDescribe, WorldDescription, WorldSubmit
from bellwire.sim.preset import load_preset
from bellwire.sim.reach import Completed, Connected, Lost, ReachEvent, WorldReach
from bellwire.sim.server import WorldServer
from bellwire.sim.topology import WorldLink, WorldNode
from bellwire.sim.world import World

ALICE, BOB, STATION, LINK = NodeId("alice"), NodeId("bob"), NodeId("station"), LinkId("link")
QUBITS = {QubitName("c0"): QubitKind.COMMUNICATION, QubitName("s0"): QubitKind.STORAGE}
C0, S0 = QUBITS
MILLISECOND_NS = 1_000_000


def make_world(start_ns: int) -> World:
    return World(
        preset=load_preset("ideal"),
        nodes=[WorldNode(node=node, model="ideal", qubits=QUBITS) for node in (ALICE, BOB)],
        links=[WorldLink(link_id=LINK, ends=(ALICE, BOB), station=STATION, model="ideal")],
        seed=1,
        start_ns=start_ns,
    )


class Bench:
    """A world's server and Alice's reach, and the frames between them in the test's hand."""

    def __init__(self, seed: int | None = None, settings: SessionSettings | None = None) -> None:
        self.settings = settings
        self.now_ns = 1_000 * MILLISECOND_NS
        self.epochs = 0
        self.random = random.Random(seed)
        self.server = self.make_server()
        self.reach = WorldReach(Endpoint(ALICE, Role.AGENT, Epoch(1), codec=WORLD_CODEC, settings=self.settings))
        self.to_world: list[bytes] = []
        self.to_alice: list[bytes] = []
        self.events: list[ReachEvent] = []
        self.reach.start(self.now_ns)

    def make_server(self) -> WorldServer:
        self.epochs += 1
        endpoint = Endpoint(WORLD, Role.WORLD, Epoch(self.epochs), codec=WORLD_CODEC, settings=self.settings)
        return WorldServer(endpoint, make_world(self.now_ns))

    def collect(self) -> None:
        self.to_world += [data for _, data in self.reach.take_frames()]
        self.to_alice += [data for _, data in self.server.take_frames()]
        self.events += self.reach.take_events()

    def deliver(self) -> None:
        """Deliver all frames in order until there are none."""
        self.collect()
        while self.to_world or self.to_alice:
            to_world, self.to_world = self.to_world, []
            for data in to_world:
                self.server.receive(ALICE, data, self.now_ns)
            to_alice, self.to_alice = self.to_alice, []
            for data in to_alice:
                self.reach.receive(WORLD, data, self.now_ns)
            self.collect()

    def scramble(self) -> None:
        """Deliver one frame in a random order, sometimes twice, sometimes not at all; or let time pass."""
        self.collect()
        self.now_ns += MILLISECOND_NS * self.random.choice((0, 0, 1, 30))
        for frames, receive in ((self.to_world, self.server.receive), (self.to_alice, self.reach.receive)):
            if not frames:
                continue
            data = frames.pop(self.random.randrange(len(frames)))
            fate = self.random.random()
            if fate < 0.2:
                continue
            if fate < 0.4:
                frames.append(data)
            receive(ALICE if frames is self.to_world else WORLD, data, self.now_ns)
        self.tick()

    def tick(self) -> None:
        for driven in (self.reach, self.server):
            deadline_ns = driven.next_deadline_ns()
            if deadline_ns is not None and deadline_ns <= self.now_ns:
                driven.handle_deadline(self.now_ns)

    def wait(self, elapsed_ns: int) -> None:
        """Let time pass, in small steps, with frames going both ways."""
        end_ns = self.now_ns + elapsed_ns
        while self.now_ns < end_ns:
            self.now_ns += 10 * MILLISECOND_NS
            self.tick()
            self.deliver()

    def submit(self, number: int, *instructions: AnyInstruction) -> None:
        self.reach.submit(Batch(number=number, instructions=instructions), self.now_ns)

    def take(self) -> list[ReachEvent]:
        self.deliver()
        events, self.events = self.events, []
        return events


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    (connected,) = bench.take()
    assert isinstance(connected, Connected)
    assert dict(connected.qubits) == QUBITS
    return bench


def completions(events: Sequence[ReachEvent]) -> list[tuple[int, tuple[object, ...]]]:
    assert all(isinstance(event, Completed) for event in events)
    return [(event.number, event.completions) for event in events if isinstance(event, Completed)]


@pytest.mark.parametrize("seed", range(25))
def test_batches_over_a_bad_wire_are_executed_once_and_in_order(seed: int) -> None:
    """Each batch flips the qubit and measures it, so that every repeat, loss or exchange would show."""
    bench = Bench(seed, SessionSettings(liveness_ns=10**12))
    while not bench.events:
        bench.scramble()
    bench.submit(1, Initialise(qubit=S0))
    for number in range(2, 22):
        bench.submit(number, Apply(gate=Gate.X, qubits=(S0,)), Measure(qubit=S0))
        bench.scramble()
    for _ in range(20_000):
        if len(bench.events) == 22:
            break
        bench.scramble()
    answers = dict(completions(bench.events[1:]))
    assert set(answers) == set(range(1, 22))
    assert [answers[number] for number in range(2, 22)] == [(Done(), Measured(bit=(1 + n) % 2)) for n in range(20)]


def test_batch_that_comes_early_waits_for_the_one_before(bench: Bench) -> None:
    bench.submit(1, Initialise(qubit=S0), Apply(gate=Gate.X, qubits=(S0,)))
    bench.submit(2, Measure(qubit=S0))
    bench.collect()
    first, second = bench.to_world
    bench.to_world.clear()
    bench.server.receive(ALICE, second, bench.now_ns)
    assert bench.take() == []
    bench.server.receive(ALICE, first, bench.now_ns)
    assert completions(bench.take()) == [(1, (Done(), Done())), (2, (Measured(bit=1),))]


def test_batch_with_a_window_is_answered_when_it_ends_and_others_go_on(bench: Bench) -> None:
    arm = Arm(window_id=WindowId("w"), link_id=LINK, qubit=C0, timeout_ns=2_000 * MILLISECOND_NS)
    bench.submit(1, arm)
    bench.submit(2, Initialise(qubit=S0))
    assert completions(bench.take()) == [(2, (Done(),))]
    bench.wait(1_900 * MILLISECOND_NS)
    assert bench.take() == []
    bench.wait(200 * MILLISECOND_NS)
    ended = WindowEnded(window_id=WindowId("w"), attempts=0)
    assert completions(bench.take()) == [(1, (ended,))]
    assert bench.reach.endpoint.counters.retransmitted > 0


def test_failed_batch_is_padded_at_the_node(bench: Bench) -> None:
    bench.submit(1, Initialise(qubit=S0), Measure(qubit=C0), Measure(qubit=S0), Measure(qubit=S0))
    ((_, answers),) = completions(bench.take())
    assert answers[0] == Done()
    assert [type(answer) for answer in answers[1:]] == [Failed, Failed, Failed]


def test_node_that_was_silent_too_long_begins_anew(bench: Bench) -> None:
    """The node kept its session, the world did not: what the node holds in its mind is gone, and it is told."""
    bench.submit(1, Initialise(qubit=S0))
    bench.take()
    lost: list[tuple[NodeId, Loss]] = []
    bench.server.endpoint.on_peer_lost.append(lambda peer, loss, _: lost.append((peer, loss)))
    for _ in range(7):
        bench.now_ns += 500 * MILLISECOND_NS
        bench.server.handle_deadline(bench.now_ns)
    assert lost == [(ALICE, Loss.SILENT)]
    assert not bench.server.world.held(ALICE)
    bench.submit(2, Measure(qubit=S0))
    gone, connected = bench.take()
    assert isinstance(gone, Lost)
    assert isinstance(connected, Connected)
    bench.submit(3, Measure(qubit=S0))
    ((number, (answer,)),) = completions(bench.take())
    assert number == 3
    assert isinstance(answer, Failed)


def test_node_that_greets_again_keeps_its_qubits(bench: Bench) -> None:
    """A lost welcome or a stray refusal sets off a greeting. Nothing was lost by it."""
    bench.submit(1, Initialise(qubit=S0), Apply(gate=Gate.X, qubits=(S0,)))
    bench.take()
    bench.submit(2, Measure(qubit=S0))
    bench.collect()
    withheld = bench.to_world.pop()
    ups: list[NodeId] = []
    bench.reach.endpoint.on_peer_up.append(ups.append)
    stray = Endpoint(WORLD, Role.WORLD, Epoch(1), codec=WORLD_CODEC)
    stray._stranger(ALICE, WorldDescribe(epoch=Epoch(1)))
    ((_, refusal),) = stray.take_frames()
    bench.reach.receive(WORLD, refusal, bench.now_ns)
    events = bench.take()
    assert ups == [WORLD]
    bench.server.receive(ALICE, withheld, bench.now_ns)
    assert completions(events + bench.take()) == [(2, (Measured(bit=1),))]
    assert bench.server.world.held(ALICE) == {S0}


def test_world_that_restarted_is_lost_then_connected(bench: Bench) -> None:
    bench.submit(1, Initialise(qubit=S0))
    bench.take()
    bench.server = bench.make_server()
    bench.submit(2, Measure(qubit=S0))
    lost, connected = bench.take()
    assert isinstance(lost, Lost)
    assert "restarted" in lost.why
    assert isinstance(connected, Connected)
    bench.submit(3, Initialise(qubit=S0))
    assert completions(bench.take()) == [(3, (Done(),))]


def test_batch_between_a_loss_and_its_telling_is_not_executed(bench: Bench) -> None:
    """The owner thinks in the old lease: its batch must not reach the new one."""
    bench.server = bench.make_server()
    bench.submit(1, Initialise(qubit=S0))
    while not (bench.reach._lease and bench.reach._lease != bench.reach._told):
        for _, data in bench.reach.take_frames():
            bench.server.receive(ALICE, data, bench.now_ns)
        for _, data in bench.server.take_frames():
            bench.reach.receive(WORLD, data, bench.now_ns)
    bench.submit(2, Initialise(qubit=S0))
    assert [type(event) for event in bench.take()] == [Lost, Connected]
    assert not bench.server.world.held(ALICE)


def test_requests_of_a_lease_that_ended_do_not_stay_open(bench: Bench) -> None:
    """An open request would fill the session's memory for good."""
    bench.submit(1, Arm(window_id=WindowId("w"), link_id=LINK, qubit=C0, timeout_ns=10**12))
    bench.take()
    session = bench.server.endpoint.sessions[ALICE]
    assert len(session.owed) == 1
    bench.server._release(ALICE)
    assert not session.owed


def test_batches_beyond_the_limit_wait_at_the_node(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "MAX_BATCHES_UNDER_WAY", 2)
    monkeypatch.setattr(reach, "MAX_WAITING_BATCHES", 3)
    for number in range(1, 7):
        bench.submit(number, Initialise(qubit=S0))
    bench.collect()
    assert len(bench.to_world) == 2
    answers = completions(bench.take())
    assert [number for number, _ in answers] == [6, 1, 2, 3, 4, 5]
    assert isinstance(answers[0][1][0], Failed)


def ask(bench: Bench, request: messages.WorldSubmit) -> object:
    answers: list[object] = []
    endpoint = bench.reach.endpoint
    endpoint.begin(bench.now_ns)
    endpoint.ask(WORLD, request, bench.now_ns + 10**9, answers.append)
    bench.deliver()
    return answers[0] if answers else None


def test_submit_out_of_the_rules_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = bench.reach._lease
    do = (Initialise(qubit=S0),)
    assert isinstance(ask(bench, WorldSubmit(lease=lease, number=1, instructions=do)), WorldComplete)
    again = ask(bench, WorldSubmit(lease=lease, number=1, instructions=do))
    assert isinstance(again, RequestError)
    assert again.code is ErrorCode.REJECTED
    stale = ask(bench, WorldSubmit(lease=lease + 1, number=2, instructions=do))
    assert isinstance(stale, RequestError)
    assert stale.code is ErrorCode.UNKNOWN_ID
    monkeypatch.setattr("bellwire.sim.server.MAX_BATCHES_UNDER_WAY", 1)
    assert ask(bench, WorldSubmit(lease=lease, number=3, instructions=do)) is None
    full = ask(bench, WorldSubmit(lease=lease, number=4, instructions=do))
    assert isinstance(full, RequestError)
    assert full.code is ErrorCode.LIMIT


def test_missing_batch_can_still_come_when_the_hold_is_full(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bellwire.sim.server.MAX_BATCHES_UNDER_WAY", 1)
    lease = bench.reach._lease
    cancel = (Cancel(window_id=WindowId("w")),)
    assert ask(bench, WorldSubmit(lease=lease, number=2, instructions=cancel)) is None
    assert isinstance(ask(bench, WorldSubmit(lease=lease, number=1, instructions=cancel)), WorldComplete)


def test_description_with_the_present_lease_changes_nothing(bench: Bench) -> None:
    lease = bench.reach._lease
    bench.submit(1, Initialise(qubit=S0))
    bench.take()
    answers: list[object] = []
    for said in (lease, 0):
        bench.reach.endpoint.begin(bench.now_ns)
        bench.reach.endpoint.ask(WORLD, WorldDescribe(lease=said), bench.now_ns + 10**9, answers.append)
        bench.deliver()
    same, fresh = answers
    assert isinstance(same, WorldDescription)
    assert same.lease == lease
    assert isinstance(fresh, WorldDescription)
    assert fresh.lease > lease
    assert fresh.time_scale == 1.0
    assert not bench.server.world.held(ALICE)
