"""The backend `sim`: a node's hardware in a simulated world, which is a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from bellwire.backends.interface import BackendContext, BackendSinkCapable, NodeBackend
from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.errors import BackendError, ConfigError, TransportError
from bellwire.protocols.hardware_clock import ClockClaim
from bellwire.protocols.ids import Epoch, NodeId
from bellwire.protocols.messages import ClockState, Role
from bellwire.protocols.node import Batch
from bellwire.protocols.session import SessionSettings
from bellwire.sim.clocks import ClockInfo, SimulatedClock
from bellwire.sim.messages import WORLD, WORLD_CODEC
from bellwire.sim.reach import Completed, Connected, WorldReach
from bellwire.sim.topology import LinkInfo
from bellwire.transport.clock import host_clock, local_time_ns, monotonic_ns
from bellwire.transport.connection import Connection
from bellwire.transport.driver import Driver
from bellwire.transport.keys import KeyPair, load_public, load_secret

OPTIONS: Final = ("endpoint", "server_key", *SessionSettings.__dataclass_fields__)


class SimBackend(NodeBackend):
    """Reaches a world at `endpoint`, as an agent or a station."""

    def __init__(
        self,
        *,
        role: Role,
        epoch: Epoch,
        endpoint: str,
        keys: KeyPair,
        server_key: bytes,
        world: NodeId = WORLD,
        settings: SessionSettings | None = None,
        clock: Callable[[], int] = local_time_ns,
    ) -> None:
        self.links: tuple[LinkInfo, ...] = ()
        """What the world told of the node's links, since it was connected."""
        self._endpoint = Endpoint(keys.name, role, epoch, codec=WORLD_CODEC, settings=settings)
        self._reach = WorldReach(self._endpoint, world)
        self._address = endpoint
        self._keys = keys
        self._server_key = server_key
        self._clock = clock
        self._sink: BackendSinkCapable | None = None
        self._driver: Driver | None = None
        self._connection: Connection | None = None
        self._next_claim: asyncio.TimerHandle | None = None

    async def connect(self, sink: BackendSinkCapable) -> None:
        """Begin to reach for the world, and never stop: it may start later, and may be restarted.

        Raises:
            BackendError: when the endpoint is none.
        """
        self._sink = sink
        connection = Connection(
            self._address, self._keys, self._server_key, self._deliver, drained=self._drained, report=self._turned_away
        )
        self._driver = Driver(self._reach, connection.send, self._clock, self._report)
        self._connection = connection
        try:
            connection.start()
        except TransportError as error:
            await self.close()
            raise BackendError(str(error)) from None
        self._driver.stimulate(self._reach.start)
        self._driver.poke()

    def submit(self, batch: Batch) -> None:
        """Send a batch to the world. Its answer comes later, or the loss of the world."""
        if self._driver is not None:
            self._driver.stimulate(lambda now_ns: self._reach.submit(batch, now_ns))

    async def close(self) -> None:
        """Say goodbye to the world, which frees every qubit of the node."""
        self._sink = None
        self._end_clock()
        if self._driver is not None:
            self._driver.stimulate(self._reach.close)
            self._driver.poke()
            self._driver.close()
        if self._connection is not None:
            await self._connection.close()

    async def broken(self) -> None:
        """Wait for an error of the backend's own making."""
        if self._driver is None:
            raise BackendError("the simulated backend was not connected")
        await asyncio.shield(self._driver.failed)

    def _deliver(self, peer: NodeId, data: bytes) -> None:
        if self._driver is not None:
            self._driver.deliver(peer, data)

    def _drained(self) -> None:
        if self._driver is not None:
            self._driver.poke()

    def _turned_away(self, why: str) -> None:
        if self._driver is not None:
            self._driver.stimulate(lambda now_ns: self._reach.turned_away(why, now_ns))

    def _report(self) -> None:
        for event in self._reach.take_events():
            sink = self._sink
            if sink is None:
                return
            if isinstance(event, Completed):
                sink.completed(event.number, event.completions)
            elif isinstance(event, Connected):
                self.links = event.links
                sink.connected(event.qubits)
                self._begin_clock(event.clock)
            else:
                self._end_clock()
                sink.lost(event.why)

    # Its own clock.

    def _begin_clock(self, info: ClockInfo | None) -> None:
        self._end_clock()
        sink = self._sink
        if info is None or sink is None:
            return
        if info.host == host_clock().host:
            self._claim(SimulatedClock(info))
        else:  # on another host nothing here could read what the world's shows
            sink.claimed(ClockClaim(state=ClockState.FREERUN, local_ns=self._clock()))

    def _end_clock(self) -> None:
        if self._next_claim is not None:
            self._next_claim.cancel()
            self._next_claim = None

    def _claim(self, clock: SimulatedClock) -> None:
        """Read the host's clock between two looks at the own one."""
        info, sink = clock.info, self._sink
        if sink is None:
            return
        before_ns, host_ns, after_ns = self._clock(), monotonic_ns(), self._clock()
        sink.claimed(
            clock.claim(
                local_ns=(before_ns + after_ns) // 2,
                network_ns=host_ns + info.host_offset_ns,
                reading_ns=(after_ns - before_ns + 1) // 2,
            )
        )
        loop = asyncio.get_running_loop()
        self._next_claim = loop.call_later(info.interval_ns / 1e9, self._claim, clock)


def create_backend(context: BackendContext) -> NodeBackend:
    """Make a simulated backend.

    Its options are `endpoint` (of the world), `server_key` (path of the world's public key), and, where they are to differ,
    the times of the session: `heartbeat_ns`, `liveness_ns`, `retry_ns`, `retry_limit_ns`.

    Raises:
        ConfigError: when an option is missing, unknown or of the wrong type, or a key cannot be read.
    """
    place = f"backend sim of {context.node}"
    options = dict(context.options)
    for name in options:
        if name not in OPTIONS:
            raise ConfigError(f"{place}: unknown option {name!r}, it takes {', '.join(OPTIONS)}")
    endpoint = _option(options, "endpoint", str, place)
    server_key = load_public(context.directory / _option(options, "server_key", str, place))
    if server_key.role is not Role.WORLD:
        raise ConfigError(f"{place}: option server_key: is the key of a {server_key.role}, expected a world's")
    if context.secret_key is None:
        raise ConfigError(f"{place}: a secret key is needed to reach the world")
    keys = load_secret(context.secret_key)
    if keys.name != context.node:
        raise ConfigError(f"{place}: {context.secret_key} is the key of {keys.name}")
    times = {
        name: _option(options, name, int, place) for name in SessionSettings.__dataclass_fields__ if name in options
    }
    try:
        settings = SessionSettings(**times)
    except ValueError as error:
        raise ConfigError(f"{place}: {error}") from None
    return SimBackend(
        role=context.role,
        epoch=context.epoch,
        endpoint=endpoint,
        keys=keys,
        server_key=server_key.public,
        world=server_key.name,
        settings=settings,
    )


def _option(options: dict[str, Any], name: str, kind: type[Any], place: str) -> Any:
    value = options.get(name)
    if value is None:
        raise ConfigError(f"{place}: missing option {name!r}")
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ConfigError(f"{place}: option {name}: expected {kind.__name__}, got {value!r}")
    return value
