"""Configuration files of the daemons that run once per node, and of a simulated world."""

from __future__ import annotations

from typing import Annotated, Any, Final

from msgspec import Meta

from bellwire.protocols.detectors import StationSettings
from bellwire.protocols.errors import ConfigError
from bellwire.protocols.herald import SCHEMES, BrightStates
from bellwire.protocols.ids import NodeId, QubitName, link_id, node_id
from bellwire.protocols.limits import MAX_ATTEMPTS_PER_WINDOW, MAX_QUBITS_PER_APPLICATION
from bellwire.protocols.link_book import LinkSettings
from bellwire.protocols.node import QubitKind
from bellwire.protocols.path import DirectSettings
from bellwire.protocols.station import StationLink
from bellwire.shell.config import LoopTable, Milliseconds, Ratio, SessionTable, Table, Text, TimeTable, nanoseconds

Attempts = Annotated[int, Meta(ge=1, le=MAX_ATTEMPTS_PER_WINDOW)]
TimeScale = Annotated[float, Meta(gt=0.0)]
Seed = Annotated[int, Meta(ge=0)]
MAX_PAIR_TIME_MS: Final = 1e12
PairTimeMs = Annotated[float, Meta(ge=0.0, le=MAX_PAIR_TIME_MS)]

QubitCount = Annotated[int, Meta(ge=0, le=MAX_QUBITS_PER_APPLICATION)]

APPLICATION_TIMEOUT_MS: Final = 2_000.0
"""How long an agent tries to tell an application of a pair, unless its file says otherwise."""


class BackendTable(Table, frozen=True, kw_only=True):
    """The table `[backend]`: an installed backend, and what it is told. `bellwire backends` lists them."""

    name: Text
    options: dict[str, Any] = {}


class LinkTimes(Table, frozen=True, kw_only=True):
    """How a link is operated. See `LinkSettings`; times in milliseconds. A test round comes after every `test_every` pairs.

    Raises:
        ConfigError: when the scheme is not known.
    """

    scheme: str = "double-click"
    attempts: Attempts = 1_000_000
    window_timeout_ms: Milliseconds = 2_000.0
    report_timeout_ms: Milliseconds = 500.0
    pair_lifetime_ms: Milliseconds = 5_000.0
    backoff_ms: Milliseconds = 2.0
    guard_ms: Milliseconds = 10.0
    lead_ms: Annotated[float, Meta(ge=0.0, le=1e6)] = 0.0
    test_every: Annotated[int, Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise ConfigError(f"scheme {self.scheme!r} is not one of {', '.join(SCHEMES)}")


class DetectorsTable(Table, frozen=True, kw_only=True):
    """A table `detectors` of a station: so many sets of them serve all links in turn, by a switch. Without it, one set each."""

    sets: Annotated[int, Meta(ge=1, le=1_000)] | None = None
    switch_ms: Annotated[float, Meta(ge=0.0, le=1e6)] = 0.0

    def settings(self) -> StationSettings:
        """Give it as the protocol has it."""
        return StationSettings(sets=self.sets, switch_ns=nanoseconds(self.switch_ms))


class LinkTable(LinkTimes, frozen=True, kw_only=True):
    """A table `[links.NAME]` of an agent. One end of a link says `primary = true`.

    `goodness` is the expected fidelity of its pairs, `pair_time_ms` the mean time until a window heralds one, 0 when not known.
    Where the scheme has bright states, `bright_states` lists what was calibrated: `[[ratio, fidelity], …]`. Where the station's
    detectors serve its links in turn, both ends say `shared_detectors = true`.
    """

    peer: Text
    station: Text
    primary: bool
    goodness: Ratio = 1.0
    pair_time_ms: PairTimeMs = 0.0
    bright_states: tuple[tuple[float, float], ...] = ()
    shared_detectors: bool = False

    def settings(self, name: str) -> LinkSettings:
        """Give the link as the protocol has it.

        Raises:
            ConfigError: when a name is none.
            ValueError: when the link's scheme and its bright states do not fit.
        """
        return LinkSettings(
            link_id=link_id(name),
            peer=node_id(self.peer),
            station=node_id(self.station),
            primary=self.primary,
            scheme=self.scheme,
            attempts=self.attempts,
            window_timeout_ns=nanoseconds(self.window_timeout_ms),
            report_timeout_ns=nanoseconds(self.report_timeout_ms),
            pair_lifetime_ns=nanoseconds(self.pair_lifetime_ms),
            backoff_ns=nanoseconds(self.backoff_ms),
            guard_ns=nanoseconds(self.guard_ms),
            goodness=self.goodness,
            pair_time_ns=nanoseconds(self.pair_time_ms) if self.pair_time_ms else 0,
            test_every=self.test_every,
            bright_states=BrightStates(points=self.bright_states) if self.bright_states else None,
            lead_ns=nanoseconds(self.lead_ms) if self.lead_ms else 0,
            shared_detectors=self.shared_detectors,
        )


class BrokerTable(Table, frozen=True, kw_only=True):
    """The table `[broker]`: where the broker listens, its public key file, and whether it is an insecure one.

    Where it has a hot standby, `endpoint` lists both.
    """

    endpoint: Text | Annotated[tuple[Text, ...], Meta(min_length=1)]
    key: Text
    insecure: bool = False


class DirectTable(Table, frozen=True, kw_only=True):
    """The table `[direct]` of an agent or a station: direct connections to others, beside the one to the broker.

    It listens on `listen`, where port 0 is any free one, and lets the broker tell others to connect to `advertise`: one or
    several endpoints, where port 0 is the one that is listened on. Without it, the address is told from which the broker is
    reached.
    """

    enabled: bool = True
    listen: Text = "tcp://0.0.0.0:0"
    advertise: tuple[Text, ...] = ()

    def __post_init__(self) -> None:
        self.settings()

    def settings(self) -> DirectSettings | None:
        """Give the settings as the transport has them, or `None` when everything is to be relayed.

        Raises:
            ConfigError: when an endpoint is none.
        """
        return DirectSettings(listen=self.listen, advertise=self.advertise) if self.enabled else None


class NodeFile(Table, frozen=True, kw_only=True):
    """What agents and stations are told alike: their key, their broker, their backend. The key gives the name."""

    secret_key: Text
    broker: BrokerTable
    backend: BackendTable
    session: SessionTable = SessionTable()
    loop: LoopTable = LoopTable()
    time: TimeTable = TimeTable()
    direct: DirectTable = DirectTable()


class AgentConfig(NodeFile, frozen=True, kw_only=True):
    """An agent's configuration file. Paths are relative to the file's folder.

    So many storage qubits as `pair_storage` says may hold halves of pairs, moved there as soon as they are heralded.
    `applications` names who may use the node; without it everybody may whom the broker lets in as an application.
    """

    links: dict[str, LinkTable] = {}
    pair_storage: QubitCount = 0
    application_timeout_ms: Milliseconds = APPLICATION_TIMEOUT_MS
    applications: list[Text] | None = None

    def __post_init__(self) -> None:
        joined: dict[str, str] = {}
        for name, link in self.links.items():
            other = joined.setdefault(link.peer, name)
            if other != name:
                raise ConfigError(f"links {other} and {name} both lead to {link.peer}: a node has one for each")


class StationLinkTable(Table, frozen=True, kw_only=True):
    """A table `[links.NAME]` of a station: the link's primary end and its other end."""

    primary: Text
    secondary: Text
    report_timeout_ms: Milliseconds = 500.0
    guard_ms: Milliseconds = 10.0

    def settings(self, name: str) -> StationLink:
        """Give the link as the protocol has it.

        Raises:
            ConfigError: when a name is none.
        """
        return StationLink(
            link_id=link_id(name),
            primary=node_id(self.primary),
            secondary=node_id(self.secondary),
            report_timeout_ns=nanoseconds(self.report_timeout_ms),
            guard_ns=nanoseconds(self.guard_ms),
        )


class StationConfig(NodeFile, frozen=True, kw_only=True):
    """A station's configuration file. Paths are relative to the file's folder."""

    links: dict[str, StationLinkTable] = {}
    detectors: DetectorsTable = DetectorsTable()


class WorldNodeTable(Table, frozen=True, kw_only=True):
    """A table `[nodes.NAME]` of a world: a node model of the preset, and the node's qubits by name."""

    model: Text
    qubits: dict[QubitName, QubitKind]


class WorldLinkTable(Table, frozen=True, kw_only=True):
    """A table `[links.NAME]` of a world: two ends, the station between them, and a link model of the preset."""

    ends: tuple[NodeId, NodeId]
    station: NodeId
    model: Text


class WorldStationTable(Table, frozen=True, kw_only=True):
    """A table `[stations.NAME]` of a world: the detectors of a station that serve its links in turn."""

    detectors: DetectorsTable


class WorldConfig(Table, frozen=True, kw_only=True):
    """A simulated world's configuration file. Paths are relative to the file's folder.

    `time_scale` is world nanoseconds per nanosecond of the wall's clock.
    """

    bind: Text
    secret_key: Text
    authorized_keys: Text
    preset: Text
    seed: Seed = 1
    time_scale: TimeScale = 1.0
    nodes: dict[str, WorldNodeTable] = {}
    links: dict[str, WorldLinkTable] = {}
    stations: dict[str, WorldStationTable] = {}
    session: SessionTable = SessionTable()
