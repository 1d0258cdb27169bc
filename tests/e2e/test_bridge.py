"""Brokers with bridges in one process, over a real MQTT broker or a line of their own: who is reached, and who is refused."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import msgspec
import pytest
from aiomqtt import Client, ProtocolVersion
from federation import free_endpoint
from loopback import QUICK, WAIT_S, Application, KeyRing, Losses
from mosquitto import Mosquitto

from bellwire.broker.bridge_daemon import BridgeConfig
from bellwire.broker.bridge_mqtt import MqttConfig, MqttServer
from bellwire.broker.bridge_wire import Envelope
from bellwire.broker.daemon import BrokerConfig, BrokerDaemon
from bellwire.protocols.ids import BROKER, GateId, NodeId
from bellwire.protocols.messages import GateDone, GateOutcome, Role
from bellwire.protocols.session import Loss
from bellwire.transport.keys import revoke

P = ParamSpec("P")
T = TypeVar("T")
ALICE, BOB = NodeId("alice"), NodeId("bob")
ASKED = GateOutcome(gate_id=GateId("gate"), bits=(0,))


class Site:
    """One site's keys and folders."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.keys = KeyRing(directory / name)
        self.keys.make(BROKER, Role.BROKER)
        self.sites = directory / f"{name}-sites"
        self.sites.mkdir()

    def knows(self, other: Site) -> None:
        shutil.copy(other.keys.directory / "broker.key", self.sites / f"{other.name}.key")


class Federation:
    """Brokers and participants of one test."""

    def __init__(self, directory: Path, mosquitto: Mosquitto) -> None:
        self.mosquitto = mosquitto
        self.reports: list[str] = []
        self.north, self.south = Site(directory, "north"), Site(directory, "south")
        self.north.knows(self.south)
        self.south.knows(self.north)
        self._happened = asyncio.Event()
        self._open: list[BrokerDaemon | Application] = []

    async def broker(self, site: Site, *, line: tuple[str, str] | None = None) -> BrokerDaemon:
        """A broker of a site: with MQTT, or with a line from one endpoint to another."""
        mqtt = MqttConfig(servers=(MqttServer.parse(self.mosquitto.url),))
        bridge = BridgeConfig(network="net", site=site.name, mqtt=mqtt, peers=site.sites)
        if line is not None:
            bridge = BridgeConfig(network="net", site=site.name, bind=line[0], standby=(line[1],))
        config = BrokerConfig(
            bind="tcp://127.0.0.1:*",
            secret_key=site.keys.directory / "broker.key_secret",
            authorized_keys=site.keys.directory,
            session=QUICK,
            bridge=bridge,
        )
        broker = BrokerDaemon(config, self.reports.append)
        assert broker.bridge is not None
        for name in ("receive", "tick", "lose_site"):
            setattr(broker.bridge.core, name, self._noting(getattr(broker.bridge.core, name)))
        broker.hub.elsewhere = self._noting(broker.bridge.core.forward)
        await broker.start()
        self._open.append(broker)
        return broker

    async def join(self, name: NodeId, site: Site, broker: BrokerDaemon) -> Application:
        """An agent that answers gates' outcomes."""
        agent = Application(site.keys.make(name, Role.AGENT), broker.endpoint, site.keys.public(BROKER))
        agent.take(GateOutcome, lambda: GateDone(gate_id=GateId("gate")))
        await agent.__aenter__()
        self._open.append(agent)
        await agent.joined()
        return agent

    def _noting(self, call: Callable[P, T]) -> Callable[P, T]:
        def noting(*args: P.args, **kwargs: P.kwargs) -> T:
            self._happened.set()
            return call(*args, **kwargs)

        return noting

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something holds: it is looked at after whatever a bridge has done."""
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self._happened.clear()
                await self._happened.wait()

    async def close(self) -> None:
        for each in reversed(self._open):
            if isinstance(each, Application):
                await each.__aexit__(None, None, None)
            else:
                await each.close()


@pytest.fixture
async def federation(tmp_path: Path) -> AsyncIterator[Federation]:
    async with Mosquitto(tmp_path) as mosquitto:
        made = Federation(tmp_path, mosquitto)
        yield made
        await made.close()


def reaches(broker: BrokerDaemon, name: NodeId) -> bool:
    assert broker.bridge is not None
    return broker.bridge.core.find(name) is not None


async def two_sites(federation: Federation) -> tuple[BrokerDaemon, BrokerDaemon, Application, Application]:
    """Alice at north and Bob at south, and each broker knows of both."""
    north, south = await federation.broker(federation.north), await federation.broker(federation.south)
    alice = await federation.join(ALICE, federation.north, north)
    bob = await federation.join(BOB, federation.south, south)
    await federation.until(lambda: reaches(north, BOB) and reaches(south, ALICE))
    return north, south, alice, bob


async def test_agents_of_two_sites_ask_each_other(federation: Federation) -> None:
    north, _south, alice, bob = await two_sites(federation)
    await alice.ask(BOB, ASKED, GateDone)
    assert (await bob.received(GateOutcome))[0] == ALICE
    await bob.ask(ALICE, ASKED, GateDone)
    assert north.bridge is not None
    found = north.bridge.core.find(BOB)
    assert found is not None
    assert found[1].public_key == federation.south.keys.public(BOB).public


async def test_outage_of_mqtt_is_no_route_at_once_and_ends_by_itself(federation: Federation) -> None:
    north, south, alice, _bob = await two_sites(federation)
    await alice.ask(BOB, ASKED, GateDone)
    losses = Losses(alice.endpoint)
    await federation.mosquitto.kill()
    await federation.until(lambda: not reaches(north, BOB))
    before = north.hub.counters.unroutable
    asked = asyncio.ensure_future(alice.ask(BOB, ASKED, GateDone))
    await federation.until(lambda: north.hub.counters.unroutable > before)
    assert await losses.next() == (BOB, Loss.SILENT)
    await asyncio.gather(asked, return_exceptions=True)
    assert alice.endpoint.is_up(BROKER)
    await federation.mosquitto.start()
    await federation.until(lambda: reaches(north, BOB) and reaches(south, ALICE))
    await alice.ask(BOB, ASKED, GateDone)


async def test_participants_of_a_site_that_dies_are_forgotten(federation: Federation) -> None:
    north, south, _, _ = await two_sites(federation)
    await south.drop()
    await federation.until(lambda: not reaches(north, BOB))
    assert any("south" in report and "lost" in report for report in federation.reports)


async def test_stranger_at_mqtt_can_neither_read_nor_forge_nor_replay(federation: Federation) -> None:
    _north, south, alice, _bob = await two_sites(federation)
    assert south.bridge is not None
    counters = south.bridge.core.counters
    heard: list[tuple[str, bytes]] = []
    stranger = Client("127.0.0.1", federation.mosquitto.port, protocol=ProtocolVersion.V5)
    async with stranger:
        await stranger.subscribe("bellwire/#")
        await alice.ask(BOB, ASKED, GateDone)
        async with asyncio.timeout(WAIT_S):
            async for message in stranger.messages:
                assert isinstance(message.payload, bytes)
                heard.append((message.topic.value, message.payload))
                if len(heard) >= 8 and any("/sites/south/" in topic for topic, _ in heard):
                    break
        assert not any(word in data for _, data in heard for word in (b"alice", b"bob", b"gate"))
        to_south = [data for topic, data in heard if "/sites/south/" in topic]
        envelope = msgspec.msgpack.decode(to_south[0], type=Envelope)
        spoilt = envelope.sealed[:-1] + bytes([envelope.sealed[-1] ^ 1])
        topic = next(topic for topic, _ in heard if "/sites/south/" in topic)
        received, refused, replayed = counters.received, counters.refused, counters.replayed
        for data in (b"", b"noise", msgspec.msgpack.encode(Envelope(header=envelope.header, sealed=spoilt))):
            await stranger.publish(topic, data)
        for data in to_south:
            await stranger.publish(topic, data)
        await federation.until(
            lambda: counters.refused == refused + 3 and counters.replayed == replayed + len(to_south)
        )
        assert counters.received == received
    await alice.ask(BOB, ASKED, GateDone)


async def test_site_whose_key_is_removed_is_not_reached_any_more(federation: Federation) -> None:
    north, _south, _, _ = await two_sites(federation)
    (federation.north.sites / "south.key").unlink()
    await federation.until(lambda: not reaches(north, BOB))


async def test_key_that_is_taken_back_at_one_site_is_told_at_the_other(federation: Federation) -> None:
    _north, _south, alice, _bob = await two_sites(federation)
    await alice.ask(BOB, ASKED, GateDone)
    assert alice.endpoint.introductions.get(BOB) is not None
    losses = Losses(alice.endpoint)
    revoke(BOB, federation.south.keys.directory)
    assert await losses.next() == (BOB, Loss.SILENT)
    assert alice.endpoint.introductions.get(BOB) is None


async def test_participants_of_two_brokers_of_one_site_ask_each_other_without_mqtt(federation: Federation) -> None:
    one, other = free_endpoint(), free_endpoint()
    first = await federation.broker(federation.north, line=(one, other))
    second = await federation.broker(federation.north, line=(other, one))
    federation.north.keys.make(BOB, Role.AGENT)
    alice = await federation.join(ALICE, federation.north, first)
    await federation.join(BOB, federation.north, second)
    await federation.until(lambda: reaches(first, BOB) and reaches(second, ALICE))
    await alice.ask(BOB, ASKED, GateDone)


async def test_broker_with_a_bridge_closes_while_mqtt_is_away(federation: Federation) -> None:
    north, _, _, _ = await two_sites(federation)
    await federation.mosquitto.kill()
    assert north.bridge is not None
    mqtt = north.bridge.mqtt
    assert mqtt is not None
    await federation.until(lambda: not mqtt.up)
    await north.close()
    await north.close()
