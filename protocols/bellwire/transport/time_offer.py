"""The side path that a source of time offers: a UDP socket in front of its hub (spec 4 §3.5)."""

from __future__ import annotations

import socket
from collections.abc import Callable
from secrets import token_bytes

from bellwire.protocols.errors import TransportError
from bellwire.protocols.limits import PATH_KEY_BYTES
from bellwire.protocols.time_hub import TimeHub
from bellwire.transport.time_socket import TimeSocket


class TimeOffer:
    """Serves a hub's side path on the running loop. `stimulate` is the driver's."""

    def __init__(
        self, hub: TimeHub, clock: Callable[[], int], stimulate: Callable[[Callable[[int], None]], None]
    ) -> None:
        self._hub = hub
        self._stimulate = stimulate
        self._socket = TimeSocket(self._take, clock)

    def listen(self, host: str, port: int, *, tell_host: bool = False) -> None:
        """Listen, and offer it; with `tell_host` at that address, which is a number, or else where sessions are reached.

        Raises:
            TransportError: when it cannot be listened on.
        """
        opened = self._socket.listen(host, port)
        self._hub.offer_path(opened, lambda: token_bytes(PATH_KEY_BYTES), host=host if tell_host else "")

    def send(self) -> None:
        """Send what the hub has to say."""
        self._socket.send(self._hub.take_datagrams())

    def close(self) -> None:
        """Take and send no more."""
        self._socket.close()

    def _take(self, data: bytes, address: object, arrived_ns: int) -> None:
        self._stimulate(lambda now_ns: self._hub.receive_datagram(data, address, arrived_ns, now_ns))


def own_address(host: str, port: int) -> str:
    """This host's address on the way to another one, as a number. Nothing is sent.

    Raises:
        TransportError: when there is no way, or the other host is not known.
    """
    try:
        found = socket.getaddrinfo(host, port or 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(found[0], socket.SOCK_DGRAM) as probe:
            probe.connect(found[4])
            return str(probe.getsockname()[0])
    except OSError as error:
        raise TransportError(f"udp {host} cannot be reached: {error.strerror or error}") from None
