"""Hubs that are several: messages for who is not bound here, and connections that go from one hub to another (spec 1 §2.8)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.errors import ErrorCode, TransportError
from bellwire.protocols.ids import BROKER, Epoch, NodeId
from bellwire.protocols.messages import Role, SessionError
from bellwire.protocols.session import Loss, SessionSettings
from bellwire.transport.clock import new_epoch
from bellwire.transport.connection import Connection
from bellwire.transport.driver import Driver
from bellwire.transport.members import HubLimits
from bellwire.transport.standby import follow_standby

if TYPE_CHECKING:
    from .conftest import Keys, Yard

ALICE, BOB, FAR = NodeId("alice"), NodeId("bob"), NodeId("far")
PATIENCE_S = 20


class Elsewhere:
    """Somebody who takes messages for others, or says why not."""

    def __init__(self, answer: ErrorCode | None = None) -> None:
        self.taken: list[tuple[NodeId, NodeId, bytes]] = []
        self.answer = answer

    def __call__(self, sender: NodeId, receiver: NodeId, data: bytes) -> ErrorCode | None:
        self.taken.append((sender, receiver, data))
        return self.answer


async def test_message_for_who_is_not_here_is_offered_elsewhere_under_its_senders_name(yard: Yard) -> None:
    host = await yard.host()
    elsewhere = host.hub.elsewhere = Elsewhere(ErrorCode.NO_ROUTE)
    alice, bob = await yard.greeted(host, "alice"), await yard.greeted(host, "bob")
    alice.say("bob", b"near")
    assert await bob.hear() == ("alice", b"near")
    alice.say("far", b"off")
    message = await alice.hear_message()
    assert isinstance(message, SessionError)
    assert (message.code, message.peer, message.rule) == (ErrorCode.NO_ROUTE, FAR, "1 §2.3")
    assert elsewhere.taken == [(ALICE, FAR, b"off")]


async def test_message_that_nobody_has_room_for_is_told_with_its_receiver(yard: Yard) -> None:
    host = await yard.host()
    host.hub.elsewhere = Elsewhere(ErrorCode.LIMIT)
    alice = await yard.greeted(host, "alice")
    alice.say("far", b"off")
    message = await alice.hear_message()
    assert isinstance(message, SessionError)
    assert (message.code, message.peer) == (ErrorCode.LIMIT, FAR)


@pytest.mark.parametrize("answer", [None, ErrorCode.NO_ROUTE])
async def test_only_who_is_known_elsewhere_is_met(yard: Yard, answer: ErrorCode | None) -> None:
    """A member that names ten thousand who do not exist has nobody forgotten whom others have met."""
    met: list[tuple[NodeId, NodeId]] = []
    host = await yard.host(meet=lambda *pair: met.append(pair))
    host.hub.elsewhere = Elsewhere(answer)
    alice = await yard.greeted(host, "alice")
    alice.say("far", b"off")
    alice.say("alice", b"turn")
    while await alice.hear() != ("alice", b"turn"):
        pass
    assert met == ([(ALICE, FAR)] if answer is None else [])


async def test_messages_elsewhere_count_towards_their_senders_rate(yard: Yard) -> None:
    host = await yard.host(limits=HubLimits(rate=10), clock=lambda: 0)
    elsewhere = host.hub.elsewhere = Elsewhere()
    alice = await yard.greeted(host, "alice")
    alice.say("far", b"1")
    alice.say("far", b"2")
    message = await alice.hear_message()
    assert isinstance(message, SessionError)
    assert message.code is ErrorCode.LIMIT
    assert [data for _, _, data in elsewhere.taken] == [b"1"]


async def test_message_from_elsewhere_is_handed_over_and_never_goes_on(yard: Yard) -> None:
    """What came over a bridge must not be bridged again."""
    host = await yard.host()
    elsewhere = host.hub.elsewhere = Elsewhere()
    alice = await yard.greeted(host, "alice")
    assert host.hub.hand_over(FAR, ALICE, b"from afar") is None
    assert await alice.hear() == ("far", b"from afar")
    assert host.hub.hand_over(FAR, BOB, b"from afar") is ErrorCode.NO_ROUTE
    assert elsewhere.taken == []


@pytest.mark.parametrize("code", [ErrorCode.NO_ROUTE, ErrorCode.LIMIT])
async def test_message_that_did_not_get_there_is_told_to_its_sender(yard: Yard, code: ErrorCode) -> None:
    host = await yard.host()
    alice = await yard.greeted(host, "alice")
    host.hub.tell_missed(ALICE, FAR, code)
    host.hub.tell_missed(BOB, FAR, code)
    message = await alice.hear_message()
    assert isinstance(message, SessionError)
    assert (message.code, message.peer) == (code, FAR)


QUICK = SessionSettings(
    heartbeat_ns=50_000_000, liveness_ns=300_000_000, retry_ns=20_000_000, retry_limit_ns=100_000_000
)


class Mover:
    """Alice, who knows two hubs."""

    def __init__(self, keys: Keys, *endpoints: str) -> None:
        self.ups: asyncio.Queue[str] = asyncio.Queue()
        self.losses: asyncio.Queue[Loss] = asyncio.Queue()
        self.core = Endpoint(ALICE, Role.AGENT, new_epoch(), settings=QUICK)
        self.connection = Connection(endpoints, keys.pair("alice"), keys.broker.public, self._deliver)
        self.driver = Driver(self.core, self.connection.send)
        self.core.on_peer_up.append(lambda _: self.ups.put_nowait(self.connection.endpoint))
        self.core.on_peer_lost.append(lambda _, loss, __: self.losses.put_nowait(loss))
        follow_standby(self.connection, self.core, self.driver, BROKER)
        self.connection.start()
        self.driver.stimulate(self._greet)

    def _greet(self, now_ns: int) -> None:
        self.core.begin(now_ns)
        self.core.keep_session(BROKER)

    def _deliver(self, peer: NodeId, data: bytes) -> None:
        self.driver.deliver(peer, data)

    async def up(self) -> str:
        """Where the broker has been met, next."""
        return await asyncio.wait_for(self.ups.get(), PATIENCE_S)

    async def close(self) -> None:
        self.driver.close()
        await self.connection.close()


async def test_connection_goes_on_to_the_standby_and_greets_it_though_it_is_older(yard: Yard) -> None:
    """Spec 1 §4.3: an epoch that is less than the last would be stale, were it not another broker's."""
    first, second = await yard.host(epoch=2_000), await yard.host(epoch=1_000)
    alice = Mover(yard.keys, first.hub.endpoint, second.hub.endpoint)
    assert await alice.up() == first.hub.endpoint
    await first.close()
    assert await alice.up() == second.hub.endpoint
    assert alice.losses.get_nowait() is Loss.SILENT
    assert alice.core.sessions[BROKER].epoch == Epoch(1_000)
    await alice.close()


async def test_connection_begins_with_the_standby_when_the_first_is_not_there(yard: Yard) -> None:
    host = await yard.host()
    alice = Mover(yard.keys, "tcp://127.0.0.1:1", host.hub.endpoint)
    assert await alice.up() == host.hub.endpoint
    await alice.close()


async def test_connection_leaves_a_broker_that_is_connected_and_silent(yard: Yard) -> None:
    """As one whose process was stopped: its machine still acknowledges what is sent."""
    first, second = await yard.host(), await yard.host()
    alice = Mover(yard.keys, first.hub.endpoint, second.hub.endpoint)
    assert await alice.up() == first.hub.endpoint
    first.driver.close()
    assert await alice.up() == second.hub.endpoint
    await alice.close()


async def test_connection_leaves_a_broker_that_never_answered(yard: Yard) -> None:
    first, second = await yard.host(), await yard.host()
    first.driver.close()
    alice = Mover(yard.keys, first.hub.endpoint, second.hub.endpoint)
    assert await alice.up() == second.hub.endpoint
    await alice.close()


async def test_connection_leaves_a_broker_that_refuses_its_greeting(yard: Yard) -> None:
    """As one that is full (LIMIT) does; here one that knows Alice for a station."""
    first, second = await yard.host(), await yard.host()
    first.core.known_roles.expect(ALICE, Role.STATION)
    alice = Mover(yard.keys, first.hub.endpoint, second.hub.endpoint)
    assert await alice.up() == second.hub.endpoint
    assert not first.core.is_up(ALICE)
    await alice.close()


async def test_connection_stays_with_a_broker_that_answers(yard: Yard) -> None:
    first, second = await yard.host(), await yard.host()
    first.core.settings = QUICK
    alice = Mover(yard.keys, first.hub.endpoint, second.hub.endpoint)
    assert await alice.up() == first.hub.endpoint
    waited = asyncio.Event()
    alice.core.timers.at(alice.core.now_ns + 2 * QUICK.liveness_ns, waited.set)
    await asyncio.wait_for(waited.wait(), PATIENCE_S)
    assert alice.connection.endpoint == first.hub.endpoint
    assert alice.losses.empty()
    await alice.close()


async def test_connection_with_one_endpoint_stays_there(keys: Keys) -> None:
    connection = Connection("tcp://127.0.0.1:1", keys.pair("alice"), keys.broker.public, lambda *_: None)
    connection.start()
    socket = connection._socket
    connection.turn()
    assert connection._turning is None
    assert connection._socket is socket
    await connection.close()


async def test_connection_to_a_standby_that_is_no_endpoint_is_one_line(keys: Keys) -> None:
    connection = Connection(("tcp://127.0.0.1:1", "tcp://"), keys.pair("alice"), keys.broker.public, lambda *_: None)
    with pytest.raises(TransportError) as caught:
        connection.start()
    assert str(caught.value) == "alice cannot connect to tcp://: Invalid argument"
    await connection.close()
