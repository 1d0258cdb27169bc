"""The broker's daemon: a hub that relays, and the session that every participant has with it."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.errors import ConfigError, TransportError
from bellwire.protocols.ids import BROKER, NodeId
from bellwire.protocols.introductions import Introducer
from bellwire.protocols.messages import INTRODUCTIONS, Role
from bellwire.protocols.paths import serve_status
from bellwire.protocols.session import SessionSettings
from bellwire.protocols.time_hub import TimePart
from bellwire.protocols.time_sources import TimeSettings
from bellwire.protocols.topics import Topics
from bellwire.transport.addresses import host_and_port, is_loopback
from bellwire.transport.clock import local_time_ns, new_epoch
from bellwire.transport.departures import noting_departures
from bellwire.transport.driver import Driver
from bellwire.transport.hub import Hub
from bellwire.transport.keys import AuthorizedKeys, KeyPair, load_secret
from bellwire.transport.members import BROKER_LIMITS, HubLimits
from bellwire.transport.time_offer import TimeOffer

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from bellwire.broker.bridge_daemon import BridgeConfig, BridgeDaemon

INSECURE = "INSECURE: nothing is encrypted, no key is asked for, and whoever connects has the name that it claims"
"""What an insecure broker says when it starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """What a broker needs to be told: where to listen, who it is, whom to let in, and how much each may take of it.

    `insecure` does without keys on the wire, and then `bind` must be on this machine unless `insecure_anywhere` is set.
    `spin_ns` is as in `bellwire.transport.alarm.Alarm`. `bridge` says how other brokers are reached, if there are any.
    """

    bind: str
    secret_key: Path
    authorized_keys: Path
    session: SessionSettings = field(default_factory=SessionSettings)
    time: TimeSettings = field(default_factory=lambda: TimeSettings(sources=()))
    limits: HubLimits = BROKER_LIMITS
    insecure: bool = False
    insecure_anywhere: bool = False
    spin_ns: int = 0
    bridge: BridgeConfig | None = None


class BrokerDaemon:
    """A broker. To be made, started and closed within one running loop."""

    def __init__(self, config: BrokerConfig, report: Callable[[str], None] | None = None) -> None:
        """Make a broker; `report` is told in one line what a person may want to know.

        Raises:
            ConfigError: when a key is missing, malformed or not a broker's, or the broker would be insecure and reached
                from elsewhere.
        """
        if config.insecure and not config.insecure_anywhere and not is_loopback(config.bind):
            raise ConfigError(
                f"an insecure broker at {config.bind} lets everybody in: listen on 127.0.0.1, or force it"
            )
        if config.insecure and config.bridge is not None:
            raise ConfigError("an insecure broker has no bridge: others could not believe it who its participants are")
        keys = load_secret(config.secret_key)
        if keys.role is not Role.BROKER:
            raise ConfigError(f"{config.secret_key}: is the key of the {keys.role} {keys.name}, not a broker's")
        authorized = AuthorizedKeys(config.authorized_keys)
        epoch = new_epoch()
        clock = BROKER if config.time.sources else None
        # Who proves no name cannot be introduced.
        capabilities = () if config.insecure else (INTRODUCTIONS,)
        self.core = Endpoint(
            BROKER, Role.BROKER, epoch, settings=config.session, capabilities=capabilities, clock=clock
        )
        self.core.known_roles.authority = authorized.role_of
        self._introducer = Introducer(self.core, authorized.key_of)
        self.hub = Hub(
            BROKER,
            config.bind,
            keys,
            authorized,
            self._deliver,
            relay=True,
            drained=self._drained,
            epoch=epoch,
            report=report,
            limits=config.limits,
            insecure=config.insecure,
            meet=None if config.insecure else self._meet,
        )
        self._insecure = config.insecure
        self.hub.follow(self.core)
        self.time = TimePart(self.core, config.time)
        self.topics = Topics(self.core)
        serve_status(self.core)
        send = noting_departures(self.hub.send, self.core, local_time_ns)
        self.driver = Driver(self.core, send, local_time_ns, self._send_time, spin_ns=config.spin_ns)
        hub = self.time.hub
        self._time_offer = None if hub is None else TimeOffer(hub, local_time_ns, self.driver.stimulate)
        self._report = report
        self.bridge: BridgeDaemon | None = None
        if config.bridge is not None:
            self.bridge = self._make_bridge(config.bridge, keys, authorized)

    @property
    def endpoint(self) -> str:
        """Where it listens, with the port that it was given."""
        return self.hub.endpoint

    @property
    def tallies(self) -> dict[str, DataclassInstance]:
        """What is counted, by whose it is."""
        tallies: dict[str, DataclassInstance] = {"endpoint": self.core.counters, "hub": self.hub.counters}
        return tallies if self.bridge is None else {**tallies, "bridge": self.bridge.core.counters}

    async def start(self) -> None:
        """Listen.

        Raises:
            TransportError: when it cannot, because the port is in use for example.
        """
        raise_file_limit()
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self.drop)
            await self.hub.start()
            if self.bridge is not None:
                self.bridge.start()
            undo.pop_all()
        self._offer_time()
        if self._insecure and self._report is not None:
            self._report(INSECURE)
        self.core.begin(local_time_ns(), f"{BROKER}:start")
        self.time.start()
        self.driver.poke()

    async def run(self) -> None:
        """Wait until the broker fails, and raise what it failed of."""
        await asyncio.shield(self.driver.failed)

    async def close(self) -> None:
        """Say goodbye to everybody and stop listening."""
        self.driver.stimulate(self._say_goodbye)
        self.driver.poke()
        if self.bridge is not None:
            await self.bridge.close()
        await self.drop()

    async def drop(self) -> None:
        """Stop listening without a word, as a broker that dies does."""
        self.driver.close()
        if self._time_offer is not None:
            self._time_offer.close()
        if self.bridge is not None:
            await self.bridge.drop()
        await self.hub.close()

    def _make_bridge(self, config: BridgeConfig, keys: KeyPair, authorized: AuthorizedKeys) -> BridgeDaemon:
        from bellwire.broker.bridge_daemon import BridgeDaemon  # its libraries are there only with bellwire[mqtt]

        return BridgeDaemon(
            config,
            hub=self.hub,
            endpoint=self.core,
            driver=self.driver,
            introducer=self._introducer,
            keys=keys,
            authorized=authorized,
            report=self._report,
        )

    def _offer_time(self) -> None:
        """Offer the side path of time, at the same port as everything else."""
        if self._time_offer is None:
            return
        try:
            self._time_offer.listen(*host_and_port(self.hub.endpoint))
        except (ConfigError, TransportError) as error:
            if self._report is not None:
                self._report(f"time goes by way of the sessions alone: {error}")

    def _send_time(self) -> None:
        if self._time_offer is not None:
            self._time_offer.send()

    def _meet(self, sender: NodeId, receiver: NodeId) -> None:
        def introduce(now_ns: int) -> None:
            self.core.begin(now_ns)
            self._introducer.introduce(sender, receiver)

        self.driver.stimulate(introduce)

    def _deliver(self, peer: NodeId, data: bytes) -> None:
        self.driver.deliver(peer, data)

    def _drained(self) -> None:
        self.driver.poke()

    def _say_goodbye(self, now_ns: int) -> None:
        self.core.begin(now_ns, f"{BROKER}:close")
        self.core.close()


def raise_file_limit() -> None:
    """Let this process open as many files as the system allows it: every client's connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
