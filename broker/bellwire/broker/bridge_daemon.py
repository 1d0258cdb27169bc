"""A broker's bridge on the event loop: between its hub, the sites' keys and what carries envelopes. It decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from secrets import token_bytes

from bellwire.broker.bridge import BEAT_NS, Bridge
from bellwire.broker.bridge_link import Link
from bellwire.broker.bridge_mqtt import Mqtt, MqttConfig
from bellwire.broker.bridge_sites import Sites
from bellwire.broker.bridge_wire import TOKEN_BYTES, Entry, Seals
from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.errors import ConfigError, ErrorCode
from bellwire.protocols.ids import Epoch, NodeId, is_endpoint
from bellwire.protocols.introductions import Introducer
from bellwire.protocols.limits import PUBLIC_KEY_BYTES
from bellwire.protocols.messages import SessionIntroduction
from bellwire.protocols.session import NANOSECOND, Loss
from bellwire.transport.clock import local_time_ns
from bellwire.transport.driver import Driver
from bellwire.transport.hub import Hub
from bellwire.transport.keys import AuthorizedKeys, KeyPair
from bellwire.transport.once import Once


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeConfig:
    """What a broker is told of the others: the network's name and its site's, and how the others are reached.

    By `mqtt`, those of every site, whose public keys are in `peers`; by a line of its own, at `bind` and to `standby`, those
    of its own site.
    """

    network: str
    site: str
    mqtt: MqttConfig | None = None
    peers: Path | None = None
    bind: str = ""
    standby: tuple[str, ...] = ()


class BridgeDaemon:
    """The bridge of a broker. To be made, started and closed within one running loop, with the broker's."""

    def __init__(
        self,
        config: BridgeConfig,
        *,
        hub: Hub,
        endpoint: Endpoint,
        driver: Driver,
        introducer: Introducer,
        keys: KeyPair,
        authorized: AuthorizedKeys,
        report: Callable[[str], None] | None = None,
    ) -> None:
        """Make the bridge of a broker.

        Raises:
            ConfigError: when a key of another site is wrong.
        """
        self._config = config
        self._hub = hub
        self._endpoint = endpoint
        self._driver = driver
        self._introducer = introducer
        self._authorized = authorized
        self._tell = Once(report)
        self._sites = Sites(config.site, keys, config.peers)
        self._seals = Seals(keys.secret)
        self._know_sites()
        token = token_bytes(TOKEN_BYTES)
        self.core = Bridge(
            network=config.network,
            site=config.site,
            token=token,
            seals=self._seals,
            local=self,
            rate=hub.members.limits.rate,
            report=report,
        )
        self.link = Link(config.bind, config.standby, token, self._take) if config.bind else None
        self.mqtt: Mqtt | None = None
        if config.mqtt is not None:
            topics = (self._topic(config.site, b""), self._topic(config.site, token))
            self.mqtt = Mqtt(
                config.mqtt,
                topics,
                receive=self._take,
                changed=self._mqtt_changed,
                report=self._tell,
                failed=driver.fail,
            )
        self._tick_at: asyncio.TimerHandle | None = None
        hub.elsewhere = self.core.forward
        introducer.elsewhere = self._introduction
        introducer.has_others = config.mqtt is not None
        endpoint.introductions.on_revoked.append(self.core.revoked)
        endpoint.on_peer_up.append(self._peer_up)
        endpoint.on_peer_lost.append(self._peer_lost)

    # Life.

    def start(self) -> None:
        """Begin to look for the other brokers. They may come up later than this one.

        Raises:
            TransportError: when the line to the other brokers of this site cannot be opened.
        """
        if self.link is not None:
            self.link.start()
        if self.mqtt is not None:
            self.mqtt.start()
        self._tick()

    async def close(self) -> None:
        """Say goodbye to the other brokers and stop."""
        self.core.close()
        await self.drop()

    async def drop(self) -> None:
        """Stop without a word."""
        if self._tick_at is not None:
            self._tick_at.cancel()
        if self.mqtt is not None:
            await self.mqtt.close()
        if self.link is not None:
            await self.link.close()

    # What the core needs.

    def publish(self, site: str, to: bytes, data: bytes, sender: str = "") -> bool:
        """Carry an envelope: within the site by the line of its own, if there is one, and by MQTT otherwise."""
        if self.link is not None and site == self._config.site:
            return self.link.publish(to, data)
        return self.mqtt is not None and self.mqtt.publish(self._topic(site, to), data, sender)

    def owns(self, name: NodeId) -> bool:
        """Whether a participant's key is authorized at this site."""
        return self._authorized.role_of(name) is not None

    def hand_over(self, sender: NodeId, receiver: NodeId, data: bytes) -> ErrorCode | None:
        """Give a message to a participant that is bound here."""
        return self._hub.hand_over(sender, receiver, data)

    def tell_missed(self, sender: NodeId, receiver: NodeId, code: ErrorCode) -> None:
        """Tell a participant that is bound here that its message did not get there."""
        self._hub.tell_missed(sender, receiver, code)

    def changed(self, name: NodeId) -> None:
        """Have whoever has met a participant of another broker be introduced to it anew."""
        self._hub.forget_meetings(name)

    def revoked(self, name: NodeId) -> None:
        """Tell whoever is bound here that a key of another broker's is not authorized any more."""
        self._endpoint.begin(local_time_ns(), f"{self._endpoint.node}:bridge")
        self._introducer.tell_revoked(name)
        self._hub.forget_meetings(name)

    def moved(self, name: NodeId) -> None:
        """Let go of a participant that is at another broker of this site now."""
        self._hub.unbind(name)
        self._endpoint.begin(local_time_ns(), f"{self._endpoint.node}:bridge")
        session = self._endpoint.sessions.get(name)
        if session is not None:
            session.drop(f"{name} is at another broker of {self._config.site} now")

    # What happens.

    def _tick(self) -> None:
        self._tick_at = asyncio.get_running_loop().call_later(BEAT_NS / NANOSECOND, self._tick)
        try:
            if self._sites.refresh():
                for problem in self._sites.problems:
                    self._tell(problem)
                self._know_sites()
        except ConfigError as error:
            self._tell(str(error))
        self._driver.stimulate(self.core.tick)

    def _know_sites(self) -> None:
        try:
            self._seals.know(self._sites.keys)
        except ValueError as error:
            raise ConfigError(f"{self._config.peers}: {error}") from None

    def _take(self, data: bytes) -> None:
        self._driver.stimulate(lambda now_ns: self.core.receive(data, now_ns))

    def _mqtt_changed(self, up: bool) -> None:
        def changed(_now_ns: int) -> None:
            for site in self._seals.sites:
                if self.link is not None and site == self._config.site:
                    continue
                if up:
                    self.core.look_for(site)
                else:
                    self.core.lose_site(site, "MQTT is not there")

        self._tell(f"the bridge of {self._config.site} {'has' if up else 'is without'} MQTT")
        self._driver.stimulate(changed)

    def _peer_up(self, peer: NodeId) -> None:
        known = self._introducer.of(peer)
        if known is not None:
            self.core.bound(
                Entry(
                    name=peer,
                    role=known.role,
                    public_key=known.public_key,
                    incarnation=known.incarnation,
                    endpoints=known.endpoints,
                )
            )

    def _peer_lost(self, peer: NodeId, _loss: Loss, _why: str) -> None:
        self.core.unbound(peer)

    def _introduction(self, name: NodeId) -> SessionIntroduction | None:
        found = self.core.find(name)
        if found is None:
            return None
        entry = found[1]
        if (
            not entry.incarnation
            or len(entry.public_key) != PUBLIC_KEY_BYTES
            or not all(map(is_endpoint, entry.endpoints))
        ):
            return None
        return SessionIntroduction(
            node=name,
            role=entry.role,
            public_key=entry.public_key,
            incarnation=Epoch(entry.incarnation),
            endpoints=entry.endpoints,
        )

    def _topic(self, site: str, to: bytes) -> str:
        return f"bellwire/{self._config.network}/sites/{site}" + (f"/{to.hex()}" if to else "")
