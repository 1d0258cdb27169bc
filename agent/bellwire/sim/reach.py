"""A node's reach into the simulated world: its session, its lease, its batches. Sans I/O.

Batches go out numbered, so that the world executes them in the order in which they were submitted. When anything is lost,
the lease is: what was under way is forgotten, and everything begins anew once the world can be reached again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from bellwire.protocols.endpoint import Answer, Endpoint
from bellwire.protocols.errors import LocalProtocolError
from bellwire.protocols.ids import NodeId, QubitName
from bellwire.protocols.instructions import AnyCompletion, Arm, Failed
from bellwire.protocols.limits import MAX_BATCH_INSTRUCTIONS
from bellwire.protocols.node import Batch, QubitKind
from bellwire.protocols.session import Loss
from bellwire.sim.clocks import ClockInfo
from bellwire.sim.messages import (
    MAX_BATCHES_UNDER_WAY,
    WORLD,
    WorldComplete,
    WorldDescribe,
    WorldDescription,
    WorldSubmit,
)
from bellwire.sim.topology import LinkInfo

SECOND_NS: Final = 1_000_000_000

ANSWER_TIMEOUT_NS: Final = 30 * SECOND_NS
"""How long the world may take to answer, beside the windows that it waits for. A silent world is noticed much earlier."""

MAX_WAITING_BATCHES: Final = 8_192
"""Batches that wait at the node for others to be answered."""

SMALL_BATCH: Final = 64
"""Batches of up to so many instructions fit into a message, whatever they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """A lease has begun: these qubits are the node's, all of them free."""

    qubits: tuple[tuple[QubitName, QubitKind], ...]
    links: tuple[LinkInfo, ...]
    clock: ClockInfo | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A batch is answered: one completion for each of its instructions."""

    number: int
    completions: tuple[AnyCompletion, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """The lease is over, or the world refuses to give one."""

    why: str


ReachEvent = Connected | Completed | Lost


class WorldReach:
    """One node's way to the world. The endpoint's codec has to be `WORLD_CODEC`."""

    def __init__(self, endpoint: Endpoint, world: NodeId = WORLD) -> None:
        self.endpoint = endpoint
        self.world = world
        self._lease = 0
        self._told = 0
        """The lease that whoever takes the events knows of."""
        self._number = 0
        self._under_way: dict[int, Batch] = {}
        self._requests: dict[int, int] = {}
        self._waiting: deque[Batch] = deque()
        self._describing: int | None = None
        self._refusal = ""
        self._events: list[ReachEvent] = []
        endpoint.on_peer_up.append(self._peer_up)
        endpoint.on_peer_lost.append(self._peer_lost)

    # What a driver calls.

    def start(self, now_ns: int) -> None:
        """Begin: greet the world, now and whenever it was lost."""
        self.endpoint.begin(now_ns, f"{self.endpoint.node}:backend-start")
        self.endpoint.keep_session(self.world)

    def submit(self, batch: Batch, now_ns: int) -> None:
        """Execute a batch after those before it.

        Without a lease, or under one that its owner does not know of yet, it is dropped: the owner is told of the loss.
        """
        self.endpoint.begin(now_ns, f"{self.endpoint.node}:batch-{batch.number}")
        if self._lease == 0 or self._told != self._lease:
            return
        if len(self._waiting) >= MAX_WAITING_BATCHES:
            self._refuse(batch, f"{MAX_WAITING_BATCHES} batches wait for the world")
        elif self._waiting or len(self._under_way) >= MAX_BATCHES_UNDER_WAY:
            self._waiting.append(batch)
        else:
            self._send(batch)

    def turned_away(self, why: str, now_ns: int) -> None:
        """The world's hub refuses the connection itself: that is worth a word where the session would only be silent."""
        self.endpoint.begin(now_ns)
        if not self._lease:
            self._say_refused(why)

    def receive(self, peer: NodeId, data: bytes, now_ns: int) -> None:
        """Take one message frame that came from `peer`."""
        self.endpoint.receive(peer, data, now_ns)

    def next_deadline_ns(self) -> int | None:
        """When `handle_deadline` wants to be called next."""
        return self.endpoint.next_deadline_ns()

    def handle_deadline(self, now_ns: int) -> None:
        """Do what has come due."""
        self.endpoint.handle_deadline(now_ns)

    def take_frames(self) -> list[tuple[NodeId, bytes]]:
        """Take the frames to be sent, in order, each with the participant that it is for."""
        return self.endpoint.take_frames()

    def take_events(self) -> list[ReachEvent]:
        """Take what has happened, in order."""
        events, self._events = self._events, []
        self._told = self._lease
        return events

    def close(self, now_ns: int) -> None:
        """Say goodbye: the world frees the node's qubits."""
        self.endpoint.begin(now_ns)
        self._forget()
        self.endpoint.close()
        self._events.clear()

    # The lease.

    def _peer_up(self, peer: NodeId) -> None:
        if peer == self.world:
            self._describe()

    def _describe(self) -> None:
        if self._describing is not None:
            self.endpoint.abandon(self._describing)
        deadline_ns = self.endpoint.now_ns + ANSWER_TIMEOUT_NS
        request = WorldDescribe(lease=self._lease)
        self._describing = self.endpoint.ask(self.world, request, deadline_ns, self._described)

    def _described(self, answer: Answer) -> None:
        self._describing = None
        if not isinstance(answer, WorldDescription):
            self._refused(str(answer))
            return
        self._refusal = ""
        if answer.lease == self._lease:
            return
        self._lose("the world has freed the node's qubits")
        self._lease = answer.lease
        qubits = tuple((qubit.name, qubit.kind) for qubit in answer.qubits)
        self._events.append(Connected(qubits=qubits, links=answer.links, clock=answer.clock))

    def _refused(self, text: str) -> None:
        """The world gives no lease: say so once, and ask again later if it is still there."""
        if not self.endpoint.is_up(self.world):
            return
        why = f"the world refuses {self.endpoint.node}: {text}"
        if self._lease:
            self._refusal = why
            self._lose(why)
        else:
            self._say_refused(why)
        self.endpoint.timers.at(self.endpoint.now_ns + SECOND_NS, self._describe_again)

    def _say_refused(self, why: str) -> None:
        if why != self._refusal:
            self._refusal = why
            self._events.append(Lost(why=why))

    def _describe_again(self) -> None:
        if self._lease == 0 and self._describing is None and self.endpoint.is_up(self.world):
            self._describe()

    def _peer_lost(self, peer: NodeId, loss: Loss, why: str) -> None:
        if peer == self.world:
            self._lose(f"the world is lost ({loss}): {why}")

    def _lose(self, why: str) -> None:
        """The lease is over. What was under way is not answered any more."""
        if self._lease:
            self._forget()
            self._events.append(Lost(why=why))

    def _forget(self) -> None:
        self._lease = 0
        self._number = 0
        for request in self._requests.values():
            self.endpoint.abandon(request)
        self._under_way.clear()
        self._requests.clear()
        self._waiting.clear()

    # Batches.

    def _send(self, batch: Batch) -> None:
        message = WorldSubmit(lease=self._lease, number=self._number + 1, instructions=batch.instructions)
        if len(batch.instructions) > MAX_BATCH_INSTRUCTIONS:
            self._refuse(batch, f"a batch of {len(batch.instructions)}, at most {MAX_BATCH_INSTRUCTIONS} are allowed")
            return
        if len(batch.instructions) > SMALL_BATCH:
            try:
                self.endpoint.codec.encode(message)
            except LocalProtocolError as error:
                self._refuse(batch, str(error))
                return
        self._number += 1
        number, lease = self._number, self._lease
        self._under_way[number] = batch
        window_ns = sum(one.timeout_ns for one in batch.instructions if isinstance(one, Arm))
        deadline_ns = self.endpoint.now_ns + window_ns + ANSWER_TIMEOUT_NS

        def answered(answer: Answer) -> None:
            if lease == self._lease and number in self._under_way:
                self._answered(number, answer)

        self._requests[number] = self.endpoint.ask(self.world, message, deadline_ns, answered)

    def _answered(self, number: int, answer: Answer) -> None:
        del self._requests[number]
        batch = self._under_way.pop(number)
        if not isinstance(answer, WorldComplete):
            self._break(f"the world did not execute batch {number}: {answer}")
            return
        completions = answer.completions
        missing = len(batch.instructions) - len(completions)
        if missing and completions and isinstance(completions[-1], Failed):
            rest = Failed(text=f"not executed: instruction {len(completions)} of the batch failed")
            completions += (rest,) * missing
        if len(completions) != len(batch.instructions):
            self._break(
                f"{len(completions)} completions of {len(batch.instructions)} instructions came for batch {number}"
            )
            return
        self._events.append(Completed(number=batch.number, completions=completions))
        while self._waiting and len(self._under_way) < MAX_BATCHES_UNDER_WAY:
            self._send(self._waiting.popleft())

    def _break(self, why: str) -> None:
        """Nobody knows what the world has executed: begin anew."""
        self._lose(why)
        if self.endpoint.is_up(self.world):
            self._describe()

    def _refuse(self, batch: Batch, why: str) -> None:
        completions = tuple(Failed(text=why) for _ in batch.instructions)
        self._events.append(Completed(number=batch.number, completions=completions))
