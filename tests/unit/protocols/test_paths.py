"""Messages stay in order, once each, whatever path they take (spec 1 §4.8): machines, and stories that Hypothesis thinks of."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from unruly import examples

from bellwire.protocols import introductions
from bellwire.protocols.arrival import RELAY, Arrival, ArrivalInput, ArrivalState
from bellwire.protocols.codec import CODEC
from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.errors import RemoteProtocolError
from bellwire.protocols.ids import BROKER, Epoch, NodeId
from bellwire.protocols.limits import MAX_HELD_MESSAGES
from bellwire.protocols.messages import (
    FencePart,
    Role,
    SessionFence,
    SessionIntroduction,
)
from bellwire.protocols.path import Dial, HangUp, Path, PathInput, PathSettings, PathState
from bellwire.protocols.paths import HELD, Paths
from bellwire.protocols.session import Loss

ALICE, BOB = NodeId("alice"), NodeId("bob")
MS = 1_000_000
HELD_MS = 1_000
"""A third of the default liveness, rounded up."""

EPOCHS = {ALICE: Epoch(10), BOB: Epoch(20)}


def introduction(node: NodeId, *endpoints: str, incarnation: int = 0) -> SessionIntroduction:
    return SessionIntroduction(
        node=node,
        role=Role.AGENT,
        public_key=node.encode().ljust(32),
        incarnation=Epoch(incarnation or EPOCHS[node]),
        endpoints=endpoints,
    )


class Upper:
    """What lies above the paths: it says what it is told to, and remembers what it hears."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.said: list[tuple[NodeId, bytes]] = []

    def receive(self, peer: NodeId, data: bytes, now_ns: int) -> None:
        self.heard.append(data)

    def next_deadline_ns(self) -> int | None:
        return None

    def handle_deadline(self, now_ns: int) -> None:
        pass

    def take_frames(self) -> list[tuple[NodeId, bytes]]:
        said, self.said = self.said, []
        return said


class Side:
    """One participant with its paths, and the frames that leave it: path, data."""

    def __init__(
        self,
        node: NodeId,
        peer: NodeId,
        *endpoints: str,
        peers: tuple[str, ...] = (),
        relays: bool = True,
        settings: PathSettings | None = None,
    ) -> None:
        self.upper = Upper()
        self.endpoint = Endpoint(node, Role.AGENT, EPOCHS[node])
        self.endpoint.endpoints = endpoints
        self.endpoint.begin(0)
        self.relays = relays
        self.endpoint.is_up = lambda peer: peer == BROKER and self.relays  # type: ignore[method-assign]
        self.paths = Paths(self.upper, self.endpoint, settings)
        self.peer = peer
        self.introduce(introduction(peer, *peers))

    def introduce(self, message: SessionIntroduction) -> None:
        self.endpoint.introductions._take(BROKER, message)

    @property
    def way(self) -> Path:
        return self.paths._paths[self.peer]

    def say(self, data: bytes) -> list[tuple[int, bytes]]:
        path = self.paths.route(self.peer, data)
        return self.fences() if path == HELD else [*self.fences(), (path, data)]

    def fences(self) -> list[tuple[int, bytes]]:
        return [(fence.path, fence.data) for fence in self.paths.take_outbox()]

    def parts(self) -> list[tuple[int, FencePart, int]]:
        told = [(path, CODEC.decode(data)) for path, data in self.fences()]
        return [(path, message.part, message.number) for path, message in told if isinstance(message, SessionFence)]

    def wait(self, now_ns: int) -> None:
        self.paths.handle_deadline(now_ns)


def fence(sender: NodeId, receiver: NodeId, part: FencePart, number: int, epoch: int = 0) -> bytes:
    message = SessionFence(epoch=Epoch(epoch or EPOCHS[sender]), peer_epoch=EPOCHS[receiver], part=part, number=number)
    return CODEC.encode(message)


# The machines.


@pytest.mark.parametrize("state", PathState)
@pytest.mark.parametrize("given", PathInput)
def test_path_input_without_a_row_is_an_error_and_changes_nothing(state: PathState, given: PathInput) -> None:
    way = Side(ALICE, BOB, peers=("tcp://h:1",)).way
    way.state = state
    if (state, given) in Path.table:
        return
    with pytest.raises(RemoteProtocolError, match=rf"{given} not allowed in {state.upper()}"):
        way.step(given, 1)
    assert way.state is state


@pytest.mark.parametrize("given", [ArrivalInput.DUE, ArrivalInput.FULL])
def test_arrival_that_holds_nothing_is_never_due(given: ArrivalInput) -> None:
    arrival = Arrival(Epoch(1), lambda _: None, lambda _: None)
    with pytest.raises(RemoteProtocolError):
        arrival.step(given, 1)
    arrival.due()
    assert arrival.state is ArrivalState.FLOWING


# Connecting.


def test_fence_is_recognised_without_decoding() -> None:
    """Spec 1 §4.8: the type begins at the eighth octet."""
    assert fence(ALICE, BOB, FencePart.END, 2**62).startswith(b"session.fence", 7)


@pytest.mark.parametrize(
    ("own", "theirs", "dials"),
    [((), ("tcp://h:1",), True), (("tcp://g:1",), (), False), (("tcp://g:1",), ("tcp://h:1",), True), ((), (), False)],
)
def test_lesser_name_or_who_cannot_be_reached_connects_at_once(
    own: tuple[str, ...], theirs: tuple[str, ...], dials: bool
) -> None:
    alice = Side(ALICE, BOB, *own, peers=theirs)
    alice.wait(0)
    wanted = [Dial(path=1, peer=BOB, endpoint="tcp://h:1", public_key=b"bob".ljust(32))] if dials else []
    assert alice.paths.take_instructions() == wanted


def test_greater_name_connects_when_the_other_did_not() -> None:
    bob = Side(BOB, ALICE, "tcp://g:1", peers=("tcp://h:1",))
    bob.wait(0)
    assert not bob.paths.take_instructions()
    bob.wait(bob.paths.settings.patience_ns)
    assert [type(each) for each in bob.paths.take_instructions()] == [Dial]


def test_attempts_end_and_come_again_at_the_next_endpoint_with_growing_pauses() -> None:
    alice = Side(ALICE, BOB, peers=("tcp://h:1", "tcp://i:2"))
    settings, now_ns, tried = alice.paths.settings, 0, []
    for pause_ns in (settings.redial_ns, 2 * settings.redial_ns):
        alice.wait(now_ns)
        tried += alice.paths.take_instructions()
        now_ns += settings.dial_ns
        alice.wait(now_ns)
        tried += alice.paths.take_instructions()
        assert alice.paths.next_deadline_ns() == now_ns + pause_ns
        now_ns += pause_ns
    assert [each.endpoint if isinstance(each, Dial) else type(each) for each in tried] == [
        "tcp://h:1",
        HangUp,
        "tcp://i:2",
        HangUp,
    ]


def test_crossing_ends_one_stretch_and_begins_the_next() -> None:
    alice = Side(ALICE, BOB, peers=("tcp://h:1",))
    alice.wait(0)
    alice.paths.stands(1, 0)
    assert alice.paths.is_direct(BOB)
    assert alice.parts() == [(RELAY, FencePart.END, 1), (1, FencePart.BEGIN, 1)]
    alice.paths.broken(1, 0)
    assert not alice.paths.is_direct(BOB)
    assert alice.parts() == [(RELAY, FencePart.BREAK, 2)]


def test_crossing_without_a_broker_does_not_wait_for_it() -> None:
    alice = Side(ALICE, BOB, peers=("tcp://h:1",), relays=False)
    alice.wait(0)
    alice.paths.stands(1, 0)
    assert alice.parts() == [(1, FencePart.BREAK, 1)]


def test_beginning_is_repeated_until_it_is_answered() -> None:
    alice, bob = Side(ALICE, BOB, peers=("tcp://h:1",), relays=False), Side(BOB, ALICE)
    alice.wait(0)
    alice.paths.stands(1, 0)
    first = alice.fences()
    alice.wait(200 * MS)
    assert alice.fences() == first
    assert alice.paths.next_deadline_ns() == 400 * MS
    bob.paths.accept(ALICE, first[0][1], 0)
    for _, data in bob.fences():
        alice.paths.arrive(1, BOB, data, 400 * MS)
    alice.fences()
    alice.wait(400 * MS)
    assert not alice.parts()


def test_lost_peer_is_left_alone_until_there_is_something_to_say_to_it() -> None:
    alice = Side(ALICE, BOB, peers=("tcp://h:1",))
    alice.wait(0)
    alice.paths.stands(1, 0)
    alice.paths.broken(1, 0)
    fallen = alice.fences()[-1]
    alice.paths._peer_lost(BOB, Loss.SILENT, "")
    assert alice.paths.next_deadline_ns() is None
    assert alice.say(b"hello") == [fallen]
    alice.wait(200 * MS)
    assert alice.fences() == [fallen], "repeated again"


def test_introduction_of_a_later_incarnation_begins_anew_what_comes() -> None:
    bob = Side(BOB, ALICE)
    path = bob.paths.accept(ALICE, fence(ALICE, BOB, FencePart.BREAK, 1), 0)
    bob.paths.arrive(path, ALICE, b"direct", 0)
    bob.paths.arrive(RELAY, ALICE, b"too late", 0)
    bob.introduce(introduction(ALICE, incarnation=11))
    assert not bob.paths.is_direct(ALICE)
    bob.paths.arrive(RELAY, ALICE, b"of the new one", 0)
    bob.paths.arrive(path, ALICE, b"of the former one", 0)
    assert bob.upper.heard == [b"direct", b"of the new one"]


def test_peer_that_was_forgotten_is_spoken_to_as_after_a_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(introductions, "MAX_PEERS", 2)
    alice = Side(ALICE, BOB, peers=("tcp://h:1",))
    alice.wait(0)
    alice.paths.stands(1, 0)
    alice.fences()
    for name in ("carol", "dave"):
        alice.introduce(introduction(NodeId(name), incarnation=1))
    assert alice.paths.take_instructions()[-1] == HangUp(path=1)
    alice.fences()
    alice.introduce(introduction(BOB))
    ((path, part, number),) = alice.parts()
    assert (path, part) == (RELAY, FencePart.BREAK)
    assert number > 1, "numbers are not used again"


def test_former_connection_does_not_come_back_for_what_it_still_holds() -> None:
    bob = Side(BOB, ALICE)
    begin = fence(ALICE, BOB, FencePart.BREAK, 1)
    assert bob.paths.begins(ALICE, begin)
    bob.paths.accept(ALICE, begin, 0)
    assert not bob.paths.begins(ALICE, begin)
    assert not bob.paths.begins(ALICE, b"anything")
    assert not bob.paths.begins(ALICE, fence(ALICE, BOB, FencePart.END, 5))
    assert not bob.paths.begins(ALICE, fence(ALICE, BOB, FencePart.BREAK, 5, epoch=9))
    assert bob.paths.begins(ALICE, fence(ALICE, BOB, FencePart.BREAK, 1, epoch=11))


# What comes.


def test_messages_of_the_new_path_wait_for_the_end_of_the_old_one() -> None:
    bob = Side(BOB, ALICE)
    path = bob.paths.accept(ALICE, fence(ALICE, BOB, FencePart.BEGIN, 1), 0)
    bob.paths.arrive(path, ALICE, b"3", 0)
    bob.paths.arrive(RELAY, ALICE, b"1", 0)
    bob.paths.arrive(RELAY, ALICE, b"2", 0)
    assert bob.upper.heard == [b"1", b"2"]
    bob.paths.arrive(RELAY, ALICE, fence(ALICE, BOB, FencePart.END, 1), 0)
    assert bob.upper.heard == [b"1", b"2", b"3"]


def test_end_that_never_comes_is_waited_for_a_third_of_the_liveness() -> None:
    bob = Side(BOB, ALICE)
    path = bob.paths.accept(ALICE, fence(ALICE, BOB, FencePart.BEGIN, 1), 0)
    bob.paths.arrive(path, ALICE, b"2", 0)
    bob.wait(999 * MS)
    assert not bob.upper.heard
    bob.wait(HELD_MS * MS)
    assert bob.upper.heard == [b"2"]
    bob.paths.arrive(RELAY, ALICE, b"1", HELD_MS * MS)
    assert bob.upper.heard == [b"2"], "too late: it would come out of order"
    assert bob.way.arrival.late == 1


def test_stretch_whose_end_has_come_while_it_was_held_is_followed_by_the_next_at_once() -> None:
    bob = Side(BOB, ALICE)
    first = bob.paths.accept(ALICE, fence(ALICE, BOB, FencePart.BEGIN, 1), 0)
    second = bob.paths.accept(ALICE, fence(ALICE, BOB, FencePart.BEGIN, 2), 0)
    for path, data in ((second, b"3"), (first, b"2"), (first, fence(ALICE, BOB, FencePart.END, 2)), (RELAY, b"1")):
        bob.paths.arrive(path, ALICE, data, 0)
    bob.paths.arrive(RELAY, ALICE, fence(ALICE, BOB, FencePart.END, 1), 0)
    assert bob.upper.heard == [b"1", b"2", b"3"]
    assert bob.way.arrival.state is ArrivalState.FLOWING


def test_held_messages_are_bounded() -> None:
    """Spec 1 §3.4."""
    bob = Side(BOB, ALICE)
    path = bob.paths.accept(ALICE, fence(ALICE, BOB, FencePart.BEGIN, 1), 0)
    for number in range(MAX_HELD_MESSAGES):
        bob.paths.arrive(path, ALICE, b"%d" % number, 0)
    assert len(bob.upper.heard) == MAX_HELD_MESSAGES


def test_stretches_without_end_are_bounded() -> None:
    bob = Side(BOB, ALICE)
    path = bob.paths.accept(ALICE, fence(ALICE, BOB, FencePart.BEGIN, 1), 0)
    for number in range(2, 3 * MAX_HELD_MESSAGES):
        bob.paths.arrive(path, ALICE, fence(ALICE, BOB, FencePart.BEGIN, number), 0)
    assert len(bob.way.arrival._held) < MAX_HELD_MESSAGES


# Any story: two sides, the relay and connections that come and go, frames on each path in order until it breaks.


@dataclass
class Pipe:
    """One direction of a path. `number` is what the receiver calls it, `None` before it has been accepted."""

    number: int | None
    flying: list[bytes] = field(default_factory=list)


AT_ONCE = PathSettings(dial_ns=10**12, redial_ns=1, redial_limit_ns=1)
"""Attempts follow each other whenever the story wants."""


class Crossings(RuleBasedStateMachine):
    """Alice talks to Bob and Bob to Alice, over a relay and over connections that Alice makes, of which any may break."""

    lossy = True

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = 0
        self.sides = {
            ALICE: Side(ALICE, BOB, peers=("tcp://h:1",), settings=AT_ONCE),
            BOB: Side(BOB, ALICE, "tcp://h:1"),
        }
        self.relay = {ALICE: Pipe(RELAY), BOB: Pipe(RELAY)}
        """By receiver."""
        self.direct: dict[int, dict[NodeId, Pipe]] = {}
        """Connections by Alice's number."""
        self.sent: dict[NodeId, int] = {ALICE: 0, BOB: 0}
        self.lost = False
        self.collect()

    def collect(self) -> None:
        for node, side in self.sides.items():
            for path, data in side.fences():
                self.put(node, path, data)
            for each in side.paths.take_instructions():
                if isinstance(each, Dial):
                    self.direct[each.path] = {ALICE: Pipe(each.path), BOB: Pipe(None)}
                else:
                    self.direct.pop(each.path, None)

    def put(self, sender: NodeId, path: int, data: bytes) -> None:
        receiver = BOB if sender is ALICE else ALICE
        if path == RELAY:
            self.relay[receiver].flying.append(data)
            return
        for number, pipes in self.direct.items():
            own = number if sender is ALICE else pipes[BOB].number
            if own == path:
                pipes[receiver].flying.append(data)

    def arrive(self, receiver: NodeId, pipe: Pipe) -> None:
        side, sender = self.sides[receiver], BOB if receiver is ALICE else ALICE
        data = pipe.flying.pop(0)
        if pipe.number is not None:
            side.paths.arrive(pipe.number, sender, data, self.now_ns)
        elif side.paths.begins(sender, data):
            pipe.number = side.paths.accept(sender, data, self.now_ns)
        self.collect()

    def pipes(self) -> list[tuple[NodeId, Pipe]]:
        every = [self.relay, *self.direct.values()]
        return [(node, pipe) for pipes in every for node, pipe in pipes.items() if pipe.flying]

    @rule(sender=st.sampled_from([ALICE, BOB]), number=st.integers(1, 5))
    def say(self, sender: NodeId, number: int) -> None:
        for _ in range(number):
            self.sent[sender] += 1
            for path, data in self.sides[sender].say(b"%d" % self.sent[sender]):
                self.put(sender, path, data)
        self.collect()

    @precondition(lambda self: self.pipes())
    @rule(place=st.integers(0, 5), number=st.integers(1, 6))
    def deliver(self, place: int, number: int) -> None:
        pipes = self.pipes()
        node, pipe = pipes[place % len(pipes)]
        for _ in range(min(number, len(pipe.flying))):
            self.arrive(node, pipe)

    @rule(milliseconds=st.sampled_from([1, 1, 200, 900]))
    def pause(self, milliseconds: int) -> None:
        """Time passes; frames on working paths take less than the patience of a receiver unless losses are allowed."""
        if not self.lossy:
            while pipes := self.pipes():
                self.arrive(*pipes[0])
        self.now_ns += milliseconds * MS
        for side in self.sides.values():
            side.wait(self.now_ns)
        self.collect()

    @precondition(lambda self: not self.sides[ALICE].way.path)
    @rule()
    def connect(self) -> None:
        alice = self.sides[ALICE]
        self.now_ns += 1
        alice.wait(self.now_ns)
        self.collect()
        alice.paths.stands(alice.way.dialled, self.now_ns)
        self.collect()

    @precondition(lambda self: self.direct)
    @rule(first=st.sampled_from([ALICE, BOB]), late=st.booleans())
    def cut(self, first: NodeId, late: bool) -> None:
        """A connection breaks: what is on it is lost, or comes before its end is noticed."""
        if not self.lossy:
            while every := self.pipes():
                self.arrive(*every[0])
            if not self.direct:
                return
        number, pipes = next(iter(self.direct.items()))
        while late and (flying := [(node, pipe) for node, pipe in pipes.items() if pipe.flying]):
            self.arrive(*flying[0])
            if number not in self.direct:
                return
        del self.direct[number]
        theirs = pipes[BOB].number
        for node in (first, BOB if first is ALICE else ALICE):
            path = number if node is ALICE else theirs
            if path is not None:
                self.sides[node].paths.broken(path, self.now_ns)
        self.collect()

    @precondition(lambda self: self.lossy and self.pipes())
    @rule(place=st.integers(0, 5))
    def lose(self, place: int) -> None:
        pipes = self.pipes()
        pipes[place % len(pipes)][1].flying.pop(0)

    @precondition(lambda self: self.lossy)
    @rule()
    def lose_the_broker(self) -> None:
        for pipe in self.relay.values():
            pipe.flying.clear()

    @rule(there=st.booleans())
    def see_the_broker(self, there: bool) -> None:
        if self.lossy:
            for side in self.sides.values():
                side.relays = there

    @invariant()
    def every_message_came_once_and_in_order(self) -> None:
        for node, side in self.sides.items():
            numbers = [int(data) for data in side.upper.heard]
            assert numbers == sorted(set(numbers)), (node, numbers)

    def teardown(self) -> None:
        """Left alone, whatever was lost, both sides hear each other again; and hear everything where nothing was lost."""
        for _ in range(4):
            while pipes := self.pipes():
                self.arrive(*pipes[0])
            self.pause(HELD_MS)
        for sender, receiver in ((ALICE, BOB), (BOB, ALICE)):
            self.say(sender, 1)
            while pipes := self.pipes():
                self.arrive(*pipes[0])
            heard = [int(data) for data in self.sides[receiver].upper.heard]
            assert heard[-1] == self.sent[sender]
            assert self.lossy or heard == list(range(1, self.sent[sender] + 1))
        self.every_message_came_once_and_in_order()


class HealthyCrossings(Crossings):
    """The same where nothing is lost: everything arrives."""

    lossy = False


TestCrossings = Crossings.TestCase
TestCrossings.settings = examples(3)
TestHealthyCrossings = HealthyCrossings.TestCase
