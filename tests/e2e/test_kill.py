"""`kill -9` on each participant in the middle of a run: named errors in time, nothing leaked, and on it goes."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from processes import processes

from bellwire.client import Network, connect, initialise, measure, release
from bellwire.protocols.errors import ErrorCode, RequestError

TESTBED = """
name = "killed"
preset = "ideal"

[session]
heartbeat_ms = 200
liveness_ms = 1000
retry_ms = 100

[nodes.alice]
model = "ideal"
communication = 4
storage = 4

[nodes.bob]
model = "ideal"
communication = 4
storage = 4

[stations.hub]

[links.alice-bob]
ends = ["alice", "bob"]
station = "hub"
model = "ideal"
scheme = "any"
attempts = 1
window_timeout_ms = 500
report_timeout_ms = 250
pair_lifetime_ms = 1000
"""

TIMEOUT_S = 4.0
NAMES = ("q0", "q1", "q2", "q3")


async def gates_until_error(net: Network, name: str, done: asyncio.Queue[None]) -> RequestError:
    """Teleport gates on one pair of qubits until one fails; tell of each success."""
    while True:
        began = time.monotonic()
        try:
            await net.cz(f"alice:{name}", f"bob:{name}", timeout_s=TIMEOUT_S)
        except RequestError as error:
            assert time.monotonic() - began < TIMEOUT_S + 2.5, "the error came after the deadline"
            return error
        done.put_nowait(None)


async def take_all(net: Network) -> None:
    for node in ("alice", "bob"):
        await net.run(node, [initialise(name) for name in NAMES])


async def eventually(net: Network, source: str, target: str) -> None:
    """The next request succeeds, once the participants have found each other again."""
    deadline = time.monotonic() + 20
    while True:
        try:
            await net.cz(source, target, timeout_s=TIMEOUT_S)
        except RequestError:
            assert time.monotonic() < deadline, "no request succeeds any more"
        else:
            return


async def take_all_eventually(net: Network) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            await take_all(net)
        except RequestError:
            assert time.monotonic() < deadline, "the qubits do not come free"
        else:
            return


@pytest.mark.parametrize("victim", ["bob", "alice", "broker", "hub", "world"])
async def test_participant_killed_in_mid_run_ends_requests_by_name_and_comes_back(victim: str, tmp_path: Path) -> None:
    testbed = tmp_path / "testbed.toml"
    testbed.write_text(TESTBED)
    async with processes(testbed, tmp_path / "state") as running:
        async with connect(running.prepared.client) as net:
            await take_all(net)
            done: asyncio.Queue[None] = asyncio.Queue()
            workers = [asyncio.ensure_future(gates_until_error(net, name, done)) for name in NAMES]
            for _ in range(20):
                await done.get()
            await running.kill(victim)
            errors = await asyncio.wait_for(asyncio.gather(*workers), TIMEOUT_S + 5)
            assert all(error.code in set(ErrorCode) and error.text for error in errors)
        # The application left: everything that it held at the survivors is free again.
        await running.start(victim)
        async with connect(running.prepared.client) as net:
            await take_all_eventually(net)
            await eventually(net, "alice:q0", "bob:q0")
            # Every communication qubit can be used again too: as many pairs at once as there are qubits.
            pairs = [pair async for pair in net.pairs("alice", "bob", number=4, timeout_s=TIMEOUT_S)]
            for pair in pairs:
                (a,) = (await net.run("alice", [measure(pair.pair_id), release(pair.pair_id)])).bits
                (b,) = (await net.run("bob", [measure(pair.pair_id), release(pair.pair_id)])).bits
                assert a ^ b == pair.bell_state.x


async def test_survivor_has_its_qubits_back_while_the_peer_is_dead(tmp_path: Path) -> None:
    """Alice's qubits are free again although nobody has restarted bob."""
    testbed = tmp_path / "testbed.toml"
    testbed.write_text(TESTBED)
    async with processes(testbed, tmp_path / "state") as running, connect(running.prepared.client) as net:
        await take_all(net)
        done: asyncio.Queue[None] = asyncio.Queue()
        workers = [asyncio.ensure_future(gates_until_error(net, name, done)) for name in NAMES]
        for _ in range(20):
            await done.get()
        await running.kill("bob")
        await asyncio.wait_for(asyncio.gather(*workers), TIMEOUT_S + 5)
        await net.run("alice", [release(name) for name in NAMES])
        await net.run("alice", [initialise(f"again-{name}") for name in NAMES])


@pytest.mark.parametrize("name", ["alice", "hub", "world", "broker"])
async def test_daemon_on_sigterm_ends_within_a_second(name: str, tmp_path: Path) -> None:
    testbed = tmp_path / "testbed.toml"
    testbed.write_text(TESTBED)
    async with processes(testbed, tmp_path / "state") as running, connect(running.prepared.client) as net:
        await take_all(net)
        began = time.monotonic()
        assert await running.stop(name) == 0
        assert time.monotonic() - began < 1.0
