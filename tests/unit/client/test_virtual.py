"""The client in virtual time: the asyncio that it can be used with, and the daemons' own answers and errors."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bellwire.agent.testbed import load_testbed, virtual_testbed
from bellwire.client import Basis, Network, Readout, gate, initialise, measure, release
from bellwire.client.program import load_program, run_program
from bellwire.client.virtual import VirtualOracle, connect_virtual, run_virtual
from bellwire.protocols.errors import ConfigError, ErrorCode, RequestError, TransportError
from bellwire.protocols.ids import BROKER, NodeId
from bellwire.sim.states import bell_density_matrix
from bellwire.sim.virtual import SECOND_NS, VirtualTestbed
from bellwire.simnet.loop import Stuck

EXAMPLE = Path(__file__).parents[3] / "examples" / "two-nodes"
LATENCY_NS = 1_000_000


@pytest.fixture
def bed() -> VirtualTestbed:
    return virtual_testbed(*load_testbed(EXAMPLE / "testbed.toml"), latency_ns=LATENCY_NS)


def since(bed: VirtualTestbed, begun_ns: int) -> int:
    return bed.net.now_ns - begun_ns


def test_pair_measured_at_both_ends_agrees_with_its_herald_and_the_world(bed: VirtualTestbed) -> None:
    async def main() -> None:
        oracle = VirtualOracle(bed)
        async with connect_virtual(bed) as network:
            for _ in range(8):
                pair = await network.entangle("alice", "bob", fidelity=0.9)
                held = [(node, *bed.world.held(node)) for node in pair.nodes]
                state = await oracle.state([(node, qubit) for node, qubit in held])
                assert np.abs(state - bell_density_matrix(pair.bell_state)).max() < 1e-9
                bits = [(await network.run(node, [measure(pair.pair_id)])).bits[0] for node in pair.nodes]
                assert bits[0] ^ bits[1] == pair.bell_state.x
                await asyncio.gather(*(network.run(node, [release(pair.pair_id)]) for node in pair.nodes))

    run_virtual(bed, main())


def test_pairs_of_type_m_come_with_bases_and_bits_and_leave_nothing_held(bed: VirtualTestbed) -> None:
    async def main() -> None:
        async with connect_virtual(bed) as network:
            weighted = Readout(bases=(Basis.X, Basis.Y), weights=(1, 3))
            made = [
                pair async for pair in network.measured("alice", "bob", number=40, basis="xyz", other_basis=weighted)
            ]
            assert {pair.bases[1] for pair in made} == {Basis.X, Basis.Y}
            told = [pair.as_expected for pair in made]
            assert set(told) == {True, None}
            assert [answer is None for answer in told] == [pair.bases[0] is not pair.bases[1] for pair in made]
            assert not bed.world.held(NodeId("alice")) | bed.world.held(NodeId("bob"))
            with pytest.raises(ConfigError, match="'w' is no basis"):
                await anext(network.measured("alice", "bob", basis="w"))
            with pytest.raises(ConfigError, match="a fidelity of 2: expected 0 to 1"):
                await anext(network.measured("alice", "bob", fidelity=2.0))

    run_virtual(bed, main())


def test_atomic_pairs_are_all_held_when_the_first_of_them_comes(bed: VirtualTestbed) -> None:
    async def main() -> None:
        async with connect_virtual(bed) as network:
            most = bed.communication(NodeId("alice"))
            made = [pair async for pair in network.pairs("alice", "bob", number=most, atomic=True, priority=2)]
            assert len({pair.pair_id for pair in made}) == len(bed.world.held(NodeId("alice"))) == most
            with pytest.raises(RequestError) as refused:
                await anext(network.pairs("alice", "bob", number=most + 1, atomic=True))
            assert refused.value.code is ErrorCode.UNSUPP

    run_virtual(bed, main())


def test_two_requests_at_once_take_the_time_of_one(bed: VirtualTestbed) -> None:
    async def main() -> tuple[int, int]:
        async with connect_virtual(bed) as network:
            # Sessions with the nodes begin with the first request.
            await asyncio.gather(network.run("alice", [initialise("c")]), network.run("bob", [initialise("t")]))
            begun_ns = bed.net.now_ns
            await network.run("alice", [gate("x", "c")])
            one_ns, begun_ns = since(bed, begun_ns), bed.net.now_ns
            await asyncio.gather(network.run("alice", [gate("x", "c")]), network.run("bob", [gate("x", "t")]))
            return one_ns, since(bed, begun_ns)

    assert run_virtual(bed, main()) == (2 * LATENCY_NS, 2 * LATENCY_NS)


def test_gates_between_several_tasks_and_a_queue_work_as_on_daemons(bed: VirtualTestbed) -> None:
    bits: Counter[tuple[int, int]] = Counter()

    async def worker(network: Network, number: int, todo: asyncio.Queue[int]) -> None:
        left, right = f"c{number}", f"t{number}"
        while not todo.empty():
            todo.get_nowait()
            await network.run("alice", [initialise(left), gate("h", left)])
            await network.run("bob", [initialise(right)])
            await network.cnot(f"alice:{left}", f"bob:{right}")
            first, second = await asyncio.gather(
                network.run("alice", [measure(left)]), network.run("bob", [measure(right)])
            )
            bits[first.bits[0], second.bits[0]] += 1

    async def main() -> None:
        todo: asyncio.Queue[int] = asyncio.Queue()
        for number in range(40):
            todo.put_nowait(number)
        async with connect_virtual(bed) as network, asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(worker(network, number, todo))

    run_virtual(bed, main())
    assert set(bits) == {(0, 0), (1, 1)}
    assert bits.total() == 40


def test_timers_ring_in_virtual_time_and_in_order(bed: VirtualTestbed) -> None:
    rung: list[tuple[str, float]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()

        def ring(name: str) -> None:
            rung.append((name, round(loop.time() - begun, 6)))

        loop.call_later(3.0, ring, "third")
        loop.call_later(1.0, ring, "first")
        dropped = loop.call_later(1.5, ring, "dropped")
        loop.call_later(2.0, ring, "second")
        dropped.cancel()
        over = asyncio.Event()
        loop.call_later(20.0, over.set)
        await over.wait()
        ring("last")

    run_virtual(bed, main())
    assert rung == [("first", 1.0), ("second", 2.0), ("third", 3.0), ("last", 20.0)]


def test_timer_cancelled_in_the_moment_in_which_it_rings_is_not_called(bed: VirtualTestbed) -> None:
    called: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        when = loop.time() + 1.0

        def first() -> None:
            second.cancel()

        loop.call_at(when, first)
        second = loop.call_at(when, called.append, "second")
        third = asyncio.Event()
        loop.call_at(when, third.set)
        await third.wait()

    run_virtual(bed, main())
    assert called == []


def test_request_given_up_by_a_timeout_leaves_nothing_waiting(bed: VirtualTestbed) -> None:
    async def main() -> int:
        async with connect_virtual(bed) as network:
            await network.run("alice", [initialise("c")])
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(LATENCY_NS / SECOND_NS):
                    await network.run("alice", [gate("x", "c")])
            return len(network._participant._waiting)

    assert run_virtual(bed, main()) == 0


def test_refusals_of_the_network_are_request_errors(bed: VirtualTestbed) -> None:
    async def main() -> list[ErrorCode]:
        codes = []
        async with connect_virtual(bed) as network:
            await asyncio.gather(network.run("alice", [initialise("c")]), network.run("bob", [initialise("t")]))
            for asked in (
                network.run("alice", [measure("never")]),
                network.entangle("alice", "carol"),
                network.run("carol", [initialise("c")], timeout_s=1.0),
                network.cz("alice:c", "bob:t", timeout_s=1e-9),
                VirtualOracle(bed).state([("alice", "network0")]),
            ):
                with pytest.raises(RequestError) as refused:
                    await asked
                codes.append(refused.value.code)
        return codes

    wanted = [ErrorCode.UNKNOWN_ID, ErrorCode.UNSUPP, ErrorCode.TIMEOUT, ErrorCode.TIMEOUT, ErrorCode.BACKEND]
    assert run_virtual(bed, main()) == wanted


def test_broker_that_is_gone_is_said_in_one_line(bed: VirtualTestbed) -> None:
    bed.crash(BROKER)

    async def main() -> None:
        async with connect_virtual(bed, timeout_s=2.0):
            pass

    with pytest.raises(TransportError, match="no broker answers within 2 s of virtual time"):
        run_virtual(bed, main())


def test_waiting_for_what_never_happens_is_stuck_and_cleans_up(bed: VirtualTestbed) -> None:
    ended: list[str] = []

    async def main() -> None:
        async with connect_virtual(bed) as network:
            try:
                await asyncio.Event().wait()
            finally:
                await network.run("alice", [initialise("c")])
                ended.append("cleaned up")

    with pytest.raises(Stuck, match="not happened in 30 s of virtual time"):
        run_virtual(bed, main(), patience_s=30.0)
    assert ended == ["cleaned up"]


def test_application_that_leaves_gives_back_what_it_held(bed: VirtualTestbed) -> None:
    rung: list[str] = []

    async def hold() -> None:
        asyncio.get_running_loop().call_later(30.0, rung.append, "left behind")
        async with connect_virtual(bed) as network:
            await network.run("alice", [initialise(f"q{number}") for number in range(4)])
            with pytest.raises(RequestError, match="NORES"):
                await network.run("alice", [initialise("one-more")])

    async def again() -> None:
        async with connect_virtual(bed) as network:
            await network.run("alice", [initialise(f"q{number}") for number in range(4)])

    run_virtual(bed, hold())
    bed.net.run_for(60 * SECOND_NS)
    run_virtual(bed, again())
    assert rung == []


def test_application_of_a_name_that_is_taken_is_refused_and_the_first_goes_on(bed: VirtualTestbed) -> None:
    async def main() -> None:
        async with connect_virtual(bed) as first:
            for name in ("client", "alice"):
                with pytest.raises(ConfigError, match=f"there is a '{name}' in this testbed already"):
                    await connect_virtual(bed, name).__aenter__()
            async with connect_virtual(bed, "another") as another:
                await asyncio.gather(*(network.run("alice", [initialise("c")]) for network in (first, another)))

    run_virtual(bed, main())


def counts(seed: int) -> tuple[Counter[str], int]:
    bed = virtual_testbed(*load_testbed(EXAMPLE / "testbed.toml"), seed=seed)

    async def main() -> Counter[str]:
        async with connect_virtual(bed) as network:
            return await run_program(network, load_program(EXAMPLE / "bell.toml"), shots=50)

    return run_virtual(bed, main()), bed.net.now_ns


def test_same_seed_gives_the_same_counts_and_another_one_others() -> None:
    assert counts(1) == counts(1)
    assert len({tuple(sorted(counts(seed)[0].items())) for seed in range(1, 6)}) > 1


def test_event_published_by_one_application_is_heard_by_another_in_virtual_time(bed: VirtualTestbed) -> None:
    async def main() -> list[tuple[str, str, str, int]]:
        heard: list[tuple[str, str, str, int]] = []
        async with connect_virtual(bed) as network, network.events("calibration") as events:
            await network.publish("calibration", "begun", about="alice-bob")
            await network.publish("weather", "rain")
            await network.publish("calibration", "done")
            async for event in events:
                heard.append((event.publisher, event.about, event.text, event.number))
                if event.text == "done":
                    break
        return heard

    assert run_virtual(bed, main()) == [("client", "alice-bob", "begun", 1), ("client", "", "done", 2)]
