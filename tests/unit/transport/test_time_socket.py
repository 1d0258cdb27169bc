"""The UDP socket of the side path: arrivals are stamped no earlier than they left, what fails is lost (spec 4 §3.5)."""

from __future__ import annotations

import asyncio
import socket
import sys

import pytest

from bellwire.protocols.departures import Departure
from bellwire.protocols.errors import ConfigError, TransportError
from bellwire.protocols.limits import MAX_DATAGRAM_BYTES
from bellwire.protocols.time_path import Datagram
from bellwire.transport.addresses import host_and_port
from bellwire.transport.clock import local_time_ns
from bellwire.transport.time_socket import TimeSocket


async def test_datagrams_arrive_stamped_after_they_left_and_before_they_were_read() -> None:
    taken: asyncio.Queue[tuple[bytes, object, int, int]] = asyncio.Queue()

    def take(data: bytes, address: object, arrived_ns: int) -> None:
        taken.put_nowait((data, address, arrived_ns, local_time_ns()))

    hub, node = TimeSocket(take, local_time_ns), TimeSocket(take, local_time_ns)
    try:
        port = hub.listen("127.0.0.1", 0)
        node.reach("127.0.0.1")
        assert hub.stamps is (sys.platform == "linux")
        departures = [Departure(0) for _ in range(5)]
        node.send(Datagram(port, bytes([number]), departure) for number, departure in enumerate(departures))
        for number, departure in enumerate(departures):
            data, address, arrived_ns, read_ns = await taken.get()
            assert data == bytes([number])
            assert departure.at_ns <= arrived_ns <= read_ns
        back = Departure(0)
        hub.send([Datagram(address, b"back", back)])
        data, _, arrived_ns, read_ns = await taken.get()
        assert data == b"back"
        assert back.at_ns <= arrived_ns <= read_ns
    finally:
        hub.close()
        node.close()
    assert not node.is_open
    node.send([Datagram(port, b"never", Departure(0))])


async def test_port_that_is_taken_is_an_error_and_one_where_nobody_listens_is_none() -> None:
    opened = TimeSocket(lambda *_: None, local_time_ns)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        with pytest.raises(TransportError, match=f"udp 127.0.0.1:{port} cannot be listened on: "):
            opened.listen("127.0.0.1", port)
    opened.reach("127.0.0.1")
    try:
        for _ in range(3):
            opened.send([Datagram(port, b"into the dark", Departure(0))])
            await asyncio.sleep(0)
        assert opened.is_open
    finally:
        opened.close()


async def test_datagram_that_is_too_long_is_dropped_and_not_cut() -> None:
    taken: asyncio.Queue[bytes] = asyncio.Queue()
    hub = TimeSocket(lambda data, *_: taken.put_nowait(data), local_time_ns)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        try:
            port = hub.listen("127.0.0.1", 0)
            for length in (MAX_DATAGRAM_BYTES + 1, MAX_DATAGRAM_BYTES):
                other.sendto(bytes(length), ("127.0.0.1", port))
            assert len(await taken.get()) == MAX_DATAGRAM_BYTES
            assert taken.empty()
        finally:
            hub.close()


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [("tcp://127.0.0.1:7100", ("127.0.0.1", 7100)), ("tcp://[::1]:7", ("::1", 7)), ("tcp://broker:*", ("broker", 0))],
)
def test_endpoint_is_taken_apart(endpoint: str, expected: tuple[str, int]) -> None:
    assert host_and_port(endpoint) == expected


@pytest.mark.parametrize(
    "endpoint", ["tcp://broker", "tcp://:7100", "tcp://broker:here", "tcp://broker:65536", "ipc:///run/broker:1", ""]
)
def test_endpoint_that_is_none_is_one_clear_line(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="is not of the form tcp://host:port"):
        host_and_port(endpoint)
