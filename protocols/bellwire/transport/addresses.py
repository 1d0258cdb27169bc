"""What the endpoints of sockets say: `tcp://host:port`."""

from __future__ import annotations

import ipaddress
from typing import Final

from bellwire.protocols.errors import ConfigError

TCP: Final = "tcp://"


def host_and_port(endpoint: str) -> tuple[str, int]:
    """Read `host:port`, with or without `tcp://` before it; `[…]` around an IPv6 address, port 0 for `*`.

    Raises:
        ConfigError: when it is none.
    """
    host, _, port = endpoint.removeprefix(TCP).rpartition(":")
    number = "0" if port == "*" else port
    if not host or "/" in host or not number.isdecimal() or not int(number) < 65_536:
        raise ConfigError(f"{endpoint!r} is not of the form tcp://host:port")
    return host.removeprefix("[").removesuffix("]"), int(number)


def is_loopback(endpoint: str) -> bool:
    """Whether an endpoint such as `tcp://127.0.0.1:7100` is reached from its own machine alone."""
    scheme, _, address = endpoint.partition("://")
    host = address.rpartition(":")[0].strip("[]")
    if scheme in ("ipc", "inproc") or host in ("localhost", "lo"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
