"""Participants driven against each other in memory, with explicit time."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from bellwire.protocols.codec import Codec
from bellwire.protocols.endpoint import Answer, Endpoint
from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.ids import Epoch, LinkId, NodeId, WindowId
from bellwire.protocols.messages import (
    HeraldClose,
    Message,
    Reply,
    Role,
    SessionAck,
)
from bellwire.protocols.session import Loss, SessionSettings

MS = 1_000_000
SECOND = 1_000 * MS
ALICE, BOB, BROKER = NodeId("alice"), NodeId("bob"), NodeId("broker")
CODEC = Codec()
Fault = Callable[[NodeId, Message], list[int]]
"""The delays after which copies of a frame arrive: none when it is lost."""


def prompt(_: NodeId, __: Message) -> list[int]:
    return [MS]


@dataclass
class Wire:
    """Participants in memory. Time moves from one frame or timer to the next."""

    now_ns: int = SECOND
    fault: Fault = prompt
    members: dict[NodeId, Endpoint] = field(default_factory=dict)
    sent: list[tuple[NodeId, Message]] = field(default_factory=list)
    heap: list[tuple[int, int, NodeId, NodeId, bytes]] = field(default_factory=list)

    def join(
        self,
        node: NodeId,
        epoch: int = 1,
        role: Role = Role.AGENT,
        *,
        settings: SessionSettings | None = None,
        clock: NodeId | None = None,
    ) -> Endpoint:
        endpoint = Endpoint(node, role, Epoch(epoch), settings=settings, clock=clock)
        endpoint.begin(self.now_ns)
        self.members[node] = endpoint
        return endpoint

    def flush(self) -> None:
        for node, endpoint in self.members.items():
            for peer, data in endpoint.take_frames():
                message = CODEC.decode(data)
                self.sent.append((node, message))
                for delay_ns in self.fault(node, message):
                    heapq.heappush(self.heap, (self.now_ns + delay_ns, len(self.sent), node, peer, data))

    def run(self, duration_ns: int) -> None:
        end_ns = self.now_ns + duration_ns
        self.flush()
        while True:
            times = [self.heap[0][0]] if self.heap else []
            times += [at for member in self.members.values() if (at := member.next_deadline_ns()) is not None]
            if not times or min(times) > end_ns:
                break
            self.now_ns = max(self.now_ns, min(times))
            while self.heap and self.heap[0][0] <= self.now_ns:
                _, _, sender, receiver, data = heapq.heappop(self.heap)
                if receiver in self.members:
                    self.members[receiver].receive(sender, data, self.now_ns)
                self.flush()
            for member in self.members.values():
                member.handle_deadline(self.now_ns)
            self.flush()
        self.now_ns = end_ns
        for member in self.members.values():
            member.begin(end_ns)

    def count(self, kind: type[Message], sender: NodeId | None = None) -> int:
        return sum(isinstance(message, kind) and sender in (None, node) for node, message in self.sent)


class Service:
    """Answers `herald.close`, and remembers what it handled."""

    def __init__(self, endpoint: Endpoint, *, later: bool = False) -> None:
        self.endpoint = endpoint
        self.handled: list[str] = []
        self.owed: list[tuple[NodeId, int]] = []
        self.later = later
        endpoint.handle(HeraldClose, self.take)

    def take(self, peer: NodeId, message: HeraldClose) -> Reply | None:
        self.handled.append(message.reason)
        if not self.later:
            return SessionAck()
        self.owed.append((peer, message.request_id))
        return None


class Client:
    """Asks, and remembers the answers and the losses."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.answers: list[Answer] = []
        self.up: list[NodeId] = []
        self.lost: list[tuple[NodeId, Loss]] = []
        endpoint.on_peer_up.append(self.up.append)
        endpoint.on_peer_lost.append(lambda peer, loss, _: self.lost.append((peer, loss)))

    def ask(self, reason: str = "1", timeout_ns: int = 5 * SECOND, peer: NodeId = BOB) -> int:
        message = HeraldClose(link_id=LinkId("l"), window_id=WindowId("w"), reason=reason)
        return self.endpoint.ask(peer, message, self.endpoint.now_ns + timeout_ns, self.answers.append)

    @property
    def codes(self) -> list[ErrorCode]:
        return [answer.code for answer in self.answers if isinstance(answer, RequestError)]


def pair(wire: Wire, *, epoch: int = 1, patient: bool = False) -> tuple[Client, Service]:
    settings = SessionSettings(liveness_ns=60 * SECOND) if patient else None
    return Client(wire.join(ALICE, epoch)), Service(wire.join(BOB, settings=settings))


def lose_first(kind: type[Message], times: int = 1) -> Fault:
    left = [times]

    def fault(_: NodeId, message: Message) -> list[int]:
        if isinstance(message, kind) and left[0] > 0:
            left[0] -= 1
            return []
        return [MS]

    return fault
