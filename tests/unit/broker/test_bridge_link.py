"""The line between the brokers of one site: a path that died is given up, and what finds no room is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import zmq
from loopback import WAIT_S
from proxy import Proxy

from bellwire.broker import bridge_link
from bellwire.broker.bridge_link import EVERYBODY, Link
from bellwire.broker.bridge_wire import MAX_ENVELOPE_BYTES
from bellwire.transport.reader import Pings

ANY = "tcp://127.0.0.1:*"
ONE, OTHER = b"1" * 16, b"2" * 16


@asynccontextmanager
async def line(token: bytes, others: tuple[str, ...], take: Callable[[bytes], None]) -> AsyncIterator[Link]:
    link = Link(ANY, others, token, take)
    link.start()
    try:
        yield link
    finally:
        await link.close()


async def carried(link: Link, heard: asyncio.Queue[bytes]) -> None:
    """Publish until something has come: what nobody has subscribed to yet is lost."""
    async with asyncio.timeout(WAIT_S):
        while heard.empty():
            link.publish(b"", b"are you there")
            await asyncio.sleep(0)


async def test_line_whose_path_died_without_a_word_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """No FIN comes from a machine that lost its power, and who hears says nothing by itself."""
    monkeypatch.setattr(bridge_link, "PINGS", Pings(50, 200))
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    async with (
        line(ONE, (), heard.put_nowait) as one,
        Proxy(one.endpoint) as proxy,
        line(OTHER, (proxy.endpoint,), heard.put_nowait),
    ):
        await carried(one, heard)
        proxy.strand()
        async with asyncio.timeout(WAIT_S):
            await proxy.again.wait()
        while not heard.empty():
            heard.get_nowait()
        await carried(one, heard)


async def test_envelope_that_finds_no_room_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_link, "HWM", 4)
    async with line(ONE, (), lambda _: None) as one:
        with zmq.Context() as context, context.socket(zmq.SUB) as deaf:
            deaf.setsockopt(zmq.LINGER, 0)
            deaf.setsockopt(zmq.RCVHWM, 1)
            deaf.setsockopt(zmq.SUBSCRIBE, EVERYBODY)
            deaf.connect(one.endpoint)
            async with asyncio.timeout(WAIT_S):
                while not deaf.poll(0):
                    one.publish(b"", b"are you there")
                    await asyncio.sleep(0)
            # A few wait at either end, and some more within the system.
            assert not all(one.publish(b"", bytes(MAX_ENVELOPE_BYTES)) for _ in range(2_000))
            assert one.publish(OTHER, b"for somebody else"), "who takes nothing holds up nobody but itself"
