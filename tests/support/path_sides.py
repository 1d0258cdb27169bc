"""One participant with its paths and nothing else, for tests of paths: what is above says what a test tells it to."""

from __future__ import annotations

from bellwire.protocols.codec import CODEC
from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.ids import BROKER, Epoch, NodeId
from bellwire.protocols.messages import FencePart, Role, SessionFence, SessionIntroduction
from bellwire.protocols.path import Path, PathSettings
from bellwire.protocols.paths import HELD, Paths

ALICE, BOB = NodeId("alice"), NodeId("bob")
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
        connects: bool = True,
    ) -> None:
        self.upper = Upper()
        self.endpoint = Endpoint(node, Role.AGENT, EPOCHS[node])
        self.endpoint.endpoints = endpoints
        self.endpoint.begin(0)
        self.relays = relays
        self.endpoint.is_up = lambda peer: peer == BROKER and self.relays  # type: ignore[method-assign]
        self.paths = Paths(self.upper, self.endpoint, settings, connects=connects)
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
