"""The listening side of the transport: a ROUTER socket with CURVE, where every frame carries its sender's proved name.

Frames on the wire are `[peer][message]`. A client writes whom its message is for; the hub hands it on with the sender's name
in that place, and that name is the one that stands with the client's public key in the authorized keys, never one that the
client claims (spec 1 §2.3).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import zmq

from bellwire.protocols.codec import Codec
from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.errors import ErrorCode, LocalProtocolError, TransportError
from bellwire.protocols.ids import Epoch, NodeId
from bellwire.protocols.limits import MAX_MESSAGE_BYTES, MAX_NODE_ID_CHARS
from bellwire.protocols.messages import SESSION_MESSAGES, SessionError
from bellwire.protocols.session import Loss
from bellwire.transport.clock import new_epoch
from bellwire.transport.gatekeeper import ZAP_DOMAIN, Gatekeeper
from bellwire.transport.keys import AuthorizedKeys, KeyPair
from bellwire.transport.reader import HWM, LINGER_MS, Reader

MAX_WIRE_BYTES = 16 * MAX_MESSAGE_BYTES
"""A longer frame ends the connection that it came on, before it is taken in."""

PING_MS = 2_000
SILENCE_MS = 6_000
"""A connection on which pings are answered by nothing for this long is taken down."""

# Plain integers: combining pyzmq's flags anew for every frame costs more than the rest of the call.
_NOW = int(zmq.NOBLOCK)
_NOW_AND_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)


@dataclass(slots=True)
class HubCounters:
    """What passed through a hub, and what it refused."""

    delivered: int = 0
    relayed: int = 0
    malformed: int = 0
    oversize: int = 0
    ungreeted: int = 0
    unroutable: int = 0
    full: int = 0
    unsent: int = 0


def _nothing() -> None:
    """The default of `drained`."""


class Hub:
    """Where clients connect to: a broker's hub relays between them, a world's does not.

    The owner's endpoint must be followed (`follow`, or `bind_current` from `Endpoint.on_peer_up`): a client is reached on
    the connection on which its latest hello was accepted.
    """

    def __init__(
        self,
        name: NodeId,
        bind: str,
        keys: KeyPair,
        authorized: AuthorizedKeys,
        deliver: Callable[[NodeId, bytes], None],
        relay: bool = False,
        *,
        drained: Callable[[], None] = _nothing,
        epoch: Epoch | None = None,
        report: Callable[[str], None] | None = None,
    ) -> None:
        """Make a hub that will listen on `bind`, such as `tcp://0.0.0.0:7100`, or port `*` for any free one.

        `deliver(sender, data)` is called for every message to `name`, `drained()` at the end of each portion of them:
        give it `Driver.poke`. `epoch` goes into the errors that the hub itself sends. `report` is told in one line what a
        person may want to know: who was refused.
        """
        self.name = name
        self.bind = bind
        self.endpoint = ""
        self.deliver = deliver
        self.drained = drained
        self.counters = HubCounters()
        self._keys = keys
        self._relay = relay
        self._epoch = new_epoch() if epoch is None else epoch
        self._codec = Codec(SESSION_MESSAGES)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        self._gatekeeper = Gatekeeper(self._context, name, authorized, report)
        self._reader: Reader | None = None
        self._name = name.encode()
        self._names: dict[str, tuple[NodeId, bytes]] = {}
        self._addresses: dict[NodeId, bytes] = {}
        self._members: dict[bytes, bytes] = {}
        self._greeted: set[NodeId] = set()
        self._answer_to: dict[NodeId, bytes] = {}
        self._current: tuple[NodeId, bytes] | None = None

    # What the owner calls.

    async def start(self) -> None:
        """Listen.

        Raises:
            TransportError: when the endpoint cannot be listened on, because its port is in use for example.
        """
        socket = self._socket
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._keys.secret)
        socket.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.LINGER, LINGER_MS)
        socket.setsockopt(zmq.SNDHWM, HWM)
        socket.setsockopt(zmq.RCVHWM, HWM)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_WIRE_BYTES)
        socket.setsockopt(zmq.HEARTBEAT_IVL, PING_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, SILENCE_MS)
        self._gatekeeper.start()
        try:
            socket.bind(self.bind)
        except zmq.ZMQError as error:
            await self.close()
            raise TransportError(
                f"{self.name} cannot listen on {self.bind}: {zmq.strerror(error.errno or 0)}"
            ) from None
        self.endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")
        self._reader = Reader(socket, self._receive, self._after_portion)

    def follow(self, endpoint: Endpoint) -> None:
        """Bind clients when the owner's endpoint has greeted them, and relay to them until it has lost them."""
        endpoint.on_peer_up.append(self._peer_up)
        endpoint.on_peer_lost.append(self._peer_lost)

    def bind_current(self) -> None:
        """From now on, the sender of the message that is being delivered is reached on the connection that it came on.

        Raises:
            LocalProtocolError: when no message is being delivered.
        """
        if self._current is None:
            raise LocalProtocolError("a client is bound while its hello is delivered, and only then", "1 §2.3")
        peer, address = self._current
        self._greeted.add(peer)
        self._addresses[peer] = address
        self._members[peer.encode()] = address

    def unbind(self, peer: NodeId, *, leaving: bool = False) -> None:
        """Relay nothing more to or from a client until it is bound again.

        One that is leaving of its own will is not reached any more, but may still say goodbye to others after it has said so
        to the hub; and the hub's own goodbye reaches it.
        """
        self._greeted.discard(peer)
        self._members.pop(peer.encode(), None)
        if not leaving:
            self._addresses.pop(peer, None)

    @property
    def refused(self) -> int:
        """How many handshakes were refused, for keys that are not authorized."""
        return self._gatekeeper.refused

    def send(self, peer: NodeId, data: bytes) -> bool:
        """Send a message in the hub's own name. Returns whether it could be handed to a connection."""
        address = self._answer_to.get(peer) or self._addresses.get(peer)
        if address is None or len(data) > MAX_MESSAGE_BYTES or not self._pass_on(address, self._name, data):
            self.counters.unsent += 1
            return False
        return True

    async def close(self) -> None:
        """Stop listening, having tried for a moment to send what is queued."""
        if self._context.closed:
            return
        if self._reader is not None:
            self._reader.close()
        self._gatekeeper.close()
        self._socket.close()
        await asyncio.get_running_loop().run_in_executor(None, self._context.term)

    # Incoming.

    def _receive(self, limit: int) -> int:
        """Take up to `limit` messages, frame by frame: that costs a quarter of a `recv_multipart`."""
        recv = self._socket.recv
        for count in range(limit):
            try:
                origin = recv(_NOW)
            except zmq.Again:
                return count
            target = recv(_NOW, copy=False)
            if not target.more:
                self.counters.malformed += 1
                continue
            message = recv(_NOW, copy=False)
            if message.more:
                self.counters.malformed += 1
                while self._socket.recv(_NOW, copy=False).more:
                    pass
                continue
            self._take(origin, str(target.get("User-Id")), target.bytes, message)
        return limit

    def _take(self, origin: bytes, user: str, target: bytes, message: zmq.Frame) -> None:
        sender = self._names.get(user)
        if sender is None:
            sender = self._names[user] = (NodeId(user), user.encode())
        oversize = len(message) > MAX_MESSAGE_BYTES
        self.counters.oversize += oversize
        if target == self._name:
            self._deliver(sender[0], origin, message.bytes)  # Whoever decodes it refuses what is too long.
        elif not self._relay:
            self.counters.unroutable += 1
        elif self._addresses.get(sender[0]) != origin:
            self._tell_ungreeted(sender[0], origin)
        elif oversize:
            text = f"a message of {len(message)} bytes, at most {MAX_MESSAGE_BYTES} are relayed"
            self._tell(origin, SessionError(epoch=self._epoch, code=ErrorCode.OVERSIZE, text=text, rule="1 §3.4"))
        else:
            self._forward(sender[1], origin, target, message)

    def _deliver(self, sender: NodeId, origin: bytes, data: bytes) -> None:
        self.counters.delivered += 1
        bound = self._addresses.get(sender) == origin
        if not bound:
            self._answer_to[sender] = origin
        self._current = (sender, origin)
        try:
            self.deliver(sender, data)
        finally:
            self._current = None
        if not bound:
            # What the owner answers goes to the connection that asked, and that is known only now.
            self.drained()
            # With a session, of another connection, the owner took it; without one, the owner has said so where it must.
            if sender in self._greeted and self._addresses.get(sender) != origin:
                self._tell_ungreeted(sender, origin)

    def _after_portion(self) -> None:
        self.drained()
        self._answer_to.clear()

    def _forward(self, sender: bytes, origin: bytes, target: bytes, message: zmq.Frame) -> None:
        address = self._members.get(target)
        if address is not None and self._pass_on(address, sender, message):
            self.counters.relayed += 1
            return
        if len(target) > MAX_NODE_ID_CHARS or not target.isascii():
            self.counters.malformed += 1
            return
        self.counters.unroutable += 1
        peer = NodeId(target.decode("ascii"))
        known = self._members.get(target) is not None
        text = f"the queue to {peer} is full" if known else f"{peer} is not connected to {self.name}"
        self._tell(
            origin, SessionError(epoch=self._epoch, code=ErrorCode.NO_ROUTE, text=text, rule="1 §2.3", peer=peer)
        )

    def _tell_ungreeted(self, sender: NodeId, origin: bytes) -> None:
        self.counters.ungreeted += 1
        text = f"{sender} has not greeted {self.name} on this connection"
        self._tell(origin, SessionError(epoch=self._epoch, code=ErrorCode.NO_SESSION, text=text, rule="1 §4.3"))

    def _peer_up(self, _peer: NodeId) -> None:
        self.bind_current()

    def _peer_lost(self, peer: NodeId, loss: Loss, _why: str) -> None:
        self.unbind(peer, leaving=loss is Loss.LEFT)

    # Outgoing.

    def _tell(self, address: bytes, error: SessionError) -> None:
        self._pass_on(address, self._name, self._codec.encode(error))

    def _pass_on(self, address: bytes, sender: bytes, message: bytes | zmq.Frame) -> bool:
        """Send `[sender][message]` to a connection; `False` when it is gone or its queue is full."""
        send = self._socket.send
        try:
            send(address, _NOW_AND_MORE)
            send(sender, _NOW_AND_MORE)
            send(message, _NOW, copy=isinstance(message, bytes))
        except zmq.Again:
            self.counters.full += 1
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._forget(address)
            return False
        if self._reader is not None:
            self._reader.again()
        return True

    def _forget(self, address: bytes) -> None:
        """A connection is gone: what was bound to it is bound to nothing."""
        for peer, bound in list(self._addresses.items()):
            if bound == address:
                del self._addresses[peer]
                self._members.pop(peer.encode(), None)
