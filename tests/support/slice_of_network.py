"""A whole testbed over loopback sockets in one process: broker, world, station, Alice, Bob and an application."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType

from loopback import ALICE, BOB, LINK, QUICK, STATION, WAIT_S, Application, KeyRing, WorldLab, kill

from bellwire.agent.brain import AgentBrain
from bellwire.agent.driver import BrainCapable, NodeDaemon
from bellwire.agent.station import StationBrain
from bellwire.backends.interface import NodeBackend
from bellwire.broker.daemon import BrokerConfig, BrokerDaemon
from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.ids import BROKER, NodeId
from bellwire.protocols.link_book import LinkSettings
from bellwire.protocols.messages import LinkErr, LinkExpire, LinkOk, Role, SessionAck
from bellwire.protocols.station import StationLink
from bellwire.sim.backend import SimBackend
from bellwire.transport.clock import new_epoch

APPLICATION = NodeId("lab-app")
ROLES = {ALICE: Role.AGENT, BOB: Role.AGENT, STATION: Role.STATION}


class Slice:
    """The testbed. Entering it waits until everybody has the broker, and every node its world."""

    def __init__(self, directory: Path) -> None:
        self.lab = WorldLab(directory)
        self.keys: KeyRing = self.lab.keys
        self.keys.make(BROKER, Role.BROKER)
        self.broker = self._make_broker("tcp://127.0.0.1:*")
        self.nodes: dict[NodeId, NodeDaemon] = {}
        self.application: Application
        self.running: list[asyncio.Future[None]] = []

    async def __aenter__(self) -> Slice:
        await self.lab.open()
        await self.broker.start()
        for name in ROLES:
            await self.start_node(name)
        keys = self.keys.make(APPLICATION, Role.APPLICATION)
        self.application = Application(keys, self.broker.endpoint, self.keys.public(BROKER))
        for message in (LinkOk, LinkErr, LinkExpire):
            self.application.take(message, SessionAck)
        await self.application.__aenter__()
        await self.application.joined()
        await self.ready()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.application.__aexit__(kind, error, trace)
        for node in self.nodes.values():
            await node.close()
        await self.broker.close()
        await self.lab.__aexit__(kind, error, trace)
        for running in self.running:
            await running
        if self.broker.driver.failed.done():
            self.broker.driver.failed.result()

    def agent(self, name: NodeId) -> AgentBrain:
        """The brain of an agent."""
        brain = self.nodes[name].brain
        assert isinstance(brain, AgentBrain)
        return brain

    async def ready(self) -> None:
        """Wait until every node has its broker and its backend."""
        async with asyncio.timeout(WAIT_S):
            await asyncio.gather(*(node.wait_ready() for node in self.nodes.values()))

    async def start_node(self, name: NodeId, backend: NodeBackend | None = None) -> NodeDaemon:
        """Start a node's daemon, in place of the one that was there before."""
        role = ROLES[name]
        keys = self.keys.make(name, role)
        endpoint = Endpoint(name, role, new_epoch(), settings=QUICK, clock=BROKER)
        node = NodeDaemon(
            self._brain(endpoint),
            backend or self.lab.backend(name, role),
            broker_endpoint=self.broker.endpoint,
            broker_key=self.keys.public(BROKER).public,
            keys=keys,
        )
        self.nodes[name] = node
        await node.start()
        self.running.append(asyncio.ensure_future(node.run()))
        return node

    async def kill_node(self, name: NodeId) -> None:
        """Take a node down without a word, as the end of its process would."""
        node = self.nodes[name]
        assert isinstance(node.backend, SimBackend)
        assert node._driver is not None
        assert node._connection is not None
        node._driver.close()
        await kill(node.backend)
        await node._connection.close()

    async def restart_world(self) -> None:
        """Kill the world, start another one, and wait until every node has lost the first and found the second."""
        lost: asyncio.Queue[str] = asyncio.Queue()
        for node in self.nodes.values():
            node.node.on_backend_lost.append(lost.put_nowait)
        await self.lab.restart()
        async with asyncio.timeout(WAIT_S):
            for _ in self.nodes:
                await lost.get()
        await self.ready()

    async def restart_broker(self) -> None:
        """Kill the broker without a goodbye, and start another at the same address."""
        address = self.broker.endpoint
        await self.broker.drop()
        self.broker = self._make_broker(address)
        await self.broker.start()

    def _make_broker(self, bind: str) -> BrokerDaemon:
        config = BrokerConfig(
            bind=bind,
            secret_key=self.keys.directory / "broker.key_secret",
            authorized_keys=self.keys.directory,
            session=QUICK,
        )
        return BrokerDaemon(config)

    @staticmethod
    def _brain(endpoint: Endpoint) -> BrainCapable:
        if endpoint.role is Role.STATION:
            return StationBrain(endpoint, [StationLink(link_id=LINK, primary=ALICE, secondary=BOB)])
        peer = BOB if endpoint.node == ALICE else ALICE
        settings = LinkSettings(link_id=LINK, peer=peer, station=STATION, primary=endpoint.node == ALICE, scheme="any")
        return AgentBrain(endpoint, [settings], application_timeout_ns=1_000_000_000, draw=lambda: 0.0)
