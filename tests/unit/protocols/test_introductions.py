"""Introductions: who is believed of whom, and who is refused for it (spec 1 §4.7)."""

from __future__ import annotations

import pytest

from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.errors import ErrorCode
from bellwire.protocols.ids import Epoch, NodeId
from bellwire.protocols.introductions import Introducer
from bellwire.protocols.limits import MAX_PEERS
from bellwire.protocols.messages import (
    INTRODUCTIONS,
    Role,
    SessionError,
    SessionHello,
    SessionIntroduction,
    SessionWelcome,
)

from .conftest import ALICE, BOB, BROKER, CODEC, MS, SECOND

EPOCH = Epoch(7)


def introduction(node: NodeId = BOB, role: Role = Role.AGENT, key: bytes = b"k" * 32) -> SessionIntroduction:
    return SessionIntroduction(
        epoch=EPOCH, peer_epoch=Epoch(1), node=node, role=role, public_key=key, incarnation=Epoch(1)
    )


def hello(role: Role, epoch: int = 1, endpoints: tuple[str, ...] = ()) -> bytes:
    message = SessionHello(
        epoch=Epoch(epoch), request_id=1, versions=(1,), role=role, heartbeat_ns=SECOND, endpoints=endpoints
    )
    return CODEC.encode(message)


def answers(endpoint: Endpoint, peer: NodeId) -> list[ErrorCode | Role]:
    """What the endpoint says to a peer: the codes of its refusals, its role where it welcomes."""
    told: list[ErrorCode | Role] = []
    for to, data in endpoint.take_frames():
        message = CODEC.decode(data)
        if to == peer and isinstance(message, SessionError):
            told.append(message.code)
        elif to == peer and isinstance(message, SessionWelcome):
            told.append(message.role)
    return told


@pytest.fixture
def alice() -> Endpoint:
    """In session with a broker that introduces everybody."""
    endpoint = Endpoint(ALICE, Role.AGENT, Epoch(1))
    endpoint.endpoints = ("tcp://h:1",)
    endpoint.begin(MS)
    endpoint.keep_session(BROKER)
    (_, data) = endpoint.take_frames()[0]
    greeting = CODEC.decode(data)
    assert isinstance(greeting, SessionHello)
    assert greeting.endpoints == ("tcp://h:1",)
    welcome = SessionWelcome(
        epoch=EPOCH,
        peer_epoch=Epoch(1),
        request_id=greeting.request_id,
        version=1,
        role=Role.BROKER,
        capabilities=(INTRODUCTIONS,),
        heartbeat_ns=SECOND,
    )
    endpoint.receive(BROKER, CODEC.encode(welcome), MS)
    assert endpoint.is_up(BROKER)
    return endpoint


def test_peer_is_known_by_its_introduction_before_its_hello(alice: Endpoint) -> None:
    assert alice.role_of(BOB) is None
    alice.receive(BROKER, CODEC.encode(introduction()), MS)
    assert alice.role_of(BOB) is Role.AGENT
    alice.receive(BOB, hello(Role.AGENT), MS)
    assert answers(alice, BOB) == [Role.AGENT]


def test_hello_in_another_role_is_denied(alice: Endpoint) -> None:
    alice.receive(BROKER, CODEC.encode(introduction(role=Role.APPLICATION)), MS)
    alice.receive(BOB, hello(Role.STATION), MS)
    assert answers(alice, BOB) == [ErrorCode.DENIED]
    assert not alice.is_up(BOB)


def test_welcome_in_another_role_is_denied(alice: Endpoint) -> None:
    alice.receive(BROKER, CODEC.encode(introduction(role=Role.APPLICATION)), MS)
    alice.keep_session(BOB)
    alice.take_frames()
    welcome = SessionWelcome(epoch=Epoch(1), peer_epoch=Epoch(1), version=1, role=Role.AGENT, heartbeat_ns=SECOND)
    alice.receive(BOB, CODEC.encode(welcome), MS)
    assert answers(alice, BOB) == [ErrorCode.DENIED]
    assert not alice.is_up(BOB)


def test_hello_without_an_introduction_has_the_broker_asked_for_it(alice: Endpoint) -> None:
    alice.receive(BOB, hello(Role.AGENT), MS)
    frames = [(to, CODEC.decode(data)) for to, data in alice.take_frames()]
    assert [(to, type(message)) for to, message in frames] == [(BROKER, SessionHello), (BOB, SessionError)]
    assert isinstance(frames[1][1], SessionError)
    assert frames[1][1].code is ErrorCode.NO_SESSION


def test_hello_is_believed_where_nobody_introduces() -> None:
    alice = Endpoint(ALICE, Role.AGENT, Epoch(1))
    alice.receive(BOB, hello(Role.STATION), MS)
    assert answers(alice, BOB) == [Role.AGENT]
    assert alice.role_of(BOB) is Role.STATION


def test_introduction_by_anybody_but_the_broker_is_denied(alice: Endpoint) -> None:
    alice.receive(BROKER, CODEC.encode(introduction()), MS)
    alice.receive(BOB, hello(Role.AGENT, epoch=7), MS)
    alice.take_frames()
    alice.receive(BOB, CODEC.encode(introduction(NodeId("carol"))), MS)
    assert answers(alice, BOB) == [ErrorCode.DENIED]
    assert alice.introductions.get(NodeId("carol")) is None


def test_broker_cannot_introduce_the_receiver_to_itself(alice: Endpoint) -> None:
    alice.receive(BROKER, CODEC.encode(introduction(ALICE)), MS)
    assert answers(alice, BROKER) == [ErrorCode.DENIED]


def test_later_introduction_takes_the_place_of_the_key_before(alice: Endpoint) -> None:
    introductions = alice.introductions
    for key in (b"1" * 32, b"2" * 32):
        alice.receive(BROKER, CODEC.encode(introduction(key=key)), MS)
    assert introductions.of_key(b"1" * 32) is None
    known = introductions.of_key(b"2" * 32)
    assert known is not None
    assert known.node == BOB


def test_introductions_are_bounded(alice: Endpoint) -> None:
    """Spec 1 §3.4."""
    for number in range(MAX_PEERS + 10):
        message = introduction(NodeId(f"n{number}"), key=number.to_bytes(32, "big"))
        alice.receive(BROKER, CODEC.encode(message), MS)
    assert len(alice.introductions) == MAX_PEERS
    assert alice.introductions.of_key((0).to_bytes(32, "big")) is None


def test_broker_tells_each_of_two_of_the_other_with_what_it_authenticated() -> None:
    broker = Endpoint(BROKER, Role.BROKER, EPOCH)
    keys, roles = {ALICE: b"a" * 32, BOB: b"b" * 32}, {ALICE: Role.AGENT, BOB: Role.STATION}
    broker.known_roles.authority = roles.get
    broker.receive(ALICE, hello(Role.AGENT, endpoints=("tcp://h:1",)), MS)
    broker.receive(BOB, hello(Role.STATION, epoch=2), MS)
    broker.take_frames()
    Introducer(broker, keys.get).introduce(ALICE, BOB)
    told = {to: CODEC.decode(data) for to, data in broker.take_frames()}
    shown = {
        to: (message.node, message.role, message.public_key, message.incarnation, message.endpoints)
        for to, message in told.items()
        if isinstance(message, SessionIntroduction)
    }
    assert shown == {
        BOB: (ALICE, Role.AGENT, b"a" * 32, 1, ("tcp://h:1",)),
        ALICE: (BOB, Role.STATION, b"b" * 32, 2, ()),
    }


def test_broker_refuses_a_hello_in_another_role_than_the_keys() -> None:
    broker = Endpoint(BROKER, Role.BROKER, EPOCH)
    broker.known_roles.authority = {BOB: Role.APPLICATION}.get
    broker.receive(BOB, hello(Role.AGENT), MS)
    assert answers(broker, BOB) == [ErrorCode.DENIED]
