"""Direct connections over real sockets: who connects, what stays in order, what goes on without a broker (spec 1 §4.8)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from direct_net import SETTINGS, DirectNet, Peer
from loopback import KeyRing

from bellwire.agent.brain import AgentBrain
from bellwire.agent.driver import NodeDaemon
from bellwire.backends.mock import MockBackend
from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.ids import BROKER, NodeId
from bellwire.protocols.messages import GateDone, Role, SessionIntroduction
from bellwire.protocols.path import DirectSettings
from bellwire.protocols.session import Loss
from bellwire.transport.clock import local_time_ns, new_epoch
from bellwire.transport.connection import Connection
from bellwire.transport.keys import generate, load_secret, revoke

ALICE, BOB, CAROL = NodeId("alice"), NodeId("bob"), NodeId("carol")


@pytest.fixture
async def net(tmp_path: Path) -> AsyncIterator[DirectNet]:
    failures: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    net = DirectNet(tmp_path)
    await net.open()
    yield net
    await net.close()
    assert not failures


async def met(net: DirectNet) -> tuple[Peer, Peer]:
    """Alice and Bob, connected directly."""
    alice, bob = await net.join(ALICE), await net.join(BOB)
    assert isinstance(await alice.ask(BOB), GateDone)
    await alice.directly(BOB)
    await bob.directly(ALICE)
    return alice, bob


async def test_two_agents_leave_the_broker_and_it_relays_nothing_more(net: DirectNet) -> None:
    alice, bob = await met(net)
    # A fence and its answer may still be on their way.
    for asker, peer in ((alice, BOB), (bob, ALICE)):
        await asker.ask(peer)
    relayed = net.broker.hub.counters.relayed
    for number in range(100):
        for asker, peer in ((alice, BOB), (bob, ALICE)):
            answer = await asker.ask(peer, f"g{number}")
            assert isinstance(answer, GateDone)
            assert answer.gate_id == f"g{number}"
    assert net.broker.hub.counters.relayed == relayed


async def test_broker_introduces_role_and_key_before_the_first_message(net: DirectNet) -> None:
    alice, bob = await net.join(ALICE), await net.join(BOB, key=Role.STATION)
    assert bob.core.role_of(ALICE) is None
    assert isinstance(await alice.ask(BOB), GateDone)
    assert (alice.core.role_of(BOB), bob.core.role_of(ALICE)) == (Role.STATION, Role.AGENT)
    known = bob.core.introductions.get(ALICE)
    assert known is not None
    assert known.public_key == load_secret(net.keys / "alice.key_secret").public
    assert (known.incarnation, known.endpoints) == (alice.core.epoch, alice.core.endpoints)
    assert net.broker.core.role_of(ALICE) is Role.AGENT


@pytest.mark.parametrize(("gone", "left"), [(ALICE, BOB), (BOB, ALICE)])
async def test_revoked_participant_loses_its_direct_connections_too(net: DirectNet, gone: NodeId, left: NodeId) -> None:
    """Spec 1 §4.7, whichever side has made the connection."""
    peers = {name: await net.join(name) for name in (ALICE, BOB)}
    assert isinstance(await peers[ALICE].ask(BOB), GateDone)
    await peers[left].directly(gone)
    await peers[gone].directly(left)
    revoke(gone, net.keys)
    await peers[left].until(lambda: not peers[left].core.is_up(gone))
    assert not peers[left].paths.is_direct(gone)
    assert not peers[left].direct._accepted
    assert not peers[left].direct._dialled
    await peers[gone].directly(left, wanted=False)
    for asker, peer in ((gone, left), (left, gone)):
        answer = await peers[asker].ask(peer)
        assert isinstance(answer, RequestError)
        assert answer.code is ErrorCode.PEER_LOST
    assert len(peers[left].numbered.heard) == 0


async def test_participant_that_claims_another_role_than_its_keys_is_denied(net: DirectNet) -> None:
    alice, mallory = await net.join(ALICE), await net.join(NodeId("mallory"), key=Role.APPLICATION)
    mallory.core.role = Role.STATION
    answer = await mallory.ask(ALICE)
    assert isinstance(answer, RequestError)
    assert answer.code is ErrorCode.PEER_LOST
    assert "is a application, not a station" in answer.text
    assert not alice.core.is_up(mallory.core.node)
    assert alice.core.role_of(mallory.core.node) is Role.APPLICATION


async def test_session_goes_on_when_the_broker_dies(net: DirectNet) -> None:
    alice, bob = await met(net)
    await net.broker.drop()
    await alice.until(lambda: (BROKER, Loss.SILENT) in alice.losses)
    await bob.until(lambda: (BROKER, Loss.SILENT) in bob.losses)
    for asker, peer in ((alice, BOB), (bob, ALICE)):
        assert isinstance(await asker.ask(peer), GateDone)
    assert {peer for peer, _ in alice.losses + bob.losses} == {BROKER}
    await net.open()
    await alice.until(lambda: alice.core.is_up(BROKER))
    assert isinstance(await alice.ask(BOB), GateDone)
    assert {peer for peer, _ in alice.losses + bob.losses} == {BROKER}


async def test_broker_that_missed_a_peer_does_not_disturb_the_session_that_goes_directly(net: DirectNet) -> None:
    """Spec 1 §6.3: the end of the relayed stretch found nobody, for example."""
    alice, _ = await met(net)
    hellos = dict(alice.core.sessions[BOB].hellos)
    net.broker.hub.tell_missed(ALICE, BOB, ErrorCode.NO_ROUTE)
    await alice.ask(BROKER)
    assert alice.core.is_up(BOB)
    assert alice.core.sessions[BOB].hellos == hellos


async def test_peer_that_cannot_be_reached_is_relayed_to(net: DirectNet) -> None:
    """Neither listens where it says: a firewall, or an address behind NAT."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = (f"tcp://127.0.0.1:{closed.getsockname()[1]}",)
        alice, bob = await net.join(ALICE, advertise=nowhere), await net.join(BOB, advertise=nowhere)
        for number in range(50):
            for asker, peer in ((alice, BOB), (bob, ALICE)):
                assert isinstance(await asker.ask(peer, f"g{number}"), GateDone)
        assert not alice.paths.is_direct(BOB)
        assert not bob.paths.is_direct(ALICE)
        assert not alice.losses + bob.losses


async def test_one_who_listens_nowhere_connects_to_the_other(net: DirectNet) -> None:
    """Bob's name is the greater one, and he connects all the same: so do applications."""
    alice, bob = await net.join(ALICE), await net.join(BOB, listen="", key=Role.APPLICATION)
    assert isinstance(await alice.ask(BOB), GateDone)
    await alice.directly(BOB)
    await bob.directly(ALICE)
    assert bob.direct._dialled


async def test_greater_name_connects_when_the_lesser_one_cannot(net: DirectNet) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = (f"tcp://127.0.0.1:{closed.getsockname()[1]}",)
        alice, bob = await net.join(ALICE), await net.join(BOB, advertise=nowhere)
        assert isinstance(await alice.ask(BOB), GateDone)
        await alice.directly(BOB)
        await bob.directly(ALICE)
        assert bob.direct._dialled


async def test_participant_without_direct_connections_is_relayed_to(net: DirectNet) -> None:
    alice, bob = await net.join(ALICE), await net.join(BOB, direct=False)
    for asker, peer in ((alice, BOB), (bob, ALICE)):
        assert isinstance(await asker.ask(peer), GateDone)
    assert not alice.paths.is_direct(BOB)


async def test_agent_that_starts_before_its_network_says_where_it_listens_once_it_is_there(net: DirectNet) -> None:
    """Spec 1 §4.7: it listens at every address, and there was no way to the first broker of its list."""
    keys = KeyRing(net.keys)
    daemon = NodeDaemon(
        AgentBrain(
            Endpoint(ALICE, Role.AGENT, new_epoch(), settings=SETTINGS, clock=BROKER),
            [],
            application_timeout_ns=1_000_000_000,
            draw=lambda: 0.0,
        ),
        MockBackend(),
        broker_endpoint=("tcp://255.255.255.255:1", net.address),
        broker_key=keys.public(BROKER).public,
        keys=keys.make(ALICE, Role.AGENT),
        direct=DirectSettings(listen="tcp://0.0.0.0:0"),
    )
    bob = await net.join(BOB)
    await daemon.start()
    try:
        assert daemon.brain.endpoint.endpoints == ()
        await asyncio.wait_for(daemon.wait_ready(), 20)
        known = net.broker.core.sessions[ALICE].endpoints
        assert [endpoint.rpartition(":")[0] for endpoint in known] == ["tcp://127.0.0.1"]
        await bob.ask(ALICE)
        await bob.directly(ALICE)
    finally:
        await daemon.close()


async def test_stranger_is_refused_by_a_listening_agent(net: DirectNet) -> None:
    """Bob knows Alice's key; Carol's is authorized at the broker, and nobody has introduced her to him."""
    _, bob = await met(net)
    generate(net.keys, CAROL, Role.AGENT)
    said: asyncio.Queue[str] = asyncio.Queue()
    carol = Connection(
        bob.core.endpoints[0],
        load_secret(net.keys / "carol.key_secret"),
        load_secret(net.keys / "bob.key_secret").public,
        lambda *_: None,
        report=said.put_nowait,
    )
    carol.start()
    assert "refused the key of carol" in await asyncio.wait_for(said.get(), 10)
    await carol.close()


async def test_peer_that_is_introduced_too_late_is_connected_to_at_a_later_attempt(net: DirectNet) -> None:
    """Alice knows of Bob and connects; he refuses her key until he knows of her too. Each attempt has a socket of its own."""
    alice, bob = await net.join(ALICE), await net.join(BOB)
    introductions = {
        node: SessionIntroduction(
            node=node,
            role=Role.AGENT,
            public_key=load_secret(net.keys / f"{node}.key_secret").public,
            incarnation=peer.core.epoch,
            endpoints=peer.core.endpoints,
        )
        for node, peer in ((ALICE, alice), (BOB, bob))
    }
    alice.stimulate(lambda: alice.core.introductions._take(BROKER, introductions[BOB]))
    assert bob.direct._hub is not None
    async with asyncio.timeout(10):
        while bob.direct._hub.gatekeeper.refused < 20:
            await alice.ask(BROKER)
    assert not alice.paths.is_direct(BOB)
    bob.stimulate(lambda: bob.core.introductions._take(BROKER, introductions[ALICE]))
    await alice.directly(BOB)


async def test_path_that_is_cut_falls_back_to_the_broker_and_returns(net: DirectNet) -> None:
    (bob, proxy), alice = await net.behind_proxy(BOB), await net.join(ALICE)
    assert isinstance(await alice.ask(BOB), GateDone)
    for _ in range(3):
        await alice.directly(BOB)
        await bob.directly(ALICE)
        await proxy.cut()
        await alice.directly(BOB, False)
        # Bob notices when he has something to say.
        assert isinstance(await bob.ask(ALICE), GateDone)
        assert isinstance(await alice.ask(BOB), GateDone)
        assert not alice.paths.is_direct(BOB)
        await proxy.mend()
    await alice.directly(BOB)
    assert isinstance(await alice.ask(BOB), GateDone)
    assert not alice.losses + bob.losses


async def test_path_on_which_everything_vanishes_is_left_before_the_session_is_lost(net: DirectNet) -> None:
    (bob, proxy), alice = await net.behind_proxy(BOB), await net.join(ALICE)
    assert isinstance(await alice.ask(BOB), GateDone)
    await alice.directly(BOB)
    await bob.directly(ALICE)
    proxy.frozen = True
    await alice.directly(BOB, False)
    for asker, peer in ((alice, BOB), (bob, ALICE)):
        assert isinstance(await asker.ask(peer), GateDone)
    assert not alice.losses + bob.losses


async def test_ten_thousand_messages_arrive_once_and_in_order_while_the_path_changes(net: DirectNet) -> None:
    """It is cut where nothing is on its way, since that would be lost; it returns in the middle of everything."""
    (bob, proxy), alice = await net.behind_proxy(BOB), await net.join(ALICE)
    assert isinstance(await alice.ask(BOB), GateDone)
    sent, total, changes = 0, 10_000, 0

    async def say(number: int) -> None:
        nonlocal sent
        for _ in range(min(number, total - sent)):
            sent += 1
            alice.numbered.say(BOB, sent)
            bob.numbered.say(ALICE, sent)
        alice.driver.poke()
        bob.driver.poke()
        # No more than the sockets' queues take.
        await alice.heard(sent - 200)
        await bob.heard(sent - 200)

    while sent < total:
        while not (alice.paths.is_direct(BOB) and bob.paths.is_direct(ALICE)) and sent < total:
            await say(25)
            await asyncio.sleep(0)
        await say(25)
        changes += 1
        await alice.heard(sent)
        await bob.heard(sent)
        await proxy.cut()
        await alice.directly(BOB, False)
        while bob.paths.is_direct(ALICE):
            assert isinstance(await bob.ask(ALICE), GateDone)
        await proxy.mend()
    await alice.heard(total)
    await bob.heard(total)
    numbers = list(range(1, total + 1))
    assert alice.numbered.heard == numbers
    assert bob.numbered.heard == numbers
    assert changes >= 3
    assert not alice.losses + bob.losses


async def test_peer_that_died_is_reached_as_soon_as_it_is_back(net: DirectNet) -> None:
    """What is asked while nobody is there fails; what waits when the peer comes back does not."""
    alice, bob = await met(net)
    await bob.kill()
    assert isinstance(await alice.ask(BOB), RequestError)
    waiting = asyncio.ensure_future(alice.ask(BOB))
    later = await net.join(BOB)
    answers = [await waiting, await alice.ask(BOB)]
    assert isinstance(answers[1], GateDone)
    await alice.directly(BOB)
    await later.directly(ALICE)


async def test_peer_that_restarts_is_connected_to_again(net: DirectNet) -> None:
    alice, bob = await met(net)
    await bob.kill()
    later = await net.join(BOB)
    await alice.until(lambda: (BOB, Loss.RESTARTED) in alice.losses or alice.core.is_up(BOB))
    assert isinstance(await later.ask(ALICE), GateDone)
    await alice.directly(BOB)
    await later.directly(ALICE)
    assert isinstance(await alice.ask(BOB), GateDone)
    known = alice.core.introductions.get(BOB)
    assert known is not None
    assert known.incarnation == later.core.epoch
    assert local_time_ns() > 0
