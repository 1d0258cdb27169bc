"""Who is let in: the answering side of ZAP (ZeroMQ RFC 27) for one context."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq

from bellwire.protocols.ids import NodeId
from bellwire.transport.keys import KeysCapable, PublicKey

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
ZAP_DOMAIN = b"bellwire"
_VERSION = b"1.0"
_REQUEST_FRAMES = 7
_REPORTED_KEYS = 256
"""Refused keys that are reported, each once: they come again every second. All are counted."""


class Gatekeeper:
    """Answers the library's questions about keys: the name that stands with a key becomes the connection's user id."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        name: NodeId,
        authorized: KeysCapable,
        report: Callable[[str], None] | None = None,
    ) -> None:
        """Guard the sockets of `context`, which belong to the participant `name`."""
        self.refused = 0
        self._reported: set[bytes] = set()
        self._name = name
        self._authorized = authorized
        self._report = report
        self._socket: zmq.Socket[bytes] = context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._fd = -1

    def start(self) -> None:
        """Begin to answer, on the running loop. To be called before the first socket is bound."""
        self._socket.bind(ZAP_ENDPOINT)
        self._fd = int(self._socket.getsockopt(zmq.FD))
        asyncio.get_running_loop().add_reader(self._fd, self._drain)

    def close(self) -> None:
        """Answer no more: whoever is shaking hands is refused."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
        self._socket.close()

    def _drain(self) -> None:
        while True:
            try:
                request = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._socket.send_multipart(self._answer(request))

    def _answer(self, request: list[bytes]) -> list[bytes]:
        number = request[1] if len(request) > 1 else b""
        if len(request) != _REQUEST_FRAMES or request[0] != _VERSION or request[5] != b"CURVE":
            return [_VERSION, number, b"400", b"CURVE only", b"", b""]
        key = self._authorized.lookup(request[6])
        if key is None or key.name == self._name:
            self._refuse(request[6], request[3].decode("ascii", "replace"), key)
            return [_VERSION, number, b"400", b"not authorized", b"", b""]
        return [_VERSION, number, b"200", b"OK", key.name.encode(), b""]

    def _refuse(self, public: bytes, address: str, key: PublicKey | None) -> None:
        self.refused += 1
        if self._report is None or public in self._reported or len(self._reported) >= _REPORTED_KEYS:
            return
        self._reported.add(public)
        whose = "a key that is not authorized" if key is None else f"the key of {key.name} itself"
        self._report(f"{self._name} refused a connection from {address} with {whose}")
        for problem in self._authorized.problems.values():
            self._report(problem)
