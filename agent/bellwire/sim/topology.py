"""Who is in a simulated world: nodes with their qubits, links with their ends and stations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

import msgspec

from bellwire.protocols.errors import ConfigError
from bellwire.protocols.ids import LinkId, NodeId, QubitName, node_id
from bellwire.protocols.limits import MAX_ID_CHARS, MAX_NAME_CHARS, MAX_QUBITS_PER_APPLICATION
from bellwire.protocols.node import QubitKind
from bellwire.sim.preset import Preset

MAX_QUBITS_PER_NODE: Final = MAX_QUBITS_PER_APPLICATION

_Model = TypeVar("_Model")


class WorldNode(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A node of the world: the preset's node model that it has, and its qubits by name.

    Raises:
        ConfigError: when a name is empty or too long, or there are too many qubits.
    """

    node: NodeId
    model: str
    qubits: dict[QubitName, QubitKind]

    def __post_init__(self) -> None:
        node_id(self.node)
        if len(self.qubits) > MAX_QUBITS_PER_NODE:
            raise ConfigError(f"node {self.node}: {len(self.qubits)} qubits, at most {MAX_QUBITS_PER_NODE} are allowed")
        for name in self.qubits:
            if not 1 <= len(name) <= MAX_NAME_CHARS:
                raise ConfigError(f"node {self.node}: qubit name {name!r} is not 1 to {MAX_NAME_CHARS} characters long")


class WorldLink(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A link of the world: two ends, the station between them, and the preset's link model that it has.

    The first end holds the first qubit of every heralded state and has the first arm of a photonic link. Where one end
    sends and the other receives, the receiving end is the station too.

    Raises:
        ConfigError: when the id is empty or too long, or the ends are one.
    """

    link_id: LinkId
    ends: tuple[NodeId, NodeId]
    station: NodeId
    model: str

    def __post_init__(self) -> None:
        if not 1 <= len(self.link_id) <= MAX_ID_CHARS:
            raise ConfigError(f"link id {self.link_id!r} is not 1 to {MAX_ID_CHARS} characters long")
        node_id(self.station)
        if len(set(self.ends)) != 2:
            raise ConfigError(f"link {self.link_id}: expected two different ends, got {self.ends}")


class QubitInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A qubit of a node, as the node's backend may tell: its name and kind."""

    name: QubitName
    kind: QubitKind


class LinkInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a node knows of a link that it is attached to.

    Attributes:
        attempt_period_ns: mean time of an attempt, recooling included, on the clock of the world's caller.
        success_probability: of an attempt.
        fidelity_ratio: mean fidelity of a heralded state to the Bell state that its herald names.
        is_station: whether the node's detectors herald for the link.
    """

    link_id: LinkId
    ends: tuple[NodeId, NodeId]
    station: NodeId
    is_station: bool
    attempt_period_ns: float
    success_probability: float
    fidelity_ratio: float


def check_topology(preset: Preset, nodes: Sequence[WorldNode], links: Sequence[WorldLink]) -> None:
    """Check nodes and links against each other and against the preset.

    Raises:
        ConfigError: for a name used twice, a model or a kind of qubit that the preset does not have, a link whose end
            is no node, a station that has qubits, an end without a communication qubit, or a scheme that needs another
            station.
    """
    by_name: dict[NodeId, WorldNode] = {}
    for node in nodes:
        if node.node in by_name:
            raise ConfigError(f"node {node.node}: there are two of that name")
        by_name[node.node] = node
        model = _known(preset.nodes, node.model, f"node {node.node}", preset.name)
        for qubit, kind in node.qubits.items():
            if kind is QubitKind.STORAGE and model.storage is None:
                raise ConfigError(
                    f"node {node.node}: qubit {qubit!r} is storage, which model {node.model!r} does not have"
                )
    seen: set[LinkId] = set()
    for link in links:
        if link.link_id in seen:
            raise ConfigError(f"link {link.link_id}: there are two of that id")
        seen.add(link.link_id)
        scheme = _known(preset.links, link.model, f"link {link.link_id}", preset.name).scheme
        midpoint = scheme is None or scheme.midpoint
        if midpoint is (link.station in link.ends):
            expected = "a station between its ends" if midpoint else "one of its ends as the station"
            raise ConfigError(f"link {link.link_id}: model {link.model!r} needs {expected}, not {link.station!r}")
        for end in link.ends:
            if end not in by_name:
                raise ConfigError(f"link {link.link_id}: its end {end!r} is not a node of the world")
            if QubitKind.COMMUNICATION not in by_name[end].qubits.values():
                raise ConfigError(f"link {link.link_id}: its end {end!r} has no communication qubit")
        if midpoint and link.station in by_name and by_name[link.station].qubits:
            raise ConfigError(f"link {link.link_id}: its station {link.station!r} is a node with qubits")


def _known(models: Mapping[str, _Model], name: str, owner: str, preset: str) -> _Model:
    if name not in models:
        raise ConfigError(f"{owner}: preset {preset!r} has no model {name!r}, it has {', '.join(models) or 'none'}")
    return models[name]
