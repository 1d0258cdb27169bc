"""Time between real processes: whoever gives it is killed, another takes over, and `bellwire time --json` tells."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from clocked import clocked_preset
from processes import Processes
from testbeds import write_testbed

from bellwire.agent.driver import NodeDaemon
from bellwire.agent.station import StationBrain
from bellwire.agent.testbed import prepare
from bellwire.backends.mock import MockBackend
from bellwire.broker.daemon import BrokerConfig, BrokerDaemon
from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.ids import BROKER, NodeId
from bellwire.protocols.messages import ClockState, Role
from bellwire.protocols.time_sources import TimeSettings
from bellwire.transport.clock import new_epoch
from bellwire.transport.keys import PUBLIC_SUFFIX, generate, load_public, load_secret

WAIT_S = 30.0
"""Nothing here takes so long, however busy the machine is."""

ALICE, BOB = NodeId("alice"), NodeId("bob")

Rows = dict[str, dict[str, Any]]


def timed_testbed(
    path: Path,
    *,
    broker: list[str],
    hub: list[str],
    preset: str = "ideal",
    **nodes: tuple[list[str], int | None],
) -> Path:
    """Write the file of a testbed: the sources of the broker, the station and each node, and the nodes' priorities."""

    def time(sources: list[str], priority: int | None = None) -> dict[str, Any]:
        return {"sources": sources, "priority": priority, "interval_ms": 100}

    return write_testbed(
        path,
        {name: {"time": time(*told)} for name, told in nodes.items()},
        {"alice-bob": {}},
        preset=preset,
        session={"heartbeat_ms": 200, "liveness_ms": 1_000, "retry_ms": 100},
        time=time(broker, 250),
        stations={"hub": {"time": time(hub)}},
    )


@asynccontextmanager
async def running(file: Path, directory: Path) -> AsyncIterator[Processes]:
    """All processes of a testbed, ready. They are started together: some wait for the time of others."""
    processes = Processes(prepare(file, directory))
    try:
        await asyncio.gather(*(processes.start(part.name) for part in processes.prepared.parts))
        yield processes
    finally:
        await processes.close()


async def clocks(client: Path, nodes: list[str]) -> Rows:
    """What `bellwire time --json` says; nothing of nodes that give no answer."""
    return {row["node"]: row for row in await told(client, "time", *nodes)}


async def told(client: Path, *command: str) -> list[dict[str, Any]]:
    """The table of a command."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bellwire.shell", *command),
        *("--json", "--timeout", "2", "--client", str(client)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    out, _ = await asyncio.wait_for(process.communicate(), WAIT_S)
    rows: list[dict[str, Any]] = json.loads(out or b"[]")
    return rows


async def seen(client: Path, nodes: list[str], wanted: Callable[[Rows], bool]) -> Rows:
    """Look until it is as it should be: who has lost a session needs a while to find it again."""
    rows: Rows = {}
    try:
        async with asyncio.timeout(WAIT_S):
            while not (len(rows) == len(nodes) and all("source" in row for row in rows.values()) and wanted(rows)):
                rows = await clocks(client, nodes)
    except TimeoutError:
        raise AssertionError(rows) from None
    return rows


def follows(rows: Rows, **sources: str) -> bool:
    """Whether nodes are locked to these sources."""
    return all((rows[name]["source"], rows[name]["state"]) == (source, "locked") for name, source in sources.items())


async def test_killed_grandmaster_is_followed_by_the_agent_with_a_priority(tmp_path: Path) -> None:
    """4 §2.2: a standby that followed the grandmaster takes over, and who follows it stays on the same time."""
    both = ["alice", "bob"]
    file = timed_testbed(
        tmp_path / "testbed.toml", broker=both, hub=both, alice=([], 1), bob=(["alice"], 100), carol=(both, None)
    )
    async with running(file, tmp_path / "state") as processes:
        client = processes.prepared.client
        rows = await seen(
            client,
            ["alice", "bob", "carol", "hub", "broker"],
            lambda rows: follows(rows, bob="alice", carol="alice", hub="alice", broker="alice"),
        )
        assert {row["grandmaster"] for row in rows.values()} == {"alice"}
        before_ns = rows["carol"]["offset_ns"]
        await processes.kill("alice")
        rows = await seen(
            client,
            ["bob", "carol", "hub", "broker"],
            lambda rows: follows(rows, carol="bob", hub="bob", broker="bob"),
        )
        assert (rows["bob"]["state"], rows["bob"]["source"]) == ("holdover", "")
        assert rows["carol"]["uncertainty_ns"] >= rows["bob"]["path_delay_ns"]
        moved_ns = abs(rows["carol"]["offset_ns"] - before_ns)
        assert moved_ns <= rows["carol"]["uncertainty_ns"] + 1_000_000, "the network's time went on"


async def test_killed_broker_comes_back_as_a_follower_of_the_agent_that_kept_its_time(tmp_path: Path) -> None:
    """While the broker is dead nobody can be asked; who has a priority holds the time over until it is back."""
    both = ["broker", "alice"]
    file = timed_testbed(tmp_path / "testbed.toml", broker=[], hub=both, alice=(["broker"], 200), bob=(both, None))
    async with running(file, tmp_path / "state") as processes:
        client = processes.prepared.client
        everybody = ["alice", "bob", "hub", "broker"]
        await seen(client, everybody, lambda rows: follows(rows, alice="broker", bob="broker", hub="broker"))
        await processes.kill("broker")
        config = tmp_path / "state" / "broker.toml"
        text = config.read_text(encoding="utf-8")
        assert "sources = []" in text
        config.write_text(text.replace("sources = []", 'sources = ["alice"]'), encoding="utf-8")
        await processes.start("broker")
        rows = await seen(client, everybody, lambda rows: follows(rows, broker="alice", bob="alice", hub="alice"))
        assert rows["alice"]["state"] == "holdover"
        assert {rows[name]["grandmaster"] for name in ("bob", "hub", "broker")} == {"alice"}


async def test_simulated_hardware_gives_the_time_of_its_nodes_and_of_who_follows_them(tmp_path: Path) -> None:
    preset = tmp_path / "clocked.toml"
    preset.write_text(clocked_preset(), encoding="utf-8")
    both, hardware = ["alice", "bob"], ["hardware"]
    file = timed_testbed(
        tmp_path / "testbed.toml",
        broker=both,
        hub=both,
        preset=str(preset),
        alice=(hardware, 1),
        bob=(hardware, 2),
    )
    async with running(file, tmp_path / "state") as processes:
        rows = await seen(
            processes.prepared.client,
            ["alice", "bob", "hub", "broker"],
            lambda rows: follows(rows, alice="hardware", bob="hardware", hub="alice", broker="alice"),
        )
        for name in both:
            assert rows[name]["uncertainty_ps"] == 1_000 + 5 * 13
            assert rows[name]["uncertainty_ns"] < 1_000_000
        assert rows["hub"]["uncertainty_ps"] is None
        # Nobody of these has a lease of the broker.
        shown = await clocks(processes.prepared.client, [])
        assert list(shown) == ["broker", "alice", "bob", "hub"]
        assert {row["state"] for row in shown.values()} == {"locked"}
        peers = await told(processes.prepared.client, "peers")
        assert {row["node"] for row in peers} == {"alice", "bob", "hub"}
        await processes.kill("world")
        rows = await seen(
            processes.prepared.client, ["alice"], lambda rows: rows["alice"]["state"] == ClockState.HOLDOVER
        )
        assert rows["alice"]["uncertainty_ps"] is None


async def test_any_source_offers_udp_and_exchanges_go_by_it(tmp_path: Path) -> None:
    """4 §3.5: bob's exchanges with alice do not pass the broker."""
    for name, role in ((BROKER, Role.BROKER), (ALICE, Role.STATION), (BOB, Role.STATION)):
        generate(tmp_path, name, role)
    (tmp_path / "authorized").mkdir()
    for name in (ALICE, BOB):
        (tmp_path / "authorized" / f"{name}{PUBLIC_SUFFIX}").write_bytes(
            (tmp_path / f"{name}{PUBLIC_SUFFIX}").read_bytes()
        )
    broker = BrokerDaemon(
        BrokerConfig(
            bind="tcp://0.0.0.0:*",
            secret_key=tmp_path / f"{BROKER}.key_secret",
            authorized_keys=tmp_path / "authorized",
        )
    )
    await broker.start()
    port = broker.endpoint.rpartition(":")[2]
    # Bob has another address for the broker: alice is not where that is.
    alice = node_daemon(tmp_path, f"tcp://127.0.0.1:{port}", ALICE, TimeSettings(sources=(), priority=1))
    bob = node_daemon(tmp_path, f"tcp://127.0.0.2:{port}", BOB, TimeSettings(sources=(ALICE,)))
    hub, follower = alice.brain.time.hub, bob.brain.time.node
    assert hub is not None
    assert follower is not None
    taken = asyncio.Event()
    receive = hub.receive_datagram
    answered = 0

    def receive_datagram(data: bytes, address: object, arrived_ns: int, now_ns: int) -> None:
        nonlocal answered
        receive(data, address, arrived_ns, now_ns)
        answered += 1
        if answered > 8 and follower.machine.state is ClockState.LOCKED:
            taken.set()

    hub.receive_datagram = receive_datagram  # type: ignore[method-assign]
    try:
        for node in (alice, bob):
            await node.start()
        async with asyncio.timeout(WAIT_S):
            await taken.wait()
        assert follower.sources.chosen == ALICE
    finally:
        for node in (alice, bob):
            await node.close()
        await broker.close()


def node_daemon(folder: Path, broker: str, name: NodeId, time: TimeSettings) -> NodeDaemon:
    endpoint = Endpoint(name, Role.STATION, new_epoch(), clock=BROKER if time.sources else None)
    return NodeDaemon(
        StationBrain(endpoint, [], time=time),
        MockBackend({}),
        broker_endpoint=broker,
        broker_key=load_public(folder / f"{BROKER}{PUBLIC_SUFFIX}").public,
        keys=load_secret(folder / f"{name}.key_secret"),
    )
