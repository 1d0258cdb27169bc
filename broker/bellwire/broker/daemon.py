"""The broker's daemon: a hub that relays, and the session that every participant has with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.errors import ConfigError, TransportError
from bellwire.protocols.ids import BROKER, NodeId
from bellwire.protocols.messages import Role
from bellwire.protocols.session import SessionSettings
from bellwire.protocols.time_hub import TimePart
from bellwire.protocols.time_sources import TimeSettings
from bellwire.transport.clock import local_time_ns, new_epoch
from bellwire.transport.departures import noting_departures
from bellwire.transport.driver import Driver
from bellwire.transport.hub import Hub
from bellwire.transport.keys import AuthorizedKeys, load_secret
from bellwire.transport.time_offer import TimeOffer
from bellwire.transport.time_socket import host_and_port


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """What a broker needs to be told: where to listen, who it is, whom to let in."""

    bind: str
    secret_key: Path
    authorized_keys: Path
    session: SessionSettings = field(default_factory=SessionSettings)
    time: TimeSettings = field(default_factory=lambda: TimeSettings(sources=()))


class BrokerDaemon:
    """A broker. To be made, started and closed within one running loop."""

    def __init__(self, config: BrokerConfig, report: Callable[[str], None] | None = None) -> None:
        """Make a broker; `report` is told in one line what a person may want to know.

        Raises:
            ConfigError: when a key is missing, malformed or not a broker's.
        """
        keys = load_secret(config.secret_key)
        if keys.role is not Role.BROKER:
            raise ConfigError(f"{config.secret_key}: is the key of the {keys.role} {keys.name}, not a broker's")
        authorized = AuthorizedKeys(config.authorized_keys)
        epoch = new_epoch()
        clock = BROKER if config.time.sources else None
        self.core = Endpoint(BROKER, Role.BROKER, epoch, settings=config.session, clock=clock)
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
        )
        self.hub.follow(self.core)
        self.time = TimePart(self.core, config.time)
        self.driver = Driver(
            self.core, noting_departures(self.hub.send, self.core, local_time_ns), local_time_ns, self._send_time
        )
        hub = self.time.hub
        self._time_offer = None if hub is None else TimeOffer(hub, local_time_ns, self.driver.stimulate)
        self._report = report

    @property
    def endpoint(self) -> str:
        """Where it listens, with the port that it was given."""
        return self.hub.endpoint

    async def start(self) -> None:
        """Listen.

        Raises:
            TransportError: when it cannot, because the port is in use for example.
        """
        try:
            await self.hub.start()
        except BaseException:
            self.driver.close()
            raise
        self._offer_time()
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
        await self.drop()

    async def drop(self) -> None:
        """Stop listening without a word, as a broker that dies does."""
        self.driver.close()
        if self._time_offer is not None:
            self._time_offer.close()
        await self.hub.close()

    def _offer_time(self) -> None:
        """Offer the side path of time, at the same port as everything else."""
        if self._time_offer is None:
            return
        try:
            self._time_offer.listen(*host_and_port(self.hub.endpoint))
        except TransportError as error:
            if self._report is not None:
                self._report(f"time goes by way of the sessions alone: {error}")

    def _send_time(self) -> None:
        if self._time_offer is not None:
            self._time_offer.send()

    def _deliver(self, peer: NodeId, data: bytes) -> None:
        self.driver.deliver(peer, data)

    def _drained(self) -> None:
        self.driver.poke()

    def _say_goodbye(self, now_ns: int) -> None:
        self.core.begin(now_ns, f"{BROKER}:close")
        self.core.close()
