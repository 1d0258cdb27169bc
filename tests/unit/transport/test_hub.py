"""A hub on a real socket with real CURVE: who is heard under which name, what is relayed, and what is refused."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from bellwire.protocols.errors import ErrorCode, LocalProtocolError, TransportError
from bellwire.protocols.ids import Epoch, NodeId
from bellwire.protocols.limits import MAX_MESSAGE_BYTES
from bellwire.protocols.messages import Message, SessionError, SessionGoodbye, SessionWelcome
from bellwire.transport.connection import Connection
from bellwire.transport.hub import MAX_WIRE_BYTES

if TYPE_CHECKING:
    from .conftest import Keys, Yard

PATIENCE_S = 10


def error(message: Message) -> SessionError:
    assert isinstance(message, SessionError)
    return message


async def test_hub_on_a_port_in_use_names_it_in_one_line(yard: Yard) -> None:
    first = await yard.host()
    with pytest.raises(TransportError) as caught:
        await yard.host(bind=first.hub.endpoint)
    assert str(caught.value) == f"broker cannot listen on {first.hub.endpoint}: Address already in use"


async def test_hub_on_no_endpoint_is_one_line(yard: Yard) -> None:
    with pytest.raises(TransportError) as caught:
        await yard.host(bind="tcp://nowhere")
    assert "tcp://nowhere" in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_hub_closed_gives_its_port_back(yard: Yard) -> None:
    first = await yard.host()
    await first.close()
    second = await yard.host(bind=first.hub.endpoint)
    assert second.hub.endpoint == first.hub.endpoint
    await yard.greeted(second, "alice")


async def test_client_is_welcomed_and_heard_under_the_name_of_its_key(yard: Yard) -> None:
    host = await yard.host()
    alice = yard.client(host, yard.keys.pair("alice"))
    assert isinstance(await alice.greet(1), SessionWelcome)
    assert [peer for peer, _ in host.delivered] == ["alice"]


async def test_client_claiming_another_routing_id_is_heard_under_its_own_name(yard: Yard) -> None:
    """Spec 1 §2.3: the identity is the one that stands with the key, never one that is claimed."""
    host = await yard.host()
    alice = await yard.greeted(host, "alice")
    socket = yard.raw(host, yard.keys.pair("mallory"), b"alice")
    socket.send_multipart([b"alice", b"in alice's name"])
    socket.send_multipart([b"broker", b"garbage"])
    while len(host.delivered) < 2:
        alice.say("broker", b"are you there")
        await alice.hear()
    while not any(peer == "mallory" for peer, _ in host.delivered):
        alice.say("broker", b"are you there")
        await alice.hear()
    assert all(data != b"garbage" or peer == "mallory" for peer, data in host.delivered)
    assert host.hub.counters.ungreeted == 1, "mallory has not greeted: nothing of it is relayed"


async def test_stranger_is_refused_and_counted_and_both_sides_say_so(yard: Yard) -> None:
    host = await yard.host()
    said: asyncio.Queue[str] = asyncio.Queue()
    client = yard.client(host, yard.keys.pair("mallory", stranger=True), said.put_nowait)
    assert await asyncio.wait_for(said.get(), PATIENCE_S) == (
        f"{host.hub.endpoint} refused the key of mallory: it is not authorized there"
    )
    refusal = await asyncio.wait_for(host.reports.get(), PATIENCE_S)
    assert refusal == "broker refused a connection from 127.0.0.1 with a key that is not authorized"
    assert host.hub.gatekeeper.refused == 1
    assert not client.connection.connected
    assert not host.delivered


async def test_client_with_the_hubs_own_key_is_refused(yard: Yard) -> None:
    host = await yard.host()
    yard.client(host, yard.keys.broker)
    refusal = await asyncio.wait_for(host.reports.get(), PATIENCE_S)
    assert refusal == "broker refused a connection from 127.0.0.1 with the key of broker itself"


async def test_client_that_expects_another_server_key_says_so_and_the_hub_goes_on(yard: Yard) -> None:
    host, other = await yard.host(), yard.keys.pair("other")
    said: asyncio.Queue[str] = asyncio.Queue()
    yard.keys.broker, right = other, yard.keys.broker
    yard.client(host, yard.keys.pair("alice"), said.put_nowait)
    yard.keys.broker = right
    assert "public key" in await asyncio.wait_for(said.get(), PATIENCE_S)
    await yard.greeted(host, "bob")


async def test_client_that_never_greeted_is_told_no_session(yard: Yard) -> None:
    """Spec 1 §4.3."""
    host = await yard.host()
    alice = await yard.greeted(host, "alice")
    bob = yard.client(host, yard.keys.pair("bob"))
    bob.say("alice", b"hello")
    told = error(await bob.hear_message())
    assert (told.code, told.epoch, told.peer_epoch) == (ErrorCode.NO_SESSION, 1_000, 0)
    assert host.hub.counters.ungreeted == 1
    assert alice.heard.empty()


async def test_relayed_frame_has_its_receiver_replaced_by_its_sender(yard: Yard) -> None:
    host = await yard.host()
    alice, bob = await yard.greeted(host, "alice"), await yard.greeted(host, "bob")
    alice.say("bob", b"\x00not a message: a relay does not look")
    assert await bob.hear() == ("alice", b"\x00not a message: a relay does not look")
    bob.say("alice", b"")
    assert await alice.hear() == ("bob", b"")
    assert host.hub.counters.relayed == 2


async def test_frames_between_two_clients_keep_their_order(yard: Yard) -> None:
    host = await yard.host()
    alice, bob = await yard.greeted(host, "alice"), await yard.greeted(host, "bob")
    sent = [b"%d" % number for number in range(2_000)]
    for data in sent:
        alice.say("bob", data)
    assert [(await bob.hear())[1] for _ in sent] == sent


@pytest.mark.parametrize("peer", ["nobody", "x" * 64])
async def test_frame_to_an_unknown_peer_is_answered_with_no_route(yard: Yard, peer: str) -> None:
    host = await yard.host()
    alice = await yard.greeted(host, "alice")
    alice.say(peer, b"anyone?")
    told = error(await alice.hear_message())
    assert (told.code, told.peer, told.epoch, told.peer_epoch) == (ErrorCode.NO_ROUTE, peer, 1_000, 0)
    assert told.text == f"{peer} is not connected to broker"


async def test_frame_to_a_peer_that_vanished_is_answered_with_no_route(yard: Yard) -> None:
    host = await yard.host()
    alice, bob = await yard.greeted(host, "alice"), await yard.greeted(host, "bob")
    await bob.close()
    # The library notices the loss in its own time; until then frames are lost as they may be.
    while alice.heard.empty():
        alice.say("bob", b"still there?")
        alice.say("alice", b"turn")
        peer, data = await alice.hear()
        if data != b"turn":
            assert peer == "broker"
            break
    assert host.hub.counters.unroutable >= 1


async def test_frame_to_a_peer_that_said_goodbye_is_answered_with_no_route(yard: Yard) -> None:
    host = await yard.host()
    alice, bob = await yard.greeted(host, "alice"), await yard.greeted(host, "bob", epoch=7)
    goodbye = SessionGoodbye(epoch=Epoch(7), peer_epoch=Epoch(1_000))
    bob.say("broker", host.core.codec.encode(goodbye))
    bob.say("alice", b"goodbye to you too")
    assert await alice.hear() == ("bob", b"goodbye to you too")
    alice.say("bob", b"come back")
    assert error(await alice.hear_message()).code is ErrorCode.NO_ROUTE


async def test_peer_that_the_owner_lost_is_told_no_session(yard: Yard) -> None:
    host = await yard.host()
    alice, bob = await yard.greeted(host, "alice"), await yard.greeted(host, "bob")
    host.hub.unbind(NodeId("bob"))
    alice.say("bob", b"still there?")
    assert error(await alice.hear_message()).code is ErrorCode.NO_ROUTE
    bob.say("alice", b"yes")
    assert error(await bob.hear_message()).code is ErrorCode.NO_SESSION


async def test_hub_without_relay_counts_what_is_for_others(yard: Yard) -> None:
    host = await yard.host(relay=False)
    alice, bob = await yard.greeted(host, "alice"), await yard.greeted(host, "bob")
    alice.say("bob", b"psst")
    assert isinstance(await alice.greet(1), SessionWelcome)
    assert host.hub.counters.unroutable == 1
    assert bob.heard.empty()


async def test_restarted_client_takes_its_name_over(yard: Yard) -> None:
    """Spec 1 §4.3: a later incarnation with the same key is the same participant."""
    host = await yard.host()
    alice = await yard.greeted(host, "alice")
    keys = yard.keys.pair("bob")
    former = yard.client(host, keys)
    await former.greet(1)
    later = yard.client(host, keys)
    assert isinstance(await later.greet(2), SessionWelcome)
    alice.say("bob", b"who is it")
    assert await later.hear() == ("alice", b"who is it")
    later.say("alice", b"the later one")
    assert await alice.hear() == ("bob", b"the later one")
    former.say("alice", b"the former one")
    assert error(await former.hear_message()).code is ErrorCode.NO_SESSION
    assert error(await former.greet(1)).code is ErrorCode.STALE
    assert former.heard.qsize() <= 1
    assert later.heard.empty()


async def test_reconnected_client_is_told_to_greet_and_reached_again(yard: Yard) -> None:
    host = await yard.host()
    alice = await yard.greeted(host, "alice")
    keys = yard.keys.pair("bob")
    first = yard.client(host, keys)
    await first.greet(5)
    await first.close()
    again = yard.client(host, keys)
    again.say("alice", b"me again")
    assert error(await again.hear_message()).code is ErrorCode.NO_SESSION
    assert isinstance(await again.greet(5), SessionWelcome)
    alice.say("bob", b"welcome back")
    assert await again.hear() == ("alice", b"welcome back")


async def test_garbage_frames_are_counted_and_nothing_dies(yard: Yard) -> None:
    host = await yard.host()
    alice = await yard.greeted(host, "alice")
    socket = yard.raw(host, yard.keys.pair("mallory"))
    parts = [
        [b""],
        [b"broker"],
        [b"broker", b"1", b"2"],
        [b"alice", b"1", b"2", b"3"],
        [b"", b""],
        [b"broker", b"\xc1" * 50],
    ]
    for garbage in parts:
        socket.send_multipart(garbage)
    socket.send_multipart([b"broker", host.core.codec.encode(SessionGoodbye(epoch=Epoch(3)))])
    while host.delivered[-1][0] != "mallory" or host.delivered[-1][1].startswith(b"\xc1"):
        alice.say("alice", b"turn")
        await alice.hear()
    assert host.hub.counters.malformed == 4
    assert host.core.counters.malformed == 1
    assert all(peer in ("alice", "mallory") for peer, _ in host.delivered)
    assert isinstance(await alice.greet(1), SessionWelcome)


@pytest.mark.parametrize("target", [b"\xff\xfe", b"x" * 65, b"x" * 255])
async def test_frame_to_no_name_is_counted_and_dropped(yard: Yard, target: bytes) -> None:
    host = await yard.host()
    alice = await yard.greeted(host, "alice")
    socket = alice.connection._socket
    socket.send_multipart([target, b"data"])
    alice.say("alice", b"turn")
    assert await alice.hear() == ("alice", b"turn")
    assert host.hub.counters.malformed == 1


async def test_longest_message_passes_and_a_longer_one_is_counted_and_refused(yard: Yard) -> None:
    """Spec 1 §3.4."""
    host = await yard.host()
    alice, bob = await yard.greeted(host, "alice"), await yard.greeted(host, "bob")
    alice.connection._socket.send_multipart([b"bob", b"x" * (MAX_MESSAGE_BYTES + 1)])
    alice.connection._socket.send_multipart([b"broker", b"x" * (MAX_MESSAGE_BYTES + 1)])
    alice.say("bob", b"y" * MAX_MESSAGE_BYTES)
    assert await bob.hear() == ("alice", b"y" * MAX_MESSAGE_BYTES)
    assert host.hub.counters.oversize == 2
    assert host.hub.counters.relayed == 1
    for _ in range(2):
        refusal = await alice.hear_message()
        assert isinstance(refusal, SessionError)
        assert refusal.code is ErrorCode.OVERSIZE


async def test_enormous_frame_ends_its_own_connection_and_no_other(yard: Yard) -> None:
    host = await yard.host()
    alice, bob = await yard.greeted(host, "alice"), await yard.greeted(host, "bob")
    bob.connection._socket.send_multipart([b"alice", bytes(MAX_WIRE_BYTES + 1)])
    while not bob.connection.connected or bob.heard.empty():
        # Its connection ends, comes back by itself, and is told to greet.
        alice.say("alice", b"turn")
        assert await alice.hear() == ("alice", b"turn")
        bob.connection.send(NodeId("alice"), b"turn")
    while True:
        message = (await bob.hear())[1]
        if message:
            break
    assert isinstance(host.core.codec.decode(message), SessionError)
    assert alice.connection.connected


async def test_connection_refuses_to_send_more_than_the_limit(keys: Keys) -> None:
    connection = Connection("tcp://127.0.0.1:1", keys.pair("alice"), keys.broker.public, lambda *_: None)
    connection.start()
    assert not connection.send(NodeId("broker"), bytes(MAX_MESSAGE_BYTES + 1))
    assert connection.counters.oversize == 1
    await connection.close()
    await connection.close()


async def test_connection_to_no_endpoint_is_one_line(keys: Keys) -> None:
    connection = Connection("tcp://", keys.pair("alice"), keys.broker.public, lambda *_: None)
    with pytest.raises(TransportError) as caught:
        connection.start()
    assert str(caught.value) == "alice cannot connect to tcp://: Invalid argument"
    await connection.close()


async def test_hub_sending_to_nobody_counts_it(yard: Yard) -> None:
    host = await yard.host()
    assert not host.hub.send(NodeId("alice"), b"data")
    assert not host.hub.send(NodeId("alice"), bytes(MAX_MESSAGE_BYTES + 1))
    assert host.hub.counters.unsent == 2


async def test_binding_outside_of_a_delivery_is_a_local_error(yard: Yard) -> None:
    host = await yard.host()
    with pytest.raises(LocalProtocolError):
        host.hub.bind_current()


async def test_connection_counts_frames_that_are_no_messages(yard: Yard) -> None:
    host = await yard.host()
    alice = await yard.greeted(host, "alice")
    address = host.hub.members.users[NodeId("alice")].origin
    too_long = bytes(MAX_MESSAGE_BYTES + 1)
    for frames in ([b"lonely"], [b"broker", b"1", b"2", b"3"], [b"\xff", b"1"], [b"", b"1"], [b"broker", too_long]):
        host.hub._socket.send_multipart([address, *frames])
    assert host.hub.send(NodeId("alice"), b"turn")
    assert await alice.hear() == ("broker", too_long), "for the codec to refuse"
    assert await alice.hear() == ("broker", b"turn")
    assert alice.connection.counters.malformed == 4
    assert alice.connection.counters.oversize == 1
