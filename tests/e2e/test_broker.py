"""Participants that meet at a broker, over real sockets with real CURVE: greeting, asking, a broker that comes and goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bellwire.broker.daemon import BrokerConfig, BrokerDaemon
from bellwire.protocols.endpoint import Answer, Endpoint
from bellwire.protocols.errors import ConfigError, ErrorCode, RequestError, TransportError
from bellwire.protocols.ids import BROKER, Epoch, GateId, LinkId, NodeId, WindowId
from bellwire.protocols.messages import EventNotice, EventPublish, GateDone, GateOutcome, HeraldClose, Role, SessionAck
from bellwire.protocols.session import Loss, SessionSettings
from bellwire.protocols.topics import Subscriptions
from bellwire.transport.clock import local_time_ns, new_epoch
from bellwire.transport.connection import MAX_WAITING, Connection
from bellwire.transport.driver import Driver
from bellwire.transport.keys import generate, load_public, load_secret

MILLISECOND = 1_000_000
PATIENCE_S = 20
SETTINGS = SessionSettings(
    heartbeat_ns=200 * MILLISECOND,
    liveness_ns=5_000 * MILLISECOND,
    retry_ns=20 * MILLISECOND,
    retry_limit_ns=100 * MILLISECOND,
)
QUICK = SessionSettings(
    heartbeat_ns=50 * MILLISECOND,
    liveness_ns=300 * MILLISECOND,
    retry_ns=20 * MILLISECOND,
    retry_limit_ns=100 * MILLISECOND,
)
ALICE, BOB = NodeId("alice"), NodeId("bob")


class Participant:
    """An endpoint, a driver and a connection: what a daemon has."""

    def __init__(self, keys: Path, server: Path, address: str, *, epoch: Epoch, settings: SessionSettings) -> None:
        pair = load_secret(keys)
        self.ups: asyncio.Queue[NodeId] = asyncio.Queue()
        self.losses: asyncio.Queue[tuple[NodeId, Loss]] = asyncio.Queue()
        self.core = Endpoint(pair.name, pair.role, epoch, settings=settings)
        self.core.on_peer_up.append(self.ups.put_nowait)
        self.core.on_peer_lost.append(lambda peer, loss, _: self.losses.put_nowait((peer, loss)))
        self.connection = Connection(address, pair, load_public(server).public, self._deliver, drained=self._drained)
        self.driver = Driver(self.core, self.connection.send)

    def _deliver(self, peer: NodeId, data: bytes) -> None:
        self.driver.deliver(peer, data)

    def _drained(self) -> None:
        self.driver.poke()

    def start(self) -> None:
        self.connection.start()
        self.keep(BROKER)

    def keep(self, peer: NodeId) -> None:
        def stimulus(now_ns: int) -> None:
            self.core.begin(now_ns)
            self.core.keep_session(peer)

        self.driver.stimulate(stimulus)

    async def up(self, peer: NodeId) -> None:
        """Wait until a session with the peer is opened (again)."""
        async with asyncio.timeout(PATIENCE_S):
            while await self.ups.get() != peer:
                pass

    async def lost(self, peer: NodeId) -> Loss:
        """Wait until the peer is lost."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                who, loss = await self.losses.get()
                if who == peer:
                    return loss

    def ask(self, peer: NodeId, gate: str, timeout_ms: int = 15_000) -> asyncio.Future[Answer]:
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def stimulus(now_ns: int) -> None:
            self.core.begin(now_ns)
            request = GateOutcome(gate_id=GateId(gate), bits=(0,))
            self.core.ask(peer, request, now_ns + timeout_ms * MILLISECOND, answer.set_result)

        self.driver.stimulate(stimulus)
        return answer

    def serve(self) -> None:
        """Answer what `ask` asks."""
        self.core.handle(GateOutcome, lambda _, message: GateDone(gate_id=message.gate_id))

    async def close(self) -> None:
        """Say goodbye."""

        def goodbye(now_ns: int) -> None:
            self.core.begin(now_ns)
            self.core.close()

        self.driver.stimulate(goodbye)
        self.driver.poke()
        await self.kill()

    async def kill(self) -> None:
        """Vanish without a word."""
        self.driver.close()
        await self.connection.close()


class Network:
    """A broker and the participants of one test."""

    def __init__(self, directory: Path) -> None:
        self.keys = directory / "keys"
        self.strangers = directory / "strangers"
        generate(self.keys, BROKER, Role.BROKER)
        self.address = "tcp://127.0.0.1:*"
        self.reports: asyncio.Queue[str] = asyncio.Queue()
        self._open: list[Participant | BrokerDaemon] = []

    async def broker(self, settings: SessionSettings = SETTINGS) -> BrokerDaemon:
        """A broker, on the port that the first one was given."""
        config = BrokerConfig(
            bind=self.address, secret_key=self.keys / "broker.key_secret", authorized_keys=self.keys, session=settings
        )
        broker = BrokerDaemon(config, self.reports.put_nowait)
        self._open.append(broker)
        await broker.start()
        self.address = broker.endpoint
        return broker

    def join(
        self,
        name: NodeId,
        *,
        epoch: Epoch | None = None,
        settings: SessionSettings = SETTINGS,
        stranger: bool = False,
    ) -> Participant:
        """A participant that begins to greet the broker. Its key is made when it has none."""
        directory = self.strangers if stranger else self.keys
        path = directory / f"{name}.key_secret"
        if not path.exists():
            generate(directory, name, Role.AGENT)
        server = self.keys / "broker.key"
        participant = Participant(path, server, self.address, epoch=epoch or new_epoch(), settings=settings)
        self._open.append(participant)
        participant.start()
        return participant

    async def close(self) -> None:
        for each in reversed(self._open):
            await each.close()


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[Network]:
    network = Network(tmp_path)
    yield network
    await network.close()


async def answered(future: asyncio.Future[Answer]) -> Answer:
    return await asyncio.wait_for(future, PATIENCE_S)


async def kill(broker: BrokerDaemon) -> None:
    """End a broker as a crash would: nobody hears a goodbye."""
    await broker.drop()


async def test_two_participants_greet_through_the_broker_and_ask_each_other(network: Network) -> None:
    broker = await network.broker()
    alice, bob = network.join(ALICE), network.join(BOB)
    alice.serve()
    bob.serve()
    await bob.up(BROKER)
    alice.keep(BOB)
    await alice.up(BOB)
    answer = await answered(alice.ask(BOB, "gate-1"))
    assert isinstance(answer, GateDone)
    assert (answer.epoch, answer.peer_epoch) == (bob.core.epoch, alice.core.epoch)
    assert answer.gate_id == "gate-1"
    assert isinstance(await answered(bob.ask(ALICE, "gate-2")), GateDone)
    assert broker.hub.counters.relayed >= 6


async def test_participants_started_before_the_broker_meet_when_it_comes(network: Network) -> None:
    first = await network.broker()
    await first.close()
    alice, bob = network.join(ALICE), network.join(BOB)
    bob.serve()
    pending = alice.ask(BOB, "early")
    await network.broker()
    assert isinstance(await answered(pending), GateDone)


async def test_thousand_requests_are_answered_once_each(network: Network) -> None:
    await network.broker()
    alice, bob = network.join(ALICE), network.join(BOB)
    handled: list[str] = []

    def outcome(_: NodeId, message: GateOutcome) -> GateDone:
        handled.append(message.gate_id)
        return GateDone(gate_id=message.gate_id)

    bob.core.handle(GateOutcome, outcome)
    await bob.up(BROKER)
    answers = await asyncio.gather(*(answered(alice.ask(BOB, f"g{number}")) for number in range(1_000)))
    assert all(isinstance(answer, GateDone) for answer in answers)
    assert sorted(handled) == sorted(f"g{number}" for number in range(1_000))


async def test_broker_killed_and_restarted_is_greeted_again_and_a_pending_request_is_answered(network: Network) -> None:
    broker = await network.broker()
    alice, bob = network.join(ALICE), network.join(BOB)
    bob.serve()
    alice.keep(BOB)
    await alice.up(BOB)
    await kill(broker)
    pending = alice.ask(BOB, "through the gap")
    second = await network.broker()
    assert second.endpoint == broker.endpoint
    assert isinstance(await answered(pending), GateDone)
    await alice.up(BROKER)
    assert await alice.lost(BROKER) is Loss.RESTARTED
    assert alice.losses.empty(), "bob was never lost"
    assert second.core.is_up(ALICE)
    assert second.core.is_up(BOB)


async def test_broker_that_says_goodbye_and_returns_is_greeted_again(network: Network) -> None:
    broker = await network.broker()
    alice = network.join(ALICE)
    await alice.up(BROKER)
    await broker.close()
    assert await alice.lost(BROKER) is Loss.LEFT
    await network.broker()
    await alice.up(BROKER)


async def test_idle_participants_find_a_restarted_broker_and_each_other(network: Network) -> None:
    broker = await network.broker(QUICK)
    alice, bob = network.join(ALICE, settings=QUICK), network.join(BOB, settings=QUICK)
    bob.serve()
    await alice.up(BROKER)
    await bob.up(BROKER)
    await kill(broker)
    await network.broker(QUICK)
    await alice.up(BROKER)
    await bob.up(BROKER)
    assert isinstance(await answered(alice.ask(BOB, "first words")), GateDone)


async def test_many_participants_find_a_restarted_broker_and_each_other(network: Network) -> None:
    """Spec 1 §2.7: they come back at times of their own, and have not piled up greetings for it."""
    names = [NodeId(f"n{number}") for number in range(40)]
    broker = await network.broker(QUICK)
    members = [network.join(name, settings=QUICK) for name in names]
    for member in members:
        member.serve()
    for member in members:
        await member.up(BROKER)
    await broker.drop()
    for member in members:
        assert await member.lost(BROKER) is Loss.SILENT
    second = await network.broker(QUICK)
    await asyncio.gather(*(member.up(BROKER) for member in members))
    asked = [member.ask(names[index - 1], f"g{index}") for index, member in enumerate(members)]
    assert all(isinstance(answer, GateDone) for answer in await asyncio.gather(*map(answered, asked)))
    assert second.hub.counters.delivered <= len(names) * (MAX_WAITING + 20)
    assert second.hub.counters.hasty == 0


async def test_event_published_once_reaches_every_subscriber_over_a_restart_of_the_broker(network: Network) -> None:
    """Spec 1 §4.9."""
    broker = await network.broker(QUICK)
    hearers = [network.join(NodeId(f"n{number}"), settings=QUICK) for number in range(5)]
    heard: list[asyncio.Queue[str]] = [asyncio.Queue() for _ in hearers]
    subscribed: asyncio.Queue[Answer] = asyncio.Queue()
    for hearer, queue in zip(hearers, heard, strict=True):
        subscriptions = Subscriptions(hearer.core)

        def listen(notice: EventNotice, queue: asyncio.Queue[str] = queue) -> None:
            queue.put_nowait(notice.text)

        subscriptions.subscribe("calibration", listen, subscribed.put_nowait)
    publisher = network.join(ALICE, settings=QUICK)
    for text in ("before", "after"):
        for _ in hearers:
            await asyncio.wait_for(subscribed.get(), PATIENCE_S)
        event = EventPublish(topic="calibration", text=text)
        published: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        publisher.driver.stimulate(publisher.core.begin)
        publisher.core.ask(BROKER, event, local_time_ns() + 10**10, published.set_result)
        publisher.driver.poke()
        assert isinstance(await answered(published), SessionAck)
        for queue in heard:
            assert await asyncio.wait_for(queue.get(), PATIENCE_S) == text
        if text == "before":
            while not subscribed.empty():
                subscribed.get_nowait()
            await broker.drop()
            await network.broker(QUICK)


async def test_insecure_broker_says_so_and_is_refused_where_others_could_reach_it(network: Network) -> None:
    await network.broker()
    where = {"secret_key": network.keys / "broker.key_secret", "authorized_keys": network.keys, "insecure": True}
    with pytest.raises(ConfigError, match="lets everybody in"):
        BrokerDaemon(BrokerConfig(bind="tcp://0.0.0.0:*", **where))  # type: ignore[arg-type]
    for bind, forced in (("tcp://127.0.0.1:*", False), ("tcp://0.0.0.0:*", True)):
        said: list[str] = []
        config = BrokerConfig(bind=bind, insecure_anywhere=forced, **where)  # type: ignore[arg-type]
        broker = BrokerDaemon(config, said.append)
        await broker.start()
        await broker.close()
        assert any(text.startswith("INSECURE") for text in said)


async def test_peer_killed_is_lost_within_its_liveness_and_its_request_ends_by_name(network: Network) -> None:
    await network.broker(QUICK)
    alice, bob = network.join(ALICE, settings=QUICK), network.join(BOB, settings=QUICK)
    await bob.up(BROKER)
    alice.keep(BOB)
    await alice.up(BOB)
    await bob.kill()
    pending = alice.ask(BOB, "too late")
    answer = await answered(pending)
    assert isinstance(answer, RequestError)
    assert answer.code is ErrorCode.PEER_LOST
    assert "bob" in answer.text
    again = network.join(BOB, settings=QUICK)
    again.serve()
    await alice.up(BOB)
    assert isinstance(await answered(alice.ask(BOB, "once more")), GateDone)


async def test_participant_that_says_goodbye_leaves_at_once(network: Network) -> None:
    await network.broker()
    alice, bob = network.join(ALICE), network.join(BOB)
    await bob.up(BROKER)
    alice.keep(BOB)
    await alice.up(BOB)
    await bob.close()
    assert await alice.lost(BOB) is Loss.LEFT


async def test_restarted_participant_takes_its_name_over_from_a_former_one_that_lives_on(network: Network) -> None:
    """Spec 1 §4.3."""
    broker = await network.broker()
    alice = network.join(ALICE)
    former = network.join(BOB, epoch=Epoch(1_000))
    await former.up(BROKER)
    alice.keep(BOB)
    await alice.up(BOB)
    later = network.join(BOB, epoch=Epoch(2_000))
    later.serve()
    await later.up(BROKER)
    assert await alice.lost(BOB) is Loss.RESTARTED
    answer = await answered(alice.ask(BOB, "to the later one"))
    assert isinstance(answer, GateDone)
    assert answer.epoch == 2_000
    await former.lost(BROKER)
    assert broker.core.sessions[BOB].epoch == 2_000


async def test_request_that_the_peer_does_not_take_is_refused_by_name(network: Network) -> None:
    await network.broker()
    alice, bob = network.join(ALICE), network.join(BOB)
    await bob.up(BROKER)
    answer = await answered(alice.ask(BOB, "nobody serves"))
    assert isinstance(answer, RequestError)
    assert answer.code is ErrorCode.UNKNOWN_TYPE


async def test_request_to_a_participant_that_was_never_there_ends_with_its_name(network: Network) -> None:
    await network.broker(QUICK)
    alice = network.join(ALICE, settings=QUICK)
    answer = await answered(alice.ask(NodeId("nobody"), "hello?"))
    assert isinstance(answer, RequestError)
    assert answer.code is ErrorCode.PEER_LOST
    assert answer.text == "nobody is not connected to broker"


async def test_stranger_is_refused_and_let_in_when_its_key_is_added(network: Network) -> None:
    broker = await network.broker()
    mallory = network.join(NodeId("mallory"), stranger=True)
    report = await asyncio.wait_for(network.reports.get(), PATIENCE_S)
    assert report == "broker refused a connection from 127.0.0.1 with a key that is not authorized"
    assert broker.hub.gatekeeper.refused >= 1
    assert NodeId("mallory") not in broker.core.sessions
    (network.keys / "mallory.key").write_bytes((network.strangers / "mallory.key").read_bytes())
    await mallory.up(BROKER)


async def test_garbage_from_a_participant_leaves_the_others_unharmed(network: Network) -> None:
    broker = await network.broker()
    alice, bob, mallory = network.join(ALICE), network.join(BOB), network.join(NodeId("mallory"))
    bob.core.handle(HeraldClose, lambda *_: SessionAck())
    bob.serve()
    for each in (alice, bob, mallory):
        await each.up(BROKER)
    for garbage in (b"", b"\xc1", b"\x81\xa4type\xa4nope", b"\xff" * 60_000, b"{}" * 30_000, bytes(65_536)):
        mallory.connection.send(BOB, garbage)
        mallory.connection.send(BROKER, garbage)
    window = HeraldClose(link_id=LinkId("l"), window_id=WindowId("w"))
    done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    deadline_ns = local_time_ns() + 10**10
    mallory.driver.stimulate(mallory.core.begin)
    mallory.core.ask(BOB, window, deadline_ns, done.set_result)
    assert isinstance(await answered(done), SessionAck)
    assert bob.core.counters.malformed == 6
    assert broker.core.counters.malformed == 6
    assert isinstance(await answered(alice.ask(BOB, "all is well")), GateDone)
    assert not broker.driver.failed.done()


async def test_broker_on_a_port_in_use_is_one_line(network: Network) -> None:
    await network.broker()
    with pytest.raises(TransportError) as caught:
        await network.broker()
    assert str(caught.value) == f"broker cannot listen on {network.address}: Address already in use"


@pytest.mark.parametrize("what", ["not a broker's key", "no key", "no directory"])
async def test_broker_with_a_wrong_configuration_is_one_line(network: Network, what: str) -> None:
    generate(network.keys, ALICE, Role.AGENT)
    secret, authorized = network.keys / "broker.key_secret", network.keys
    if what == "not a broker's key":
        secret = network.keys / "alice.key_secret"
    elif what == "no key":
        secret = network.keys / "none.key_secret"
    else:
        authorized = network.keys / "none"
    with pytest.raises(ConfigError) as caught:
        BrokerDaemon(BrokerConfig(bind=network.address, secret_key=secret, authorized_keys=authorized))
    assert "\n" not in str(caught.value)
    assert str(network.keys) in str(caught.value)


async def test_broker_that_fails_says_so_to_whoever_runs_it(network: Network) -> None:
    broker = await network.broker()

    def broken(_: int) -> None:
        raise ValueError("broken")

    broker.driver.stimulate(broken)
    with pytest.raises(ValueError, match="broken"):
        await asyncio.wait_for(broker.run(), PATIENCE_S)


async def test_broker_closed_within_a_second_while_participants_are_connected(network: Network) -> None:
    broker = await network.broker()
    alice = network.join(ALICE)
    await alice.up(BROKER)
    async with asyncio.timeout(1):
        await broker.close()
    await broker.close()
