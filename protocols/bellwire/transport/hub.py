"""The listening side of the transport: a ROUTER socket with CURVE, where every frame carries its sender's proved name.

Frames on the wire are `[peer][message]`. A client writes whom its message is for; the hub hands it on with the sender's name
in that place, and that name is the one that stands with the client's public key in the authorized keys, never one that the
client claims (spec 1 §2.3). What a client may take of the hub is bounded (spec 1 §2.7).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq

from bellwire.protocols.codec import Codec
from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.errors import ConfigError, ErrorCode, LocalProtocolError, TransportError
from bellwire.protocols.ids import Epoch, NodeId, node_id
from bellwire.protocols.limits import MAX_MESSAGE_BYTES, MAX_NODE_ID_CHARS
from bellwire.protocols.messages import SESSION_MESSAGES, SessionError
from bellwire.protocols.session import Loss
from bellwire.transport.clock import local_time_ns, new_epoch
from bellwire.transport.gatekeeper import ZAP_DOMAIN, Gatekeeper
from bellwire.transport.guests import Guest, Guests, KeyWatch
from bellwire.transport.keys import KeyPair, KeysCapable
from bellwire.transport.meetings import Meetings
from bellwire.transport.members import HubCounters, HubLimits, Member, Members
from bellwire.transport.rates import TURN_NS
from bellwire.transport.reader import LINGER_MS, PINGS, Pings, Reader, bare_send

MAX_WIRE_BYTES = 4 * MAX_MESSAGE_BYTES
"""A longer frame ends the connection that it came on, before it is taken in."""

HANDSHAKE_MS = 10_000
"""Who connects and does not finish the handshake within this is hung up on."""

BACKLOG = 4_096
"""Connections that may wait to be accepted, as when all come back at once."""

IO_THREADS = 2
"""Threads of the library that encrypt and decrypt: one of them is busier with that than the loop is with relaying."""

# Plain integers: combining pyzmq's flags anew for every frame costs more than the rest of the call.
_NOW = int(zmq.NOBLOCK)
_NOW_AND_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)

_FRAMES = 3
"""Frames of a transmission as a ROUTER gives them: whence, to whom, and the message."""


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
        authorized: KeysCapable,
        deliver: Callable[[NodeId, bytes], None],
        relay: bool = False,
        *,
        drained: Callable[[], None] = _nothing,
        epoch: Epoch | None = None,
        report: Callable[[str], None] | None = None,
        limits: HubLimits | None = None,
        insecure: bool = False,
        clock: Callable[[], int] = local_time_ns,
        meet: Callable[[NodeId, NodeId], None] | None = None,
        pings: Pings = PINGS,
    ) -> None:
        """Make a hub that will listen on `bind`, such as `tcp://0.0.0.0:7100`, or port `*` for any free one.

        `deliver(sender, data)` is called for every message to `name`, `drained()` at the end of each portion of them:
        give it `Driver.poke`. `epoch` goes into the errors that the hub itself sends. `report` is told in one line what a
        person may want to know: who was refused. `insecure` does without keys: nothing is encrypted, and everybody is who
        its routing id says. `meet(sender, receiver)` is called before the first message is relayed from one client to
        another since either was bound: what is sent then arrives before it.
        """
        self.name = name
        self.elsewhere: Callable[[NodeId, NodeId, bytes], ErrorCode | None] | None = None
        """Takes `(sender, receiver, data)` for a receiver that is not bound here, or says why not: NO_ROUTE or LIMIT."""
        self.bind = bind
        self.endpoint = ""
        self.deliver = deliver
        self.drained = drained
        self.counters = HubCounters()
        self.members = Members(limits or HubLimits())
        self._keys = keys
        self._relay, self._insecure = relay, insecure
        self._clock = clock
        self._turn = 0
        self._epoch = new_epoch() if epoch is None else epoch
        self._codec = Codec(SESSION_MESSAGES)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(IO_THREADS)
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        self._send = bare_send(self._socket)
        self._guests = Guests(authorized, clock)
        self.gatekeeper = Gatekeeper(self._context, name, authorized, self._guests.is_shunned, report)
        self._reader: Reader | None = None
        self._watch = KeyWatch(name, authorized, self._guests, self._show_out, self._revoked, report)
        self._endpoint: Endpoint | None = None
        self._name = name.encode()
        self._meetings = Meetings(self._meet)
        self._pings = pings
        self._introduce = meet
        self._answer_to: dict[NodeId, bytes] = {}
        self._current: tuple[Member, bytes, str] | None = None
        self._fed = False

    # What the owner calls.

    async def start(self) -> None:
        """Listen.

        Raises:
            TransportError: when the endpoint cannot be listened on, because its port is in use for example.
        """
        socket = self._socket
        if self._insecure:
            socket.setsockopt(zmq.ROUTER_HANDOVER, 1)  # who comes back takes its routing id from the connection it lost
        else:
            socket.setsockopt(zmq.CURVE_SERVER, 1)
            socket.setsockopt(zmq.CURVE_SECRETKEY, self._keys.secret)
            socket.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
            self.gatekeeper.start()
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.LINGER, LINGER_MS)
        socket.setsockopt(zmq.SNDHWM, self.members.limits.queue)
        socket.setsockopt(zmq.RCVHWM, self.members.limits.queue)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_WIRE_BYTES)
        self._pings.apply(socket)
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        socket.setsockopt(zmq.BACKLOG, BACKLOG)
        try:
            socket.bind(self.bind)
        except zmq.ZMQError as error:
            await self.close()
            why = zmq.strerror(error.errno or 0)
            raise TransportError(f"{self.name} cannot listen on {self.bind}: {why}") from None
        self.endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")
        self._reader = Reader(socket, self._receive, self._after_portion)
        if not self._insecure:
            self._watch.start()

    def follow(self, endpoint: Endpoint) -> None:
        """Bind clients when the owner's endpoint has greeted them, and relay to them until it has lost them."""
        self._endpoint = endpoint
        endpoint.on_peer_up.append(lambda _: self.bind_current())
        endpoint.on_peer_lost.append(self._peer_lost)

    def bind_current(self) -> None:
        """From now on, the sender of the message that is being delivered is reached on the connection that it came on.

        Raises:
            LocalProtocolError: when no message is being delivered.
        """
        if self._current is None:
            raise LocalProtocolError("a client is bound while its hello is delivered, and only then", "1 §2.3")
        self.members.bind(*self._current)
        self._meetings.forget(self._current[0].node)

    @property
    def is_bound(self) -> bool:
        """Whether the message that is being delivered came on the connection that its sender is bound to."""
        return self._current is not None and self._current[0].origin == self._current[1]

    def unbind(self, peer: NodeId, *, leaving: bool = False) -> None:
        """Relay nothing more to or from a client until it is bound again.

        One that is leaving of its own will is not reached any more, but may still say goodbye to others after it has said so
        to the hub; and the hub's own goodbye reaches it.
        """
        member = self.members.users.get(peer)
        if member is not None:
            self.members.unbind(member, leaving=leaving)

    def reaches(self, peer: NodeId) -> bool:
        """Whether a client is bound to a connection, as far as is known."""
        return peer.encode() in self.members.reached

    def send(self, peer: NodeId, data: bytes) -> bool:
        """Send a message in the hub's own name. Returns whether it could be handed to a connection."""
        address = self._answer_to.get(peer)
        if address is None:
            member = self.members.users.get(peer)
            address = member.origin if member is not None else b""
        if not address or len(data) > MAX_MESSAGE_BYTES or not self._pass_on(address, self._name, data):
            self.counters.unsent += 1
            return False
        return True

    def forget_meetings(self, name: NodeId) -> None:
        """Somebody elsewhere begins anew: before the next message between it and a client that one is introduced to it."""
        self._meetings.forget(name)

    def hand_over(self, sender: NodeId, receiver: NodeId, data: bytes) -> ErrorCode | None:
        """Give a client what came from somebody elsewhere: `None`, or NO_ROUTE or LIMIT. It goes nowhere else."""
        member = self.members.reached.get(receiver.encode())
        if member is None:
            return ErrorCode.NO_ROUTE
        if self._introduce is not None:
            self._meetings.note(sender.encode(), member.name)
        if self._pass_on(member.origin, sender.encode(), data):
            self.counters.relayed += 1
            return None
        return ErrorCode.LIMIT if member.origin else ErrorCode.NO_ROUTE

    def tell_missed(self, sender: NodeId, receiver: NodeId, code: ErrorCode) -> None:
        """Tell a client that what it sent to somebody elsewhere did not get there: NO_ROUTE or LIMIT."""
        member = self.members.users.get(sender)
        if member is not None and member.origin:
            self._turn = self._clock() // TURN_NS
            self._tell_code(member, member.origin, receiver, code)

    async def close(self) -> None:
        """Stop listening, having tried for a moment to send what is queued."""
        if self._context.closed:
            return
        if self._reader is not None:
            self._reader.close()
        self._watch.close()
        self.gatekeeper.close()
        self._socket.close()
        await asyncio.get_running_loop().run_in_executor(None, self._context.term)

    # Incoming.

    def _receive(self, limit: int) -> int:
        """Take up to `limit` messages, one of every connection in turn: by frames, a quarter of a `recv_multipart`'s time."""
        self._turn = self._clock() // TURN_NS
        recv = self._socket.recv
        bound = self.members.bound
        count = 0
        while count < limit:
            try:
                origin = recv(_NOW)
            except zmq.Again:
                break
            count += 1
            sender = bound.get(origin)
            if sender is None or sender.odd:
                self._take_carefully(origin)
                continue
            # A frame as an object costs as much as three as bytes: of a client that never sent an odd number, only one is.
            target = recv(_NOW)
            try:
                message = recv(_NOW, copy=False)
            except zmq.Again:
                self._note_odd(sender)
                break
            if message.more:
                self._note_odd(sender)
                self._recover(message)
            else:
                self._take(origin, target, message)
        return count

    def _take_carefully(self, origin: bytes) -> None:
        """Take the rest of a transmission, whatever its number of frames."""
        target = self._socket.recv(_NOW, copy=False)
        message = self._socket.recv(_NOW, copy=False) if target.more else target
        if target.more and not message.more:
            self._take(origin, target.bytes, message)
            return
        sender = self.members.bound.get(origin)
        self._spoilt(sender if sender is not None and self._is_from(sender, message) else None)
        while message.more:
            message = self._socket.recv(_NOW, copy=False)

    def _note_odd(self, sender: Member) -> None:
        self.counters.malformed += 1
        sender.odd = True

    def _recover(self, first: zmq.Frame) -> None:
        """Find back to where a transmission begins, the first time that a client sent an odd one: here, or after its rest."""
        frames = [first]
        while frames[-1].more:
            frames.append(self._socket.recv(_NOW, copy=False))
        sender = self.members.bound.get(first.bytes)
        if len(frames) == _FRAMES and sender is not None and self._is_from(sender, frames[-1]):
            self._take(first.bytes, frames[1].bytes, frames[2])

    def _is_from(self, sender: Member, message: zmq.Frame) -> bool:
        """Routing ids are claimed by clients, user ids are proved: who has taken a former connection's id is nobody."""
        return self._insecure or message.get("User-Id") == sender.user

    def _take(self, origin: bytes, target: bytes, message: zmq.Frame) -> None:
        """Take one message of a connection."""
        members = self.members
        sender = members.bound.get(origin)
        if sender is None or not self._is_from(sender, message):
            self._take_unbound(origin, target, message)
            return
        if target == self._name:
            self._deliver(sender, origin, message)
            return
        if self._relay and len(message) > MAX_MESSAGE_BYTES:
            self.counters.oversize += 1
            text = f"a message of {len(message)} bytes, at most {MAX_MESSAGE_BYTES} are relayed"
            self._tell(sender, origin, ErrorCode.OVERSIZE, text, "1 §3.4")
            return
        receiver = members.reached.get(target) if self._relay else None
        if receiver is None:
            self._take_elsewhere(sender, origin, target, message)
        elif not sender.relayed.allows(self._turn):
            self.counters.hasty += 1
            text = f"more than {members.limits.rate} messages per second"
            self._tell(sender, origin, ErrorCode.LIMIT, text, "1 §2.7", receiver.node)
            self._stem(sender)
        elif self._forward(sender, receiver, message):
            self.counters.relayed += 1
        elif receiver.origin:
            text = f"the queue to {receiver.node} is full"
            self._tell(sender, origin, ErrorCode.LIMIT, text, "1 §2.7", receiver.node)
        else:
            self._miss(sender, origin, target)

    def _forward(self, sender: Member, receiver: Member, message: zmq.Frame) -> bool:
        if self._introduce is not None:
            self._meetings.note(sender.name, receiver.name)
        return self._pass_on(receiver.origin, sender.name, message)

    def _take_elsewhere(self, sender: Member, origin: bytes, target: bytes, message: zmq.Frame) -> None:
        """Take one message for somebody who is not bound here."""
        if self.elsewhere is None or len(target) > MAX_NODE_ID_CHARS or not target.isascii():
            self._miss(sender, origin, target)
            return
        peer = NodeId(target.decode("ascii"))
        if not sender.relayed.allows(self._turn):
            self.counters.hasty += 1
            code: ErrorCode | None = ErrorCode.LIMIT
        else:
            code = self.elsewhere(sender.node, peer, message.bytes)
        if code is not None:
            self._tell_code(sender, origin, peer, code)
        elif self._introduce is not None:
            # Only now is it known that somebody has that name. What the other one answers is not here yet.
            self._meetings.note(sender.name, target)

    def _take_unbound(self, origin: bytes, target: bytes, message: zmq.Frame) -> None:
        try:
            sender = self._who(origin, message)
        except (ConfigError, UnicodeDecodeError):
            self.counters.malformed += 1
            return
        if sender is None:
            self.counters.revoked += 1
        elif target == self._name:
            self._deliver(sender, origin, message)
        elif not self._relay:
            self.counters.unroutable += 1
        else:
            self._tell_ungreeted(sender, origin)

    def _who(self, origin: bytes, message: zmq.Frame) -> Member | None:
        """Who sends on a connection that it is not bound to; `None` when its key is not authorized any more."""
        if self._insecure:
            return self.members.of(node_id(origin.decode("ascii")))
        user = str(message.get("User-Id"))
        guest = self._guests.known(user) or self._watch.admit(user, message)
        if guest is None:
            return None
        self._guests.met(guest, origin, message)
        member = self.members.of(guest.name)
        member.user = member.user if member.origin else user
        return member

    def _deliver(self, sender: Member, origin: bytes, message: zmq.Frame) -> None:
        if not sender.delivered.allows(self._turn):
            self.counters.hasty += 1
            text = f"more than {self.members.limits.own_rate} messages per second to {self.name}"
            self._tell(sender, origin, ErrorCode.LIMIT, text, "1 §2.7")
            self._stem(sender)
            return
        self.counters.delivered += 1
        self.counters.oversize += len(message) > MAX_MESSAGE_BYTES  # whoever decodes it refuses it
        self._fed = True
        bound = sender.origin == origin
        if not bound:
            self._answer_to[sender.node] = origin
        # Where the sender is bound its user id was compared already, and reading one costs as much as sending a frame.
        self._current = (sender, origin, sender.user if bound or self._insecure else str(message.get("User-Id")))
        try:
            self.deliver(sender.node, message.bytes)
        finally:
            self._current = None
        if not bound:
            # What the owner answers goes to the connection that asked, and that is known only now.
            self.drained()
            # With a session, of another connection, the owner took it; without one, the owner has said so where it must.
            if sender.name in self.members.reached and sender.origin != origin:
                self._tell_ungreeted(sender, origin)

    def _after_portion(self) -> None:
        if self._fed:
            self._fed = False
            self.drained()
            self._answer_to.clear()

    # What cannot be done.

    def _miss(self, sender: Member, origin: bytes, target: bytes) -> None:
        """Somebody is not there."""
        if len(target) > MAX_NODE_ID_CHARS or not target.isascii():
            self._spoilt(sender)
            return
        if self._relay:
            self._tell_code(sender, origin, NodeId(target.decode("ascii")), ErrorCode.NO_ROUTE)
        else:
            self.counters.unroutable += 1

    def _tell_code(self, sender: Member, origin: bytes, peer: NodeId, code: ErrorCode) -> None:
        if code is ErrorCode.NO_ROUTE:
            self.counters.unroutable += 1
            self._tell(sender, origin, code, f"{peer} is not connected to {self.name}", "1 §2.3", peer)
        else:
            self._tell(sender, origin, code, f"too much is on its way to {peer}", "1 §2.7", peer)

    def _meet(self, sender: NodeId, receiver: NodeId) -> bool:
        """Have two clients introduced, what was said to them before having been sent. Returns whether there was room."""
        self.drained()
        full = self.counters.full
        assert self._introduce is not None
        self._introduce(sender, receiver)
        self.drained()
        return self.counters.full == full

    def _tell_ungreeted(self, sender: Member, origin: bytes) -> None:
        self.counters.ungreeted += 1
        text = f"{sender.node} has not greeted {self.name} on this connection"
        self._tell(sender, origin, ErrorCode.NO_SESSION, text, "1 §4.3")

    def _tell(
        self, member: Member, address: bytes, code: ErrorCode, text: str, rule: str, peer: NodeId = NodeId("")
    ) -> None:
        if not member.told.allows(self._turn):
            self.counters.untold += 1
            self._stem(member)
            return
        error = SessionError(epoch=self._epoch, code=code, text=text, rule=rule, peer=peer)
        self._pass_on(address, self._name, self._codec.encode(error))

    def _spoilt(self, sender: Member | None) -> None:
        """A transmission is none. Nobody is told, but it counts as one that its sender would have been told of."""
        self.counters.malformed += 1
        if sender is not None and not sender.told.allows(self._turn):
            self._stem(sender)

    def _stem(self, sender: Member) -> None:
        """End the connections of who floods the hub: messages that are dropped still take the time of all others."""
        if self.members.is_flooding(sender) and self._guests.shun(sender.user):
            self.counters.floods += 1
            self._watch.tell_shunned(sender.node)

    def _show_out(self, guest: Guest) -> None:
        """Reach and relay to a participant no more whose connections were ended, unless it is here with another key."""
        for origin in guest.connections:
            self.members.lose(origin)

    def _revoked(self, name: NodeId) -> None:
        """A name's key is not authorized any more: lose it, and have everybody told."""
        self.unbind(name)
        self._meetings.forget(name)
        if self._endpoint is not None:
            self._endpoint.begin(local_time_ns(), f"{self.name}:keys")
            self._endpoint.introductions.revoke(name)
        self.drained()

    def _peer_lost(self, peer: NodeId, loss: Loss, _why: str) -> None:
        self.unbind(peer, leaving=loss is Loss.LEFT)

    # Outgoing.

    def _pass_on(self, address: bytes, sender: bytes, message: bytes | zmq.Frame) -> bool:
        """Send `[sender][message]` to a connection; `False` when it is gone or its queue is full."""
        send = self._send
        try:
            send(address, _NOW_AND_MORE)
            send(sender, _NOW_AND_MORE)
            send(message, _NOW, False)
        except zmq.Again:
            self.counters.full += 1
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self.members.lose(address)
            return False
        if self._reader is not None:
            self._reader.again()
        return True
