"""Scenarios: what stands where, what is asked of it, and what goes wrong, as a TOML file says it.

duration_s = 20.0
[topology]   kind, size, links, qubits
[workload]   kind, applications, how much of what
[faults]     how much goes wrong (`bellwire.simnet.faults.FaultMix`)
[session]    heartbeat and retry times, as a daemon's
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from random import Random
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from bellwire.protocols.detectors import StationSettings
from bellwire.protocols.errors import ConfigError
from bellwire.protocols.herald import ANY_CLICK
from bellwire.protocols.ids import BROKER, LinkId, NodeId
from bellwire.protocols.time_hub import DEFAULT_PRIORITY
from bellwire.protocols.time_sources import TimeSettings
from bellwire.shell.config import SessionTable, Table, load_config
from bellwire.sim.physics import LinkPhysics
from bellwire.sim.preset import load_preset
from bellwire.sim.virtual import GUARD_NS, SECOND_NS, VirtualLink, VirtualNode
from bellwire.simnet.faults import FaultMix, Participants

MAX_NODES: Final = 10_000

Count = Annotated[int, Meta(ge=0, le=256)]
Seconds = Annotated[float, Meta(gt=0.0, le=1e9)]
Permille = Annotated[int, Meta(ge=0, le=1_000)]


class TopologyKind(StrEnum):
    """How the nodes are joined."""

    TWO_NODES = "two-nodes"
    CHAIN = "chain"
    STAR = "star"
    RING = "ring"
    GRID = "grid"
    RANDOM = "random"


class WorkloadKind(StrEnum):
    """SATURATING: every worker asks again as soon as it was answered. SPARSE: it waits in between."""

    SATURATING = "saturating"
    SPARSE = "sparse"


class TopologyTable(Table, frozen=True, kw_only=True):
    """The table `[topology]`. `degree` is the mean number of links of a node of a random network.

    `pair_storage` of a node's storage qubits may hold halves of pairs. `link` is the preset's link model, or several that
    links have in turn, and a window has up to `attempts` attempts; after every `test_every` pairs comes a test round.
    `links_per_station` links share one station, which has `detectors` sets of detectors (0: some for every link) behind a
    switch that takes `switch_us`. Windows begin `lead_ms` after they are opened, or at once when that is 0; who is off the
    network's time by more than `guard_ms` takes part in none. The first `standbys` nodes are sources of time too, for when the
    broker and those before them are gone.
    """

    kind: TopologyKind
    size: Annotated[int, Meta(ge=2, le=MAX_NODES)] = 2
    communication: Annotated[int, Meta(ge=1, le=64)] = 2
    storage: Annotated[int, Meta(ge=1, le=64)] = 4
    reference: Count = 4
    pair_storage: Count = 0
    degree: Annotated[float, Meta(ge=2.0, le=16.0)] = 3.0
    links_per_station: Annotated[int, Meta(ge=1)] = 4
    detectors: Annotated[int, Meta(ge=0, le=1_000)] = 0
    switch_us: Annotated[float, Meta(ge=0.0, le=1e9)] = 0.0
    preset: str = "ideal"
    link: str | tuple[str, ...] = "ideal"
    attempts: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    test_every: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    lead_ms: Annotated[float, Meta(ge=0.0, le=1e6)] = 0.0
    guard_ms: Annotated[float, Meta(gt=0.0, le=1e6)] = GUARD_NS / 1e6
    standbys: Annotated[int, Meta(ge=0, le=64)] = 0

    def __post_init__(self) -> None:
        if self.kind is TopologyKind.TWO_NODES and self.size != 2:
            raise ValueError(f"`size` is {self.size}, two nodes are two")
        if self.kind is TopologyKind.RING and self.size < 3:
            raise ValueError("`size` is 2, a ring has at least 3 nodes")
        if not self.link:
            raise ValueError("`link` names no link model")
        if self.standbys > self.size:
            raise ValueError(f"`standbys` is {self.standbys}, there are {self.size} nodes")


class WorkloadTable(Table, frozen=True, kw_only=True):
    """The table `[workload]`: `workers` of each application ask for one thing after another.

    Of a thousand things that are asked for, so many are gates (the rest are pairs), and so many gates teleport a state, or
    use a pair that the application was given before. `pause_ms` is the mean pause of a sparse worker.
    """

    kind: WorkloadKind = WorkloadKind.SATURATING
    applications: Annotated[int, Meta(ge=1, le=64)] = 1
    workers: Annotated[int, Meta(ge=1, le=4_096)] = 2
    gates_permille: Permille = 600
    states_permille: Permille = 100
    given_pair_permille: Permille = 200
    idle_permille: Permille = 100
    """Pairs that are asked for and left to expire."""
    held_permille: Permille = 0
    """Pairs that are held for up to `held_ms` before they are used."""
    held_ms: Annotated[int, Meta(ge=1, le=1_000_000)] = 3_500
    hasty_permille: Permille = 200
    """Pairs of which each half is measured as soon as its own end says OK."""
    measured_permille: Permille = 200
    """Pairs that are asked for with type M."""
    atomic_permille: Permille = 150
    """Pairs of type K that are asked for all at once or not at all."""
    consecutive_permille: Permille = 150
    """Pairs that are asked for with no other request's between them."""
    priorities: Annotated[int, Meta(ge=1, le=8)] = 3
    """Pairs are asked for with a priority below this."""
    pause_ms: Annotated[float, Meta(gt=0.0, le=1e9)] = 500.0
    timeout_s: Seconds = 4.0
    pairs_at_once: Annotated[int, Meta(ge=1, le=16)] = 2
    all_done: bool = False
    """Whether everything has to be done that is asked for, because no fault is large enough to excuse it."""


class Scenario(Table, frozen=True, kw_only=True):
    """A scenario. Everything in it that is drawn is drawn from the seed of a run."""

    about: str = ""
    duration_s: Annotated[float, Meta(gt=0.0, le=1e10)] = 20.0
    latency_us: Annotated[float, Meta(ge=0.001, le=1e9)] = 100.0
    topology: TopologyTable
    workload: WorkloadTable = WorkloadTable()
    faults: FaultMix = FaultMix()
    session: SessionTable = SessionTable()

    @property
    def duration_ns(self) -> int:
        """How long is worked, and things go wrong."""
        return round(self.duration_s * SECOND_NS)


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """A scenario's network for one seed."""

    nodes: dict[NodeId, VirtualNode]
    links: tuple[VirtualLink, ...]
    applications: tuple[NodeId, ...]
    detectors: StationSettings
    """Those of every station."""
    standbys: tuple[NodeId, ...] = ()
    """The nodes that are sources of time too, the best one first."""

    @property
    def stations(self) -> tuple[NodeId, ...]:
        """The stations between the nodes."""
        return tuple(dict.fromkeys(link.station for link in self.links if link.station not in link.ends))

    @property
    def time(self) -> dict[NodeId, TimeSettings]:
        """From whom nodes and stations take the network's time: the broker and the standbys, which follow those before them."""
        settings = {name: TimeSettings(sources=(BROKER, *self.standbys)) for name in (*self.nodes, *self.stations)}
        for number, name in enumerate(self.standbys):
            sources = (BROKER, *self.standbys[:number])
            settings[name] = TimeSettings(sources=sources, priority=DEFAULT_PRIORITY + 1 + number)
        return settings

    @property
    def participants(self) -> Participants:
        """Who talks to whom."""
        stations = self.stations
        neighbours: dict[tuple[str, str], None] = {}
        for link in self.links:
            first, second = link.ends
            neighbours[first, second] = None
            if link.station in stations:
                neighbours[first, link.station] = neighbours[second, link.station] = None
        for name in (*self.nodes, *stations):
            neighbours[name, BROKER] = None
            for standby in self.standbys:
                if name != standby and (standby, name) not in neighbours:
                    neighbours[name, standby] = None
        for application in self.applications:
            for name in self.nodes:
                neighbours[name, application] = None
        return Participants(
            agents=tuple(self.nodes),
            stations=stations,
            applications=self.applications,
            broker=BROKER,
            standbys=self.standbys,
            neighbours=tuple(neighbours),
        )


def edges_of(table: TopologyTable, random: Random) -> list[tuple[int, int]]:
    """Which nodes are joined, by number."""
    size, kind = table.size, table.kind
    if kind in (TopologyKind.TWO_NODES, TopologyKind.CHAIN):
        return [(i, i + 1) for i in range(size - 1)]
    if kind is TopologyKind.RING:
        return [(i, (i + 1) % size) for i in range(size)]
    if kind is TopologyKind.STAR:
        return [(0, i) for i in range(1, size)]
    if kind is TopologyKind.GRID:
        width = max(1, round(size**0.5))
        across = [(i, i + 1) for i in range(size - 1) if (i + 1) % width]
        return across + [(i, i + width) for i in range(size - width)]
    edges = {(random.randrange(i), i): None for i in range(1, size)}
    wanted = min(round(size * table.degree / 2), size * (size - 1) // 2)
    while len(edges) < wanted:
        first, second = sorted(random.sample(range(size), 2))
        edges[first, second] = None
    return list(edges)


def build_network(scenario: Scenario, seed: int) -> Network:
    """Lay out a scenario's network. Which end of a link is primary is drawn."""
    table, random = scenario.topology, Random(f"network/{seed}")
    models = (table.link,) if isinstance(table.link, str) else table.link
    physics = {
        model: LinkPhysics.of(link) for model, link in load_preset(table.preset).links.items() if model in models
    }
    node = VirtualNode(
        communication=table.communication,
        storage=table.storage,
        reference=table.reference,
        pair_storage=table.pair_storage,
    )
    names = [NodeId(f"n{number}") for number in range(table.size)]
    links = []
    for number, edge in enumerate(edges_of(table, random)):
        first, second = edge if random.random() < 0.5 else edge[::-1]
        station = NodeId(f"s{number // table.links_per_station}")
        model = models[number % len(models)]
        scheme = physics[model].model.scheme or ANY_CLICK
        ends = (names[first], names[second])
        links.append(
            VirtualLink(
                link_id=LinkId(f"l{number}"),
                ends=ends,
                station=station if scheme.midpoint else random.choice(ends),
                model=model,
                scheme=scheme.name,
                attempts=table.attempts,
                test_every=table.test_every,
                bright_states=physics[model].bright_states(),
                lead_ns=round(table.lead_ms * 1e6),
                guard_ns=round(table.guard_ms * 1e6),
                shared_detectors=bool(table.detectors) and scheme.midpoint,
            )
        )
    applications = tuple(NodeId(f"app{number}") for number in range(scenario.workload.applications))
    detectors = StationSettings(sets=table.detectors or None, switch_ns=round(table.switch_us * 1_000))
    return Network(
        nodes=dict.fromkeys(names, node),
        links=tuple(links),
        applications=applications,
        detectors=detectors,
        standbys=tuple(names[: table.standbys]),
    )


def _folder() -> Path:
    """Where the scenarios are: beside this module in an installed package, at the top of the repository otherwise."""
    packaged = Path(__file__).parent / "scenarios"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "scenarios"


def packaged_scenarios() -> list[str]:
    """Name the scenarios that come with Bellwire."""
    return sorted(path.stem for path in _folder().glob("*.toml"))


def load_scenario(name_or_path: str) -> Scenario:
    """Load a scenario: one that comes with Bellwire by its name, any other by its path, which ends in `.toml`.

    Raises:
        ConfigError: one line with file and key.
    """
    if name_or_path.endswith(".toml"):
        return load_config(Path(name_or_path), Scenario)
    known = packaged_scenarios()
    if name_or_path not in known:
        raise ConfigError(f"there is no scenario {name_or_path!r}: known are {', '.join(known)}; a path ends in .toml")
    return load_config(_folder() / f"{name_or_path}.toml", Scenario)
