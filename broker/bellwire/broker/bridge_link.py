"""A line between the brokers of one site, over ZeroMQ: it works without MQTT. Envelopes are sealed, so it needs no keys."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq

from bellwire.broker.bridge_wire import MAX_ENVELOPE_BYTES
from bellwire.protocols.errors import TransportError
from bellwire.transport.reader import HWM, LINGER_MS, PINGS, Reader

EVERYBODY = b"all"
RECONNECT_MS = 100
_NOW = int(zmq.NOBLOCK)


class Link:
    """Publishes to the other brokers of a site, and hears what they publish. What finds no room is refused."""

    def __init__(self, bind: str, others: tuple[str, ...], token: bytes, receive: Callable[[bytes], None]) -> None:
        """Make the line of the broker `token`, which the others reach at `bind`, and which reaches `others`."""
        self.endpoint = ""
        self._bind = bind
        self._others = others
        self._token = token
        self._take = receive
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._out = self._context.socket(zmq.PUB)
        self._in = self._context.socket(zmq.SUB)
        self._reader: Reader | None = None

    def start(self) -> None:
        """Begin to listen and to connect, on the running loop.

        Raises:
            TransportError: when an endpoint is none, or cannot be listened on.
        """
        for socket in (self._out, self._in):
            socket.setsockopt(zmq.LINGER, LINGER_MS)
            socket.setsockopt(zmq.SNDHWM, HWM)
            socket.setsockopt(zmq.RCVHWM, HWM)
            socket.setsockopt(zmq.MAXMSGSIZE, MAX_ENVELOPE_BYTES)
            # Who hears says nothing by itself, and who publishes needs no answer: only pings show that a path is dead.
            PINGS.apply(socket)
        self._out.setsockopt(zmq.XPUB_NODROP, 1)
        self._in.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        for topic in (EVERYBODY, self._token):
            self._in.setsockopt(zmq.SUBSCRIBE, topic)
        where = self._bind
        try:
            self._out.bind(self._bind)
            for where in self._others:
                self._in.connect(where)
        except zmq.ZMQError as error:
            raise TransportError(f"no line between brokers at {where}: {zmq.strerror(error.errno or 0)}") from None
        self.endpoint = self._out.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")
        self._reader = Reader(self._in, self._receive, _nothing)

    def publish(self, to: bytes, data: bytes) -> bool:
        """Send an envelope to all brokers of the site, or to one. Returns whether there was room for it."""
        try:
            self._out.send_multipart((to or EVERYBODY, data), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    async def close(self) -> None:
        """Send what is queued, for a moment, and stop."""
        if self._context.closed:
            return
        if self._reader is not None:
            self._reader.close()
        self._in.close()
        self._out.close()
        await asyncio.get_running_loop().run_in_executor(None, self._context.term)

    def _receive(self, limit: int) -> int:
        for taken in range(limit):
            try:
                frames = self._in.recv_multipart(_NOW)
            except zmq.Again:
                return taken
            self._take(frames[-1])
        return limit


def _nothing() -> None:
    """What is to be done after a portion."""
