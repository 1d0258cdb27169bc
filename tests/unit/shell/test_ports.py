"""Ports that are reserved for servers to come."""

from __future__ import annotations

import socket

import pytest
import zmq

from bellwire.shell.ports import reserve_port


def test_reserved_port_is_given_to_nobody_and_a_server_can_bind_it() -> None:
    port = reserve_port()
    with socket.socket() as other, pytest.raises(OSError, match="Address already in use"):
        other.bind(("127.0.0.1", port))
    with zmq.Context() as context, context.socket(zmq.ROUTER) as server:
        server.bind(f"tcp://127.0.0.1:{port}")
