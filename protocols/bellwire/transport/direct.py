"""Direct connections between participants, beside the one that each has to its broker (spec 1 §4.8). It decides nothing.

One listening socket takes connections of those whom the broker has introduced; each connection that this side makes has a
socket of its own, so that nothing that was queued for a broken one ever reaches the next.
"""

from __future__ import annotations

import asyncio
import socket as sockets
from collections.abc import Callable

import zmq

from bellwire.protocols.arrival import RELAY
from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.errors import ConfigError, TransportError
from bellwire.protocols.ids import NodeId
from bellwire.protocols.path import Dial, DirectSettings
from bellwire.protocols.paths import HELD, Paths
from bellwire.protocols.session import SessionSettings
from bellwire.transport.addresses import host_and_port
from bellwire.transport.clock import local_time_ns
from bellwire.transport.connection import Connection, ConnectionCounters
from bellwire.transport.driver import Driver
from bellwire.transport.hub import Hub
from bellwire.transport.keys import IntroducedKeys, KeyPair
from bellwire.transport.members import HubCounters
from bellwire.transport.reader import Pings

_EVERYWHERE = ("0.0.0.0", "*")


class Direct:
    """A participant's direct connections. `send` takes the frames of a driver, whichever way they have to go."""

    def __init__(
        self,
        paths: Paths,
        endpoint: Endpoint,
        keys: KeyPair,
        settings: DirectSettings,
        relay: Callable[[NodeId, bytes], bool],
        *,
        clock: Callable[[], int] = local_time_ns,
        report: Callable[[str], None] | None = None,
    ) -> None:
        """Join `paths` to sockets; `relay` sends by way of the broker. `report` is told of paths that change."""
        self.driver: Driver
        """Drives `paths`: to be set before `start`."""
        self.counters = ConnectionCounters()
        """Of the connections that this side made, together."""
        self._paths = paths
        self._endpoint = endpoint
        self._keys = keys
        self._settings = settings
        self._relay = relay
        self._clock = clock
        self._report = report
        self._pings = _pings(endpoint.settings)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._hub: Hub | None = None
        self._dialled: dict[int, Connection] = {}
        self._accepted: dict[NodeId, int] = {}
        self._departures = endpoint.departures
        self._awaited = endpoint.departures.awaited
        endpoint.departures.noted = True
        paths.on_changed.append(self._tell)
        paths.on_dropped.append(self._forget)

    async def start(self, broker: str) -> None:
        """Listen, if that is wanted, and have the broker told where. `broker` is its endpoint.

        Raises:
            TransportError: when the endpoint cannot be listened on.
        """
        if not self._settings.listen:
            return
        hub = Hub(
            self._endpoint.node,
            self._settings.listen,
            self._keys,
            IntroducedKeys(self._endpoint.introductions),
            self._heard,
            drained=self._drained,
            epoch=self._endpoint.epoch,
            pings=self._pings,
        )
        await hub.start()
        self._hub = hub
        self.advertise(broker)

    def advertise(self, broker: str) -> None:
        """Have the broker told where others connect to, as seen from where it is reached: `broker` is its endpoint.

        To be called whenever the connection to it comes to stand: this host's address may be another one by then.
        """
        if self._hub is None:
            return
        endpoints = _advertised(self._settings, self._hub.endpoint, broker)

        def offer(now_ns: int) -> None:
            self._endpoint.begin(now_ns)
            self._endpoint.introductions.offer(endpoints)

        self.driver.stimulate(offer)

    @property
    def tallies(self) -> dict[str, ConnectionCounters | HubCounters]:
        """What is counted, by whose it is."""
        return {"direct": self.counters} | ({} if self._hub is None else {"hub": self._hub.counters})

    def send(self, peer: NodeId, data: bytes) -> bool:
        """Send a message to a participant, on its path. Returns whether there was room for it."""
        paths = self._paths
        path = paths.route(peer, data)
        if paths.outbox:
            self._send_outbox()
        if path < RELAY:
            return path == HELD
        sent = self._send(path, peer, data)
        # A path that is gone has been reported: the frame goes another way, or waits for it.
        return self.send(peer, data) if sent is None else sent

    def carry(self) -> None:
        """Do what the paths say. To be called at every flush."""
        self._send_outbox()
        for instruction in self._paths.take_instructions():
            if isinstance(instruction, Dial):
                self._dial(instruction)
            else:
                self._hang_up(instruction.path)
        self._send_outbox()

    async def close(self) -> None:
        """End every connection, having tried for a moment to send what is queued."""
        for connection in self._dialled.values():
            connection.shut()
        self._dialled.clear()
        term = asyncio.get_running_loop().run_in_executor(None, self._context.term)
        if self._hub is not None:
            await self._hub.close()
        await term

    # Outgoing.

    def _send(self, path: int, peer: NodeId, data: bytes) -> bool | None:
        """Send on a path, and note when. Returns whether there was room, or `None` when the path is gone."""
        if not self._awaited:
            return self._hand_over(path, peer, data)
        left_ns = self._clock()
        sent = self._hand_over(path, peer, data)
        if sent:
            self._departures.note(data, left_ns)
        return sent

    def _hand_over(self, path: int, peer: NodeId, data: bytes) -> bool | None:
        if path == RELAY:
            return self._relay(peer, data)
        connection = self._dialled.get(path)
        if connection is not None:
            return connection.send(peer, data)
        hub = self._hub
        if hub is not None and self._accepted.get(peer) == path:
            if hub.send(peer, data):
                return True
            if hub.reaches(peer):
                return False
        self._paths.broken(path)
        return None

    def _send_outbox(self) -> None:
        while self._paths.outbox:
            for dispatch in self._paths.take_outbox():
                self._send(dispatch.path, dispatch.peer, dispatch.data)

    # Connections of this side's making.

    def _dial(self, dial: Dial) -> None:
        path, peer = dial.path, dial.peer

        feed, arrive = self.driver.feed, self._paths.arrive

        def deliver(_sender: NodeId, data: bytes) -> None:
            feed(arrive, path, peer, data)

        connection = Connection(
            dial.endpoint,
            self._keys,
            dial.public_key,
            deliver,
            drained=self._drained,
            pings=self._pings,
            context=self._context,
            counters=self.counters,
        )
        connection.on_changed.append(lambda stands: self._changed(path, stands))
        self._dialled[path] = connection
        try:
            connection.start()
        except TransportError:
            # A name that cannot be resolved, for example: the next attempt comes by itself.
            del self._dialled[path]
            self._paths.broken(path, self._clock())

    def _changed(self, path: int, stands: bool) -> None:
        if path not in self._dialled:
            return
        if stands:
            self.driver.stimulate(lambda now_ns: self._paths.stands(path, now_ns))
        else:
            self._hang_up(path)
            self.driver.stimulate(lambda now_ns: self._paths.broken(path, now_ns))
        self.driver.poke()

    def _hang_up(self, path: int) -> None:
        connection = self._dialled.pop(path, None)
        if connection is not None:
            connection.shut()

    # Connections that others make.

    def _heard(self, peer: NodeId, data: bytes) -> None:
        self.driver.feed(self._take, peer, data)

    def _take(self, peer: NodeId, data: bytes, now_ns: int) -> None:
        """Take a message of the listening socket. A beginning on another connection makes that one the peer's."""
        hub = self._hub
        assert hub is not None
        path = self._accepted.get(peer)
        if path is not None and hub.is_bound:
            self._paths.arrive(path, peer, data, now_ns)
        elif self._paths.begins(peer, data):
            if path is not None:
                self._paths.broken(path, now_ns)
            hub.bind_current()
            self._accepted[peer] = self._paths.accept(peer, data, now_ns)

    def _forget(self, peer: NodeId, path: int) -> None:
        """A connection is a path no more: what a peer still says on it is not heard."""
        if self._accepted.get(peer) == path:
            del self._accepted[peer]

    def _drained(self) -> None:
        self.driver.poke()

    def _tell(self, peer: NodeId, direct: bool) -> None:
        if self._report is not None:
            self._report(f"messages to {peer} go {'directly' if direct else 'by way of the broker'}")


def _pings(settings: SessionSettings) -> Pings:
    """A broken connection is noticed before its silence ends a session."""
    return Pings(max(10, settings.heartbeat_ns // 2_000_000), max(20, settings.liveness_ns // 2_000_000))


def _advertised(settings: DirectSettings, bound: str, broker: str) -> tuple[str, ...]:
    """What others are told: as configured, or the address from which the broker is reached."""
    host, port = host_and_port(bound)
    if settings.advertise:
        return tuple(
            f"{each.rpartition(':')[0]}:{port}" if each.endswith(":0") else each for each in settings.advertise
        )
    if host not in _EVERYWHERE:
        return (f"tcp://{host}:{port}",)
    with sockets.socket(sockets.AF_INET, sockets.SOCK_DGRAM) as probe:
        try:
            probe.connect(host_and_port(broker))  # sends nothing: it only looks up the route
        except (ConfigError, OSError):
            return ()
        return (f"tcp://{probe.getsockname()[0]}:{port}",)
