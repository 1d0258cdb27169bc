"""Messages stay in order, once each, whatever path they take (spec 1 §4.8): any story that Hypothesis thinks of."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from path_sides import ALICE, BOB, HELD_MS, Side
from unruly import examples

from bellwire.protocols.arrival import RELAY
from bellwire.protocols.codec import CODEC
from bellwire.protocols.errors import ErrorCode
from bellwire.protocols.ids import BROKER, Epoch, NodeId
from bellwire.protocols.messages import SessionError
from bellwire.protocols.path import Dial, PathSettings
from bellwire.protocols.session import SessionState

MS = 1_000_000


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
        self.untold: dict[NodeId, int] = {ALICE: 0, BOB: 0}
        """Frames that the broker could not hand on and has not told their sender of, by sender."""
        for node, side in self.sides.items():
            for peer in (BROKER, BOB if node is ALICE else ALICE):
                side.endpoint._session(peer).state = SessionState.UP
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

    @precondition(lambda self: self.lossy and any(pipe.flying for pipe in self.relay.values()))
    @rule(receiver=st.sampled_from([ALICE, BOB]))
    def miss(self, receiver: NodeId) -> None:
        """The receiver is not bound at the broker just now."""
        flying = self.relay[receiver].flying
        self.untold[BOB if receiver is ALICE else ALICE] += len(flying)
        flying.clear()

    @precondition(lambda self: any(self.untold.values()))
    @rule(sender=st.sampled_from([ALICE, BOB]))
    def tell_of_a_miss(self, sender: NodeId) -> None:
        """Spec 1 §6.3: a session does not notice what becomes of the relay while its peer is reached directly."""
        if not self.untold[sender]:
            return
        self.untold[sender] -= 1
        side = self.sides[sender]
        session = side.endpoint.sessions[side.peer]
        direct = side.paths.is_direct(side.peer)
        error = SessionError(epoch=Epoch(1), code=ErrorCode.NO_ROUTE, text="not bound", peer=side.peer)
        side.endpoint.receive(BROKER, CODEC.encode(error), self.now_ns)
        assert session.state is (SessionState.UP if direct else SessionState.GREETING)
        assert session.hint == ("" if direct else "not bound")
        session.state, session.hint = SessionState.UP, ""

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
