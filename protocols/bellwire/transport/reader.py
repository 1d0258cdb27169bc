"""Reading a ZeroMQ socket from an asyncio loop, by its descriptor.

The descriptor tells of changes, not of states: it is silent about messages that arrived before the last call on the socket,
and a send can swallow its signal. So the socket is drained until it is empty, in bounded portions, and looked at once more
after every batch of sends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import zmq

PORTIONS = (1, 256, 256, 256)
"""Messages taken before what they set off is flushed: one at first, since it mostly comes alone. Then others get their turn."""

_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)

HWM = 2_048
"""Messages queued towards or from one peer before more are refused."""


@dataclass(frozen=True, slots=True)
class Pings:
    """A connection on which pings, one each `every_ms`, are answered by nothing for `silence_ms` is taken down."""

    every_ms: int
    silence_ms: int

    def apply(self, socket: zmq.Socket[bytes]) -> None:
        """Have a socket's connections watched."""
        socket.setsockopt(zmq.HEARTBEAT_IVL, self.every_ms)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, self.silence_ms)


PINGS = Pings(2_000, 6_000)

LINGER_MS = 200
"""How long a closing socket tries to send what is queued."""


def bare_send(socket: zmq.Socket[bytes]) -> Callable[..., object]:
    """A socket's `send(data, flags, copy)` without what pyzmq wraps around it for other kinds of sockets: half of its time."""
    return super(zmq.Socket, socket).send


def bare_get(socket: zmq.Socket[bytes]) -> Callable[[int], Any]:
    """A socket's `get(option)` of a plain integer, likewise."""
    return super(zmq.Socket, socket).get


class Reader:
    """Drains one socket whenever there is something to drain.

    `receive(limit)` takes up to `limit` messages and returns how many: fewer only when the socket is empty.
    """

    def __init__(self, socket: zmq.Socket[bytes], receive: Callable[[int], int], drained: Callable[[], None]) -> None:
        """Begin to read `socket` on the running loop; `drained` is called after every portion that was not empty."""
        self._loop = asyncio.get_running_loop()
        self._receive = receive
        self._drained = drained
        self._get = bare_get(socket)
        self._fd = int(socket.getsockopt(zmq.FD))
        self._soon: asyncio.Handle | None = None
        self._draining = False
        self._sent = False
        self._loop.add_reader(self._fd, self._drain)
        self.again()

    def again(self) -> None:
        """Look once more, soon: to be called after sends, which may have swallowed a signal."""
        self._sent = True
        if self._soon is None and not self._draining:
            self._soon = self._loop.call_soon(self._look)

    def close(self) -> None:
        """Read no more. To be called before the socket is closed."""
        self._loop.remove_reader(self._fd)
        if self._soon is not None:
            self._soon.cancel()
        self._draining = True  # so that nothing schedules a drain any more
        self._receive = _empty

    def _look(self) -> None:
        self._soon = None
        if self._readable():
            self._drain()

    def _readable(self) -> bool:
        """Whether there is something to take. If not, the descriptor will tell: an exception would cost twice as much."""
        return bool(self._get(_EVENTS) & _POLLIN)

    def _drain(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        if self._draining:
            return
        self._draining = True
        try:
            emptied = self._portions()
        finally:
            self._draining = self._receive is _empty
        if not emptied:
            self.again()

    def _portions(self) -> bool:
        """Take a few portions. Returns whether the socket was found empty after all that was sent."""
        for portion in PORTIONS:
            taken = self._receive(portion)
            self._sent = False
            if taken == 0:
                return True
            self._drained()
            if self._receive is _empty or (taken < portion and not self._sent) or not self._readable():
                return True
        return False


def _empty(_limit: int) -> int:
    return 0
