"""A node's daemon: its brain between the broker and its backend. It decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final, Protocol

from bellwire.backends.interface import NodeBackend
from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.errors import BackendError, ConfigError, TransportError
from bellwire.protocols.hardware_clock import ClockClaim
from bellwire.protocols.ids import BROKER, NodeId, QubitName
from bellwire.protocols.instructions import AnyCompletion
from bellwire.protocols.node import Node, QubitKind
from bellwire.protocols.path import DirectSettings
from bellwire.protocols.paths import Paths, serve_status
from bellwire.protocols.time_hub import TimePart
from bellwire.transport.addresses import host_and_port
from bellwire.transport.clock import local_time_ns
from bellwire.transport.connection import Connection
from bellwire.transport.direct import Direct
from bellwire.transport.driver import Driver
from bellwire.transport.keys import KeyPair
from bellwire.transport.standby import follow_standby
from bellwire.transport.time_offer import TimeOffer, own_address
from bellwire.transport.time_socket import TimeSocket

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

BACKEND_CLOSE_S: Final = 0.5
"""How long a backend may take to close. A daemon ends within a second."""


class BrainCapable(Protocol):
    """What a node's daemon drives: an agent's brain or a station's."""

    endpoint: Endpoint
    node: Node
    time: TimePart

    def start(self, now_ns: int) -> None:
        """Begin: greet the broker."""


class NodeDaemon:
    """Drives a brain over one connection to the broker and one backend.

    To be made, started and closed within one running loop. `report` is told in one line what a person may want to know.
    It is ready while its broker and its backend are there and it knows the network's time; `on_ready` is told whenever that
    changes.
    """

    def __init__(
        self,
        brain: BrainCapable,
        backend: NodeBackend,
        *,
        broker_endpoint: str | Sequence[str],
        broker_key: bytes | None,
        keys: KeyPair,
        direct: DirectSettings | None = None,
        clock: Callable[[], int] = local_time_ns,
        report: Callable[[str], None] | None = None,
        on_ready: Callable[[bool], None] | None = None,
        spin_ns: int = 0,
    ) -> None:
        self.brain = brain
        self.node = brain.node
        self.backend = backend
        self._broker_endpoint = broker_endpoint
        self._broker_key = broker_key
        self._keys = keys
        self._direct_settings = direct
        self._direct: Direct | None = None
        self._clock = clock
        self._report = report
        self._on_ready = on_ready
        self._spin_ns = spin_ns
        self._broker_up = False
        self._ready = asyncio.Event()
        self._closing = asyncio.Event()
        self._driver: Driver | None = None
        self._connection: Connection | None = None
        self._time_socket: TimeSocket | None = None
        self._time_offer: TimeOffer | None = None
        brain.endpoint.on_peer_up.append(lambda peer: self._note_broker(peer, True))
        brain.endpoint.on_peer_lost.append(lambda peer, *_: self._note_broker(peer, False))
        if brain.time.node is not None:
            brain.time.node.on_state.append(self._note_time)

    # Life.

    async def start(self) -> None:
        """Connect to the backend and the broker. Both may come up later than this.

        Raises:
            BackendError: when the backend can never work.
            TransportError: when the broker's endpoint is none.
        """
        connection = Connection(
            self._broker_endpoint,
            self._keys,
            self._broker_key,
            self._deliver,
            drained=self._drained,
            report=self._report,
        )
        connection.on_changed.append(self._note_connection)
        self._connection = connection
        self._driver = self._make_driver(connection)
        follow_standby(connection, self.brain.endpoint, self._driver, BROKER, self._open_time_socket)
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._disconnect)
            if self._direct is not None:
                await self._direct.start(connection.endpoint)
            connection.start()
            self._open_time_socket(connection.endpoint)
            self._offer_time(connection.endpoint)
            await self.backend.connect(self)
            undo.pop_all()
        self._driver.stimulate(self.brain.start)
        self._driver.poke()

    def _make_driver(self, connection: Connection) -> Driver:
        """Drive the node over the broker's connection, and over direct ones if they are wanted."""
        endpoint, settings = self.brain.endpoint, self._direct_settings or DirectSettings()
        serve_status(endpoint)
        paths = Paths(self.node, endpoint, connects=self._direct_settings is not None)
        direct = Direct(paths, endpoint, self._keys, settings, connection.send, clock=self._clock, report=self._report)
        direct.driver = Driver(paths, direct.send, self._clock, self._hand_over)
        self._direct = direct
        return direct.driver

    @property
    def tallies(self) -> dict[str, DataclassInstance]:
        """What is counted, by whose it is."""
        tallies: dict[str, DataclassInstance] = {"endpoint": self.brain.endpoint.counters}
        if self._connection is not None:
            tallies["connection"] = self._connection.counters
        return tallies if self._direct is None else {**tallies, **self._direct.tallies}

    async def wait_ready(self) -> None:
        """Wait until the broker, the backend and the network's time are there."""
        await self._ready.wait()

    async def run(self) -> None:
        """Serve until closed.

        Raises:
            Exception: what broke the brain or the backend for good.
        """
        if self._driver is None:
            raise RuntimeError("start comes first")
        failed = self._driver.failed
        broken = asyncio.ensure_future(self.backend.broken())
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            waited: set[asyncio.Future[Any]] = {failed, broken, closing}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            for ended in (failed, broken):
                if ended.done():
                    ended.result()
        finally:
            for task in (broken, closing):
                task.cancel()
            await asyncio.gather(broken, closing, return_exceptions=True)

    async def close(self) -> None:
        """Say goodbye to everybody, give every qubit back, and stop, within a second.

        Raises:
            BackendError: when the backend did not close in time.
        """
        if self._closing.is_set():
            return
        self._closing.set()
        if self._driver is not None:
            self._driver.stimulate(self.node.close)
            self._driver.poke()
        try:
            async with asyncio.timeout(BACKEND_CLOSE_S):
                await self.backend.close()
        except TimeoutError:
            raise BackendError(f"the backend did not close within {BACKEND_CLOSE_S} s") from None
        finally:
            await self._disconnect()

    def _open_time_socket(self, endpoint: str) -> None:
        """Take the side path of time to the broker at `endpoint`, where there can be one."""
        node = self.brain.time.node
        if node is None:
            return
        if self._time_socket is not None:
            self._time_socket.close()
        node.uses_path = False
        self._time_socket = TimeSocket(self._time_datagram, self._clock)
        try:
            self._time_socket.reach(host_and_port(endpoint)[0])
        except (ConfigError, TransportError) as error:
            self._tell(f"time goes by way of the session alone: {error}")
            return
        node.uses_path = True

    def _offer_time(self, endpoint: str) -> None:
        """A source of time offers the side path too, at the address from which it reaches the broker."""
        hub = self.brain.time.hub
        if hub is None:
            return
        offer = self._time_offer = TimeOffer(hub, self._clock, self._stimulate)
        try:
            offer.listen(own_address(*host_and_port(endpoint)), 0, tell_host=True)
        except (ConfigError, TransportError) as error:
            self._tell(f"time is given by way of the sessions alone: {error}")

    def _time_datagram(self, data: bytes, _address: object, arrived_ns: int) -> None:
        node = self.brain.time.node
        if node is not None:
            self._stimulate(lambda now_ns: node.receive_datagram(data, arrived_ns, now_ns))

    async def _disconnect(self) -> None:
        if self._time_socket is not None:
            self._time_socket.close()
        if self._time_offer is not None:
            self._time_offer.close()
        if self._driver is not None:
            self._driver.close()
        await asyncio.gather(*(each.close() for each in (self._connection, self._direct) if each is not None))

    # What the backend reports: NodeDaemon is its sink.

    def connected(self, qubits: Iterable[tuple[QubitName, QubitKind]]) -> None:
        """The hardware is there, with these qubits, all free."""
        listed = tuple(qubits)
        self._stimulate(lambda now_ns: self.node.backend_connected(listed, now_ns))
        self._look_ready()
        self._tell(f"the backend of {self.brain.endpoint.node} is connected, with {len(listed)} qubits")

    def completed(self, number: int, completions: tuple[AnyCompletion, ...]) -> None:
        """A batch was answered. What it sets off leaves at once: others wait for it."""
        if self._driver is not None:
            self._driver.feed(lambda now_ns: self.node.complete(number, completions, now_ns))
            self._driver.poke()

    def claimed(self, claim: ClockClaim) -> None:
        """The hardware's own clock says what the time is."""
        self._stimulate(lambda now_ns: self.node.claimed(claim, now_ns))

    def lost(self, why: str) -> None:
        """The hardware is gone."""
        self._stimulate(lambda now_ns: self.node.backend_lost(why, now_ns))
        self._look_ready()
        self._tell(f"the backend of {self.brain.endpoint.node} is lost: {why}")

    # Within.

    def _deliver(self, peer: NodeId, data: bytes) -> None:
        if self._driver is not None:
            self._driver.deliver(peer, data)

    def _drained(self) -> None:
        if self._driver is not None:
            self._driver.poke()

    def _stimulate(self, stimulus: Callable[[int], None]) -> None:
        if self._driver is not None:
            self._driver.stimulate(stimulus)

    def _hand_over(self) -> None:
        if self._direct is not None:
            self._direct.carry()
        if self._time_socket is not None and self.brain.time.node is not None:
            self._time_socket.send(self.brain.time.node.take_datagrams())
        if self._time_offer is not None:
            self._time_offer.send()
        for batch in self.node.take_batches():
            self.backend.submit(batch)

    def _tell(self, text: str) -> None:
        if self._report is not None:
            self._report(text)

    def _note_connection(self, stands: bool) -> None:
        if stands and self._direct is not None and self._connection is not None:
            self._direct.advertise(self._connection.endpoint)

    def _note_broker(self, peer: NodeId, up: bool) -> None:
        if peer == BROKER:
            self._broker_up = up
            self._look_ready()

    def _note_time(self) -> None:
        assert self.brain.time.node is not None
        self._tell(f"the clock of {self.brain.endpoint.node} is {self.brain.time.node.machine.state}")
        self._look_ready()

    def _look_ready(self) -> None:
        ready = self._broker_up and self.node.backend_up and self.brain.endpoint.has_time
        if ready == self._ready.is_set():
            return
        if ready:
            self._ready.set()
        else:
            self._ready.clear()
        if self._on_ready is not None:
            self._on_ready(ready)
