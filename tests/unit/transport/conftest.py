"""Keys in a temporary directory, and hubs and connections that are closed whatever a test does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import zmq

from bellwire.protocols.codec import Codec
from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.ids import BROKER, Epoch, NodeId
from bellwire.protocols.messages import Message, Role, SessionError, SessionHello
from bellwire.transport.clock import local_time_ns
from bellwire.transport.connection import Connection
from bellwire.transport.driver import Driver
from bellwire.transport.hub import Hub
from bellwire.transport.keys import AuthorizedKeys, KeyPair, generate, load_secret
from bellwire.transport.members import HubLimits

ANY_PORT = "tcp://127.0.0.1:*"
PATIENCE_S = 10


class Keys:
    """Makes keys; those in `authorized` are let in by the hubs of a test."""

    def __init__(self, directory: Path) -> None:
        self.authorized = directory / "authorized"
        self._others = directory / "others"
        self.broker = self.pair("broker", Role.BROKER)

    def pair(self, name: str, role: Role = Role.AGENT, *, stranger: bool = False) -> KeyPair:
        """A new key pair."""
        return load_secret(generate(self._others if stranger else self.authorized, NodeId(name), role))

    def pair_of(self, name: str) -> KeyPair:
        """The key pair of a name, made when it has none."""
        path = self.authorized / f"{name}.key_secret"
        return load_secret(path) if path.exists() else self.pair(name)


class Client:
    """A connection without an endpoint: it says what a test wants and keeps what it hears."""

    def __init__(
        self, endpoint: str, keys: KeyPair, server: KeyPair | None, report: Callable[[str], None] | None = None
    ) -> None:
        self.name = keys.name
        self.heard: asyncio.Queue[tuple[NodeId, bytes]] = asyncio.Queue()
        self.connection = Connection(
            endpoint,
            keys,
            None if server is None else server.public,
            lambda peer, data: self.heard.put_nowait((peer, data)),
            report=report,
        )
        self.connection.start()
        self._codec = Codec()

    def say(self, peer: str, data: bytes) -> None:
        """Send bytes to a participant."""
        assert self.connection.send(NodeId(peer), data)

    def hello(self, epoch: int, peer: str = BROKER) -> None:
        """Greet the hub as incarnation `epoch`."""
        hello = SessionHello(epoch=Epoch(epoch), request_id=1, versions=(1,), role=Role.AGENT, heartbeat_ns=10**9)
        self.say(peer, self._codec.encode(hello))

    async def hear(self) -> tuple[NodeId, bytes]:
        """The next message, whatever it is, and who it is from."""
        return await asyncio.wait_for(self.heard.get(), PATIENCE_S)

    async def hear_message(self) -> Message:
        """The next message, decoded."""
        return self._codec.decode((await self.hear())[1])

    async def greet(self, epoch: int) -> Message:
        """Greet the hub and hear its answer."""
        self.hello(epoch)
        return await self.hear_message()

    async def close(self) -> None:
        """Vanish without a goodbye."""
        await self.connection.close()


class Host:
    """A relaying hub with the endpoint that its owner would give it."""

    def __init__(
        self,
        keys: Keys,
        *,
        bind: str = ANY_PORT,
        relay: bool = True,
        epoch: int = 1_000,
        limits: HubLimits | None = None,
        insecure: bool = False,
        clock: Callable[[], int] = local_time_ns,
        meet: Callable[[NodeId, NodeId], None] | None = None,
    ) -> None:
        self.delivered: list[tuple[NodeId, bytes]] = []
        self.reports: asyncio.Queue[str] = asyncio.Queue()
        self.core = Endpoint(BROKER, Role.BROKER, Epoch(epoch))
        self.hub = Hub(
            BROKER,
            bind,
            keys.broker,
            AuthorizedKeys(keys.authorized),
            self._deliver,
            relay,
            drained=self._drained,
            epoch=Epoch(epoch),
            report=self.reports.put_nowait,
            limits=limits,
            insecure=insecure,
            clock=clock,
            meet=meet,
        )
        self.hub.follow(self.core)
        self.driver = Driver(self.core, self.hub.send)

    def _deliver(self, peer: NodeId, data: bytes) -> None:
        self.delivered.append((peer, data))
        self.driver.deliver(peer, data)

    def _drained(self) -> None:
        self.driver.poke()

    async def close(self) -> None:
        """Stop."""
        self.driver.close()
        await self.hub.close()


class Inner:
    """An insecure hub within this process, and plain sockets at it."""

    def __init__(self, host: Host) -> None:
        self.host, self.hub = host, host.hub
        self.sockets: list[zmq.Socket[bytes]] = []
        self._codec = Codec()

    def join(self, name: str, *, queue: int = 1_000) -> zmq.Socket[bytes]:
        """A client that is greeted."""
        socket = self.hub._context.socket(zmq.DEALER)
        self.sockets.append(socket)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.ROUTING_ID, name.encode())
        socket.setsockopt(zmq.SNDHWM, 100_000)
        socket.setsockopt(zmq.RCVHWM, queue)
        socket.connect(self.hub.endpoint)
        hello = SessionHello(epoch=Epoch(1), request_id=1, versions=(1,), role=Role.AGENT, heartbeat_ns=10**9)
        socket.send_multipart([BROKER.encode(), self._codec.encode(hello)])
        self.take()
        assert [peer for peer, _ in self.hear(socket)] == [BROKER]
        return socket

    def take(self) -> None:
        """Let the hub take all that was sent to it."""
        while self.hub._receive(1_000):
            self.host.driver.poke()

    def hear(self, socket: zmq.Socket[bytes]) -> list[tuple[str, bytes]]:
        """What has come to a client."""
        heard = []
        while socket.poll(0):
            peer, data = socket.recv_multipart()
            heard.append((peer.decode(), data))
        return heard

    def errors(self, socket: zmq.Socket[bytes]) -> list[SessionError]:
        """The errors that have come to a client; whatever else came is dropped."""
        messages = [self._codec.decode(data) for peer, data in self.hear(socket) if peer == BROKER]
        return [message for message in messages if isinstance(message, SessionError)]

    def close(self) -> None:
        """Close the clients."""
        for socket in self.sockets:
            socket.close()


class Yard:
    """Makes hubs, clients and raw sockets, and closes them at the end of the test."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self._open: list[Host | Client] = []
        self._inner: list[Inner] = []
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []

    async def host(
        self,
        *,
        bind: str = ANY_PORT,
        relay: bool = True,
        epoch: int = 1_000,
        limits: HubLimits | None = None,
        clock: Callable[[], int] = local_time_ns,
        meet: Callable[[NodeId, NodeId], None] | None = None,
    ) -> Host:
        """A hub that listens."""
        host = Host(self.keys, bind=bind, relay=relay, epoch=epoch, limits=limits, clock=clock, meet=meet)
        self._open.append(host)
        await host.hub.start()
        return host

    async def inner(self, limits: HubLimits, clock: Callable[[], int] = local_time_ns) -> Inner:
        """A hub that is reached within this process: what is sent to it is there at once, and is taken when a test says."""
        host = Host(self.keys, bind="inproc://hub", limits=limits, insecure=True, clock=clock)
        self._open.append(host)
        await host.hub.start()
        inner = Inner(host)
        self._inner.append(inner)
        return inner

    async def insecure_host(self) -> Host:
        """A hub that asks for no keys."""
        host = Host(self.keys, insecure=True)
        self._open.append(host)
        await host.hub.start()
        return host

    def insecure_client(self, host: Host, name: str) -> Client:
        """A client of it."""
        client = Client(host.hub.endpoint, self.keys.pair_of(name), None)
        self._open.append(client)
        return client

    def client(self, host: Host, keys: KeyPair, report: Callable[[str], None] | None = None) -> Client:
        """A client that begins to connect."""
        client = Client(host.hub.endpoint, keys, self.keys.broker, report)
        self._open.append(client)
        return client

    async def greeted(self, host: Host, name: str, epoch: int = 1) -> Client:
        """A client with a new key, bound to the hub."""
        client = self.client(host, self.keys.pair(name))
        await client.greet(epoch)
        return client

    def raw(self, host: Host, keys: KeyPair, routing_id: bytes = b"") -> zmq.Socket[bytes]:
        """A plain socket, for what a `Connection` would never send."""
        socket = self._context.socket(zmq.DEALER)
        self._sockets.append(socket)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
        socket.setsockopt(zmq.CURVE_SERVERKEY, self.keys.broker.public)
        if routing_id:
            socket.setsockopt(zmq.ROUTING_ID, routing_id)
        socket.connect(host.hub.endpoint)
        return socket

    async def close(self) -> None:
        """Close everything."""
        for inner in self._inner:
            inner.close()
        for socket in self._sockets:
            socket.close()
        self._context.term()
        for each in reversed(self._open):
            await each.close()


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


@pytest.fixture
async def yard(keys: Keys) -> AsyncIterator[Yard]:
    yard = Yard(keys)
    yield yard
    await yard.close()
