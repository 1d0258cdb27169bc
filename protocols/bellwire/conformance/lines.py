"""Direct connections between the kit's parties and the target (spec 1 §4.8), of either side's making.

Plain ZeroMQ with CURVE, as `lanes`. Which way a party's messages go is for cases to say.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import zmq
from zmq.utils.monitor import recv_monitor_message

from bellwire.protocols.errors import TransportError

LINGER_MS: Final = 100
_RECONNECT_MS: Final = 20
_CLOSED_MS: Final = 1_000
_REFUSED: Final = (zmq.EVENT_HANDSHAKE_FAILED_AUTH, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Something that the target sent: whom it meant, in whose name it came, and the frames behind the name."""

    receiver: str
    sender: str
    frames: tuple[bytes, ...]


def dealer(context: zmq.Context[zmq.Socket[bytes]], public: bytes, secret: bytes, server: bytes) -> zmq.Socket[bytes]:
    """A socket that connects with a key pair to whoever has the public key `server` (all Z85)."""
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
    socket.setsockopt(zmq.CURVE_SERVERKEY, server)
    socket.setsockopt(zmq.LINGER, LINGER_MS)
    socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    return socket


def router(context: zmq.Context[zmq.Socket[bytes]], secret: bytes) -> zmq.Socket[bytes]:
    """A socket that can be listened on with a secret key (Z85), and says what it cannot deliver."""
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
    socket.setsockopt(zmq.LINGER, LINGER_MS)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    return socket


def refused(socket: zmq.Socket[bytes], endpoint: str, within_s: float) -> bool:
    """Whether a handshake is refused, of a new socket that is closed afterwards.

    Raises:
        TransportError: when nothing came of it: nobody listens there, or nobody answers.
    """
    monitor = socket.get_monitor_socket()
    socket.connect(endpoint)
    deadline_s = time.monotonic() + within_s
    try:
        while (left_s := deadline_s - time.monotonic()) > 0 and monitor.poll(round(left_s * 1000)):
            event = int(recv_monitor_message(monitor)["event"])
            if event in _REFUSED or event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                return event in _REFUSED
    finally:
        socket.disable_monitor()
        monitor.close(0)
        socket.close()
    raise TransportError(f"a handshake with {endpoint} was neither taken nor refused within {within_s:g} s")


class Line:
    """A direct connection between a party and the target; or, where the party listens, all that the target makes to it."""

    def __init__(self, socket: zmq.Socket[bytes], party: str, target: str, *, listens: bool) -> None:
        self.listens = listens
        self.made = 0
        """Connections whose handshake was taken."""
        self.ended = 0
        """Connections that ended."""
        self._socket = socket
        self._monitor = socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED
        )
        self._party = party
        self._target = target
        self._identity = b""

    @property
    def endpoint(self) -> str:
        """Where a party listens."""
        return self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")

    @property
    def stands(self) -> bool:
        """Whether there is a connection now."""
        return self.made > self.ended

    def connect(self, endpoint: str) -> None:
        """Connect to where the target listens."""
        self._socket.connect(endpoint)

    def send(self, data: bytes) -> None:
        """Send a message. What cannot be sent is lost, as on any network."""
        name = self._party if self.listens else self._target
        head = [self._identity] if self.listens else []
        try:
            self._socket.send_multipart([*head, name.encode(), data], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise

    def receive(self) -> list[Delivery]:
        """Take what is there."""
        while self._monitor.poll(0):
            event = int(recv_monitor_message(self._monitor)["event"])
            self.made += event == zmq.EVENT_HANDSHAKE_SUCCEEDED
            self.ended += event == zmq.EVENT_DISCONNECTED
        found: list[Delivery] = []
        while True:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return found
            if self.listens:
                self._identity = frames.pop(0)
            name = frames[0].decode("utf-8", "replace") if frames else ""
            receiver, sender = (name, self._target) if self.listens else (self._party, name)
            found.append(Delivery(receiver=receiver, sender=sender, frames=tuple(frames[1:])))

    def close(self) -> None:
        """End it, and listen no more: nobody can connect from then on."""
        if self._socket.closed:
            return
        if self.listens:
            self._socket.unbind(self.endpoint)
            while self._monitor.poll(_CLOSED_MS) and recv_monitor_message(self._monitor)["event"] != zmq.EVENT_CLOSED:
                pass
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(LINGER_MS)


def bound(make: Callable[[], zmq.Socket[bytes]], endpoint: str, within_s: float, again_s: float) -> zmq.Socket[bytes]:
    """A socket that listens, tried for a while: its place may be that of one that was only just closed.

    Raises:
        TransportError: when it cannot be listened there.
    """
    deadline_s = time.monotonic() + within_s
    while True:
        socket = make()
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            socket.close()
            if time.monotonic() >= deadline_s:
                raise TransportError(f"cannot listen on {endpoint}: {zmq.strerror(error.errno or 0)}") from None
            time.sleep(again_s)
        else:
            return socket
