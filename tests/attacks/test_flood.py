"""Members that take all that they can get, or nothing at all: nobody else is held up (spec 1 §2.7)."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import flooder
import pytest
import zmq
from loopback import ALICE, BOB, QUICK, WAIT_S, Application, KeyRing

from bellwire.broker.daemon import BrokerConfig, BrokerDaemon
from bellwire.protocols.codec import CODEC
from bellwire.protocols.errors import ErrorCode
from bellwire.protocols.ids import BROKER, Epoch, GateId, NodeId
from bellwire.protocols.messages import (
    EventSubscribe,
    GateDone,
    GateOutcome,
    Role,
    SessionAck,
    SessionError,
    SessionHello,
    SessionWelcome,
)
from bellwire.transport.guests import SHUN_NS
from bellwire.transport.members import FLOOD, HubLimits

if TYPE_CHECKING:
    from tests.unit.transport.conftest import Client, Keys, Yard

CAROL, MALLORY = NodeId("carol"), NodeId("mallory")
AT_ONCE = 8
ROUNDS = 10
RATE = 1_000


class Lab:
    """A broker on loopback, and members of it that answer the outcomes of gates."""

    def __init__(self, directory: Path) -> None:
        self.keys = KeyRing(directory)
        self.keys.make(BROKER, Role.BROKER)
        self.keys.make(MALLORY, Role.AGENT)
        self.broker = BrokerDaemon(
            BrokerConfig(
                bind="tcp://127.0.0.1:*",
                secret_key=directory / "broker.key_secret",
                authorized_keys=directory,
                session=QUICK,
                # Equal, so that of the errors that one member is told some are of each.
                limits=HubLimits(rate=5_000, own_rate=5_000),
            )
        )
        self.members: list[Application] = []

    async def join(self, name: NodeId) -> Application:
        keys = self.keys.make(name, Role.AGENT)
        member = Application(keys, self.broker.endpoint, self.keys.public(BROKER))
        member.take(GateOutcome, lambda: GateDone(gate_id=GateId("gate")))
        await member.__aenter__()
        self.members.append(member)
        await member.joined()
        return member

    async def close(self) -> None:
        for member in self.members:
            await member.__aexit__(None, None, None)
        await self.broker.close()
        if self.broker.driver.failed.done():
            self.broker.driver.failed.result()

    @asynccontextmanager
    async def flooded(self, victim: NodeId) -> AsyncIterator[set[str]]:
        """Mallory floods a member and the broker meanwhile, and has been told so of both. Gives of whom he was told."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            flooder.__file__,
            self.broker.endpoint,
            str(self.keys.directory / f"{MALLORY}.key_secret"),
            str(self.keys.directory / f"{BROKER}.key"),
            victim,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(WAIT_S):
                lines = [await process.stdout.readline() for _ in range(2)]
            yield {json.loads(line)["limited"] for line in lines}
            assert process.returncode is None, "the flood went on"
        finally:
            process.stdin.close()
            await process.wait()


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    lab = Lab(tmp_path / "keys")
    await lab.broker.start()
    yield lab
    await lab.close()


async def test_flood_of_a_member_is_told_to_it_and_the_others_are_answered_in_order(lab: Lab) -> None:
    """Carol and the broker are flooded at full speed: what others ask each other, her and the broker goes on."""
    alice, bob, _carol = await lab.join(ALICE), await lab.join(BOB), await lab.join(CAROL)
    counters = lab.broker.hub.counters
    asked: list[GateId] = []
    async with lab.flooded(CAROL) as limited:
        assert limited == {CAROL, BROKER}
        before = counters.hasty
        # As many rounds as are wanted, and on until more of the flood was dropped, or the flooder cut off.
        while len(asked) < ROUNDS * AT_ONCE or (counters.hasty == before and not counters.floods):
            gates = [GateId(f"gate-{len(asked) + number}") for number in range(AT_ONCE)]
            asked += gates
            await asyncio.gather(
                *(alice.ask(BOB, GateOutcome(gate_id=gate, bits=(0,)), GateDone) for gate in gates),
                bob.ask(ALICE, GateOutcome(gate_id=gates[0], bits=(0,)), GateDone),
                bob.ask(CAROL, GateOutcome(gate_id=gates[0], bits=(0,)), GateDone),
                alice.ask(BROKER, EventSubscribe(topic="calibration"), SessionAck),
            )
    assert [(await bob.received(GateOutcome))[1].gate_id for _ in asked] == asked
    assert all(lab.broker.core.is_up(name) for name in (ALICE, BOB, CAROL))


async def word(client: Client) -> tuple[NodeId, bytes]:
    """The next message from another member; what the broker itself says, such as that it is alive, is passed over."""
    while True:
        sender, data = await client.hear()
        if sender != BROKER:
            return sender, data


async def test_slow_member_loses_what_is_its_own_and_holds_up_nobody(yard: Yard, keys: Keys) -> None:
    """Bob's connection stands, and he takes nothing: its queues fill, and Alice is told of what is dropped."""
    host = await yard.host(limits=HubLimits(queue=16, rate=10**9))
    alice, carol = await yard.greeted(host, "alice"), await yard.greeted(host, "carol")
    bob = yard.raw(host, keys.pair("bob"))
    hello = SessionHello(epoch=Epoch(1), request_id=1, versions=(1,), role=Role.AGENT, heartbeat_ns=10**9)
    bob.send_multipart([BROKER.encode(), CODEC.encode(hello)])
    sent, told = 0, None
    async with asyncio.timeout(WAIT_S):
        while not host.hub.reaches(NodeId("bob")):
            carol.say("carol", b"turn")
            await word(carol)
        while told is None:
            alice.say("bob", b"%08d" % sent + bytes(60_000))
            alice.say("carol", b"%d" % sent)
            assert await word(carol) == ("alice", b"%d" % sent), "Carol hears all, in order"
            sent += 1
            while not alice.heard.empty():
                message = CODEC.decode(alice.heard.get_nowait()[1])
                told = message if isinstance(message, SessionError) else told
    assert (told.code, told.peer, told.text) == (ErrorCode.LIMIT, "bob", "the queue to bob is full")
    assert host.hub.counters.full >= 1
    numbers: list[int] = []
    dropped_at = sent
    async with asyncio.timeout(WAIT_S):
        while not numbers or numbers[-1] < dropped_at:
            while bob.poll(0):
                sender, data = bob.recv_multipart()
                if sender == b"alice":
                    numbers.append(int(data[:8]))
            alice.say("bob", b"%08d" % sent)
            carol.say("carol", b"turn")
            assert await word(carol) == ("carol", b"turn")
            sent += 1
    assert numbers == sorted(set(numbers)), "what was not dropped comes once, in order, and more when there is room"


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
        sender, data = await word(alice)
    assert (sender, data) == ("carol", b"word")


@pytest.mark.parametrize("frames", [[b"alice"], [b"alice", b"much", b"more"], [bytes(300), b"nobody"]])
async def test_client_that_floods_with_what_is_no_message_is_cut_off(
    yard: Yard, keys: Keys, frames: list[bytes]
) -> None:
    host = await yard.host(limits=HubLimits(rate=RATE), clock=Clock())
    mallory = yard.raw(host, keys.pair("mallory"))
    hello = SessionHello(epoch=Epoch(1), request_id=1, versions=(1,), role=Role.AGENT, heartbeat_ns=10**9)
    mallory.send_multipart([BROKER.encode(), CODEC.encode(hello)])
    async with asyncio.timeout(WAIT_S):
        while not host.hub.counters.floods:
            for _ in range(200):
                if not mallory.poll(0, zmq.POLLOUT):
                    break
                mallory.send_multipart(frames)
            await asyncio.sleep(0)


async def test_client_that_was_cut_off_is_let_in_again_after_a_while(yard: Yard, keys: Keys) -> None:
    clock = Clock()
    host = await yard.host(limits=HubLimits(rate=RATE), clock=clock)
    mallory = await yard.greeted(host, "mallory")
    await send_until_cut_off(mallory, "nobody")
    await mallory.close()
    said: asyncio.Queue[str] = asyncio.Queue()
    again = yard.client(host, keys.pair_of("mallory"), said.put_nowait)
    stands = asyncio.Event()
    again.connection.on_changed.append(lambda up: stands.set() if up else None)
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
