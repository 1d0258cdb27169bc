"""What the endpoints of sockets say: `tcp://host:port`."""

from __future__ import annotations

import ipaddress


def host_and_port(endpoint: str) -> tuple[str, int]:
    """Host and port of an endpoint such as `tcp://127.0.0.1:7100`."""
    host, _, port = endpoint.rpartition("//")[2].rpartition(":")
    return host.strip("[]"), int(port) if port.isdecimal() else 0


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
