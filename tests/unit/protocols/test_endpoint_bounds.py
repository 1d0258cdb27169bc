"""What a peer can make an endpoint keep is bounded (spec 1 §3.4), and rubbish is counted and refused (spec 1 §3.5)."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bellwire.protocols.codec import Codec
from bellwire.protocols.endpoint import Answer, Endpoint
from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.ids import Epoch, LinkId, NodeId, WindowId
from bellwire.protocols.limits import (
    MAX_ANSWERED_BYTES,
    MAX_ANSWERED_REQUESTS,
    MAX_MESSAGE_BYTES,
    MAX_PEERS,
    MAX_PENDING_REQUESTS,
    MAX_TEXT_CHARS,
)
from bellwire.protocols.messages import (
    HeraldClose,
    LinkAccept,
    Message,
    Reply,
    Role,
    SessionAck,
    SessionError,
    SessionHello,
    SessionWelcome,
)

NOW = 1_000_000_000
ALICE, BOB = NodeId("alice"), NodeId("bob")
ONE = Epoch(1)
CODEC = Codec()


class Bob:
    """An endpoint that is fed frames as they would come from the wire."""

    def __init__(self) -> None:
        self.endpoint = Endpoint(BOB, Role.AGENT, ONE)
        self.handled: list[int] = []
        self.owe = False
        self.endpoint.handle(HeraldClose, self.take)

    def take(self, peer: NodeId, message: HeraldClose) -> Reply | None:
        self.handled.append(message.request_id)
        return None if self.owe else SessionAck()

    def given(self, message: Message | bytes, peer: NodeId = ALICE) -> list[Message]:
        data = message if isinstance(message, bytes) else CODEC.encode(message)
        self.endpoint.receive(peer, data, NOW)
        return [CODEC.decode(frame) for _, frame in self.endpoint.take_frames()]


def hello(epoch: int = 1) -> SessionHello:
    return SessionHello(epoch=Epoch(epoch), request_id=1, versions=(1,), role=Role.AGENT, heartbeat_ns=NOW)


def close(number: int, epoch: int = 1) -> HeraldClose:
    return HeraldClose(
        epoch=Epoch(epoch), peer_epoch=ONE, request_id=number, link_id=LinkId("l"), window_id=WindowId("w")
    )


def codes(messages: list[Message]) -> list[ErrorCode]:
    return [message.code for message in messages if isinstance(message, SessionError)]


@pytest.fixture
def bob() -> Bob:
    bob = Bob()
    bob.given(hello())
    return bob


def test_answers_kept_are_bounded_and_the_oldest_forgotten_is_refused_not_handled_again(bob: Bob) -> None:
    for number in range(1, MAX_ANSWERED_REQUESTS + 11):
        bob.given(close(number))
    session = bob.endpoint.sessions[ALICE]
    assert len(session.answered) == MAX_ANSWERED_REQUESTS
    assert codes(bob.given(close(10))) == [ErrorCode.EXPIRE]
    (repeated,) = bob.given(close(11))
    assert isinstance(repeated, SessionAck)
    assert repeated.request_id == 11
    assert len(bob.handled) == MAX_ANSWERED_REQUESTS + 10


def test_requests_owed_are_bounded_and_one_more_is_refused_with_limit(bob: Bob) -> None:
    bob.owe = True
    for number in range(1, MAX_ANSWERED_REQUESTS + 1):
        assert bob.given(close(number)) == []
    assert codes(bob.given(close(MAX_ANSWERED_REQUESTS + 1))) == [ErrorCode.LIMIT]
    assert len(bob.handled) == MAX_ANSWERED_REQUESTS
    bob.endpoint.reply(ALICE, bob.handled[0], SessionAck())
    bob.endpoint.take_frames()
    assert codes(bob.given(close(MAX_ANSWERED_REQUESTS + 2))) == []


def test_answers_kept_are_bounded_by_their_octets_too(bob: Bob) -> None:
    bob.owe = True
    session = bob.endpoint.sessions[ALICE]
    long = RequestError(ErrorCode.OTHER, "𝄞" * MAX_TEXT_CHARS)
    for number in range(1, MAX_ANSWERED_REQUESTS + 1):
        bob.given(close(number))
        bob.endpoint.fail(ALICE, bob.handled[-1], long)
        assert session.answered_bytes == sum(map(len, session.answered.values())) <= MAX_ANSWERED_BYTES
    assert len(session.answered) < MAX_ANSWERED_REQUESTS
    bob.endpoint.take_frames()
    assert codes(bob.given(close(1))) == [ErrorCode.EXPIRE]
    assert codes(bob.given(close(MAX_ANSWERED_REQUESTS))) == [ErrorCode.OTHER]
    bob.given(hello(epoch=2))
    assert session.answered_bytes == 0


def test_request_owed_for_long_does_not_block_the_ones_after_it(bob: Bob) -> None:
    bob.owe = True
    bob.given(close(1))
    bob.owe = False
    for number in range(2, 2 * MAX_ANSWERED_REQUESTS):
        (answer,) = bob.given(close(number))
        assert isinstance(answer, SessionAck)
    assert bob.given(close(1)) == []
    bob.endpoint.reply(ALICE, bob.handled[0], SessionAck())
    ((_, data),) = bob.endpoint.take_frames()
    answer = CODEC.decode(data)
    assert isinstance(answer, SessionAck)
    assert answer.request_id == 1


def test_restart_forgets_what_is_owed(bob: Bob) -> None:
    bob.owe = True
    for number in range(1, 101):
        bob.given(close(number))
    bob.given(hello(epoch=2))
    assert len(bob.endpoint.duties) == 0
    assert bob.endpoint.sessions[ALICE].owed == {}


def test_sessions_are_bounded_and_one_more_is_refused_with_limit(bob: Bob) -> None:
    for number in range(MAX_PEERS - 1):
        bob.given(hello(), NodeId(f"n{number}"))
    assert codes(bob.given(hello(), NodeId("more"))) == [ErrorCode.LIMIT]
    assert len(bob.endpoint.sessions) == MAX_PEERS
    bob.endpoint.release_session(NodeId("n7"))
    bob.endpoint.take_frames()
    (answer,) = bob.given(hello(), NodeId("more"))
    assert isinstance(answer, SessionWelcome)
    assert len(bob.endpoint.sessions) == MAX_PEERS
    assert NodeId("n7") not in bob.endpoint.sessions


def test_requests_pending_are_bounded() -> None:
    endpoint = Endpoint(BOB, Role.AGENT, ONE)
    endpoint.begin(NOW)
    answers: list[Answer] = []
    for _ in range(MAX_PENDING_REQUESTS):
        endpoint.ask(ALICE, close(0), NOW + NOW, answers.append)
    endpoint.ask(ALICE, close(0), NOW + NOW, answers.append)
    assert answers == []
    endpoint.handle_deadline(NOW)
    (answer,) = answers
    assert isinstance(answer, RequestError)
    assert answer.code is ErrorCode.LIMIT


def test_timers_of_answered_requests_do_not_pile_up(bob: Bob) -> None:
    endpoint = bob.endpoint
    for _ in range(5_000):
        number = endpoint.ask(ALICE, close(0), NOW + 3_600 * NOW, lambda _: None)
        bob.given(SessionAck(epoch=ONE, peer_epoch=ONE, request_id=number))
    assert len(endpoint.timers) < 200


def test_frame_too_long_is_refused_before_it_is_parsed(bob: Bob) -> None:
    data = msgpack.packb({"type": "herald.close", "request_id": 5, "reason": "x" * MAX_MESSAGE_BYTES})
    (refusal,) = bob.given(data)
    assert isinstance(refusal, SessionError)
    assert (refusal.code, refusal.request_id) == (ErrorCode.OVERSIZE, 0)
    assert bob.endpoint.counters.malformed == 1


def test_unknown_type_is_refused_with_its_request_id(bob: Bob) -> None:
    data = msgpack.packb({"type": "future.thing", "epoch": 1, "peer_epoch": 1, "request_id": 5})
    (refusal,) = bob.given(data)
    assert isinstance(refusal, SessionError)
    assert (refusal.code, refusal.request_id, refusal.peer_epoch) == (ErrorCode.UNKNOWN_TYPE, 5, 1)


def test_malformed_request_is_refused_with_its_request_id_and_ends_at_the_asker(bob: Bob) -> None:
    data = msgpack.packb({"type": "herald.close", "epoch": 1, "peer_epoch": 1, "request_id": 5, "link_id": 7})
    (refusal,) = bob.given(data)
    assert isinstance(refusal, SessionError)
    assert (refusal.code, refusal.request_id) == (ErrorCode.MALFORMED, 5)
    assert "link_id" in refusal.text


@pytest.mark.parametrize("field", ["cause_id", "version"])
def test_malformed_reply_is_refused_without_its_number_which_is_another_request_at_its_sender(
    bob: Bob, field: str
) -> None:
    """Found by `test_peers`: the refusal of a reply ended the request of the same number that its sender had asked."""
    welcome = SessionWelcome(epoch=ONE, peer_epoch=ONE, request_id=7, version=1, role=Role.AGENT, heartbeat_ns=NOW)
    content = msgpack.unpackb(CODEC.encode(welcome)) | {field: []}
    (error,) = bob.given(msgpack.packb(content))
    assert isinstance(error, SessionError)
    assert (error.code, error.request_id, error.peer_epoch) == (ErrorCode.MALFORMED, 0, 1)


def test_malformed_error_is_not_answered(bob: Bob) -> None:
    assert bob.given(msgpack.packb({"type": "session.error", "epoch": 1, "code": "NO SUCH CODE"})) == []
    assert bob.endpoint.counters.malformed == 1


@pytest.mark.parametrize("epoch", [-1, 2**63, 2**64 - 1])
def test_refusal_of_a_frame_with_numbers_out_of_bounds_is_itself_in_bounds(bob: Bob, epoch: int) -> None:
    data = msgpack.packb({"type": "herald.close", "epoch": epoch, "request_id": 5})
    assert codes(bob.given(data)) == [ErrorCode.MALFORMED]


@pytest.mark.parametrize(
    "reply",
    [LinkAccept(epoch=ONE, peer_epoch=ONE, request_id=1), SessionAck(epoch=ONE, peer_epoch=ONE, request_id=77)],
)
def test_reply_of_the_wrong_kind_or_number_never_reaches_the_asker_as_success(bob: Bob, reply: Reply) -> None:
    answers: list[Answer] = []
    bob.endpoint.ask(ALICE, close(0), NOW + NOW, answers.append)
    bob.endpoint.take_frames()
    bob.given(reply)
    assert all(isinstance(answer, RequestError) and answer.code is ErrorCode.PROTOCOL for answer in answers)
    assert len(answers) == (1 if isinstance(reply, LinkAccept) else 0)


def test_reply_from_another_peer_does_not_answer(bob: Bob) -> None:
    carol = NodeId("carol")
    bob.given(hello(), carol)
    answers: list[Answer] = []
    number = bob.endpoint.ask(ALICE, close(0), NOW + NOW, answers.append)
    bob.given(SessionAck(epoch=ONE, peer_epoch=ONE, request_id=number), carol)
    assert answers == []


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_endpoint_given_junk_counts_it_and_stays_up(frames: list[bytes]) -> None:
    bob = Bob()
    bob.given(hello())
    for frame in frames:
        assert all(isinstance(message, SessionError) for message in bob.given(frame))
    assert bob.endpoint.counters.malformed == len(frames)
    assert bob.endpoint.is_up(ALICE)
