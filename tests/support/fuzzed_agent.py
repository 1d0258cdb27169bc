"""One agent without sockets, that is fed single frames from anybody and has to go on."""

from __future__ import annotations

from random import Random
from typing import Final

from fuzzing import Mutator
from scene import ALICE, BOB, HUB, LINK

from bellwire.agent.brain import AgentBrain
from bellwire.protocols.codec import CODEC
from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.ids import BROKER, Epoch, NodeId, QubitName
from bellwire.protocols.instructions import AnyCompletion, AnyInstruction, Arm, Done, Measure, Measured, WindowEnded
from bellwire.protocols.limits import MAX_ANSWERED_REQUESTS, MAX_LINK_REQUESTS, MAX_PENDING_REQUESTS
from bellwire.protocols.link_book import LinkSettings
from bellwire.protocols.messages import Role, SessionHello, TimeReport, TimeStatus
from bellwire.protocols.node import QubitKind
from bellwire.sim.virtual import SECOND_NS

EPOCH: Final = Epoch(1)
APP, PROBE = NodeId("app"), NodeId("probe")
PEERS: Final = ((BOB, Role.AGENT), (HUB, Role.STATION), (APP, Role.APPLICATION), (BROKER, Role.BROKER))
STEP_NS: Final = 1_000_000
QUBITS: Final = [(QubitName("c0"), QubitKind.COMMUNICATION), (QubitName("s0"), QubitKind.STORAGE)]


class FuzzedAgent:
    """Alice, the secondary end of a link. Her hardware does what it is told."""

    def __init__(self) -> None:
        self.now_ns = SECOND_NS
        self._number = 1
        settings = LinkSettings(link_id=LINK, peer=BOB, station=HUB, primary=False, scheme="any")
        self.brain = AgentBrain(
            Endpoint(ALICE, Role.AGENT, EPOCH), [settings], application_timeout_ns=SECOND_NS, draw=Random(1).random
        )
        self.brain.node.backend_connected(QUBITS, self.now_ns)
        self._stamp = Mutator(0).stamp
        for peer, role in (*PEERS, (PROBE, Role.APPLICATION)):
            self._greet(peer, role)

    def feed(self, data: bytes) -> None:
        """Feed one frame: its first octet says who sends it, and whether it bears the epochs of the session.

        Raises:
            AssertionError: when a valid request is not answered after it, or a table is longer than its limit.
        """
        first, frame = data[:1], data[1:]
        peer, role = PEERS[(first or b"\0")[0] % len(PEERS)]
        if first and first[0] < 192:
            frame = self._stamp(frame, epoch=EPOCH, peer_epoch=EPOCH)
        self.now_ns += STEP_NS
        node = self.brain.node
        node.receive(peer, frame, self.now_ns)
        node.handle_deadline(self.now_ns)
        for batch in node.take_batches():
            node.complete(batch.number, tuple(map(_complete, batch.instructions)), self.now_ns)
        node.take_frames()
        self._probe()
        if not self.brain.endpoint.is_up(peer):
            self._greet(peer, role)

    def _greet(self, peer: NodeId, role: Role) -> None:
        self._number += 1
        hello = SessionHello(epoch=EPOCH, request_id=self._number, versions=(1,), role=role, heartbeat_ns=SECOND_NS)
        self.brain.node.receive(peer, CODEC.encode(hello), self.now_ns)
        self.brain.node.take_frames()

    def _probe(self) -> None:
        self._number += 1
        asked = TimeStatus(epoch=EPOCH, peer_epoch=EPOCH, request_id=self._number)
        self.brain.node.receive(PROBE, CODEC.encode(asked), self.now_ns)
        told = [CODEC.decode(data) for peer, data in self.brain.node.take_frames() if peer == PROBE]
        assert any(isinstance(message, TimeReport) and message.request_id == self._number for message in told), told
        endpoint, book = self.brain.endpoint, self.brain.links[LINK].book
        assert len(endpoint.asks) <= MAX_PENDING_REQUESTS
        assert len(book.requests) <= MAX_LINK_REQUESTS
        for session in endpoint.sessions.values():
            assert len(session.owed) + len(session.answered) <= MAX_ANSWERED_REQUESTS


def _complete(instruction: AnyInstruction) -> AnyCompletion:
    if isinstance(instruction, Arm):
        return WindowEnded(window_id=instruction.window_id, attempts=1)
    return Measured(bit=0) if isinstance(instruction, Measure) else Done()
