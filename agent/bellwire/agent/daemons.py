"""Daemons as their configuration files say: an agent, a station, a simulated world."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from random import SystemRandom
from typing import Protocol, TypeVar

import structlog

from bellwire.agent.brain import AgentBrain
from bellwire.agent.config import AgentConfig, NodeFile, StationConfig, WorldConfig
from bellwire.agent.driver import BrainCapable, NodeDaemon
from bellwire.agent.station import StationBrain
from bellwire.backends.interface import BackendContext
from bellwire.backends.registry import load_backend
from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.errors import ConfigError
from bellwire.protocols.ids import BROKER, NodeId, link_id
from bellwire.protocols.messages import Role
from bellwire.protocols.session import Loss
from bellwire.shell.config import load_config, nanoseconds
from bellwire.shell.daemon import Readiness
from bellwire.sim.daemon import WorldDaemon
from bellwire.sim.preset import load_preset
from bellwire.sim.topology import WorldLink, WorldNode
from bellwire.sim.world import World
from bellwire.transport.clock import local_time_ns, new_epoch
from bellwire.transport.keys import AuthorizedKeys, load_public, load_secret

L = TypeVar("L", covariant=True)


def agent_daemon(path: Path, readiness: Readiness) -> NodeDaemon:
    """Make the agent of a configuration file, on the running loop.

    Raises:
        ConfigError: when the file, a key or the backend's options are wrong.
        BackendError: when the backend cannot be loaded.
    """
    config = load_config(path, AgentConfig)
    links = _links(path, config.links)

    def brain(endpoint: Endpoint) -> AgentBrain:
        timeout_ns = nanoseconds(config.application_timeout_ms)
        return AgentBrain(
            endpoint,
            links,
            application_timeout_ns=timeout_ns,
            draw=SystemRandom().random,
            pair_storage=config.pair_storage,
            time=config.time.settings(),
        )

    return _node_daemon(path, config, Role.AGENT, brain, readiness)


def station_daemon(path: Path, readiness: Readiness) -> NodeDaemon:
    """Make the station of a configuration file, on the running loop. Raises as `agent_daemon`."""
    config = load_config(path, StationConfig)
    links, settings = _links(path, config.links), config.detectors.settings()

    def brain(endpoint: Endpoint) -> StationBrain:
        return StationBrain(endpoint, links, settings, time=config.time.settings())

    return _node_daemon(path, config, Role.STATION, brain, readiness)


class _LinkCapable(Protocol[L]):
    def settings(self, name: str) -> L: ...


def _links(path: Path, tables: Mapping[str, _LinkCapable[L]]) -> list[L]:
    links = []
    for name, table in tables.items():
        try:
            links.append(table.settings(name))
        except (ConfigError, ValueError) as error:
            raise ConfigError(f"{path}: links.{name}: {error}") from None
    return links


def _node_daemon(
    path: Path, config: NodeFile, role: Role, make_brain: Callable[[Endpoint], BrainCapable], readiness: Readiness
) -> NodeDaemon:
    base = path.parent
    secret_key = base / config.secret_key
    keys = load_secret(secret_key)
    if keys.role is not role:
        raise ConfigError(
            f"{path}: secret_key: {secret_key} is the key of {keys.name} ({keys.role}), expected the role {role}"
        )
    broker = load_public(base / config.broker.key)
    if broker.role is not Role.BROKER:
        raise ConfigError(f"{path}: broker.key: {base / config.broker.key} is the key of {broker.name} ({broker.role})")
    epoch = new_epoch()
    context = BackendContext(
        node=keys.name,
        role=role,
        epoch=epoch,
        directory=base,
        secret_key=secret_key,
        options=config.backend.options,
    )
    backend = load_backend(config.backend.name, context)
    clock = BROKER if config.time.sources else None
    endpoint = Endpoint(keys.name, role, epoch, settings=config.session.settings(), clock=clock)
    endpoint.on_peer_lost.append(_log_loss)
    return NodeDaemon(
        make_brain(endpoint),
        backend,
        broker_endpoint=config.broker.endpoint,
        broker_key=broker.public,
        keys=keys,
        report=structlog.get_logger().info,
        on_ready=readiness.set,
    )


def _log_loss(peer: NodeId, loss: Loss, why: str) -> None:
    structlog.get_logger().info("peer lost", peer=peer, loss=loss.value, why=why)


class ReadyWorld(WorldDaemon):
    """A world that says when it listens."""

    readiness: Readiness

    async def start(self) -> None:
        """Listen."""
        await super().start()
        self.readiness.set(True, self.endpoint)


def world_daemon(path: Path, readiness: Readiness) -> WorldDaemon:
    """Make the simulated world of a configuration file, on the running loop.

    Raises:
        ConfigError: when the file, a key or the preset is wrong, or they do not fit together.
    """
    config = load_config(path, WorldConfig)
    base = path.parent
    secret_key = base / config.secret_key
    keys = load_secret(secret_key)
    if keys.role is not Role.WORLD:
        raise ConfigError(
            f"{path}: secret_key: {secret_key} is the key of {keys.name} ({keys.role}), expected the role world"
        )
    world = make_world(path, config)
    daemon = ReadyWorld(
        world,
        bind=config.bind,
        keys=keys,
        authorized=AuthorizedKeys(base / config.authorized_keys),
        settings=config.session.settings(),
        report=structlog.get_logger().info,
    )
    daemon.readiness = readiness
    return daemon


def make_world(path: Path, config: WorldConfig) -> World:
    """Make the pure world of a configuration.

    Raises:
        ConfigError: when the preset is wrong, or does not fit the nodes and links.
    """
    preset = load_preset(preset_source(path.parent, config.preset))
    try:
        return World(
            preset=preset,
            nodes=[
                WorldNode(node=NodeId(name), model=node.model, qubits=node.qubits)
                for name, node in config.nodes.items()
            ],
            links=[
                WorldLink(link_id=link_id(name), ends=link.ends, station=link.station, model=link.model)
                for name, link in config.links.items()
            ],
            stations={NodeId(name): station.detectors.settings() for name, station in config.stations.items()},
            seed=config.seed,
            start_ns=local_time_ns(),
            time_scale=config.time_scale,
        )
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def preset_source(base: Path, name: str) -> str | Path:
    """A packaged preset's name as it is, a path relative to the file that names it."""
    return base / name if name.endswith(".toml") or "/" in name else name
