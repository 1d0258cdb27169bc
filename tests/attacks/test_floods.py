"""Who floods a hub loses its connections, and everybody else keeps theirs (spec 1 §2.7)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from loopback import WAIT_S

from bellwire.protocols.ids import NodeId
from bellwire.protocols.messages import SessionWelcome
from bellwire.transport.guests import SHUN_NS
from bellwire.transport.members import FLOOD, HubLimits

if TYPE_CHECKING:
    from tests.unit.transport.conftest import Client, Keys, Yard

RATE = 1_000


class Clock:
    """Stands still until it is told, so that all that is sent falls into one stretch."""

    now_ns = SHUN_NS

    def __call__(self) -> int:
        return self.now_ns


async def send_until_cut_off(flooder: Client, receiver: str) -> None:
    """Send as fast as the connection takes it, until there is none."""
    async with asyncio.timeout(WAIT_S):
        while flooder.connection.connected:
            for _ in range(100):
                flooder.connection.send(NodeId(receiver), b"flood")
            await asyncio.sleep(0)


@pytest.mark.parametrize("receiver", ["alice", "broker", "nobody"])
async def test_flooding_client_is_cut_off_and_the_others_go_on(yard: Yard, receiver: str) -> None:
    host = await yard.host(limits=HubLimits(rate=RATE, own_rate=RATE), clock=Clock())
    alice, carol = await yard.greeted(host, "alice"), await yard.greeted(host, "carol")
    mallory = await yard.greeted(host, "mallory")
    await send_until_cut_off(mallory, receiver)
    assert host.hub.counters.floods == 1
    assert "broker ended the connections of mallory, which flooded it, for 30 s" in [
        host.reports.get_nowait() for _ in range(host.reports.qsize())
    ]
    while not alice.heard.empty():
        alice.heard.get_nowait()
    carol.say("alice", b"word")
    sender = NodeId("mallory")
    while sender == "mallory":  # what was on its way still comes
        sender, data = await alice.hear()
    assert (sender, data) == ("carol", b"word")


async def test_client_that_was_cut_off_is_let_in_again_after_a_while(yard: Yard, keys: Keys) -> None:
    clock = Clock()
    host = await yard.host(limits=HubLimits(rate=RATE), clock=clock)
    mallory = await yard.greeted(host, "mallory")
    await send_until_cut_off(mallory, "nobody")
    await mallory.close()
    said: asyncio.Queue[str] = asyncio.Queue()
    again = yard.client(host, keys.pair_of("mallory"), said.put_nowait)
    stands = asyncio.Event()
    again.connection._on_changed = lambda up: stands.set() if up else None
    assert await asyncio.wait_for(said.get(), WAIT_S) == (
        f"{host.hub.endpoint} lets mallory in again only after a while: it flooded the hub"
    )
    assert not stands.is_set()
    clock.now_ns += SHUN_NS
    await asyncio.wait_for(stands.wait(), WAIT_S)
    assert isinstance(await again.greet(2), SessionWelcome)


async def test_client_that_floods_without_ever_greeting_is_cut_off(yard: Yard, keys: Keys) -> None:
    host = await yard.host(limits=HubLimits(rate=RATE), clock=Clock())
    mallory = yard.client(host, keys.pair("mallory"))
    mallory.say("alice", b"flood")
    await mallory.hear()
    await send_until_cut_off(mallory, "alice")
    assert host.hub.counters.floods == 1


async def test_client_that_is_hasty_and_no_flood_keeps_its_connection(yard: Yard) -> None:
    host = await yard.host(limits=HubLimits(rate=RATE, queue=2 * FLOOD), clock=Clock())
    alice = await yard.greeted(host, "alice")
    sent = 0
    async with asyncio.timeout(WAIT_S):
        while sent < FLOOD // 2:
            sent += alice.connection.send(NodeId("nobody"), b"much")
            await asyncio.sleep(0)
        alice.hello(2)
        while not host.core.is_up(NodeId("alice")) or host.core.sessions[NodeId("alice")].epoch != 2:
            await alice.hear()
    assert host.hub.counters.floods == 0
