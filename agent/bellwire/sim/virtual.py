"""A whole testbed in one process and in virtual time: the brains that the daemons run, over a simulated world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from bellwire.agent.brain import AgentBrain
from bellwire.agent.station import StationBrain
from bellwire.protocols.endpoint import Answer, Endpoint
from bellwire.protocols.errors import RequestError
from bellwire.protocols.ids import BROKER, Epoch, LinkId, NodeId, QubitName
from bellwire.protocols.link_book import LinkSettings
from bellwire.protocols.messages import LinkErr, LinkExpire, LinkOk, Reply, Request, Role, SessionAck
from bellwire.protocols.node import Node, QubitKind
from bellwire.protocols.session import SessionSettings
from bellwire.protocols.station import StationLink
from bellwire.sim.preset import Preset
from bellwire.sim.topology import WorldLink, WorldNode
from bellwire.sim.world import World
from bellwire.simnet.fabric import Fabric, Rule
from bellwire.simnet.loop import Simnet

SECOND_NS = 1_000_000_000


class _WorldHardware:
    """Joins the nodes' batches to the world, without delay: the backend of virtual time."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.nodes: dict[NodeId, Node] = {}

    def next_deadline_ns(self) -> int | None:
        return self.world.next_deadline_ns()

    def handle_deadline(self, now_ns: int) -> None:
        self.world.handle_deadline(now_ns)

    def exchange(self, now_ns: int) -> bool:
        busy = False
        for name, node in self.nodes.items():
            for batch in node.take_batches():
                busy = True
                self.world.submit(name, batch.number, batch.instructions, now_ns)
        for answered in self.world.take_completions():
            busy = True
            node_of = self.nodes.get(answered.node)
            if node_of is not None:
                node_of.complete(answered.batch_id, answered.completions, now_ns)
        return busy


class VirtualApplication:
    """An application in virtual time: `call` lets time pass until the answer is there."""

    def __init__(self, testbed: VirtualTestbed, name: NodeId) -> None:
        self._testbed = testbed
        self.endpoint = Endpoint(name, Role.APPLICATION, Epoch(1), settings=testbed.session)
        self.oks: list[tuple[NodeId, LinkOk]] = []
        self.errors: list[LinkErr] = []
        self.expired: list[LinkExpire] = []
        self.endpoint.handle(LinkOk, self._ok)
        self.endpoint.handle(LinkErr, self._err)
        self.endpoint.handle(LinkExpire, self._expire)

    def _ok(self, peer: NodeId, message: LinkOk) -> Reply:
        self.oks.append((peer, message))
        return SessionAck()

    def _err(self, _: NodeId, message: LinkErr) -> Reply:
        self.errors.append(message)
        return SessionAck()

    def _expire(self, _: NodeId, message: LinkExpire) -> Reply:
        self.expired.append(message)
        return SessionAck()

    def send(self, peer: NodeId, request: Request, *, limit_ns: int = 60 * SECOND_NS) -> list[Answer]:
        """Send a request; the list that is returned holds its answer once there is one."""
        answers: list[Answer] = []
        now_ns = self._testbed.net.now_ns
        self.endpoint.begin(now_ns)
        self.endpoint.ask(peer, request, now_ns + limit_ns, answers.append)
        self._testbed.net.flush()
        return answers

    def call(self, peer: NodeId, request: Request, *, limit_ns: int = 60 * SECOND_NS) -> Reply:
        """Send a request and let time pass until it is answered.

        Raises:
            RequestError: when it is refused or fails.
            Stuck: when nothing comes.
        """
        answers = self.send(peer, request, limit_ns=limit_ns)
        self._testbed.net.run_until(lambda: bool(answers), limit_ns=2 * limit_ns)
        if isinstance(answers[0], RequestError):
            raise answers[0]
        return answers[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualNode:
    """A node of a virtual testbed: the preset's model, and how many qubits of each kind."""

    model: str = "ideal"
    communication: int = 1
    storage: int = 2
    reference: int = 0

    def qubits(self) -> dict[QubitName, QubitKind]:
        """The qubits by name: the kind and a number."""
        counts = {
            QubitKind.COMMUNICATION: self.communication,
            QubitKind.STORAGE: self.storage,
            QubitKind.REFERENCE: self.reference,
        }
        return {QubitName(f"{kind}{i}"): kind for kind, count in counts.items() for i in range(count)}


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualLink:
    """A link of a virtual testbed. The first end is primary."""

    link_id: LinkId
    ends: tuple[NodeId, NodeId]
    station: NodeId
    model: str = "ideal"
    scheme: str = "any"
    attempts: int = 1
    goodness: float = 1.0


class VirtualTestbed:
    """Agents, stations and a world in virtual time."""

    def __init__(
        self,
        *,
        preset: Preset,
        nodes: Mapping[NodeId, VirtualNode],
        links: Sequence[VirtualLink],
        seed: int,
        latency_ns: int = 100_000,
        rules: Sequence[Rule] = (),
        time_scale: float = 1.0,
    ) -> None:
        self.session = SessionSettings()
        self.net = Simnet(Fabric(Random(seed), latency_ns=latency_ns, rules=rules))
        self._nodes, self._links = dict(nodes), list(links)
        self._epochs = 0
        self.world = World(
            preset=preset,
            nodes=[WorldNode(node=n, model=v.model, qubits=v.qubits()) for n, v in nodes.items()],
            links=[WorldLink(link_id=v.link_id, ends=v.ends, station=v.station, model=v.model) for v in links],
            seed=seed,
            start_ns=self.net.now_ns,
            time_scale=time_scale,
        )
        self._hardware = _WorldHardware(self.world)
        self.net.hardware.append(self._hardware)
        self.agents: dict[NodeId, AgentBrain] = {}
        self.stations: dict[NodeId, StationBrain] = {}
        self.net.add(BROKER, Endpoint(BROKER, Role.BROKER, self._epoch(), settings=self.session))
        for station in {link.station for link in links}:
            self.start_station(station)
        for name in nodes:
            self.start_agent(name)

    def _epoch(self) -> Epoch:
        self._epochs += 1
        return Epoch(self._epochs)

    def start_station(self, name: NodeId) -> StationBrain:
        """Start a station, or start it again after `crash`."""
        endpoint = Endpoint(name, Role.STATION, self._epoch(), settings=self.session)
        served = [
            StationLink(link_id=link.link_id, primary=link.ends[0], secondary=link.ends[1])
            for link in self._links
            if link.station == name
        ]
        brain = StationBrain(endpoint, served)
        self.stations[name] = brain
        self._join(name, brain.node, {})
        brain.start(self.net.now_ns)
        self.net.add(name, brain.node)
        return brain

    def start_agent(self, name: NodeId) -> AgentBrain:
        """Start an agent, or start it again after `crash`."""
        endpoint = Endpoint(name, Role.AGENT, self._epoch(), settings=self.session)
        brain = AgentBrain(endpoint, self._settings_of(name), application_timeout_ns=5 * SECOND_NS)
        self.agents[name] = brain
        self._join(name, brain.node, self._nodes[name].qubits())
        brain.start(self.net.now_ns)
        self.net.add(name, brain.node)
        return brain

    def _settings_of(self, name: NodeId) -> list[LinkSettings]:
        return [
            LinkSettings(
                link_id=link.link_id,
                peer=link.ends[1] if link.ends[0] == name else link.ends[0],
                station=link.station,
                primary=link.ends[0] == name,
                scheme=link.scheme,
                attempts=link.attempts,
                goodness=link.goodness,
            )
            for link in self._links
            if name in link.ends
        ]

    def _join(self, name: NodeId, node: Node, qubits: Mapping[QubitName, QubitKind]) -> None:
        self.world.release_all(name, self.net.now_ns)
        self._hardware.nodes[name] = node
        node.backend_connected(qubits.items(), self.net.now_ns)

    def reconnect(self, name: NodeId) -> None:
        """Give an agent its backend back, after it was lost."""
        self._join(name, self.agents[name].node, self._nodes[name].qubits())
        self.net.flush()

    def restart_broker(self) -> None:
        """Replace the broker by a later incarnation."""
        self.net.add(BROKER, Endpoint(BROKER, Role.BROKER, self._epoch(), settings=self.session))

    def crash(self, name: NodeId) -> None:
        """End an agent or a station as `kill -9` does. Its qubits are lost when the world notices, which is at once."""
        self.net.remove(name)
        self._hardware.nodes.pop(name, None)
        self.world.release_all(name, self.net.now_ns)

    def application(self, name: str = "app") -> VirtualApplication:
        """Let an application in."""
        application = VirtualApplication(self, NodeId(name))
        self.net.add(NodeId(name), application.endpoint)
        return application
