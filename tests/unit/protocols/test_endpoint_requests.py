"""Requests: repeated until answered, handled once (spec 1 §4.4)."""

from __future__ import annotations

import itertools

import pytest
from tests.unit.protocols.conftest import ALICE, BOB, MS, SECOND, Wire, lose_first, pair

from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.ids import NodeId
from bellwire.protocols.messages import (
    HeraldClose,
    Message,
    ProgramRun,
    Reply,
    SessionAck,
    SessionHello,
    SessionWelcome,
)

# Loss and repetition (1 §4.4).


@pytest.mark.parametrize("kind", [SessionHello, SessionWelcome, HeraldClose, SessionAck])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_any_frame_lost_is_made_good_and_the_request_handled_once(kind: type[Message], times: int) -> None:
    wire = Wire(fault=lose_first(kind, times))
    alice, bob = pair(wire)
    alice.ask()
    wire.run(3 * SECOND)
    assert [type(answer) for answer in alice.answers] == [SessionAck]
    assert bob.handled == ["1"]


@pytest.mark.parametrize("kind", [SessionHello, SessionWelcome, HeraldClose, SessionAck])
def test_any_frame_repeated_changes_nothing(kind: type[Message]) -> None:
    wire = Wire(fault=lambda _, message: [MS, 3 * MS, 700 * MS] if isinstance(message, kind) else [MS])
    alice, bob = pair(wire)
    alice.ask()
    wire.run(3 * SECOND)
    assert [type(answer) for answer in alice.answers] == [SessionAck]
    assert bob.handled == ["1"]
    assert alice.lost == []


def test_request_unanswered_is_repeated_after_retry_then_doubling_up_to_the_limit() -> None:
    wire = Wire()
    alice, bob = pair(wire, patient=True)
    bob.endpoint.keep_session(ALICE)
    wire.run(100 * MS)
    times: list[int] = []

    def fault(_: NodeId, message: Message) -> list[int]:
        if isinstance(message, HeraldClose):
            times.append(wire.now_ns)
            return []
        return [MS]

    wire.fault = fault
    alice.ask(timeout_ns=3_500 * MS)
    wire.run(3_600 * MS)
    gaps = [(after - before) // MS for before, after in itertools.pairwise(times)]
    assert gaps == [200, 400, 800, 1000, 1000]
    assert alice.codes == [ErrorCode.TIMEOUT]
    assert len({message.request_id for _, message in wire.sent if isinstance(message, HeraldClose)}) == 1


def test_request_past_its_deadline_ends_with_timeout_at_the_deadline() -> None:
    wire = Wire()
    alice, bob = pair(wire)
    bob.later = True
    alice.ask(timeout_ns=300 * MS)
    wire.run(299 * MS)
    assert alice.answers == []
    wire.run(MS)
    assert alice.codes == [ErrorCode.TIMEOUT]


def test_answer_after_the_deadline_is_dropped() -> None:
    wire = Wire()
    alice, bob = pair(wire)
    bob.later = True
    alice.ask(timeout_ns=300 * MS)
    wire.run(SECOND)
    bob.endpoint.reply(*bob.owed[0], SessionAck())
    wire.run(SECOND)
    assert alice.codes == [ErrorCode.TIMEOUT]


def test_answer_owed_is_given_once_and_again_to_a_repeat() -> None:
    wire = Wire(fault=lose_first(SessionAck))
    alice, bob = pair(wire)
    bob.later = True
    alice.ask()
    wire.run(500 * MS)
    assert alice.answers == []
    bob.endpoint.reply(*bob.owed[0], SessionAck())
    bob.endpoint.fail(*bob.owed[0], RequestError(ErrorCode.OTHER, "too late"))
    wire.run(2 * SECOND)
    assert [type(answer) for answer in alice.answers] == [SessionAck]
    assert bob.handled == ["1"]


def test_request_refused_by_its_handler_gives_its_code_and_text() -> None:
    wire = Wire()
    alice, bob = pair(wire)

    def refuse(peer: NodeId, message: HeraldClose) -> Reply:
        raise RequestError(ErrorCode.NORES, "x" * 5_000)

    bob.endpoint.handle(HeraldClose, refuse)
    alice.ask()
    wire.run(SECOND)
    (answer,) = alice.answers
    assert isinstance(answer, RequestError)
    assert (answer.code, len(answer.text)) == (ErrorCode.NORES, 1_024)


def test_request_that_nobody_handles_is_answered_with_unknown_type() -> None:
    wire = Wire()
    alice, _ = pair(wire)
    number = alice.endpoint.ask(BOB, ProgramRun(steps=()), wire.now_ns + SECOND, alice.answers.append)
    alice.endpoint.abandon(number)
    alice.ask()
    wire.members[BOB].duties.clear()
    wire.run(2 * SECOND)
    assert alice.codes == [ErrorCode.UNKNOWN_TYPE]


def test_request_abandoned_is_neither_repeated_nor_answered() -> None:
    wire = Wire()
    alice, bob = pair(wire)
    bob.later = True
    alice.ask("kept")
    number = alice.ask("abandoned")
    wire.run(100 * MS)
    alice.endpoint.abandon(number)
    sent = wire.count(HeraldClose)
    bob.endpoint.reply(*bob.owed[1], SessionAck())
    wire.run(300 * MS)
    assert alice.answers == []
    assert wire.count(HeraldClose) == sent + 1


def test_requests_under_heavy_faults_all_end_and_are_handled_at_most_once() -> None:
    turn = [0]

    def fault(_: NodeId, __: Message) -> list[int]:
        turn[0] += 1
        return [[], [MS], [MS, 40 * MS], [90 * MS], [MS], [], [2 * MS, 350 * MS]][turn[0] * 5 % 7]

    wire = Wire(fault=fault)
    alice, bob = pair(wire)
    for number in range(60):
        alice.ask(str(number), timeout_ns=20 * SECOND)
        wire.run(30 * MS)
    wire.run(25 * SECOND)
    assert len(alice.answers) == 60
    assert alice.codes == []
    assert sorted(bob.handled, key=int) == [str(number) for number in range(60)]
