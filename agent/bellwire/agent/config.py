"""Configuration files of the daemons that run once per node, and of a simulated world."""

from __future__ import annotations

from typing import Annotated, Any, Final

from msgspec import Meta

from bellwire.protocols.errors import ConfigError
from bellwire.protocols.herald import SCHEMES
from bellwire.protocols.ids import NodeId, QubitName, link_id, node_id
from bellwire.protocols.limits import MAX_ATTEMPTS_PER_WINDOW
from bellwire.protocols.link_book import LinkSettings
from bellwire.protocols.node import QubitKind
from bellwire.protocols.path import DirectSettings
from bellwire.protocols.station import StationLink
from bellwire.shell.config import Milliseconds, Ratio, SessionTable, Table, Text, TimeTable, nanoseconds

Attempts = Annotated[int, Meta(ge=1, le=MAX_ATTEMPTS_PER_WINDOW)]
TimeScale = Annotated[float, Meta(gt=0.0)]
Seed = Annotated[int, Meta(ge=0)]

APPLICATION_TIMEOUT_MS: Final = 2_000.0
"""How long an agent tries to tell an application of a pair, unless its file says otherwise."""


class BackendTable(Table, frozen=True, kw_only=True):
    """The table `[backend]`: an installed backend, and what it is told. `bellwire backends` lists them."""

    name: Text
    options: dict[str, Any] = {}


class LinkTimes(Table, frozen=True, kw_only=True):
    """How a link is operated. See `LinkSettings`; times in milliseconds.

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

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise ConfigError(f"scheme {self.scheme!r} is not one of {', '.join(SCHEMES)}")


class LinkTable(LinkTimes, frozen=True, kw_only=True):
    """A table `[links.NAME]` of an agent. One end of a link says `primary = true`; `goodness` is its pairs' fidelity."""

    peer: Text
    station: Text
    primary: bool
    goodness: Ratio = 1.0

    def settings(self, name: str) -> LinkSettings:
        """Give the link as the protocol has it.

        Raises:
            ConfigError: when a name is none.
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
        )


class BrokerTable(Table, frozen=True, kw_only=True):
    """The table `[broker]`: where the broker listens, and its public key file."""

    endpoint: Text
    key: Text


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
    time: TimeTable = TimeTable()
    direct: DirectTable = DirectTable()


class AgentConfig(NodeFile, frozen=True, kw_only=True):
    """An agent's configuration file. Paths are relative to the file's folder."""

    links: dict[str, LinkTable] = {}
    application_timeout_ms: Milliseconds = APPLICATION_TIMEOUT_MS


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


class WorldNodeTable(Table, frozen=True, kw_only=True):
    """A table `[nodes.NAME]` of a world: a node model of the preset, and the node's qubits by name."""

    model: Text
    qubits: dict[QubitName, QubitKind]


class WorldLinkTable(Table, frozen=True, kw_only=True):
    """A table `[links.NAME]` of a world: two ends, the station between them, and a link model of the preset."""

    ends: tuple[NodeId, NodeId]
    station: NodeId
    model: Text


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
    session: SessionTable = SessionTable()
