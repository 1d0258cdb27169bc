"""How the kit's parties reach the target: as the broker that it connects to, or as clients of the broker that it is.

Plain ZeroMQ with CURVE (spec 1 §2). Nothing here knows what a message means.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

import zmq
from zmq.auth.thread import ThreadAuthenticator

from bellwire.conformance.keys import Keys
from bellwire.conformance.lines import LINGER_MS, Delivery, Line, bound, dealer, refused, router
from bellwire.conformance.target import BROKER
from bellwire.protocols.errors import TransportError

CONNECT_S: Final = 5.0
_AGAIN_S: Final = 0.01
_LITTLE_BYTES: Final = 4_096


class Lane(ABC):
    """The sockets between the kit and the target."""

    endpoint: str

    @abstractmethod
    def send(self, party: str, receiver: str, *frames: bytes) -> None:
        """Send frames in a party's name. What cannot be sent is lost, as on any network."""

    @abstractmethod
    def receive(self, timeout_s: float) -> list[Delivery]:
        """Wait for deliveries, at most so long, and take those that are there."""

    @abstractmethod
    def close(self) -> None:
        """Close every socket."""


class HubLane(Lane):
    """The kit is the broker: one ROUTER socket, and every party speaks through it."""

    def __init__(self, bind: str, keys: Keys, target: str) -> None:
        """Listen.

        Raises:
            TransportError: when `bind` cannot be listened on.
        """
        self._keys = keys
        self._target = target
        self._identity = b""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._authenticator = ThreadAuthenticator(self._context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback("*", self)
        try:
            self._socket = self._listen(bind, keys.secret(BROKER), 0.0)
        except TransportError:
            self._end()
            raise
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")

    def callback(self, _domain: str, key: bytes) -> bool:
        """Whether a public key (Z85) is the target's: nobody else is let in."""
        return key == self._keys.public(self._target)

    def _listen(self, bind: str, secret: bytes, within_s: float) -> zmq.Socket[bytes]:
        return bound(lambda: router(self._context, secret), bind, within_s, _AGAIN_S)

    @property
    def routing_id(self) -> bytes:
        """The routing id of the connection that the target's latest frame came on."""
        return self._identity

    def listen(self, party: str, bind: str) -> Line:
        """Let the target, and nobody else, connect to a party.

        Raises:
            TransportError: when `bind` cannot be listened on.
        """
        return Line(self._listen(bind, self._keys.secret(party), CONNECT_S), party, self._target, listens=True)

    def dial(self, party: str, endpoint: str) -> Line:
        """Connect a party to where the target listens."""
        line = Line(self._dealer(self._keys, party), party, self._target, listens=False)
        line.connect(endpoint)
        return line

    def refuses(self, keys: Keys, name: str, endpoint: str, within_s: float) -> bool:
        """Whether the target refuses the handshake of a key where it listens. Raises `TransportError` when it does nothing."""
        return refused(self._dealer(keys, name), endpoint, within_s)

    def _dealer(self, keys: Keys, name: str) -> zmq.Socket[bytes]:
        return dealer(self._context, keys.public(name), keys.secret(name), self._keys.public(self._target))

    def listen_again(self, secret: bytes | None = None) -> None:
        """Listen at the same place with another secret key (Z85), or again with the broker's own.

        Raises:
            TransportError: when somebody else has taken the place.
        """
        self._socket.close(LINGER_MS)
        self._identity = b""
        self._socket = self._listen(self.endpoint, secret or self._keys.secret(BROKER), CONNECT_S)

    def send(self, party: str, receiver: str, *frames: bytes) -> None:  # noqa: ARG002
        """Send `[party][frames…]` on the connection that the target's latest frame came on."""
        try:
            self._socket.send_multipart([self._identity, party.encode(), *frames], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise

    def receive(self, timeout_s: float) -> list[Delivery]:
        """Take what came from the target."""
        found = []
        if self._socket.poll(max(0, round(timeout_s * 1000))):
            while True:
                try:
                    identity, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                self._identity = identity
                receiver = frames[0].decode("utf-8", "replace") if frames else ""
                found.append(Delivery(receiver=receiver, sender=self._target, frames=tuple(frames[1:])))
        return found

    def close(self) -> None:
        """Stop listening."""
        self._socket.close(LINGER_MS)
        self._end()

    def _end(self) -> None:
        self._authenticator.stop()
        self._context.term()


class ClientLane(Lane):
    """The target is a broker: every party has a DEALER socket of its own to it."""

    def __init__(self, endpoint: str, keys: Keys) -> None:
        self.endpoint = endpoint
        self._keys = keys
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        self._poller = zmq.Poller()

    def _dealer(self, keys: Keys, name: str) -> zmq.Socket[bytes]:
        return dealer(self._context, keys.public(name), keys.secret(name), self._keys.public(BROKER))

    def connect(self, party: str, *, routing_id: bytes = b"", little: bool = False) -> None:
        """Give a party a connection, a new one if it had one; with a routing id, which a hub has to make nothing of.

        One that takes `little` at a time has hardly any room for what it has not read (`deafen`).

        Raises:
            TransportError: when the endpoint is none.
        """
        self.disconnect(party)
        socket = self._dealer(self._keys, party)
        if routing_id:
            socket.setsockopt(zmq.ROUTING_ID, routing_id)
        if little:
            socket.setsockopt(zmq.RCVHWM, 1)
            socket.setsockopt(zmq.RCVBUF, _LITTLE_BYTES)
        try:
            socket.connect(self.endpoint)
        except zmq.ZMQError as error:
            socket.close()
            raise TransportError(f"cannot connect to {self.endpoint}: {zmq.strerror(error.errno or 0)}") from None
        self._sockets[party] = socket
        self._poller.register(socket, zmq.POLLIN)

    def dial(self, party: str) -> Line:
        """A further connection of a party to the target."""
        line = Line(self._dealer(self._keys, party), party, BROKER, listens=False)
        line.connect(self.endpoint)
        return line

    def deafen(self, party: str) -> None:
        """Read nothing more on a party's connection."""
        self._poller.unregister(self._sockets[party])

    def refuses(self, keys: Keys, name: str, within_s: float) -> bool:
        """Whether the target refuses the handshake of a key. Raises `TransportError` when it does nothing."""
        return refused(self._dealer(keys, name), self.endpoint, within_s)

    def disconnect(self, party: str) -> None:
        """Take a party's connection away, if it has one."""
        socket = self._sockets.pop(party, None)
        if socket is not None:
            if socket in self._poller:
                self._poller.unregister(socket)
            socket.close(LINGER_MS)

    def send(self, party: str, receiver: str, *frames: bytes) -> None:
        """Send `[receiver][frames…]` on the party's connection."""
        if party not in self._sockets:
            self.connect(party)
        try:
            self._sockets[party].send_multipart([receiver.encode(), *frames], zmq.NOBLOCK)
        except zmq.Again:
            return

    def receive(self, timeout_s: float) -> list[Delivery]:
        """Take what came to any party."""
        if not self._sockets:
            time.sleep(max(0.0, timeout_s))
            return []
        ready = dict(self._poller.poll(max(0, round(timeout_s * 1000))))
        found = []
        for party, socket in list(self._sockets.items()):
            while socket in ready:
                try:
                    frames: Sequence[bytes] = socket.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                sender = frames[0].decode("utf-8", "replace")
                found.append(Delivery(receiver=party, sender=sender, frames=tuple(frames[1:])))
        return found

    def close(self) -> None:
        """Close every connection."""
        for party in list(self._sockets):
            self.disconnect(party)
        self._context.term()
