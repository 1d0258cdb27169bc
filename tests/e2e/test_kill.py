"""`kill -9` on each participant in the middle of a run: named errors in time, nothing leaked, and on it goes."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from processes import Processes, processes
from testbeds import write_testbed

from bellwire.client import Network, connect, initialise, measure, release
from bellwire.client.net import GRACE_S
from bellwire.client.participant import SocketParticipant
from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.ids import BROKER, NodeId

MACHINE = {"communication": 4, "storage": 4}
SESSION = {"heartbeat_ms": 200, "liveness_ms": 1_000, "retry_ms": 100}
LINK = {"attempts": 1, "window_timeout_ms": 500, "report_timeout_ms": 250, "pair_lifetime_ms": 1_000}
LEASE_S = 1.0
"""`pair_lifetime_ms` above: how long a node may keep a qubit for a pair whose other end is silent."""

TIMEOUT_S = 4.0
MARGIN_S = GRACE_S + 0.5
"""The network answers by the deadline; the client gives it `GRACE_S` more, and this busy machine half a second."""

NAMES = ("q0", "q1", "q2", "q3")

LOST = {ErrorCode.PEER_LOST, ErrorCode.INDETERMINATE, ErrorCode.TIMEOUT, ErrorCode.EXPIRE}
NAMED = {
    "bob": LOST,
    "alice": {ErrorCode.PEER_LOST},
    "hub": {ErrorCode.TIMEOUT, ErrorCode.PEER_LOST},
    "world": {ErrorCode.BACKEND, ErrorCode.INDETERMINATE, ErrorCode.UNKNOWN_ID, ErrorCode.REJECTED},
}
"""What a request may end with when a participant is killed."""


def killable(directory: Path, **session: int) -> AbstractAsyncContextManager[Processes]:
    """A testbed of which alice has two neighbours, ready. Carol can store one qubit alone."""
    nodes = {"alice": MACHINE, "bob": MACHINE, "carol": MACHINE | {"storage": 1}}
    links = {"alice-bob": LINK, "alice-carol": LINK}
    return processes(
        write_testbed(directory / "testbed.toml", nodes, links, session=SESSION | session), directory / "state"
    )


async def gates_until_error(net: Network, name: str, done: asyncio.Queue[None]) -> RequestError:
    """Teleport gates on one pair of qubits until one fails; tell of each success."""
    while True:
        began = time.monotonic()
        try:
            await net.cz(f"alice:{name}", f"bob:{name}", timeout_s=TIMEOUT_S)
        except RequestError as error:
            assert time.monotonic() - began < TIMEOUT_S + MARGIN_S, "the error came after the deadline"
            return error
        done.put_nowait(None)


async def kill_in_mid_run(running: Processes, net: Network, victim: str) -> list[RequestError]:
    """Kill a participant while gates are under way on every qubit, and return what each ended with."""
    await take_all(net)
    done: asyncio.Queue[None] = asyncio.Queue()
    workers = [asyncio.ensure_future(gates_until_error(net, name, done)) for name in NAMES]
    for _ in range(20):
        await done.get()
    await running.kill(victim)
    return await asyncio.wait_for(asyncio.gather(*workers), TIMEOUT_S + MARGIN_S + 1)


async def take_all(net: Network) -> None:
    for node in ("alice", "bob"):
        await net.run(node, [initialise(name) for name in NAMES])


async def reached_again(net: Network) -> None:
    """Wait until both nodes answer the application, and its qubits there are its own again: no request under test."""
    async with asyncio.timeout(20):
        while True:
            try:
                await take_all(net)
            except RequestError as error:
                if error.code not in {*LOST, ErrorCode.BACKEND, ErrorCode.NORES, ErrorCode.UNKNOWN_ID}:
                    raise
            else:
                return


async def use_every_communication_qubit(net: Network, first: str, second: str, timeout_s: float) -> None:
    """Make as many pairs as a node has communication qubits, and only then measure them: they were held at once.

    Were one qubit not free, the last pair would have to wait for the first to expire, which then could not be measured.
    """
    pairs = [pair async for pair in net.pairs(first, second, number=len(NAMES), timeout_s=timeout_s)]
    assert len({pair.pair_id for pair in pairs}) == len(NAMES)
    for pair in pairs:
        steps = [measure(pair.pair_id), release(pair.pair_id)]
        ends = await asyncio.gather(*(net.run(node, steps) for node in pair.nodes))
        assert ends[0].bits[0] ^ ends[1].bits[0] == pair.bell_state.x


@pytest.mark.parametrize("victim", list(NAMED))
async def test_participant_killed_in_mid_run_ends_requests_by_name_and_the_next_succeeds(
    victim: str, tmp_path: Path
) -> None:
    """One application lives through it all, and nothing is restarted but the victim."""
    async with killable(tmp_path) as running, connect(running.prepared.client) as net:
        errors = await kill_in_mid_run(running, net, victim)
        assert {error.code for error in errors} <= NAMED[victim], errors
        assert all(error.text for error in errors)
        await running.start(victim)
        await reached_again(net)
        await net.cz("alice:q0", "bob:q0", timeout_s=TIMEOUT_S)
        await use_every_communication_qubit(net, "alice", "bob", TIMEOUT_S)


async def test_gates_run_on_when_the_broker_is_killed(tmp_path: Path) -> None:
    """Everybody who takes part is connected directly: nothing is lost, and nobody but the broker.

    The application's heartbeat is the default of a second, so that the nodes' liveness has to be longer.
    """
    async with killable(tmp_path, liveness_ms=2_000) as running, connect(running.prepared.client) as net:
        await take_all(net)
        lost: asyncio.Queue[NodeId] = asyncio.Queue()
        participant = net._participant
        participant.endpoint.on_peer_lost.append(lambda peer, *_: lost.put_nowait(peer))
        await everything_is_direct(net)
        done: asyncio.Queue[None] = asyncio.Queue()
        workers = [asyncio.ensure_future(gates_until_error(net, name, done)) for name in NAMES]
        for _ in range(20):
            await done.get()
        await running.kill("broker")
        assert await asyncio.wait_for(lost.get(), 10) == BROKER
        await more_gates(workers, done)
        await running.start("broker")
        await more_gates(workers, done)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        assert lost.empty()


async def more_gates(workers: list[asyncio.Task[RequestError]], done: asyncio.Queue[None]) -> None:
    """Wait for gates that are done from now on, on every pair of qubits."""
    while not done.empty():
        done.get_nowait()
    for _ in range(200):
        counted = asyncio.ensure_future(done.get())
        waited: set[asyncio.Future[Any]] = {counted, *workers}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        ended = [worker.result() for worker in workers if worker.done()]
        assert not ended, ended
        await counted


async def everything_is_direct(net: Network) -> None:
    """Have a gate done, until everybody that takes part says that all but the broker is direct."""
    wanted = {"alice": {"bob", "hub", "client"}, "bob": {"alice", "hub", "client"}, "hub": {"alice", "bob"}}
    async with asyncio.timeout(20):
        while True:
            await net.cz("alice:q0", "bob:q0", timeout_s=TIMEOUT_S)
            reports = [(await net.peers(node), peers) for node, peers in wanted.items()]
            assert isinstance(net._participant, SocketParticipant)
            own, paths = net._participant.endpoint, net._participant.paths
            if all(peers <= set(report.direct) for report, peers in reports) and all(
                paths.is_direct(peer) for peer in own.sessions if peer != BROKER
            ):
                return


async def test_survivor_has_all_its_qubits_back_while_the_peer_is_dead(tmp_path: Path) -> None:
    """Nobody has restarted bob: alice serves another neighbour with every qubit that she has."""
    async with killable(tmp_path) as running, connect(running.prepared.client) as net:
        await kill_in_mid_run(running, net, "bob")
        await net.run("alice", [release(name) for name in NAMES])
        await net.run("alice", [initialise(f"again-{name}") for name in NAMES])
        await use_every_communication_qubit(net, "alice", "carol", LEASE_S + 0.5)


@pytest.mark.parametrize("name", ["alice", "hub", "world", "broker"])
async def test_daemon_on_sigterm_ends_within_a_second(name: str, tmp_path: Path) -> None:
    async with killable(tmp_path) as running, connect(running.prepared.client) as net:
        await take_all(net)
        began = time.monotonic()
        assert await running.stop(name) == 0
        assert time.monotonic() - began < 1.0
