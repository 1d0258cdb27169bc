"""Ports of this machine for servers that are told in advance where to listen."""

from __future__ import annotations

import socket


def reserve_port() -> int:
    """A TCP port of 127.0.0.1 for a server that binds it within the next minute, as all do that set SO_REUSEADDR.

    A connection that has just ended keeps it: until then the system gives it to nobody who asks for any free port.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            # Whoever closes first is who waits for late packets: here the server, whose port that is.
            server.accept()[0].close()
            client.recv(1)
    return port
