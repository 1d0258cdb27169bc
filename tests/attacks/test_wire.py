"""Attacks on the wire, by whoever reaches the port: replays, monstrous frames, connections that say nothing."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from loopback import ALICE, QUICK, WAIT_S, Losses
from proxy import Proxy
from tests.unit.transport.conftest import Client

from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.errors import ErrorCode
from bellwire.protocols.ids import Epoch, NodeId
from bellwire.protocols.messages import Role, SessionError
from bellwire.protocols.session import Loss
from bellwire.transport import hub as hub_module
from bellwire.transport.connection import Connection
from bellwire.transport.driver import Driver

if TYPE_CHECKING:
    from tests.unit.transport.conftest import Host, Keys, Yard

ZMTP_GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01" + b"CURVE".ljust(20, b"\0") + b"\x00" + bytes(31)
SILENT = 100
"""Connections that say nothing, at once."""

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(host: Host) -> Stream:
    parts = urlsplit(host.hub.endpoint)
    return await asyncio.open_connection(parts.hostname, parts.port)


async def ended(stream: Stream) -> None:
    """Wait until the hub has closed a connection."""
    async with asyncio.timeout(WAIT_S):
        with contextlib.suppress(ConnectionError):
            while await stream[0].read(65_536):
                pass
    stream[1].close()


async def say_all(stream: Stream, data: bytes) -> None:
    """Say something, and that there is no more, and wait for the end: which may come before all is said."""
    stream[1].write(data)
    with contextlib.suppress(OSError):
        stream[1].write_eof()
    await ended(stream)


async def serves(yard: Yard, host: Host, name: str) -> None:
    """A client greets, and reaches itself by way of the hub."""
    client = await yard.greeted(host, name)
    client.say(name, b"turn")
    assert await client.hear() == (name, b"turn")


async def test_recorded_connection_played_again_is_not_heard(yard: Yard, keys: Keys) -> None:
    """CURVE binds every frame to the keys of one handshake: what was true once is noise on another connection."""
    host = await yard.host()
    async with Proxy(host.hub.endpoint) as proxy:
        bob = Client(proxy.endpoint, keys.pair("bob"), keys.broker)
        await bob.greet(1)
        for _ in range(20):
            bob.say("bob", b"move the laser")
            await bob.hear()
        await bob.close()
        recording = bytes(proxy.recordings[0])
    assert b"move the laser" not in recording
    before, relayed = len(host.delivered), host.hub.counters.relayed
    for data in (recording, recording + recording, recording[64:]):
        stream = await connect(host)
        await say_all(stream, data)
    await serves(yard, host, "alice")
    assert [peer for peer, _ in host.delivered[before:]] == ["alice"]
    assert host.hub.counters.relayed == relayed + 1


async def test_frames_played_again_on_their_own_connection_end_it(yard: Yard, keys: Keys) -> None:
    """Each message has a number that only grows (RFC 26): a repeated one is an error of the protocol."""
    host = await yard.host()
    parts = urlsplit(host.hub.endpoint)
    to_hub: list[asyncio.StreamWriter] = []

    async def between(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection(parts.hostname, parts.port)
        to_hub.append(to_server)

        async def back() -> None:
            while data := await server.read(65_536):
                to_client.write(data)
            to_client.close()

        task = asyncio.ensure_future(back())
        while data := await client.read(65_536):
            to_server.write(data)
            recorded.append(data)
        to_server.close()
        await task

    recorded: list[bytes] = []
    server = await asyncio.start_server(between, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        bob = Client(f"tcp://127.0.0.1:{port}", keys.pair("bob"), keys.broker)
        await bob.greet(1)
        bob.say("bob", b"once")
        assert await bob.hear() == ("bob", b"once")
        relayed = host.hub.counters.relayed
        to_hub[0].write(recorded[-1])
        async with asyncio.timeout(WAIT_S):
            while len(to_hub) < 2:
                await serves(yard, host, f"carol{len(host.delivered)}")
                relayed += 1
        await bob.close()
    assert host.hub.counters.relayed == relayed, "nothing was relayed twice"


@pytest.mark.parametrize(
    "claim",
    [
        b"\x02" + struct.pack(">Q", 2**62),
        b"\x06" + struct.pack(">Q", 2**63 - 1),
        b"\x04\xff" + b"\x05HELLO" + bytes(249),
        bytes(range(256)) * 64,
    ],
    ids=["long-frame", "long-command", "false-hello", "noise"],
)
async def test_stranger_that_claims_monstrous_frames_is_cut_off_and_costs_no_memory(yard: Yard, claim: bytes) -> None:
    host = await yard.host()
    before = resident()
    for _ in range(20):
        stream = await connect(host)
        await say_all(stream, ZMTP_GREETING + claim)
    await serves(yard, host, "alice")
    assert resident() - before < 32_000_000
    assert [peer for peer, _ in host.delivered] == ["alice"]


async def test_connections_that_never_shake_hands_are_taken_down_and_hold_nobody_up(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half open, or open and silent, or silent in the middle of the handshake."""
    monkeypatch.setattr(hub_module, "HANDSHAKE_MS", 300)
    host = await yard.host()
    streams = [await connect(host) for _ in range(SILENT)]
    for place, (_, writer) in enumerate(streams):
        writer.write((b"", ZMTP_GREETING[:10], ZMTP_GREETING)[place % 3])
    await serves(yard, host, "alice")
    await asyncio.gather(*map(ended, streams))
    await serves(yard, host, "bob")


async def test_peer_behind_a_dead_path_is_lost_and_others_are_told(yard: Yard, keys: Keys) -> None:
    """No FIN comes from a machine that lost its power: silence tells, and what is for it gets NO_ROUTE."""
    host = await yard.host()
    host.core.settings = QUICK
    losses = Losses(host.core)
    bob = await yard.greeted(host, "bob")
    async with Proxy(host.hub.endpoint) as proxy:
        pair = keys.pair("alice")
        endpoint = Endpoint(ALICE, Role.AGENT, Epoch(1), settings=QUICK)
        connection = Connection(proxy.endpoint, pair, keys.broker.public, lambda *_: None)
        driver = Driver(endpoint, connection.send)
        connection.deliver = driver.deliver
        connection.start()

        def greet(now_ns: int) -> None:
            endpoint.begin(now_ns)
            endpoint.keep_session(host.core.node)

        up = asyncio.Event()
        endpoint.on_peer_up.append(lambda _: up.set())
        driver.stimulate(greet)
        await asyncio.wait_for(up.wait(), WAIT_S)
        proxy.silent = True
        while (await losses.next()) != (NodeId("alice"), Loss.SILENT):
            pass
        driver.close()
        await connection.close()
    await bob.greet(1)
    bob.say("alice", b"still there?")
    while not isinstance(message := await bob.hear_message(), SessionError):
        pass
    assert (message.code, message.peer) == (ErrorCode.NO_ROUTE, ALICE)


def resident() -> int:
    """Octets that this process has in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4_096
