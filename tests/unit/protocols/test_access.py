"""Who may send what: the table, the roles behind it, and what an endpoint does with them (spec 1 §2.6)."""

from __future__ import annotations

import msgspec
import pytest
from tests.unit.protocols.conftest import ALICE, BOB, BROKER, CODEC, MS, SECOND, Client, Service, Wire, pair

from bellwire.protocols.access import ACCESS, EVERYBODY, AccessTable, KnownRoles, check_access
from bellwire.protocols.codec import Codec
from bellwire.protocols.errors import ErrorCode, RemoteProtocolError
from bellwire.protocols.ids import NodeId
from bellwire.protocols.messages import MESSAGES, HeraldClose, Message, Request, Role, SessionError, TimeStatus
from bellwire.sim.messages import WORLD_ACCESS, WORLD_MESSAGES

HUB, MALLORY = NodeId("hub"), NodeId("mallory")
TABLES = [pytest.param(ACCESS, MESSAGES, id="protocol"), pytest.param(WORLD_ACCESS, WORLD_MESSAGES, id="world")]


@pytest.mark.parametrize(("table", "messages"), TABLES)
def test_every_message_has_a_row_and_no_row_is_left_over(
    table: AccessTable, messages: tuple[type[Message], ...]
) -> None:
    assert set(table) == set(messages)


@pytest.mark.parametrize(("table", "messages"), TABLES)
def test_whoever_may_ask_may_be_answered(table: AccessTable, messages: tuple[type[Message], ...]) -> None:
    for message in messages:
        if issubclass(message, Request):
            for answer in message.answered_by:
                assert table[message].receivers <= table[answer].senders, (message, answer)
                assert table[message].senders <= table[answer].receivers, (message, answer)


@pytest.mark.parametrize(("table", "messages"), TABLES)
def test_no_row_but_those_of_sessions_is_for_everybody(table: AccessTable, messages: tuple[type[Message], ...]) -> None:
    for message in messages:
        if not str(message.__struct_config__.tag).startswith("session."):
            assert table[message].senders < EVERYBODY
            assert table[message].receivers < EVERYBODY


def test_message_without_a_row_is_denied_to_every_role() -> None:
    for sender in (*Role, None):
        with pytest.raises(RemoteProtocolError) as denied:
            check_access({}, TimeStatus(), sender, Role.BROKER)
        assert denied.value.code is ErrorCode.DENIED


def test_peer_of_no_role_may_send_nothing_but_what_a_session_takes() -> None:
    with pytest.raises(RemoteProtocolError) as denied:
        check_access(ACCESS, TimeStatus(), None, Role.BROKER)
    assert denied.value.code is ErrorCode.DENIED


@pytest.mark.parametrize("role", list(Role))
def test_request_is_handled_for_the_roles_of_its_row_and_denied_to_the_others(role: Role) -> None:
    """`herald.close` is for agents to send."""
    wire = Wire()
    client, service = Client(wire.join(ALICE, role=role)), Service(wire.join(BOB))
    if role is Role.BROKER:
        service.endpoint.known_roles.expect(ALICE, Role.BROKER)
    client.ask()
    wire.run(SECOND)
    if role is Role.AGENT:
        assert service.handled == ["1"]
    else:
        assert client.codes == [ErrorCode.DENIED]
        assert service.handled == []
        assert not service.endpoint.sessions[ALICE].answered, "a refusal is not remembered"


def test_request_that_the_receivers_role_does_not_take_is_of_unknown_type() -> None:
    wire = Wire()
    client, service = Client(wire.join(ALICE)), Service(wire.join(BOB, role=Role.APPLICATION))
    client.ask()
    wire.run(SECOND)
    assert client.codes == [ErrorCode.UNKNOWN_TYPE]
    assert service.handled == []


def test_hello_of_another_role_than_the_known_one_is_refused_and_opens_nothing() -> None:
    wire = Wire()
    client, service = Client(wire.join(HUB, role=Role.APPLICATION)), Service(wire.join(BOB))
    service.endpoint.known_roles.expect(HUB, Role.STATION)
    client.ask()
    wire.run(SECOND)
    assert client.codes == [ErrorCode.PEER_LOST]
    assert not service.endpoint.is_up(HUB)
    assert service.endpoint.role_of(HUB) is None
    errors = [message for node, message in wire.sent if node == BOB and isinstance(message, SessionError)]
    assert {error.code for error in errors} == {ErrorCode.DENIED}
    assert "says that its role is application, but it is station" in errors[0].text


def test_welcome_of_another_role_than_the_known_one_is_refused_and_opens_nothing() -> None:
    wire = Wire()
    client, _ = Client(wire.join(ALICE)), Service(wire.join(HUB, role=Role.APPLICATION))
    client.endpoint.known_roles.expect(HUB, Role.STATION)
    client.ask(peer=HUB)
    wire.run(8 * SECOND)
    assert not client.endpoint.is_up(HUB)
    assert client.codes == [ErrorCode.PEER_LOST]


def test_role_changed_by_a_renewed_hello_counts_from_then_on() -> None:
    wire = Wire()
    client, service = pair(wire)
    client.ask("1")
    wire.run(100 * MS)
    client.endpoint.role = Role.APPLICATION
    client.endpoint.sessions[BOB].greet()
    wire.run(100 * MS)
    client.ask("2")
    wire.run(SECOND)
    assert service.endpoint.role_of(ALICE) is Role.APPLICATION
    assert service.handled == ["1"]


def test_brokers_role_is_its_names_alone() -> None:
    roles = KnownRoles()
    roles.check(BROKER, Role.BROKER)
    for peer, role in ((MALLORY, Role.BROKER), (BROKER, Role.AGENT)):
        with pytest.raises(RemoteProtocolError) as denied:
            roles.check(peer, role)
        assert denied.value.code is ErrorCode.DENIED
    roles.check(MALLORY, Role.AGENT)


def test_authority_decides_on_everybody_and_denies_those_that_it_does_not_know() -> None:
    roles = KnownRoles()
    roles.authority = {ALICE: Role.AGENT}.get
    roles.check(ALICE, Role.AGENT)
    for peer, role in ((ALICE, Role.APPLICATION), (MALLORY, Role.APPLICATION)):
        with pytest.raises(RemoteProtocolError) as denied:
            roles.check(peer, role)
        assert denied.value.code is ErrorCode.DENIED


def test_session_of_a_revoked_peer_is_lost_silently_and_can_be_opened_again() -> None:
    wire = Wire()
    client, service = pair(wire)
    client.ask("1")
    wire.run(100 * MS)
    sent = wire.count(Message, BOB)
    service.endpoint.introductions.revoke(ALICE)
    service.endpoint.introductions.revoke(NodeId("nobody"))
    wire.flush()
    assert wire.count(Message, BOB) == sent, "without a word"
    assert not service.endpoint.is_up(ALICE)
    client.ask("2")
    wire.run(3 * SECOND)
    assert service.handled == ["1", "2"]


def test_codec_of_other_messages_has_their_rows() -> None:
    closed = Codec(access={})
    wire = Wire()
    client, service = Client(wire.join(ALICE)), Service(wire.join(BOB))
    service.endpoint.codec = closed
    client.ask()
    wire.run(SECOND)
    assert client.codes == [ErrorCode.DENIED]
    assert msgspec.structs.fields(HeraldClose)
    assert CODEC.access is ACCESS
