"""The side path of time over UDP, with the kernel's own stamps of arrival where it gives them (spec 4 §3.5)."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from bellwire.protocols.errors import TransportError
from bellwire.protocols.limits import MAX_DATAGRAM_BYTES
from bellwire.protocols.time_path import Datagram

SO_TIMESTAMPNS: Final = 35
"""Linux: every datagram comes with the wall clock's time at its arrival. The socket module has no name for it."""

PORTION: Final = 64
"""Datagrams taken before others on the loop get their turn."""

MAX_STAMP_AGE_NS: Final = 100_000_000
"""An older stamp is none: the wall clock was set since, or nobody looked for too long."""

_TIMESPEC: Final = struct.Struct("@qq")

Receive = Callable[[bytes, Any, int], None]
"""Takes a datagram, the address that it came from and when it arrived, on the own clock."""


class TimeSocket:
    """A UDP socket on the running loop. What it cannot send is lost: the exchange then goes by way of the session."""

    def __init__(self, receive: Receive, clock: Callable[[], int]) -> None:
        self._receive = receive
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._peer: Any = None
        self.stamps = False
        """Whether the kernel stamps arrivals."""

    @property
    def is_open(self) -> bool:
        """Whether it takes and sends datagrams."""
        return self._socket is not None

    def listen(self, host: str, port: int) -> int:
        """Listen on an address of this host, and give the port.

        Raises:
            TransportError: when it cannot be listened on.
        """
        try:
            family, address = _resolve("" if host == "*" else host, port, passive=True)
            opened = self._open(family)
            opened.bind(address)
        except OSError as error:
            self.close()
            raise TransportError(f"udp {host}:{port} cannot be listened on: {error.strerror or error}") from None
        return int(opened.getsockname()[1])

    def reach(self, host: str) -> None:
        """Send to ports of a host, and take what comes from there.

        Raises:
            TransportError: when the host is not known.
        """
        try:
            family, self._peer = _resolve(host, 0, passive=False)
            self._open(family)
        except OSError as error:
            self.close()
            raise TransportError(f"udp {host} cannot be reached: {error.strerror or error}") from None

    def send(self, datagrams: Iterable[Datagram]) -> None:
        """Send, each noted just before it leaves. An address that is but a number is a port of the host that is reached."""
        if self._socket is None:
            return
        for datagram in datagrams:
            address: Any = datagram.address
            if isinstance(address, int):
                address = (self._peer[0], address, *self._peer[2:])
            datagram.departure.at_ns = self._clock()
            try:
                self._socket.sendto(datagram.data, address)
            except OSError:
                continue  # no route, or a full buffer: as if it were lost on the way, which is provided for

    def close(self) -> None:
        """Take and send no more."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _open(self, family: int) -> socket.socket:
        opened = self._socket = socket.socket(family, socket.SOCK_DGRAM)
        opened.setblocking(False)
        if sys.platform == "linux":
            opened.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            self.stamps = True
        self._loop.add_reader(opened.fileno(), self._drain)
        return opened

    def _drain(self) -> None:
        for _ in range(PORTION):
            if self._socket is None:
                return
            try:
                data, ancillary, _, address = self._socket.recvmsg(MAX_DATAGRAM_BYTES + 1, 64)
            except OSError:
                return  # empty, or the other side's port was closed: nothing to take in either case
            if len(data) <= MAX_DATAGRAM_BYTES:
                self._receive(data, address, self._arrived_ns(ancillary))

    def _arrived_ns(self, ancillary: list[tuple[int, int, bytes]]) -> int:
        """When a datagram arrived, on the own clock. The wall clock is read first, so that it is never too early."""
        now_wall_ns = time.time_ns()
        now_ns = self._clock()
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS and len(content) >= _TIMESPEC.size:
                seconds, nanoseconds = _TIMESPEC.unpack_from(content)
                age_ns: int = now_wall_ns - (seconds * 1_000_000_000 + nanoseconds)
                if 0 <= age_ns <= MAX_STAMP_AGE_NS:
                    return now_ns - age_ns
        return now_ns


def _resolve(host: str, port: int, *, passive: bool) -> tuple[int, Any]:
    flags = socket.AI_PASSIVE if passive else 0
    found = socket.getaddrinfo(host or None, port or 9, type=socket.SOCK_DGRAM, flags=flags)[0]
    address = found[4]
    return found[0], (address[0], port, *address[2:])
