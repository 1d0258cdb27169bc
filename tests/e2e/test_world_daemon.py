"""A world's daemon and simulated backends, over loopback sockets with CURVE."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from clocked import clocked_preset
from loopback import ALICE, BOB, C0, LINK, QUBITS, R0, S0, STATION, BackendUser, Losses, WorldLab, bits, kill

from bellwire.backends.contract import check_backend
from bellwire.backends.interface import BackendContext
from bellwire.protocols.errors import BackendError, ConfigError, ErrorCode, RequestError, TransportError
from bellwire.protocols.ids import NodeId, QubitName, WindowId
from bellwire.protocols.instructions import (
    AnyInstruction,
    Apply,
    Arm,
    BellState,
    Discard,
    Done,
    Failed,
    Gate,
    Initialise,
    Measure,
    WindowEnded,
)
from bellwire.protocols.messages import ClockState, Role
from bellwire.protocols.node import Batch
from bellwire.protocols.session import Loss
from bellwire.sim.backend import SimBackend, create_backend
from bellwire.sim.daemon import WorldDaemon
from bellwire.sim.messages import (
    WORLD,
    WorldComplete,
    WorldDescribe,
    WorldDescription,
    WorldInspect,
    WorldState,
    WorldSubmit,
)
from bellwire.sim.preset import parse_preset
from bellwire.sim.states import bell_density_matrix
from bellwire.transport.clock import HostClock


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[WorldLab]:
    async with WorldLab(tmp_path) as lab:
        yield lab


def arm(window: str, qubit: QubitName | None) -> Arm:
    return Arm(window_id=WindowId(window), link_id=LINK, qubit=qubit, timeout_ns=10 * 10**9)


def inspect(*qubits: tuple[NodeId, QubitName]) -> WorldInspect:
    return WorldInspect(qubits=qubits)


async def test_sim_backend_over_sockets_keeps_the_contract(lab: WorldLab) -> None:
    report = await check_backend(lambda: lab.backend(ALICE), link_id=LINK)
    assert not report.skipped
    assert "batches-in-order" in report.held


async def test_sim_backend_of_station_keeps_the_contract(lab: WorldLab) -> None:
    report = await check_backend(lambda: lab.backend(STATION, Role.STATION), link_id=LINK)
    assert not report.skipped
    assert "arm-times-out" in report.held


async def test_sim_backend_with_a_clock_keeps_the_contract(tmp_path: Path) -> None:
    async with WorldLab(tmp_path, parse_preset(clocked_preset(), "clocked.toml")) as lab:
        report = await check_backend(lambda: lab.backend(ALICE), link_id=LINK, has_clock=True)
        assert "clock-claims" in report.held


async def test_sim_backend_on_another_host_than_its_world_has_no_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bellwire.sim.backend.host_clock", lambda: HostClock(host="elsewhere", offset_ns=0))
    async with WorldLab(tmp_path, parse_preset(clocked_preset(), "clocked.toml")) as lab:
        user = BackendUser(lab.backend(ALICE))
        await user.backend.connect(user)
        assert await user.next() == ("connected", QUBITS)
        said, claim = await user.next()
        assert (said, claim.state) == ("claimed", ClockState.FREERUN)
        await user.backend.close()


async def test_backend_connected_knows_its_qubits_and_links(lab: WorldLab) -> None:
    user = BackendUser(lab.backend(ALICE))
    await user.backend.connect(user)
    assert await user.next() == ("connected", QUBITS)
    (link,) = user.backend.links
    assert (link.link_id, link.ends, link.station, link.is_station) == (LINK, (ALICE, BOB), STATION, False)
    await user.backend.close()


async def test_batch_that_fails_early_is_answered_in_full(lab: WorldLab) -> None:
    """A failure in a batch of a thousand is short on the wire, and whole at the backend."""
    alice = await lab.user(ALICE)
    many: list[AnyInstruction] = [Measure(qubit=S0)] * 1_024
    completions = await alice.run(*many)
    assert len(completions) == 1_024
    assert all(isinstance(completion, Failed) for completion in completions)
    (first, *_) = await alice.run(*many, Measure(qubit=S0))
    assert isinstance(first, Failed)
    assert "at most 1024" in first.text


async def test_node_closed_gives_its_qubits_back(lab: WorldLab) -> None:
    alice, losses = await lab.user(ALICE), Losses(lab.daemon.server.endpoint)
    await alice.run(Initialise(qubit=S0))
    assert lab.world.held(ALICE) == {S0}
    await alice.backend.close()
    assert await losses.next() == (ALICE, Loss.LEFT)
    assert not lab.world.held(ALICE)


async def test_node_killed_gives_its_qubits_back_and_bobs_stay(lab: WorldLab) -> None:
    alice, bob = await lab.user(ALICE), await lab.user(BOB)
    losses = Losses(lab.daemon.server.endpoint)
    await alice.run(Initialise(qubit=S0))
    await bob.run(Initialise(qubit=S0))
    await kill(alice.backend)
    assert await losses.next() == (ALICE, Loss.SILENT)
    assert not lab.world.held(ALICE)
    assert lab.world.held(BOB) == {S0}


async def test_node_restarted_finds_its_qubits_free(lab: WorldLab) -> None:
    alice, losses = await lab.user(ALICE), Losses(lab.daemon.server.endpoint)
    await alice.run(Initialise(qubit=S0))
    await kill(alice.backend)
    again = await lab.user(ALICE)
    assert await losses.next() == (ALICE, Loss.RESTARTED)
    (completion,) = await again.run(Measure(qubit=S0))
    assert isinstance(completion, Failed)


async def test_world_killed_and_restarted_is_lost_then_connected(lab: WorldLab) -> None:
    alice = await lab.user(ALICE)
    await alice.run(Initialise(qubit=S0))
    window = alice.submit(arm("w", C0))
    await alice.run(Discard(qubit=R0))
    await lab.restart()
    kind, why = await alice.next()
    assert kind == "lost"
    assert "world" in why
    assert await alice.next() == ("connected", QUBITS)
    assert not window.done()
    assert not lab.world.held(ALICE)
    assert await alice.run(Initialise(qubit=S0)) == (Done(),)


async def test_world_closed_says_goodbye(lab: WorldLab) -> None:
    alice = await lab.user(ALICE)
    await lab.daemon.close()
    kind, why = await alice.next()
    assert kind == "lost"
    assert "goodbye" in why


async def test_batch_submitted_while_the_world_is_away_is_dropped(lab: WorldLab) -> None:
    alice = await lab.user(ALICE)
    address = lab.daemon.endpoint
    await lab.daemon.close()
    await alice.next()
    dropped = alice.submit(Initialise(qubit=S0))
    await lab.open(address)
    assert await alice.next() == ("connected", QUBITS)
    (completion,) = await alice.run(Measure(qubit=S0))
    assert isinstance(completion, Failed)
    assert not dropped.done()


async def test_node_that_the_world_gave_up_is_told_so(lab: WorldLab) -> None:
    """The world frees a node's qubits while the node never lost the world: it must hear that they are gone."""
    alice = await lab.user(ALICE)
    await alice.run(Initialise(qubit=S0))
    server = lab.daemon.server
    lab.daemon.driver.stimulate(lambda _: server._peer_lost(ALICE, Loss.SILENT, "a test"))
    alice.submit(Measure(qubit=S0))
    kind, why = await alice.next()
    assert kind == "lost"
    assert "lease" in why
    assert await alice.next() == ("connected", QUBITS)


async def test_pair_over_the_wire_is_the_bell_state_that_was_heralded(lab: WorldLab) -> None:
    alice, bob = await lab.user(ALICE), await lab.user(BOB)
    station = await lab.user(STATION, Role.STATION)
    oracle = await lab.observer()
    seen: set[BellState] = set()
    for number in range(16):
        window = f"w{number}"
        answers = [alice.submit(arm(window, C0)), bob.submit(arm(window, C0)), station.submit(arm(window, None))]
        ends = [completion for (completion,) in await asyncio.gather(*answers)]
        assert all(isinstance(end, WindowEnded) and end.attempts == 1 for end in ends)
        assert [getattr(end, "bell_state", None) for end in ends[:2]] == [None, None]
        heralded = getattr(ends[2], "bell_state", None)
        assert isinstance(heralded, BellState)
        state = await oracle.ask(WORLD, inspect((ALICE, C0), (BOB, C0)), WorldState)
        matrix = (np.array(state.real) + 1j * np.array(state.imag)).reshape(state.dimension, state.dimension)
        assert np.abs(matrix - bell_density_matrix(heralded)).max() < 1e-12
        seen.add(heralded)
        await asyncio.gather(alice.run(Discard(qubit=C0)), bob.run(Discard(qubit=C0)))
    assert len(seen) >= 3


async def test_inspect_of_a_free_qubit_is_refused(lab: WorldLab) -> None:
    oracle = await lab.observer()
    with pytest.raises(RequestError, match="alice") as refused:
        await oracle.ask(WORLD, inspect((ALICE, S0)), WorldState)
    assert refused.value.code is ErrorCode.BACKEND


@pytest.mark.parametrize(
    ("role", "says"),
    [
        (Role.AGENT, Role.AGENT),
        (Role.AGENT, Role.OBSERVER),
        (Role.APPLICATION, Role.OBSERVER),
        (Role.OBSERVER, Role.AGENT),
    ],
)
async def test_inspect_by_others_than_observers_is_denied(lab: WorldLab, role: Role, says: Role) -> None:
    """Neither the key's role alone nor the hello's word alone opens the world."""
    alice = await lab.user(ALICE)
    await alice.run(Initialise(qubit=S0))
    spy = await lab.observer("spy", role, says)
    with pytest.raises(RequestError) as denied:
        await spy.ask(WORLD, inspect((ALICE, S0)), WorldState)
    assert denied.value.code is ErrorCode.DENIED


async def test_observer_cannot_execute(lab: WorldLab) -> None:
    oracle = await lab.observer()
    with pytest.raises(RequestError) as denied:
        await oracle.ask(WORLD, WorldDescribe(), WorldDescription)
    assert denied.value.code is ErrorCode.DENIED
    with pytest.raises(RequestError) as refused:
        await oracle.ask(WORLD, WorldSubmit(lease=1, number=1, instructions=(Measure(qubit=S0),)), WorldComplete)
    assert refused.value.code is ErrorCode.UNKNOWN_ID


async def test_node_touches_its_own_qubits_alone(lab: WorldLab) -> None:
    """The same name at Alice and at Bob is two qubits, and a batch reaches the sender's."""
    alice, bob = await lab.user(ALICE), await lab.user(BOB)
    await alice.run(Initialise(qubit=S0))
    await bob.run(Initialise(qubit=S0), Apply(gate=Gate.X, qubits=(S0,)), Discard(qubit=C0))
    assert bits(await alice.run(Measure(qubit=S0))) == [0]
    assert bits(await bob.run(Measure(qubit=S0))) == [1]
    await bob.run(Discard(qubit=S0))
    assert lab.world.held(ALICE) == {S0}


async def test_node_that_is_not_in_the_world_is_told_once(lab: WorldLab) -> None:
    lab.keys.make(NodeId("carol"), Role.AGENT)
    carol = BackendUser(lab.backend(NodeId("carol")))
    await carol.backend.connect(carol)
    kind, why = await carol.next()
    assert kind == "lost"
    assert "there is no node carol in this world" in why
    await carol.backend.close()


async def test_node_with_an_unknown_key_is_told(lab: WorldLab) -> None:
    backend = lab.backend(ALICE)
    (lab.keys.directory / "alice.key").unlink()
    alice = BackendUser(backend)
    await backend.connect(alice)
    kind, why = await alice.next()
    assert kind == "lost"
    assert "refused the key of alice" in why
    await backend.close()


async def test_world_on_a_port_in_use_says_so(lab: WorldLab) -> None:
    other = WorldDaemon(
        lab.world,
        bind=lab.daemon.endpoint,
        keys=lab.keys.make(WORLD, Role.WORLD),
        authorized=lab.keys.authorized(),
    )
    with pytest.raises(TransportError, match="cannot listen on"):
        await other.start()


async def test_world_daemon_run_returns_when_closed(lab: WorldLab) -> None:
    running = asyncio.ensure_future(lab.daemon.run())
    await lab.daemon.close()
    await running


async def test_bug_in_the_backend_breaks_it(lab: WorldLab) -> None:
    alice = await lab.user(ALICE)
    broken = asyncio.ensure_future(alice.backend.broken())
    alice.backend.submit(Batch(number=1, instructions=(Measure(qubit=S0),)))  # its answer: KeyError in the user
    with pytest.raises(KeyError):
        await broken


# The factory.


def context(lab: WorldLab, **options: object) -> BackendContext:
    given = {"endpoint": lab.daemon.endpoint, "server_key": "world.key", **options}
    return BackendContext(
        node=ALICE,
        role=Role.AGENT,
        epoch=lab.backend(ALICE)._endpoint.epoch,
        directory=lab.keys.directory,
        secret_key=lab.keys.directory / "alice.key_secret",
        options={name: value for name, value in given.items() if value is not None},
    )


async def test_create_backend_from_options_connects(lab: WorldLab) -> None:
    backend = create_backend(context(lab, liveness_ns=5_000_000_000))
    assert isinstance(backend, SimBackend)
    user = BackendUser(backend)
    await backend.connect(user)
    assert await user.next() == ("connected", QUBITS)
    await backend.close()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"server_key": None}, "missing option 'server_key'"),
        ({"server_key": "absent.key"}, "absent.key"),
        ({"server_key": "bob.key"}, "is the key of a agent, expected a world's"),
        ({"endpoint": 7100}, "option endpoint: expected str"),
        ({"speed": 1}, "unknown option 'speed'"),
        ({"liveness_ns": 1}, "heartbeat_ns must be positive"),
    ],
)
async def test_create_backend_with_wrong_options_says_so(lab: WorldLab, options: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        create_backend(context(lab, **options))


async def test_backend_with_an_impossible_endpoint_can_never_work(lab: WorldLab) -> None:
    backend = create_backend(context(lab, endpoint="tcp://no port"))
    with pytest.raises(BackendError, match="cannot connect to tcp://no port"):
        await backend.connect(BackendUser(lab.backend(ALICE)))
