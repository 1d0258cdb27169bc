"""A node of another implementation, written from the specification alone, in a testbed of real processes."""

from __future__ import annotations

import json
import time
import tomllib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import Processes, prepared_processes
from testbeds import write_testbed

from bellwire.agent.testbed import prepare
from bellwire.client import connect, gate, initialise, measure, release
from bellwire.client.creates import Pair
from bellwire.client.net import Network
from bellwire.client.oracle import Oracle, observe
from bellwire.protocols.instructions import BellState
from bellwire.protocols.messages import ClockState, GateKind
from bellwire.sim.states import bell_density_matrix
from bellwire.virtual.gate_checkers import ideal_choi

EXACT = 1e-9
GUARD_NS = 10_000_000
MANY = 64
"""In so many pairs every Bell state that the link can herald comes."""

MACHINE = {"storage": 2, "reference": 1}
Bed = dict[str, Any]

ALICE_OPENS: Bed = {"preset": "ideal", "model": "ideal", "scheme": "any", "ends": ["alice", "bob"]}
BOB_OPENS: Bed = {"preset": "schemes", "model": "double-click", "scheme": "double-click", "ends": ["bob", "alice"]}
FRAMES = {"any": set(BellState), "double-click": {BellState.PSI_PLUS, BellState.PSI_MINUS}}


@pytest.fixture(params=[ALICE_OPENS, BOB_OPENS], ids=["alice-opens-windows", "bob-opens-windows"])
def bed(request: pytest.FixtureRequest) -> Bed:
    """How the link is made, and whose end of it opens the windows."""
    chosen: Bed = request.param
    return chosen


@pytest.fixture
async def observed(tmp_path: Path, bed: Bed, typescript_agent: Sequence[str]) -> AsyncIterator[tuple[Network, Oracle]]:
    """The network of a mixed testbed, and the true states of its world."""
    async with (
        mixed_testbed(tmp_path, bed, typescript_agent) as running,
        connect(running.prepared.client) as net,
        observe(running.prepared.client) as oracle,
    ):
        yield net, oracle


def settings_of(directory: Path, name: str) -> dict[str, Any]:
    """What the other implementation is told, of the file that Bellwire's own agent would read."""
    file = tomllib.loads((directory / f"{name}.toml").read_text(encoding="utf-8"))
    return {
        "name": name,
        "endpoint": file["broker"]["endpoint"],
        "keys": str(directory / "keys"),
        "times": file["session"],
        "links": file["links"],
        "world": {"name": "world", "endpoint": file["backend"]["options"]["endpoint"]},
    }


@asynccontextmanager
async def mixed_testbed(directory: Path, bed: Bed, agent: Sequence[str]) -> AsyncIterator[Processes]:
    """Broker, world, station and Alice are Bellwire's; Bob is the other's."""
    link = {name: value for name, value in bed.items() if name != "preset"}
    nodes = {"alice": MACHINE, "bob": MACHINE}
    file = write_testbed(directory / "testbed.toml", nodes, {"alice-bob": link}, preset=bed["preset"])
    prepared = prepare(file, directory / "state")
    settings = prepared.directory / "bob.json"
    settings.write_text(json.dumps(settings_of(prepared.directory, "bob")), encoding="utf-8")
    async with prepared_processes(prepared, {"bob": (*agent, str(settings), "--until-eof")}) as running:
        yield running


async def choi(net: Network, oracle: Oracle, kind: GateKind, variant: str, ends: tuple[str, str], pair: Pair) -> float:
    """How well a gate between two machines maps what references are entangled with: the fidelity with the ideal one's."""
    qubits: list[tuple[str, str]] = []
    for node in ends:
        steps = [initialise("r", reference=True), initialise("q"), gate("h", "r"), gate("cx", "r", "q")]
        qubits += [(node, qubit) for qubit in (await net.run(node, steps)).qubits]
    source, target = (f"{node}:q" for node in ends)
    act = net.cz if kind is GateKind.CZ else net.cnot
    await act(source, target, variant=variant, pair=pair)
    state = await oracle.state(qubits)
    for node in ends:
        await net.run(node, [release("r"), release("q")])
    ideal = ideal_choi(kind)
    return float((ideal.conj() @ state @ ideal).real)


async def test_pairs_of_two_implementations_are_in_the_frame_that_both_name(
    observed: tuple[Network, Oracle], bed: Bed
) -> None:
    net, oracle = observed
    seen = set()
    for ends in (("alice", "bob"), ("bob", "alice")):
        async for pair in net.pairs(*ends, number=MANY // 2, timeout_s=30.0):
            state = await oracle.state([("alice", "network0"), ("bob", "network0")])
            assert np.abs(state - bell_density_matrix(pair.bell_state)).max() < EXACT
            alice, bob = [
                await net.run(end, [measure(pair.pair_id), release(pair.pair_id)]) for end in ("alice", "bob")
            ]
            assert alice.bits[0] ^ bob.bits[0] == pair.bell_state.x
            seen.add(pair.bell_state)
    assert seen == FRAMES[bed["scheme"]]


async def test_gates_between_two_implementations_are_exact_in_every_frame(
    observed: tuple[Network, Oracle], bed: Bed
) -> None:
    net, oracle = observed
    for ends in (("alice", "bob"), ("bob", "alice")):
        for kind in (GateKind.CZ, GateKind.CNOT):
            for variant in ("sequential", "symmetric"):
                seen = set()
                for _ in range(MANY):
                    pair = await net.entangle(*ends)
                    fidelity = await choi(net, oracle, kind, variant, ends, pair)
                    assert fidelity == pytest.approx(1.0, abs=EXACT), (ends, kind, variant, pair.bell_state)
                    seen.add(pair.bell_state)
                    if seen == FRAMES[bed["scheme"]]:
                        break
                assert seen == FRAMES[bed["scheme"]]


async def test_gates_over_pairs_of_the_agents_own_and_states_are_exact(
    observed: tuple[Network, Oracle],
) -> None:
    net, oracle = observed
    for source, target in (("alice", "bob"), ("bob", "alice")):
        [sent] = (
            await net.run(source, [initialise("q"), gate("ry", "q", angle=1.0), gate("rz", "q", angle=0.5)])
        ).qubits
        before = await oracle.state([(source, sent)])
        [got] = (await net.run(target, [initialise("q")])).qubits
        await net.teleport(f"{source}:q", f"{target}:q")
        assert np.abs(await oracle.state([(target, got)]) - before).max() < EXACT
        for node in (source, target):
            await net.run(node, [release("q")])


async def test_node_of_the_other_implementation_knows_how_far_off_its_time_is(
    tmp_path: Path, typescript_agent: Sequence[str]
) -> None:
    async with (
        mixed_testbed(tmp_path, ALICE_OPENS, typescript_agent) as running,
        connect(running.prepared.client) as net,
    ):
        reports = await net.clocks()
        bob = next(report for node, report in reports.items() if node == "bob")
        assert bob is not None
        assert bob.state is ClockState.LOCKED
        # Bob's own clock is the machine's monotonic one, and the broker's time the machine's time of day.
        assert bob.uncertainty_ns is not None
        assert bob.uncertainty_ns <= GUARD_NS
        assert abs(bob.offset_ns - (time.time_ns() - time.monotonic_ns())) <= GUARD_NS


async def test_node_of_the_other_implementation_killed_and_started_again_is_met_anew(
    tmp_path: Path, typescript_agent: Sequence[str]
) -> None:
    async with (
        mixed_testbed(tmp_path, ALICE_OPENS, typescript_agent) as running,
        connect(running.prepared.client) as net,
    ):
        held = await net.entangle("alice", "bob")
        await running.kill("bob")
        await running.start("bob")
        # What was asked of the former incarnation is lost (spec 1 §4.3).
        assert await net.clocks(["bob"]) == {"bob": None}
        # By greeting Alice, Bob frees her only qubit of the half that was his former incarnation's.
        pair = await net.entangle("bob", "alice", timeout_s=20.0)
        assert pair.pair_id != held.pair_id
        assert await running.stop("bob") == 0
