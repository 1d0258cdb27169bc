"""From an application's request to two machines' hardware and back, through every layer, over loopback sockets with CURVE."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from loopback import ALICE, BOB, C0, R0, S0, SECOND_NS, WAIT_S, Application, Losses
from slice_of_network import Slice

from bellwire.backends.mock import MockBackend
from bellwire.protocols.errors import BackendError, ErrorCode
from bellwire.protocols.ids import BROKER, NodeId, QubitName
from bellwire.protocols.instructions import Gate, Initialise, Measured
from bellwire.protocols.instructions import Measure as MeasureInstruction
from bellwire.protocols.messages import (
    GateKind,
    GateRequest,
    GateResult,
    GateStatus,
    GateVariant,
    LinkCreate,
    LinkCreated,
    LinkErr,
    LinkExpire,
    LinkOk,
    ProgramResult,
    ProgramRun,
    Role,
    Step,
)
from bellwire.protocols.messages.program import StepKind
from bellwire.sim.messages import WORLD, WorldInspect, WorldState
from bellwire.sim.states import bell_density_matrix
from bellwire.virtual.gate_checkers import ideal_choi


@pytest.fixture
async def net(tmp_path: Path) -> AsyncIterator[Slice]:
    async with Slice(tmp_path) as net:
        yield net


def apply(gate: Gate, *qubits: str) -> Step:
    return Step(kind=StepKind.APPLY, qubits=qubits, gate=gate)


def initialise(qubit: str, *, reference: bool = False) -> Step:
    return Step(kind=StepKind.INITIALISE, qubits=(qubit,), reference=reference)


def measure(qubit: str) -> Step:
    return Step(kind=StepKind.MEASURE, qubits=(qubit,))


def release(*qubits: str) -> list[Step]:
    return [Step(kind=StepKind.RELEASE, qubits=(qubit,)) for qubit in qubits]


async def run(net: Slice, node: NodeId, *steps: Step) -> ProgramResult:
    return await net.application.ask(node, ProgramRun(steps=steps), ProgramResult)


async def true_state(oracle: Application, *qubits: tuple[NodeId, QubitName]) -> np.ndarray:
    state = await oracle.ask(WORLD, WorldInspect(qubits=qubits), WorldState)
    return (np.array(state.real) + 1j * np.array(state.imag)).reshape(state.dimension, state.dimension)


async def create(net: Slice, *, max_time_ns: int = int(WAIT_S) * SECOND_NS) -> LinkCreated:
    return await net.application.ask(ALICE, LinkCreate(peer=BOB, max_time_ns=max_time_ns), LinkCreated)


async def pair(net: Slice) -> LinkOk:
    """Have a pair made, and take the OK of both ends."""
    created = await create(net)
    (one, first), (two, second) = [await net.application.received(LinkOk) for _ in range(2)]
    assert {one, two} == {ALICE, BOB}
    assert first.create_id == second.create_id == created.create_id
    assert (first.pair_id, first.bell_state, first.sequence_number) == (
        second.pair_id,
        second.bell_state,
        second.sequence_number,
    )
    assert {first.peer, second.peer} == {ALICE, BOB}
    assert isinstance(first, LinkOk)
    return first


async def cz(net: Slice, variant: GateVariant, *, max_time_ns: int = int(WAIT_S) * SECOND_NS) -> GateResult:
    request = GateRequest(
        kind=GateKind.CZ, variant=variant, qubit="c", peer=BOB, peer_qubit="t", max_time_ns=max_time_ns
    )
    return await net.application.ask(ALICE, request, GateResult)


async def test_link_create_gives_a_pair_that_both_ends_name_alike_and_the_world_holds(net: Slice) -> None:
    oracle = await net.lab.observer()
    ok = await pair(net)
    state = await true_state(oracle, (ALICE, C0), (BOB, C0))
    assert np.abs(state - bell_density_matrix(ok.bell_state)).max() < 1e-9
    alice, bob = await asyncio.gather(
        run(net, ALICE, measure(ok.pair_id), *release(ok.pair_id)),
        run(net, BOB, measure(ok.pair_id), *release(ok.pair_id)),
    )
    assert alice.bits[0] ^ bob.bits[0] == ok.bell_state.x
    assert not net.lab.world.held(ALICE)
    assert not net.lab.world.held(BOB)


@pytest.mark.parametrize("variant", list(GateVariant))
async def test_gate_request_teleports_an_exact_cz_between_storage_qubits(net: Slice, variant: GateVariant) -> None:
    oracle = await net.lab.observer()
    for node, qubit in ((ALICE, "c"), (BOB, "t")):
        prepare = (initialise("r", reference=True), initialise(qubit), apply(Gate.H, "r"), apply(Gate.CX, "r", qubit))
        assert (await run(net, node, *prepare)).qubits == (R0, S0)
    for _ in range(2):
        result = await cz(net, variant)
        assert result.status is GateStatus.DONE, result.text
        assert result.pair_id
    # Two of them are the identity; the third shows.
    result = await cz(net, variant)
    assert result.status is GateStatus.DONE, result.text
    state = await true_state(oracle, (ALICE, R0), (ALICE, S0), (BOB, R0), (BOB, S0))
    ideal = ideal_choi(GateKind.CZ)
    assert float((ideal.conj() @ state @ ideal).real) == pytest.approx(1.0, abs=1e-9)
    await run(net, ALICE, *release("r", "c"))
    await run(net, BOB, *release("r", "t"))
    assert not net.lab.world.held(ALICE)
    assert not net.lab.world.held(BOB)


async def test_application_that_leaves_gives_its_qubits_back(net: Slice) -> None:
    other = net.keys.make(NodeId("other-app"), Role.APPLICATION)
    freed = asyncio.Event()
    async with Application(other, net.broker.endpoint, net.keys.public(BROKER)) as application:
        await application.ask(ALICE, ProgramRun(steps=(initialise("q"),)), ProgramResult)
        assert net.lab.world.held(ALICE) == {S0}
        net.agent(ALICE).node.on_free.append(freed.set)
    async with asyncio.timeout(WAIT_S):
        await freed.wait()
    await run(net, ALICE, initialise("c"), *release("c"))


async def test_node_closed_gives_its_qubits_back_within_a_second(net: Slice) -> None:
    await run(net, ALICE, initialise("c"))
    losses = Losses(net.lab.daemon.server.endpoint)
    async with asyncio.timeout(1):
        await net.nodes[ALICE].close()
    assert (await losses.next())[0] == ALICE
    assert not net.lab.world.held(ALICE)


async def test_bob_killed_ends_alices_request_with_a_named_error_and_frees_her_qubits(net: Slice) -> None:
    await net.kill_node(BOB)
    created = await create(net, max_time_ns=5 * SECOND_NS)
    sender, error = await net.application.received(LinkErr)
    assert sender == ALICE
    assert error.create_id == created.create_id
    assert error.code in (ErrorCode.PEER_LOST, ErrorCode.TIMEOUT)
    await net.nodes[BOB].close()
    await net.start_node(BOB)
    await net.ready()
    ok = await pair(net)
    await asyncio.gather(*(run(net, node, *release(ok.pair_id)) for node in (ALICE, BOB)))
    assert not net.lab.world.held(ALICE)


async def test_bob_restarted_ends_the_pair_that_alice_held_with_him(net: Slice) -> None:
    ok = await pair(net)
    await net.kill_node(BOB)
    await net.nodes[BOB].close()
    await net.start_node(BOB)
    sender, expired = await net.application.received(LinkExpire)
    assert (sender, expired.create_id, expired.sequence_low) == (ALICE, ok.create_id, ok.sequence_number)
    await run(net, ALICE, initialise("c"))
    assert net.lab.world.held(ALICE) == {S0}


async def test_world_restarted_frees_everything_and_the_next_request_succeeds(net: Slice) -> None:
    await run(net, ALICE, initialise("c"))
    await net.restart_world()
    ok = await pair(net)
    await asyncio.gather(*(run(net, node, *release(ok.pair_id)) for node in (ALICE, BOB)))
    assert not net.lab.world.held(ALICE)


async def test_broker_restarted_is_found_again_and_the_next_request_succeeds(net: Slice) -> None:
    losses = [
        Losses(endpoint) for endpoint in (net.application.endpoint, *(n.brain.endpoint for n in net.nodes.values()))
    ]
    await net.restart_broker()
    for loss in losses:
        while (await loss.next())[0] != BROKER:
            pass
    await net.ready()
    ok = await pair(net)
    await asyncio.gather(*(run(net, node, *release(ok.pair_id)) for node in (ALICE, BOB)))


# The daemon with a scripted backend.


async def test_node_with_a_scripted_backend_answers_by_the_script(net: Slice) -> None:
    await net.nodes[ALICE].close()
    backend = MockBackend()
    backend.script(MeasureInstruction, Measured(bit=1), Measured(bit=0))
    await net.start_node(ALICE, backend)
    await net.ready()
    result = await run(net, ALICE, initialise("q"), measure("q"), measure("q"))
    assert result.bits == (1, 0)
    assert isinstance(backend.batches[-1].instructions[0], Initialise)


async def test_node_whose_backend_can_never_work_stops_with_the_reason(net: Slice) -> None:
    await net.nodes[ALICE].close()
    backend = MockBackend()
    backend.connect_error = BackendError("no device /dev/ion-trap")
    with pytest.raises(BackendError, match="/dev/ion-trap"):
        await net.start_node(ALICE, backend)


async def test_node_whose_backend_breaks_stops_with_the_bug(net: Slice) -> None:
    await net.nodes[ALICE].close()

    class Breaking(MockBackend):
        async def broken(self) -> None:
            raise RuntimeError("the driver of the laser crashed")

    node = await net.start_node(ALICE, Breaking())
    with pytest.raises(RuntimeError, match="the laser crashed"):
        await net.running.pop()
    await node.close()


async def test_node_whose_backend_does_not_close_in_time_says_so(net: Slice) -> None:
    await net.nodes[ALICE].close()

    class Stuck(MockBackend):
        async def close(self) -> None:
            await asyncio.Event().wait()

    node = await net.start_node(ALICE, Stuck())
    with pytest.raises(BackendError, match="did not close within"):
        await node.close()
