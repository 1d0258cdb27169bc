"""A testbed's file, and what is made of it: keys and a configuration file for every process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

import msgspec
from msgspec import Meta

from bellwire.agent.config import (
    APPLICATION_TIMEOUT_MS,
    MAX_PAIR_TIME_MS,
    DetectorsTable,
    LinkTable,
    LinkTimes,
    PairTimeMs,
    QubitCount,
    Seed,
    StationLinkTable,
    TimeScale,
)
from bellwire.agent.daemons import preset_source
from bellwire.protocols.errors import ConfigError
from bellwire.protocols.herald import SCHEMES
from bellwire.protocols.ids import BROKER, NAME_PATTERN, LinkId, NodeId, QubitName, link_id, node_id
from bellwire.protocols.link_book import LinkSettings
from bellwire.protocols.messages import Role
from bellwire.protocols.node import QubitKind
from bellwire.protocols.station import StationLink
from bellwire.shell.config import GRANDMASTER, SessionTable, Table, Text, TimeTable, load_config, nanoseconds, to_toml
from bellwire.shell.ports import reserve_port
from bellwire.sim.physics import LinkPhysics
from bellwire.sim.preset import Preset, load_preset
from bellwire.sim.topology import WorldLink, WorldNode, check_topology
from bellwire.sim.virtual import SECOND_NS, VirtualTestbed
from bellwire.transport.keys import PUBLIC_SUFFIX, SECRET_SUFFIX, generate, load_public

WORLD = NodeId("world")
OBSERVER = NodeId("observer")
CLIENT_FILE = "client.toml"
RESERVED = (BROKER, WORLD, OBSERVER)
LATENCY_NS: Final = 100_000
"""How long a message takes in virtual time, unless another time is asked for: light in 20 km of fibre."""
READY_NS: Final = 30 * SECOND_NS
"""How much virtual time may pass until a testbed is ready."""

Port = Annotated[int, Meta(ge=0, le=65_535)]
Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=NAME_PATTERN)]

_QUBIT_NAMES = {"communication": "network", "storage": "circuit", "reference": "reference"}


class TestbedNode(Table, frozen=True, kw_only=True):
    """A table `[nodes.NAME]`: a node model of the preset, and how many qubits of each kind the node has.

    They are called `network0`, `circuit0`, `reference0` and so on. So many storage qubits as `pair_storage` says may hold
    halves of pairs, so that communication qubits are free for the next.

    Raises:
        ValueError: when there are not so many.
    """

    __test__: ClassVar[bool] = False

    model: Text
    communication: QubitCount = 1
    storage: QubitCount = 1
    reference: QubitCount = 0
    time: TimeTable = TimeTable()
    pair_storage: QubitCount = 0

    def __post_init__(self) -> None:
        if self.pair_storage > self.storage:
            raise ValueError(f"`pair_storage` is {self.pair_storage}, of {self.storage} storage qubits")

    def qubits(self) -> dict[QubitName, QubitKind]:
        """The node's qubits by name."""
        return {
            QubitName(f"{name}{number}"): QubitKind(kind)
            for kind, name in _QUBIT_NAMES.items()
            for number in range(getattr(self, kind))
        }


class TestbedStation(Table, frozen=True, kw_only=True):
    """A table `[stations.NAME]`. With `detectors.sets` a station serves its links in turn, by a switch."""

    __test__: ClassVar[bool] = False

    detectors: DetectorsTable = DetectorsTable()
    time: TimeTable = TimeTable()


class TestbedLink(LinkTimes, frozen=True, kw_only=True):
    """A table `[links.NAME]`: its ends (the first is the primary one), its station, its model, and how it is operated.

    With scheme `direct` the station is the end that receives.

    `goodness`, which is what the link promises, and `pair_time_ms`, the mean time until a window heralds a pair, are those of
    the preset's model unless they are given.
    """

    __test__: ClassVar[bool] = False

    ends: tuple[NodeId, NodeId]
    station: NodeId
    model: Text
    goodness: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    pair_time_ms: PairTimeMs | None = None


class TestbedConfig(Table, frozen=True, kw_only=True):
    """A testbed: everything that `bellwire up` starts. A port of 0 means any free one."""

    __test__: ClassVar[bool] = False

    name: Name
    preset: Text
    seed: Seed = 1
    time_scale: TimeScale = 1.0
    client: Name = "client"
    broker_port: Port = 0
    world_port: Port = 0
    nodes: dict[str, TestbedNode]
    stations: dict[str, TestbedStation]
    links: dict[str, TestbedLink] = {}
    session: SessionTable = SessionTable()
    time: TimeTable = GRANDMASTER
    """The broker's."""
    direct: bool = True
    """Whether nodes and applications connect directly, instead of having the broker relay everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One process of a testbed: what it is called, the command that runs it and the file that configures it."""

    name: str
    command: str
    config: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A testbed that is ready to be started: its processes in order of start, and the file that applications read."""

    name: str
    directory: Path
    parts: tuple[Part, ...] = field(default=())

    @property
    def client(self) -> Path:
        """The file that applications read."""
        return self.directory / CLIENT_FILE

    @property
    def client_path(self) -> str:
        """As `client`, from the root of the file system."""
        return str(self.client.absolute())


def load_testbed(path: Path) -> tuple[TestbedConfig, Preset]:
    """Read a testbed's file and its preset, and check them against each other.

    Raises:
        ConfigError: one line with what is wrong where.
    """
    config = load_config(path, TestbedConfig)
    try:
        names = [*config.nodes, *config.stations, config.client]
        for name in names:
            node_id(name)
            if name in RESERVED:
                raise ConfigError(f"nothing in a testbed can be called {name!r}")
            if names.count(name) > 1:
                raise ConfigError(f"there are two of the name {name!r}")
        for name, link in config.links.items():
            if link.station not in config.stations and SCHEMES[link.scheme].midpoint:
                raise ConfigError(f"links.{name}: station {link.station!r} has no table [stations.{link.station}]")
        preset = load_preset(preset_source(path.parent, config.preset))
        nodes = [
            WorldNode(node=NodeId(name), model=node.model, qubits=node.qubits()) for name, node in config.nodes.items()
        ]
        links = [
            WorldLink(link_id=link_id(name), ends=link.ends, station=link.station, model=link.model)
            for name, link in config.links.items()
        ]
        check_topology(preset, nodes, links)
        for name, link in config.links.items():
            scheme = preset.links[link.model].scheme
            if scheme is not None and scheme.name != link.scheme:
                raise ConfigError(f"links.{name}: scheme {link.scheme!r}, but model {link.model!r} is {scheme.name}")
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith(str(path)) else f"{path}: {text}") from None
    return config, preset


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedLink:
    """A link of a testbed, and what its ends and its station are told of it: on daemons and in virtual time alike."""

    link_id: LinkId
    ends: tuple[NodeId, NodeId]
    station: NodeId
    model: str
    at_end: dict[NodeId, LinkTable]
    at_station: StationLinkTable

    def settings(self, end: NodeId) -> LinkSettings:
        """What the agent at an end makes of it."""
        return self.at_end[end].settings(self.link_id)

    def served(self) -> StationLink:
        """What the station makes of it."""
        return self.at_station.settings(self.link_id)


def plan_links(config: TestbedConfig, preset: Preset, *, time_scale: float) -> list[PlannedLink]:
    """What everybody is told of the links of a testbed, whose world's time runs `time_scale` times as fast as theirs."""
    shared = {name for name, station in config.stations.items() if station.detectors.sets is not None}
    return [
        _plan_link(LinkId(name), link, preset, time_scale=time_scale, shared=link.station in shared)
        for name, link in config.links.items()
    ]


def _plan_link(label: LinkId, link: TestbedLink, preset: Preset, *, time_scale: float, shared: bool) -> PlannedLink:
    primary, secondary = link.ends
    physics = LinkPhysics.of(preset.links[link.model])
    goodness = round(physics.fidelity_ratio, 9) if link.goodness is None else link.goodness
    bright = physics.bright_states()
    pair_time_ms = link.pair_time_ms
    if pair_time_ms is None:
        rate_per_s = physics.rate_per_s(None if bright is None else bright.ratio_for(goodness)) * time_scale
        pair_time_ms = round(1e3 / rate_per_s, 6) if rate_per_s > 1e-9 else MAX_PAIR_TIME_MS
    times = {field: getattr(link, field) for field in LinkTimes.__struct_fields__}
    return PlannedLink(
        link_id=label,
        ends=link.ends,
        station=link.station,
        model=link.model,
        at_end={
            end: LinkTable(
                peer=peer,
                station=link.station,
                primary=end == primary,
                goodness=goodness,
                pair_time_ms=pair_time_ms,
                bright_states=() if bright is None else bright.points,
                shared_detectors=shared,
                **times,
            )
            for end, peer in ((primary, secondary), (secondary, primary))
        },
        at_station=StationLinkTable(
            primary=primary, secondary=secondary, report_timeout_ms=link.report_timeout_ms, guard_ms=link.guard_ms
        ),
    )


def virtual_testbed(
    config: TestbedConfig, preset: Preset, *, seed: int | None = None, latency_ns: int = LATENCY_NS
) -> VirtualTestbed:
    """Make in virtual time what `bellwire up` starts as daemons, and let time pass until all of it is ready.

    World time runs as fast as the participants' own: `time_scale` is for daemons, who would have to wait.

    Args:
        seed: of every chance in the world; that of the testbed's file when none is given.
        latency_ns: how long a message takes from one participant to another.

    Raises:
        Stuck: when the testbed does not become ready.
    """
    bed = VirtualTestbed(
        preset=preset,
        nodes={NodeId(name): node for name, node in config.nodes.items()},
        links=plan_links(config, preset, time_scale=1.0),
        stations={NodeId(name): station.detectors.settings() for name, station in config.stations.items()},
        seed=config.seed if seed is None else seed,
        latency_ns=latency_ns,
        session=config.session.settings(),
        application_timeout_ns=nanoseconds(APPLICATION_TIMEOUT_MS),
        clocks={},
        time={BROKER: config.time.settings()}
        | {NodeId(name): node.time.settings() for name, node in config.nodes.items()}
        | {NodeId(name): station.time.settings() for name, station in config.stations.items()},
    )
    endpoints = [bed.brain(NodeId(name)).endpoint for name in (*bed.stations, *bed.agents)]
    bed.net.run_until(
        lambda: all(endpoint.is_up(BROKER) and endpoint.has_time for endpoint in endpoints), limit_ns=READY_NS
    )
    return bed


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where a broker or a world listens, and how the others reach it."""

    bind: str
    endpoint: str
    listen: str
    """Where those that connect to it listen for each other."""

    @classmethod
    def local(cls, port: int) -> Server:
        """On this machine alone, at a port, or at any free one when it is 0."""
        endpoint = f"tcp://127.0.0.1:{port or reserve_port()}"
        return cls(bind=endpoint, endpoint=endpoint, listen="tcp://127.0.0.1:0")

    @classmethod
    def at(cls, host: str, port: int) -> Server:
        """On every interface of a host that the others know by name."""
        return cls(bind=f"tcp://0.0.0.0:{port}", endpoint=f"tcp://{host}:{port}", listen="tcp://0.0.0.0:0")


def prepare(path: Path, directory: Path, broker: Server | None = None, world: Server | None = None) -> Prepared:
    """Write the keys and configuration files of a testbed below `directory`. Keys that are there already are kept.

    Without `broker` and `world` both are on this machine, at the ports that the testbed's file says.

    Raises:
        ConfigError: when the testbed's file is wrong, or `directory` cannot be written.
    """
    config, preset = load_testbed(path)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        broker = broker or Server.local(config.broker_port)
        world = world or Server.local(config.world_port)
        writer = _Writer(path, config, preset, directory, broker, world)
        return Prepared(name=config.name, directory=directory, parts=tuple(writer.write()))
    except OSError as error:
        raise ConfigError(f"{directory}: cannot be written: {error.strerror or error}") from None


class _Writer:
    """Writes a testbed's files."""

    def __init__(
        self, path: Path, config: TestbedConfig, preset: Preset, directory: Path, broker: Server, world: Server
    ) -> None:
        self._path = path
        self._config = config
        self._links = plan_links(config, preset, time_scale=config.time_scale)
        self._directory = directory
        self._keys = directory / "keys"
        self._broker = broker
        self._world = world

    def write(self) -> Iterator[Part]:
        """Write everything, and name the processes."""
        self._write_keys()
        session = {name: getattr(self._config.session, name) for name in self._config.session.__struct_fields__}
        yield self._write_part(
            BROKER,
            "broker",
            {
                "bind": self._broker.bind,
                "secret_key": f"keys/{BROKER}{SECRET_SUFFIX}",
                "authorized_keys": f"authorized/{BROKER}",
                "session": session,
                "time": _time(self._config.time),
            },
        )
        yield self._write_part(WORLD, "world", self._world_file(session))
        for name, station in self._config.stations.items():
            file = self._node_file(name, session, station.time)
            yield self._write_part(name, "station", file | self._station_links(name))
        for name, node in self._config.nodes.items():
            file = self._node_file(name, session, node.time) | {"pair_storage": node.pair_storage}
            yield self._write_part(name, "agent", file | self._agent_links(name))
        self._write(CLIENT_FILE, self._client_file())

    def _write_part(self, name: str, command: str, content: dict[str, Any]) -> Part:
        return Part(name=name, command=command, config=self._write(f"{name}.toml", content))

    def _write(self, file: str, content: dict[str, Any]) -> Path:
        path = self._directory / file
        head = f"# Made by bellwire of {self._path.name}: written anew at every start.\n\n"
        _write_changed(path, (head + to_toml(content)).encode())
        return path

    def _write_keys(self) -> None:
        config = self._config
        at_world: dict[str, Role] = {OBSERVER: Role.OBSERVER}
        at_broker: dict[str, Role] = {config.client: Role.APPLICATION}
        for names, role in ((config.stations, Role.STATION), (config.nodes, Role.AGENT)):
            for name in names:
                at_world[name] = at_broker[name] = role
        roles: dict[str, Role] = {BROKER: Role.BROKER, WORLD: Role.WORLD, **at_world, **at_broker}
        for name, role in roles.items():
            public = self._keys / f"{name}{PUBLIC_SUFFIX}"
            if not public.exists():
                generate(self._keys, NodeId(name), role)
            elif load_public(public).role is not role:
                raise ConfigError(f"{public}: is no key of a {role}: remove {self._directory} to begin anew")
        for place, members in ((BROKER, at_broker), (WORLD, at_world)):
            folder = self._directory / "authorized" / place
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.glob(f"*{PUBLIC_SUFFIX}"):
                if path.stem not in members:
                    path.unlink()
            for name in members:
                _write_changed(folder / f"{name}{PUBLIC_SUFFIX}", (self._keys / f"{name}{PUBLIC_SUFFIX}").read_bytes())

    def _world_file(self, session: dict[str, Any]) -> dict[str, Any]:
        config = self._config
        preset = preset_source(self._path.parent, config.preset)
        return {
            "bind": self._world.bind,
            "secret_key": f"keys/{WORLD}{SECRET_SUFFIX}",
            "authorized_keys": f"authorized/{WORLD}",
            "preset": os.path.abspath(preset) if isinstance(preset, Path) else preset,
            "seed": config.seed,
            "time_scale": config.time_scale,
            "session": session,
            "nodes": {
                name: {"model": node.model, "qubits": {qubit: str(kind) for qubit, kind in node.qubits().items()}}
                for name, node in config.nodes.items()
            },
            "links": {
                name: {"ends": list(link.ends), "station": link.station, "model": link.model}
                for name, link in config.links.items()
            },
            "stations": {
                name: {"detectors": msgspec.to_builtins(station.detectors)}
                for name, station in config.stations.items()
                if station.detectors.sets is not None
            },
        }

    def _node_file(self, name: str, session: dict[str, Any], time: TimeTable) -> dict[str, Any]:
        times = self._config.session.settings()
        return {
            "secret_key": f"keys/{name}{SECRET_SUFFIX}",
            "broker": {"endpoint": self._broker.endpoint, "key": f"keys/{BROKER}{PUBLIC_SUFFIX}"},
            "session": session,
            "time": _time(time),
            "direct": {"enabled": self._config.direct, "listen": self._broker.listen},
            "backend": {
                "name": "sim",
                "options": {
                    "endpoint": self._world.endpoint,
                    "server_key": f"keys/{WORLD}{PUBLIC_SUFFIX}",
                    "heartbeat_ns": times.heartbeat_ns,
                    "liveness_ns": times.liveness_ns,
                    "retry_ns": times.retry_ns,
                    "retry_limit_ns": times.retry_limit_ns,
                },
            },
        }

    def _agent_links(self, name: str) -> dict[str, Any]:
        ends = {link.link_id: link.at_end for link in self._links}
        return {"links": {label: msgspec.to_builtins(end[NodeId(name)]) for label, end in ends.items() if name in end}}

    def _station_links(self, name: str) -> dict[str, Any]:
        served = {link.link_id: link.at_station for link in self._links if link.station == name}
        detectors = self._config.stations[name].detectors
        return {"links": msgspec.to_builtins(served), "detectors": msgspec.to_builtins(detectors)}

    def _client_file(self) -> dict[str, Any]:
        return {
            "name": self._config.client,
            "secret_key": f"keys/{self._config.client}{SECRET_SUFFIX}",
            "broker": {"endpoint": self._broker.endpoint, "key": f"keys/{BROKER}{PUBLIC_SUFFIX}"},
            "direct": self._config.direct,
            "world": {
                "endpoint": self._world.endpoint,
                "key": f"keys/{WORLD}{PUBLIC_SUFFIX}",
                "name": OBSERVER,
                "secret_key": f"keys/{OBSERVER}{SECRET_SUFFIX}",
            },
        }


def _time(table: TimeTable) -> dict[str, Any]:
    values = {name: getattr(table, name) for name in table.__struct_fields__}
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items() if value is not None
    }


def _write_changed(path: Path, content: bytes) -> None:
    """Write a file unless it is so already: daemons that run from it now do not see it vanish for a moment."""
    if not path.exists() or path.read_bytes() != content:
        path.write_bytes(content)
