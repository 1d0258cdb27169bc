"""Several brokers, as processes: two sites over a real MQTT broker, and a hot standby (spec 1 §2.8)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import pytest
from federation import SOUTH, STANDBY, two_sites, with_standby
from mosquitto import Mosquitto
from processes import prepared_processes
from testbeds import write_testbed

from bellwire.client import Network, Pair, connect, initialise, measure, release
from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.ids import BROKER

MACHINE = {"communication": 2, "storage": 2}
NODES = {"alice": MACHINE, "bob": MACHINE}
LINKS = {
    "alice-bob": {"attempts": 1, "window_timeout_ms": 500, "report_timeout_ms": 250, "pair_lifetime_ms": 10_000},
}
SESSION = {"heartbeat_ms": 200, "liveness_ms": 1_500, "retry_ms": 100}

PATIENCE_S = 60
UNREACHED = {ErrorCode.PEER_LOST, ErrorCode.TIMEOUT, ErrorCode.EXPIRE, ErrorCode.NORES}


async def entangled(net: Network) -> None:
    """Herald a pair between Alice and Bob, and see that their halves agree."""
    pair = await net.entangle("alice", "bob", timeout_s=5)
    ends = [await net.run(node, [measure(pair.pair_id), release(pair.pair_id)]) for node in pair.nodes]
    assert ends[0].bits[0] ^ ends[1].bits[0] == pair.bell_state.x


async def used(net: Network, pairs: AsyncGenerator[Pair], number: int) -> None:
    """Take so many more pairs of a request, and give them back."""
    for _ in range(number):
        pair = await anext(pairs)
        for node in pair.nodes:
            await net.run(node, [release(pair.pair_id)])


async def entangled_at_last(net: Network) -> None:
    """Herald a pair as soon as that can be done: who was lost has to be found again first."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await entangled(net)
            except RequestError as error:
                if error.code not in UNREACHED:
                    raise
            else:
                return


async def test_pairs_are_heralded_between_two_sites_before_and_after_an_outage_of_mqtt(tmp_path: Path) -> None:
    """Alice, the station and the application are at north, Bob is at south. North goes on alone meanwhile."""
    testbed = write_testbed(tmp_path / "testbed.toml", NODES, LINKS, direct=False, session=SESSION)
    async with Mosquitto(tmp_path) as mosquitto:
        prepared = two_sites(testbed, tmp_path / "state", mosquitto.url, ("bob",))
        async with prepared_processes(prepared) as running, connect(prepared.client) as net:
            await entangled_at_last(net)
            await mosquitto.kill()
            with pytest.raises(RequestError) as caught:
                await net.entangle("alice", "bob", timeout_s=2)
            assert caught.value.code in UNREACHED
            await net.run("alice", [initialise("local"), measure("local"), release("local")])
            await mosquitto.start()
            await entangled_at_last(net)
            await running.kill(SOUTH)
            await running.start(SOUTH)
            await entangled_at_last(net)


async def test_running_exchanges_survive_kill_9_of_the_broker_when_it_has_a_standby(tmp_path: Path) -> None:
    """One request of many pairs, during which everybody moves to the standby, and back when that is killed too."""
    # The application's heartbeat is a second: on a busy machine it needs more than half of one to move, and is no less alive.
    session = SESSION | {"liveness_ms": 3_000}
    testbed = write_testbed(tmp_path / "testbed.toml", NODES, LINKS, direct=False, session=session)
    prepared = with_standby(testbed, tmp_path / "state")
    async with prepared_processes(prepared) as running, connect(prepared.client) as net:
        asked = net.pairs("alice", "bob", number=100_000, timeout_s=10 * PATIENCE_S)
        async with asyncio.timeout(PATIENCE_S), aclosing(asked) as pairs:
            await used(net, pairs, 50)
            await running.kill(BROKER)
            await used(net, pairs, 50)
            restarted = asyncio.ensure_future(running.start(BROKER))
            while not restarted.done():  # no pair may wait for it, and expire
                await used(net, pairs, 1)
            await restarted
            await running.kill(STANDBY)
            await used(net, pairs, 50)
