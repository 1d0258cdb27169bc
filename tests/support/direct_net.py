"""Participants with direct connections around one broker, over loopback sockets, and a proxy that can be taken away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bellwire.broker.daemon import BrokerConfig, BrokerDaemon
from bellwire.protocols.access import ACCESS, EVERYBODY, Access
from bellwire.protocols.codec import Codec
from bellwire.protocols.endpoint import Answer, Endpoint
from bellwire.protocols.ids import BROKER, GateId, NodeId
from bellwire.protocols.messages import GateDone, GateOutcome, Role
from bellwire.protocols.path import DirectSettings, PathSettings
from bellwire.protocols.paths import Paths
from bellwire.protocols.session import Loss, SessionSettings
from bellwire.transport.clock import local_time_ns, new_epoch
from bellwire.transport.connection import Connection
from bellwire.transport.direct import Direct
from bellwire.transport.driver import Driver
from bellwire.transport.keys import generate, load_public, load_secret
from bellwire.transport.members import HubLimits

MS = 1_000_000
LIMITS = HubLimits(rate=10_000_000)
"""Tests send as fast as they can, and count what arrives."""

OPEN = Codec(access={**ACCESS, GateOutcome: Access(EVERYBODY, EVERYBODY), GateDone: Access(EVERYBODY, EVERYBODY)})
"""What these tests number, participants of every role may ask and answer."""

SETTINGS = SessionSettings(heartbeat_ns=100 * MS, liveness_ns=1_500 * MS, retry_ns=50 * MS, retry_limit_ns=200 * MS)
PATHS = PathSettings(dial_ns=500 * MS, redial_ns=20 * MS, redial_limit_ns=100 * MS, patience_ns=300 * MS)
LOOPBACK = "tcp://127.0.0.1:0"
PATIENCE_S = 20


class Numbered:
    """An endpoint, and beside its messages numbered frames that it does not see."""

    MARK = b"\xc1#"

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.heard: list[int] = []
        self.on_heard = asyncio.Event()
        self._said: list[tuple[NodeId, bytes]] = []

    def say(self, peer: NodeId, number: int) -> None:
        self._said.append((peer, self.MARK + str(number).encode()))

    def receive(self, peer: NodeId, data: bytes, now_ns: int) -> None:
        if data.startswith(self.MARK):
            self.heard.append(int(data[len(self.MARK) :]))
            self.on_heard.set()
        else:
            self.endpoint.receive(peer, data, now_ns)

    def next_deadline_ns(self) -> int | None:
        return self.endpoint.next_deadline_ns()

    def handle_deadline(self, now_ns: int) -> None:
        self.endpoint.handle_deadline(now_ns)

    def take_frames(self) -> list[tuple[NodeId, bytes]]:
        said, self._said = self._said, []
        return self.endpoint.take_frames() + said


class Peer:
    """A participant: what a daemon has, without a node."""

    def __init__(
        self, keys: Path, name: NodeId, address: str, direct: DirectSettings | None, role: Role | None
    ) -> None:
        pair = load_secret(keys / f"{name}.key_secret")
        self.core = Endpoint(name, role or pair.role, new_epoch(), settings=SETTINGS, codec=OPEN)
        self.core.handle(GateOutcome, lambda _, message: GateDone(gate_id=message.gate_id))
        self.losses: list[tuple[NodeId, Loss]] = []
        self.core.on_peer_lost.append(lambda peer, loss, _: self.losses.append((peer, loss)))
        self.numbered = Numbered(self.core)
        self.paths = Paths(self.numbered, self.core, PATHS, connects=direct is not None)
        self._changed = asyncio.Event()
        self.paths.on_changed.append(lambda *_: self._changed.set())
        self.core.on_peer_up.append(lambda _: self._changed.set())
        self.core.on_peer_lost.append(lambda *_: self._changed.set())
        broker = load_public(keys / "broker.key").public
        self.connection = Connection(address, pair, broker, self._deliver, drained=self._drained)
        self.direct = Direct(self.paths, self.core, pair, direct or DirectSettings(), self.connection.send)
        self.driver = self.direct.driver = Driver(self.paths, self.direct.send, after=self.direct.carry)
        self._address = address

    async def start(self, *, direct: bool) -> None:
        if direct:
            await self.direct.start(self._address)
        self.connection.start()
        self.stimulate(lambda: self.core.keep_session(BROKER))
        await self.until(lambda: self.core.is_up(BROKER))

    def stimulate(self, call: Callable[[], object]) -> None:
        def stimulus(now_ns: int) -> None:
            self.core.begin(now_ns)
            call()

        self.driver.stimulate(stimulus)

    async def until(self, done: Callable[[], bool]) -> None:
        """Wait until it is so after a change of sessions or paths."""
        async with asyncio.timeout(PATIENCE_S):
            while not done():
                self._changed.clear()
                await self._changed.wait()

    async def directly(self, peer: NodeId, wanted: bool = True) -> None:
        await self.until(lambda: self.paths.is_direct(peer) is wanted)

    async def ask(self, peer: NodeId, gate: str = "g") -> Answer:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        request = GateOutcome(gate_id=GateId(gate), bits=(0,))
        deadline_ns = local_time_ns() + PATIENCE_S * 1_000 * MS
        self.stimulate(lambda: self.core.ask(peer, request, deadline_ns, future.set_result))
        return await asyncio.wait_for(future, PATIENCE_S)

    async def heard(self, count: int) -> None:
        """Wait until so many numbered frames have come."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.numbered.heard) < count:
                self.numbered.on_heard.clear()
                await self.numbered.on_heard.wait()

    async def close(self) -> None:
        self.stimulate(self.core.close)
        self.driver.poke()
        await self.kill()
        if self.driver.failed.done():
            self.driver.failed.result()

    async def kill(self) -> None:
        """Vanish without a word."""
        self.driver.close()
        await self.direct.close()
        await self.connection.close()

    def _deliver(self, peer: NodeId, data: bytes) -> None:
        self.driver.deliver(peer, data)

    def _drained(self) -> None:
        self.driver.poke()


class Proxy:
    """Carries bytes between a port of its own and a target, until it is cut, and again when it is mended."""

    def __init__(self) -> None:
        self.target = 0
        self.port = 0
        self.frozen = False
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def mend(self) -> None:
        """Listen, on the port that it had before if there was one."""
        self.frozen = False
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """End every connection, and take no other."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            with suppress(OSError, asyncio.CancelledError):
                theirs, ours = await asyncio.open_connection("127.0.0.1", self.target)
                self._writers.add(ours)
                await asyncio.gather(self._carry(reader, ours), self._carry(theirs, writer))
        finally:
            self._tasks.discard(task)
            for each in (writer, *self._writers):
                each.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            if not self.frozen:
                writer.write(data)
                await writer.drain()
        raise ConnectionResetError


class DirectNet:
    """A broker and the participants of one test."""

    def __init__(self, directory: Path) -> None:
        self.keys = directory / "keys"
        generate(self.keys, BROKER, Role.BROKER)
        self.address = "tcp://127.0.0.1:*"
        self.broker: BrokerDaemon
        self._open: list[Peer | Proxy] = []

    async def open(self) -> None:
        """Start a broker, at the address of the one before."""
        config = BrokerConfig(
            bind=self.address,
            secret_key=self.keys / "broker.key_secret",
            authorized_keys=self.keys,
            session=SETTINGS,
            limits=LIMITS,
        )
        self.broker = BrokerDaemon(config)
        await self.broker.start()
        self.address = self.broker.endpoint

    async def join(
        self,
        name: NodeId,
        *,
        listen: str = LOOPBACK,
        advertise: tuple[str, ...] = (),
        direct: bool = True,
        key: Role = Role.AGENT,
        says: Role | None = None,
    ) -> Peer:
        """A participant in session with the broker. `says` is the role of its hellos."""
        if not (self.keys / f"{name}.key").exists():
            generate(self.keys, name, key)
        settings = DirectSettings(listen=listen, advertise=advertise) if direct else None
        peer = Peer(self.keys, name, self.address, settings, says)
        self._open.append(peer)
        await peer.start(direct=direct)
        return peer

    async def behind_proxy(self, name: NodeId) -> tuple[Peer, Proxy]:
        """A participant that can be reached through a proxy alone."""
        proxy = Proxy()
        self._open.append(proxy)
        await proxy.mend()
        peer = await self.join(name, advertise=(f"tcp://127.0.0.1:{proxy.port}",))
        assert peer.direct._hub is not None
        proxy.target = int(peer.direct._hub.endpoint.rpartition(":")[2])
        return peer, proxy

    async def close(self) -> None:
        for each in reversed(self._open):
            await (each.cut() if isinstance(each, Proxy) else each.close())
        await self.broker.close()
