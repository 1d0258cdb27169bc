"""Daemons over loopback sockets with CURVE, all in the test's own process, and what the tests do to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from bellwire.protocols.codec import Codec
from bellwire.protocols.endpoint import Answer, Endpoint
from bellwire.protocols.errors import RequestError
from bellwire.protocols.hardware_clock import ClockClaim
from bellwire.protocols.ids import LinkId, NodeId, QubitName
from bellwire.protocols.instructions import AnyCompletion, AnyInstruction
from bellwire.protocols.messages import Reply, Request, Role
from bellwire.protocols.node import Batch, QubitKind
from bellwire.protocols.session import Loss, SessionSettings
from bellwire.sim.backend import SimBackend
from bellwire.sim.daemon import WorldDaemon
from bellwire.sim.messages import WORLD, WORLD_CODEC
from bellwire.sim.preset import Preset, load_preset
from bellwire.sim.topology import WorldLink, WorldNode
from bellwire.sim.world import World
from bellwire.transport.clock import local_time_ns, new_epoch
from bellwire.transport.connection import Connection
from bellwire.transport.driver import Driver
from bellwire.transport.keys import AuthorizedKeys, KeyPair, PublicKey, generate, load_public, load_secret

ALICE, BOB, STATION = NodeId("alice"), NodeId("bob"), NodeId("station")
LINK = LinkId("link")
QUBITS = {
    QubitName("c0"): QubitKind.COMMUNICATION,
    QubitName("s0"): QubitKind.STORAGE,
    QubitName("r0"): QubitKind.REFERENCE,
}
C0, S0, R0 = QUBITS

QUICK = SessionSettings(
    heartbeat_ns=100_000_000, liveness_ns=700_000_000, retry_ns=50_000_000, retry_limit_ns=200_000_000
)
"""A session that notices silence soon."""

WAIT_S = 20.0
SECOND_NS = 1_000_000_000

R = TypeVar("R", bound=Reply)


class KeyRing:
    """Keys in a directory of the test, made when they are asked for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def make(self, name: NodeId, role: Role) -> KeyPair:
        path = self.directory / f"{name}.key_secret"
        return load_secret(path if path.exists() else generate(self.directory, name, role))

    def public(self, name: NodeId) -> PublicKey:
        return load_public(self.directory / f"{name}.key")

    def authorized(self) -> AuthorizedKeys:
        return AuthorizedKeys(self.directory)


class Losses:
    """The peers that an endpoint has lost, as they are lost."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.seen: asyncio.Queue[tuple[NodeId, Loss]] = asyncio.Queue()
        endpoint.on_peer_lost.append(lambda peer, loss, _: self.seen.put_nowait((peer, loss)))

    async def next(self) -> tuple[NodeId, Loss]:
        async with asyncio.timeout(WAIT_S):
            return await self.seen.get()


class Application:
    """A bare endpoint over a socket: the requests of an application or an observer as awaitables."""

    def __init__(
        self,
        keys: KeyPair,
        address: str,
        server: PublicKey,
        *,
        role: Role | None = None,
        codec: Codec | None = None,
    ) -> None:
        self.endpoint = Endpoint(keys.name, role or keys.role, new_epoch(), codec=codec, settings=QUICK)
        self.connection = Connection(address, keys, server.public, self._deliver)
        self.driver = Driver(self.endpoint, self.connection.send)
        self._server = server.name
        self._received: dict[type[Request], asyncio.Queue[tuple[NodeId, Any]]] = {}
        self._joined = asyncio.Event()
        self.endpoint.on_peer_up.append(lambda _: self._joined.set())

    async def joined(self) -> None:
        """Wait until the session with the server has been opened."""
        async with asyncio.timeout(WAIT_S):
            await self._joined.wait()

    async def __aenter__(self) -> Application:
        self.connection.start()
        self.driver.stimulate(self._greet)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.driver.stimulate(lambda _: self.endpoint.close())
        self.driver.poke()
        self.driver.close()
        await self.connection.close()
        if self.driver.failed.done():
            self.driver.failed.result()

    def _greet(self, now_ns: int) -> None:
        self.endpoint.begin(now_ns)
        self.endpoint.keep_session(self._server)

    def _deliver(self, peer: NodeId, data: bytes) -> None:
        self.driver.deliver(peer, data)

    def take(self, message: type[Request], reply: Callable[[], Reply]) -> None:
        """Take a kind of request, and answer every one."""
        queue: asyncio.Queue[tuple[NodeId, Any]] = asyncio.Queue()
        self._received[message] = queue

        def taken(peer: NodeId, request: Any) -> Reply:
            queue.put_nowait((peer, request))
            return reply()

        self.endpoint.handle(message, taken)

    async def received(self, message: type[Request]) -> tuple[NodeId, Any]:
        """Wait for the next request of a kind that is taken."""
        async with asyncio.timeout(WAIT_S):
            return await self._received[message].get()

    async def ask(self, peer: NodeId, request: Request, expected: type[R]) -> R:
        """Send a request and wait for its answer.

        Raises:
            RequestError: when it is refused.
        """
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def asked(now_ns: int) -> None:
            self.endpoint.begin(now_ns)
            self.endpoint.ask(peer, request, now_ns + int(WAIT_S) * SECOND_NS, future.set_result)

        self.driver.stimulate(asked)
        answer = await future
        if isinstance(answer, RequestError):
            raise answer
        assert isinstance(answer, expected)
        return answer


class BackendUser:
    """Uses a backend as an agent does, and remembers what it reports apart from answers."""

    def __init__(self, backend: SimBackend) -> None:
        self.backend = backend
        self.events: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self._answers: dict[int, asyncio.Future[tuple[AnyCompletion, ...]]] = {}

    def connected(self, qubits: Iterable[tuple[QubitName, QubitKind]]) -> None:
        self.events.put_nowait(("connected", dict(qubits)))

    def completed(self, number: int, completions: tuple[AnyCompletion, ...]) -> None:
        self._answers[number].set_result(completions)

    def claimed(self, claim: ClockClaim) -> None:
        self.events.put_nowait(("claimed", claim))

    def lost(self, why: str) -> None:
        self.events.put_nowait(("lost", why))

    async def next(self) -> tuple[str, Any]:
        async with asyncio.timeout(WAIT_S):
            return await self.events.get()

    def submit(self, *instructions: AnyInstruction) -> asyncio.Future[tuple[AnyCompletion, ...]]:
        """Submit a batch; the answer comes with the future."""
        number = len(self._answers) + 1
        future: asyncio.Future[tuple[AnyCompletion, ...]] = asyncio.get_running_loop().create_future()
        self._answers[number] = future
        self.backend.submit(Batch(number=number, instructions=instructions))
        return future

    async def run(self, *instructions: AnyInstruction) -> tuple[AnyCompletion, ...]:
        async with asyncio.timeout(WAIT_S):
            return await self.submit(*instructions)


class WorldLab:
    """A world daemon with nodes around it: ideal physics, Alice and Bob with a station between them."""

    def __init__(self, directory: Path, preset: Preset | None = None) -> None:
        self.preset = preset or load_preset("ideal")
        self.keys = KeyRing(directory / "keys")
        for name, role in ((ALICE, Role.AGENT), (BOB, Role.AGENT), (STATION, Role.STATION), (WORLD, Role.WORLD)):
            self.keys.make(name, role)
        self.daemon: WorldDaemon
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> WorldLab:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()
        await self.daemon.close()
        if self.daemon.driver.failed.done():
            self.daemon.driver.failed.result()

    @property
    def world(self) -> World:
        return self.daemon.server.world

    async def open(self, bind: str = "tcp://127.0.0.1:*") -> None:
        """Start a world daemon, a later incarnation of the one before it."""
        world = World(
            preset=self.preset,
            nodes=[WorldNode(node=node, model="ideal", qubits=QUBITS) for node in (ALICE, BOB)],
            links=[WorldLink(link_id=LINK, ends=(ALICE, BOB), station=STATION, model="ideal")],
            seed=7,
            start_ns=local_time_ns(),
        )
        keys = self.keys.make(WORLD, Role.WORLD)
        self.daemon = WorldDaemon(world, bind=bind, keys=keys, authorized=self.keys.authorized(), settings=QUICK)
        await self.daemon.start()

    async def restart(self) -> None:
        """Kill the daemon without a goodbye, and start another at the same address."""
        address = self.daemon.endpoint
        self.daemon.driver.close()
        await self.daemon.hub.close()
        await self.open(address)

    def backend(self, name: NodeId, role: Role = Role.AGENT) -> SimBackend:
        """Make a node's backend."""
        return SimBackend(
            role=role,
            epoch=new_epoch(),
            endpoint=self.daemon.endpoint,
            keys=self.keys.make(name, role),
            server_key=self.keys.public(WORLD).public,
            settings=QUICK,
        )

    async def user(self, name: NodeId, role: Role = Role.AGENT) -> BackendUser:
        """Connect a node's backend, and wait until it is connected."""
        user = BackendUser(self.backend(name, role))
        await user.backend.connect(user)
        self._stack.push_async_callback(user.backend.close)
        kind, _ = await user.next()
        assert kind == "connected"
        return user

    async def observer(self, name: str = "oracle", role: Role = Role.OBSERVER, says: Role | None = None) -> Application:
        """Join the world as an observer; `says` is the role of its hello."""
        keys = self.keys.make(NodeId(name), role)
        application = Application(keys, self.daemon.endpoint, self.keys.public(WORLD), role=says, codec=WORLD_CODEC)
        return await self._stack.enter_async_context(application)


async def kill(backend: SimBackend) -> None:
    """Take a backend's connection down without a word, as the end of its process would."""
    driver, connection = backend._driver, backend._connection
    assert driver is not None
    assert connection is not None
    driver.close()
    await connection.close()


def bits(completions: Sequence[AnyCompletion]) -> list[int]:
    """The measured bits among completions."""
    return [bit for bit in (getattr(completion, "bit", None) for completion in completions) if bit is not None]
