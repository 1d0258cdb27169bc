"""What one client may take of a hub: slow ones and hasty ones hold nobody up, and what is dropped is told (spec 1 §2.7)."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest
import zmq

from bellwire.protocols.errors import ConfigError, ErrorCode
from bellwire.protocols.ids import NodeId
from bellwire.protocols.limits import MAX_PEERS
from bellwire.protocols.messages import SessionWelcome
from bellwire.transport.addresses import is_loopback
from bellwire.transport.connection import MAX_WAITING, RECONNECT_MS, Connection
from bellwire.transport.members import HubLimits, Members
from bellwire.transport.rates import TURN_NS, TURNS_PER_S

if TYPE_CHECKING:
    from .conftest import Keys, Yard


class Clock:
    """Stands still until it is told."""

    now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


async def test_client_that_takes_nothing_holds_nobody_up_and_its_sender_is_told(yard: Yard) -> None:
    inner = await yard.inner(HubLimits(queue=16))
    alice, bob, carol = inner.join("alice"), inner.join("bob", queue=16), inner.join("carol")
    for number in range(100):
        alice.send_multipart([b"bob", b"%d" % number])
        alice.send_multipart([b"carol", b"%d" % number])
        inner.take()
    assert [data for _, data in inner.hear(carol)] == [b"%d" % number for number in range(100)]
    told, heard = inner.errors(alice), inner.hear(bob)
    assert 16 <= len(heard) <= 32, "both ends' queues, and no more"
    assert inner.hub.counters.full == 100 - len(heard)
    assert len(told) + inner.hub.counters.untold == inner.hub.counters.full
    assert {(error.code, error.peer, error.text, error.request_id) for error in told} == {
        (ErrorCode.LIMIT, "bob", "the queue to bob is full", 0)
    }
    alice.send_multipart([b"bob", b"again"])
    inner.take()
    assert inner.hear(bob) == [("alice", b"again")], "a queue that was emptied takes more"


async def test_flood_of_one_client_lets_the_others_have_every_other_turn(yard: Yard) -> None:
    """Fairness is counted in turns: after a thousand messages of one client come ten of another one's."""
    inner = await yard.inner(HubLimits(rate=10**9, queue=10_000))
    mallory, alice, bob = inner.join("mallory"), inner.join("alice"), inner.join("bob", queue=10_000)
    for _ in range(1_000):
        mallory.send_multipart([b"bob", b"flood"])
    for _ in range(10):
        alice.send_multipart([b"bob", b"word"])
    inner.take()
    senders = [peer for peer, _ in inner.hear(bob)]
    assert len(senders) == 1_010
    assert max(index for index, sender in enumerate(senders) if sender == "alice") <= 2 * 10


async def test_client_over_its_rate_is_dropped_told_a_few_times_and_heard_again(yard: Yard) -> None:
    clock = Clock()
    inner = await yard.inner(HubLimits(rate=100, error_rate=20, queue=1_000), clock)
    alice, bob, carol = inner.join("alice"), inner.join("bob"), inner.join("carol")
    clock.now_ns += TURN_NS
    for number in range(50):
        alice.send_multipart([b"bob", b"%d" % number])
    carol.send_multipart([b"bob", b"mine"])
    inner.take()
    heard = inner.hear(bob)
    assert [data for peer, data in heard if peer == "alice"] == [b"%d" % number for number in range(100 // TURNS_PER_S)]
    assert ("carol", b"mine") in heard
    assert inner.hub.counters.hasty == 40
    told = inner.errors(alice)
    assert [(error.code, error.peer) for error in told] == [(ErrorCode.LIMIT, "bob")] * (20 // TURNS_PER_S)
    assert inner.hub.counters.untold == 38
    clock.now_ns += TURN_NS
    alice.send_multipart([b"bob", b"calm"])
    inner.take()
    assert inner.hear(bob) == [("alice", b"calm")]


async def test_client_that_floods_the_owner_is_not_decoded_beyond_its_rate(yard: Yard) -> None:
    clock = Clock()
    inner = await yard.inner(HubLimits(own_rate=100), clock)
    mallory, alice = inner.join("mallory"), inner.join("alice")
    clock.now_ns += TURN_NS
    delivered = len(inner.host.delivered)
    for _ in range(500):
        mallory.send_multipart([b"broker", b"\xc1"])
    alice.send_multipart([b"broker", b"\xc1"])
    inner.take()
    assert len(inner.host.delivered) - delivered == 100 // TURNS_PER_S + 1
    assert inner.hub.counters.hasty == 490
    assert {error.code for error in inner.errors(mallory)} == {ErrorCode.MALFORMED, ErrorCode.LIMIT}


async def test_errors_to_one_client_are_bounded_whatever_it_does_wrong(yard: Yard) -> None:
    clock = Clock()
    inner = await yard.inner(HubLimits(error_rate=50), clock)
    alice = inner.join("alice")
    clock.now_ns += TURN_NS
    for number in range(300):
        alice.send_multipart([b"nobody%d" % number, b"data"])
    inner.take()
    assert inner.hub.counters.unroutable == 300
    assert len(inner.errors(alice)) == 50 // TURNS_PER_S
    assert inner.hub.counters.untold == 300 - 50 // TURNS_PER_S


async def test_odd_transmissions_cost_no_other_client_its_message(yard: Yard) -> None:
    inner = await yard.inner(HubLimits())
    mallory, alice, bob = inner.join("mallory"), inner.join("alice"), inner.join("bob")
    for _ in range(5):
        mallory.send(b"bob")  # a frame too few: what comes next is the beginning of another one's transmission
        alice.send_multipart([b"bob", b"word"])
        mallory.send_multipart([b"bob", b"1", b"2", b"3"])
    inner.take()
    assert [(peer, data) for peer, data in inner.hear(bob) if peer == "alice"] == [("alice", b"word")] * 5
    assert inner.hub.counters.malformed == 10


async def test_odd_transmission_that_names_another_connection_speaks_for_nobody(yard: Yard) -> None:
    """Spec 1 §2.3: under CURVE a message is from whom its connection is, whatever frames it is made of."""
    host = await yard.host()
    alice, bob = await yard.greeted(host, "alice"), await yard.greeted(host, "bob")
    keys = yard.keys.pair("mallory")
    mallory = yard.client(host, keys)
    await mallory.greet(1)
    origin = host.hub.members.users[NodeId("alice")].origin
    mallory.connection._socket.send_multipart([b"bob", origin, b"bob", b"in alice's name"])
    mallory.say("bob", b"I am mallory")
    assert await bob.hear() == ("mallory", b"I am mallory")
    alice.say("bob", b"I am alice")
    assert await bob.hear() == ("alice", b"I am alice")
    assert host.hub.counters.malformed == 1


def test_table_of_clients_is_bounded_and_keeps_those_that_are_bound() -> None:
    members = Members(HubLimits())
    bound = members.of(NodeId("bound"))
    members.bind(bound, b"1", "key")
    for number in range(3 * MAX_PEERS):
        members.of(NodeId(f"n{number}"))
        assert len(members.users) <= MAX_PEERS
    assert members.of(NodeId("bound")) is bound
    for number in range(MAX_PEERS - 1):
        members.bind(members.of(NodeId(f"m{number}")), b"m%d" % number, "key")
    with pytest.raises(ConfigError):
        members.of(NodeId("one-more"))


@pytest.mark.parametrize("wrong", [{"queue": 0}, {"rate": 9}, {"own_rate": 0}, {"error_rate": -1}])
def test_limits_that_would_let_nothing_through_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        HubLimits(**wrong)


async def test_insecure_hub_takes_routing_ids_for_names_and_lets_one_come_back(yard: Yard) -> None:
    host = await yard.insecure_host()
    alice, bob = yard.insecure_client(host, "alice"), yard.insecure_client(host, "bob")
    for each in (alice, bob):
        assert isinstance(await each.greet(1), SessionWelcome)
    alice.say("bob", b"hello")
    assert await bob.hear() == ("alice", b"hello")
    await bob.close()
    again = yard.insecure_client(host, "bob")
    assert isinstance(await again.greet(2), SessionWelcome)
    alice.say("bob", b"welcome back")
    assert await again.hear() == ("alice", b"welcome back")


async def test_insecure_hub_drops_who_has_no_name(yard: Yard) -> None:
    host = await yard.insecure_host()
    alice = yard.insecure_client(host, "alice")
    await alice.greet(1)
    socket: zmq.Socket[bytes] = host.hub._context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(host.hub.endpoint)
    socket.send_multipart([b"broker", b"who am I"])
    while not host.hub.counters.malformed:
        alice.say("alice", b"turn")
        await alice.hear()
    socket.close()
    assert [peer for peer, _ in host.delivered] == ["alice"]


@pytest.mark.parametrize(
    ("endpoint", "here"),
    [
        ("tcp://127.0.0.1:7100", True),
        ("tcp://127.8.0.1:*", True),
        ("tcp://[::1]:7100", True),
        ("tcp://localhost:7100", True),
        ("ipc:///run/bellwire", True),
        ("tcp://0.0.0.0:7100", False),
        ("tcp://*:7100", False),
        ("tcp://[::]:7100", False),
        ("tcp://10.0.0.1:7100", False),
        ("tcp://lab.example:7100", False),
        ("tcp://eth0:7100", False),
    ],
)
def test_loopback_is_told_from_what_others_can_reach(endpoint: str, here: bool) -> None:
    assert is_loopback(endpoint) is here


async def test_connection_that_does_not_stand_keeps_a_few_messages_and_refuses_more(keys: Keys) -> None:
    connection = Connection("tcp://127.0.0.1:1", keys.pair("alice"), keys.broker.public, lambda *_: None)
    connection.start()
    sent = [connection.send(NodeId("broker"), b"hello") for _ in range(2 * MAX_WAITING)]
    assert sent == [True] * MAX_WAITING + [False] * MAX_WAITING
    assert connection.counters.full == MAX_WAITING
    await connection.close()


async def test_connections_of_many_come_back_at_times_of_their_own(keys: Keys) -> None:
    pair = keys.pair("alice")
    intervals = []
    for seed in range(64):
        connection = Connection("tcp://127.0.0.1:1", pair, keys.broker.public, lambda *_: None, random=Random(seed))
        connection.start()
        intervals.append(int(connection._socket.getsockopt(zmq.RECONNECT_IVL)))
        await connection.close()
    assert all(RECONNECT_MS <= interval < 2 * RECONNECT_MS for interval in intervals)
    assert len(set(intervals)) > RECONNECT_MS // 2
