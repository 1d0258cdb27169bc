"""The connecting side of the transport: one participant's connection to a hub."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

import zmq
from zmq.utils.monitor import parse_monitor_message

from bellwire.protocols.errors import TransportError
from bellwire.protocols.ids import NodeId
from bellwire.protocols.limits import MAX_MESSAGE_BYTES, MAX_NODE_ID_CHARS
from bellwire.transport.gatekeeper import ZAP_LATER
from bellwire.transport.hub import MAX_WIRE_BYTES
from bellwire.transport.keys import KeyPair
from bellwire.transport.once import Once
from bellwire.transport.reader import HWM, LINGER_MS, PINGS, Pings, Reader, bare_send

RECONNECT_MS = 50
RECONNECT_LIMIT_MS = 1_000
PATIENCE_MS = 750
"""Where there are several endpoints, one that does not answer within up to twice this is left for the next."""

MAX_WAITING = 64
"""Messages that wait for a connection to stand."""

_KNOWN_NAMES = 4_096

# Plain integers, as in the hub.
_NOW = int(zmq.NOBLOCK)
_NOW_AND_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)

K = TypeVar("K")
V = TypeVar("V")

_REFUSALS: dict[int, str] = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "refused the key of {name}: it is not authorized there",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "does not speak as a Bellwire hub does",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "ended the handshake: is its public key the one that was given to {name}?",
}
_SHUNNED = "lets {name} in again only after a while: it flooded the hub"
_EVENTS = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | sum(_REFUSALS)


def _remember(known: dict[K, V], key: K, value: V) -> V:
    """Note a name; a table that has grown too long begins anew."""
    if len(known) >= _KNOWN_NAMES:
        known.clear()
    known[key] = value
    return value


def _nothing() -> None:
    """The default of `drained`."""


@dataclass(slots=True)
class ConnectionCounters:
    """What a connection could not take or send."""

    malformed: int = 0
    oversize: int = 0
    full: int = 0
    refused: int = 0


class Connection:
    """A DEALER socket with CURVE to one hub. It connects again by itself, however often the hub goes away.

    Where several hubs have the same key (a broker and its hot standby) it goes to the next one when one is gone.
    """

    def __init__(
        self,
        endpoint: str | Sequence[str],
        keys: KeyPair,
        server_key: bytes | None,
        deliver: Callable[[NodeId, bytes], None],
        *,
        drained: Callable[[], None] = _nothing,
        report: Callable[[str], None] | None = None,
        random: Random | None = None,
        pings: Pings = PINGS,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
        counters: ConnectionCounters | None = None,
        moved: Callable[[], None] = _nothing,
    ) -> None:
        """Make a connection to the hub at `endpoint`, or to one of several there, whose public key (32 bytes) is `server_key`.

        `deliver(sender, data)` is called for every message, `drained()` at the end of each portion of them: give it
        `Driver.poke`. `report` is told in one line when the hub refuses the connection. A `context` that others use too is
        theirs to end, and `counters` may be those of others too. Without a `server_key` the hub is an insecure one: nothing is
        encrypted, and nobody proves a name. `random` spreads the attempts to connect again: of many that lose one hub, no two
        come back at the same time. `moved()` is called when it has gone to another endpoint, where nothing is known of what
        was said at the one before.
        """
        self.endpoints = (endpoint,) if isinstance(endpoint, str) else tuple(endpoint)
        self.endpoint = self.endpoints[0]
        self.moved = moved
        self.on_changed: list[Callable[[bool], None]] = []
        """Told when the connection stands, when it is gone, and when an attempt at one is over."""
        self.deliver = deliver
        self.drained = drained
        self.counters = ConnectionCounters() if counters is None else counters
        self.connected = False
        self._keys = keys
        self._tell = Once(report)
        self._pings = pings
        self._server_key = server_key
        self._random = random or Random()
        self._waiting = 0
        self._shared = context is not None
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context() if context is None else context
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        self._send = bare_send(self._socket)
        self._turning: asyncio.TimerHandle | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._monitor_fd = -1
        self._reader: Reader | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._refusals = 0
        self._senders: dict[bytes, NodeId] = {}
        self._peers: dict[NodeId, bytes] = {}

    def start(self) -> None:
        """Begin to connect, on the running loop. What is sent before the connection stands is sent when it does.

        Raises:
            TransportError: when an endpoint is none.
        """
        for endpoint in self.endpoints[1:]:
            with self._context.socket(zmq.DEALER) as probe:
                probe.setsockopt(zmq.LINGER, 0)
                self._connect(probe, endpoint)
        self._open()

    def turn(self) -> None:
        """Go to the next endpoint, soon: the hub at this one says nothing. Does nothing when there is no other."""
        self._turn_in(0.0)

    def _open(self) -> None:
        socket = self._socket
        if self._server_key is None:
            socket.setsockopt(zmq.ROUTING_ID, self._keys.name.encode())
        else:
            socket.setsockopt(zmq.CURVE_PUBLICKEY, self._keys.public)
            socket.setsockopt(zmq.CURVE_SECRETKEY, self._keys.secret)
            socket.setsockopt(zmq.CURVE_SERVERKEY, self._server_key)
        socket.setsockopt(zmq.LINGER, LINGER_MS)
        socket.setsockopt(zmq.SNDHWM, HWM)
        socket.setsockopt(zmq.RCVHWM, HWM)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_WIRE_BYTES)
        # The library's own jitter is less than one RECONNECT_IVL, so that after a few attempts it spreads nothing.
        socket.setsockopt(zmq.RECONNECT_IVL, self._spread(RECONNECT_MS))
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, self._spread(RECONNECT_LIMIT_MS))
        self._pings.apply(socket)
        self._monitor = socket.get_monitor_socket(_EVENTS)
        self._monitor_fd = int(self._monitor.getsockopt(zmq.FD))
        asyncio.get_running_loop().add_reader(self._monitor_fd, self._watch)
        self._connect(socket, self.endpoint)
        self._reader = Reader(socket, self._receive, self._after_portion)
        self._turn_in(self._spread(PATIENCE_MS) / 1_000)
        self._watch()

    def send(self, peer: NodeId, data: bytes) -> bool:
        """Send a message to a participant. Returns whether there was room for it.

        While the connection does not stand, `MAX_WAITING` messages wait for it and more are refused: what is repeated for as
        long as the hub is away, by everybody, would all come at once when it is back.
        """
        if len(data) > MAX_MESSAGE_BYTES:
            self.counters.oversize += 1
            return False
        if not self.connected:
            if self._waiting >= MAX_WAITING:
                self.counters.full += 1
                return False
            self._waiting += 1
        target = self._peers.get(peer)
        if target is None:
            target = _remember(self._peers, peer, peer.encode())
        send = self._send
        try:
            send(target, _NOW_AND_MORE)
            send(data, _NOW)
        except zmq.Again:
            self.counters.full += 1
            return False
        if self._reader is not None:
            self._reader.again()
        return True

    async def close(self) -> None:
        """Disconnect, having tried for a moment to send what is queued."""
        if not self._socket.closed:
            self.shut()
        if not self._shared and not self._context.closed:
            await asyncio.get_running_loop().run_in_executor(None, self._context.term)

    def _spread(self, milliseconds: int) -> int:
        """A time between the one given and twice that."""
        return self._random.randrange(milliseconds, 2 * milliseconds)

    def _connect(self, socket: zmq.Socket[bytes], endpoint: str) -> None:
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.shut()
            reason = zmq.strerror(error.errno or 0)
            raise TransportError(f"{self._keys.name} cannot connect to {endpoint}: {reason}") from None

    def shut(self) -> None:
        """Disconnect at once; what is queued is still sent while the context lasts."""
        for timer in (self._retry, self._turning):
            if timer is not None:
                timer.cancel()
        self._retry = self._turning = None
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        if self._monitor is not None:
            asyncio.get_running_loop().remove_reader(self._monitor_fd)
            self._socket.disable_monitor()
            self._monitor.close(0)
            self._monitor = None
        self._socket.close()

    def _receive(self, limit: int) -> int:
        recv = self._socket.recv
        for count in range(limit):
            try:
                sender = recv(_NOW, copy=False)
            except zmq.Again:
                return count
            if not sender.more:
                self.counters.malformed += 1
                continue
            message = recv(_NOW, copy=False)
            if message.more:
                self.counters.malformed += 1
                while recv(_NOW, copy=False).more:
                    pass
                continue
            self._take(sender.bytes, message.bytes)
        return limit

    def _take(self, sender: bytes, data: bytes) -> None:
        self.counters.oversize += len(data) > MAX_MESSAGE_BYTES  # Whoever decodes it refuses it.
        name = self._senders.get(sender)
        if name is None:
            if not sender or len(sender) > MAX_NODE_ID_CHARS or not sender.isascii():
                self.counters.malformed += 1
                return
            name = _remember(self._senders, sender, NodeId(sender.decode("ascii")))
        self.deliver(name, data)

    def _after_portion(self) -> None:
        self.drained()

    # Whether the connection stands.

    def _watch(self) -> None:
        """Take what the library tells of the connection."""
        while self._monitor is not None:
            try:
                event = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return
            self._note(int(event["event"]), int(event["value"]))

    def _note(self, event: int, value: int) -> None:
        stood, self.connected = self.connected, event == zmq.EVENT_HANDSHAKE_SUCCEEDED
        if self.connected:
            self._waiting = 0
            self._refusals = 0
            self._tell.forget()
            if self._turning is not None:
                self._turning.cancel()
                self._turning = None
        elif stood or self._turning is None:
            self._turn_in(self._spread(RECONNECT_MS if stood else PATIENCE_MS) / 1_000)
        text = _SHUNNED if value == ZAP_LATER and event == zmq.EVENT_HANDSHAKE_FAILED_AUTH else _REFUSALS.get(event)
        if text is not None:
            self._refused(event, text)
        for listener in self.on_changed:
            listener(self.connected)

    def _refused(self, event: int, text: str) -> None:
        self.counters.refused += 1
        self._refusals += 1
        # A hub that is being restarted ends a handshake too: only the second time in a row means something.
        if self._refusals > 1 or event != zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            self._tell(f"{self.endpoint} {text.format(name=self._keys.name)}")
        if self._retry is None and event != zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            # The library gives up on a hub that refused it; its people may still add the key.
            loop = asyncio.get_running_loop()
            self._retry = loop.call_later(self._spread(RECONNECT_LIMIT_MS) / 1_000, self._connect_again)

    def _connect_again(self) -> None:
        self._retry = None
        try:
            self._socket.disconnect(self.endpoint)
        except zmq.ZMQError as error:
            if error.errno != errno.ENOENT:
                raise
        self._socket.connect(self.endpoint)

    def _turn_in(self, delay_s: float) -> None:
        """Go to the next endpoint after a while, unless there is none or this one answers until then."""
        if len(self.endpoints) == 1 or self._monitor is None:
            return
        if self._turning is not None:
            self._turning.cancel()
        self._turning = asyncio.get_running_loop().call_later(delay_s, self._turn)

    def _turn(self) -> None:
        self.shut()
        self.connected = False
        self._waiting = 0
        self._socket = self._context.socket(zmq.DEALER)
        self._send = bare_send(self._socket)
        self.endpoint = self.endpoints[(self.endpoints.index(self.endpoint) + 1) % len(self.endpoints)]
        self._open()
        self.moved()
