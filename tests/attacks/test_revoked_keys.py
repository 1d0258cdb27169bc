"""Keys that are taken back: their connections end, whatever they are at, and nobody else's do (spec 1 §2.2)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from loopback import ALICE, BOB, STATION, WAIT_S, Application, Losses
from slice_of_network import Slice

from bellwire.protocols.errors import ErrorCode
from bellwire.protocols.ids import BROKER, NodeId
from bellwire.protocols.messages import ProgramResult, ProgramRun, Role, SessionError, SessionWelcome, Step
from bellwire.protocols.messages.program import StepKind
from bellwire.protocols.session import Loss
from bellwire.transport.guests import MAX_CONNECTIONS, WATCH_S
from bellwire.transport.keys import authorize, revoke

if TYPE_CHECKING:
    from tests.unit.transport.conftest import Client, Host, Keys, Yard


async def told(client: Client, peer: str) -> SessionError:
    """Say something to a peer until the hub has an error to tell, whoever else may answer."""
    while True:
        client.say(peer, b"are you there")
        sender, data = await client.hear()
        if sender == BROKER:
            message = client._codec.decode(data)
            assert isinstance(message, SessionError)
            return message


async def reported(host: Host, text: str) -> None:
    """Wait for a report of the hub."""
    async with asyncio.timeout(WAIT_S):
        while await host.reports.get() != text:
            pass


def ended(name: str) -> str:
    return f"broker ended the connections of {name}: its key is not authorized any more"


def test_keys_are_looked_at_more_than_twice_a_second() -> None:
    """Half of the second that is promised is for the connection to end."""
    assert WATCH_S < 0.5


async def test_revoked_node_loses_its_connection_and_is_refused_from_then_on(yard: Yard, keys: Keys) -> None:
    host = await yard.host()
    alice = await yard.greeted(host, "alice")
    said: asyncio.Queue[str] = asyncio.Queue()
    bob = yard.client(host, keys.pair("bob"), said.put_nowait)
    await bob.greet(1)
    revoke(NodeId("bob"), keys.authorized)
    await reported(host, ended("bob"))
    assert (await told(alice, "bob")).code is ErrorCode.NO_ROUTE
    assert "refused the key of bob" in await asyncio.wait_for(said.get(), WAIT_S)
    assert not bob.connection.connected
    assert not host.core.is_up(NodeId("bob"))


async def test_node_authorized_again_is_let_in_again(yard: Yard, keys: Keys) -> None:
    host = await yard.host()
    pair = keys.pair("bob")
    bob = yard.client(host, pair)
    await bob.greet(1)
    kept = keys.authorized.parent / "bob.key"
    kept.write_bytes((keys.authorized / "bob.key").read_bytes())
    revoke(NodeId("bob"), keys.authorized)
    await reported(host, ended("bob"))
    authorize(kept, keys.authorized)
    assert isinstance(await yard.client(host, pair).greet(2), SessionWelcome)


async def test_replaced_key_ends_the_old_connection_and_leaves_the_new_one(yard: Yard, keys: Keys) -> None:
    """A stolen key that was replaced is not the participant's any more, though the name is."""
    host = await yard.host()
    alice = await yard.greeted(host, "alice")
    thief = yard.client(host, keys.pair("bob"))
    await thief.greet(1)
    new = keys.pair("bob", stranger=True)
    revoke(NodeId("bob"), keys.authorized)
    authorize(keys.authorized.parent / "others" / "bob.key", keys.authorized)
    bob = yard.client(host, new)
    assert isinstance(await bob.greet(2), SessionWelcome)
    await reported(host, ended("bob"))
    alice.say("bob", b"who is it")
    assert await bob.hear() == ("alice", b"who is it")
    thief.say("alice", b"it is me")
    assert (await told(alice, "nobody")).code is ErrorCode.NO_ROUTE
    assert alice.heard.empty(), "nothing of the thief's is relayed"


async def test_connection_that_was_silent_until_its_key_was_revoked_is_not_heard(yard: Yard, keys: Keys) -> None:
    host = await yard.host()
    alice = await yard.greeted(host, "alice")
    bob = yard.client(host, keys.pair("bob"))
    async with asyncio.timeout(WAIT_S):
        while not bob.connection.connected:
            alice.say("alice", b"turn")
            await alice.hear()
    revoke(NodeId("bob"), keys.authorized)
    bob.hello(1)
    async with asyncio.timeout(WAIT_S):
        while host.hub.counters.revoked == 0:
            alice.say("alice", b"turn")
            await alice.hear()
    assert all(peer == "alice" for peer, _ in host.delivered)


async def test_one_key_has_few_connections_and_a_further_one_ends_the_oldest(yard: Yard, keys: Keys) -> None:
    host = await yard.host()
    pair = keys.pair("bob")
    clients = []
    for epoch in range(1, MAX_CONNECTIONS + 4):
        clients.append(yard.client(host, pair))
        assert isinstance(await clients[-1].greet(epoch), SessionWelcome)
        (guest,) = host.hub._guests._guests.values()
        assert len(guest.connections) <= MAX_CONNECTIONS
    alice = await yard.greeted(host, "alice")
    alice.say("bob", b"which one")
    assert await clients[-1].hear() == ("alice", b"which one")


async def test_unreadable_directory_of_keys_ends_no_connection_and_is_reported_once(yard: Yard, keys: Keys) -> None:
    host = await yard.host()
    alice = await yard.greeted(host, "alice")
    aside = keys.authorized.with_name("aside")
    keys.authorized.rename(aside)
    await reported(host, f"{keys.authorized}: no such directory of authorized keys")
    alice.say("alice", b"turn")
    assert await alice.hear() == ("alice", b"turn")
    aside.rename(keys.authorized)
    host.hub._watch.look()
    assert host.reports.empty()
    assert isinstance(await alice.greet(1), SessionWelcome)


async def test_revoked_station_ends_at_the_broker_and_the_others_go_on(net: Slice) -> None:
    losses = Losses(net.broker.core)
    revoke(STATION, net.keys.directory)
    assert await losses.next() == (STATION, Loss.SILENT)
    assert net.broker.core.is_up(ALICE)
    assert net.broker.core.is_up(BOB)


async def test_revoked_application_loses_what_it_held_at_nodes(net: Slice) -> None:
    """A node learns of it by silence: the broker carries nothing of it any more."""
    keys = net.keys.make(NodeId("mallory"), Role.APPLICATION)
    async with Application(keys, net.broker.endpoint, net.keys.public(BROKER)) as mallory:
        take = Step(kind=StepKind.INITIALISE, qubits=("q",))
        await mallory.ask(ALICE, ProgramRun(steps=(take,)), ProgramResult)
        losses = Losses(net.agent(ALICE).endpoint)
        assert net.agent(ALICE).registers.left() == {"mallory": ["q"]}
        revoke(NodeId("mallory"), net.keys.directory)
        assert await losses.next() == (NodeId("mallory"), Loss.SILENT)
        assert net.agent(ALICE).registers.left() == {}
