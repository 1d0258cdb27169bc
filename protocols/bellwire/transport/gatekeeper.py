"""Who is let in: the answering side of ZAP (ZeroMQ RFC 27) for one context."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq

from bellwire.protocols.ids import NodeId
from bellwire.transport.keys import KeysCapable, PublicKey

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
ZAP_DOMAIN = b"bellwire"
ZAP_LATER = 500
"""What a shunned client is told. (On 300, "temporary", the library tells it nothing and leaves the handshake hanging.)"""

_VERSION = b"1.0"
_REQUEST_FRAMES = 7
_READINGS = 50
_READINGS_PER_S = 10.0
"""How often strangers can have the directory of keys read: so often at once, and so often per second."""

_REPORTED_KEYS = 256
"""Refused keys that are reported, each once: they come again every second. All are counted."""


class Gatekeeper:
    """Answers the library's questions about keys: a key that is authorized becomes the connection's user id."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        name: NodeId,
        authorized: KeysCapable,
        shunned: Callable[[str], bool],
        report: Callable[[str], None] | None = None,
    ) -> None:
        """Guard the sockets of `context`, which belong to the participant `name`.

        `shunned` tells of a user id whether nobody is let in with its key for now.
        """
        self.refused = 0
        self._reported: set[bytes] = set()
        self._name = name
        self._authorized = authorized
        self._shunned = shunned
        self._report = report
        self._socket: zmq.Socket[bytes] = context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._fd = -1
        self._readings, self._read_s = float(_READINGS), 0.0

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
        key = self._authorized.find(request[6]) or self._look_for(request[6])
        if key is None or key.name == self._name:
            self._refuse(request[6], request[3].decode("ascii", "replace"), key)
            return [_VERSION, number, b"400", b"not authorized", b"", b""]
        user = key.public.hex()
        if self._shunned(user):
            return [_VERSION, number, b"%d" % ZAP_LATER, b"later", b"", b""]
        return [_VERSION, number, b"200", b"OK", user.encode(), b""]

    def _look_for(self, public: bytes) -> PublicKey | None:
        """Look for a key that may have come since the directory was last read; who knocks too often is not looked for."""
        now_s = asyncio.get_running_loop().time()
        self._readings = min(float(_READINGS), self._readings + (now_s - self._read_s) * _READINGS_PER_S)
        self._read_s = now_s
        if self._readings < 1.0:
            return None
        self._readings -= 1.0
        return self._authorized.lookup(public)

    def _refuse(self, public: bytes, address: str, key: PublicKey | None) -> None:
        self.refused += 1
        if self._report is None or public in self._reported or len(self._reported) >= _REPORTED_KEYS:
            return
        self._reported.add(public)
        whose = "a key that is not authorized" if key is None else f"the key of {key.name} itself"
        self._report(f"{self._name} refused a connection from {address} with {whose}")
        for problem in self._authorized.problems.values():
            self._report(problem)
