"""Sessions: greeting, liveness, restarts, goodbye (spec 1 §4)."""

from __future__ import annotations

import pytest
from tests.unit.protocols.conftest import ALICE, BOB, BROKER, CODEC, MS, SECOND, Client, Service, Wire, pair, prompt

from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.ids import Epoch, LinkId, NodeId, WindowId
from bellwire.protocols.messages import (
    HeraldClose,
    Message,
    Reply,
    Role,
    SessionAck,
    SessionError,
    SessionGoodbye,
    SessionHeartbeat,
    SessionHello,
    SessionWelcome,
)
from bellwire.protocols.session import Loss, SessionSettings, SessionState

# Greeting (1 §4.1).


def test_ask_of_a_stranger_greets_first_and_is_answered() -> None:
    wire = Wire()
    alice, bob = pair(wire)
    alice.ask()
    wire.run(10 * MS)
    assert [type(message) for _, message in wire.sent] == [SessionHello, SessionWelcome, HeraldClose, SessionAck]
    assert isinstance(alice.answers[0], SessionAck)
    assert bob.handled == ["1"]
    assert (alice.up, alice.lost) == ([BOB], [])


def test_hello_with_no_common_version_is_refused_with_version() -> None:
    wire = Wire()
    _alice, bob = pair(wire)
    hello = SessionHello(epoch=Epoch(1), request_id=7, versions=(2, 3), role=Role.AGENT, heartbeat_ns=SECOND)
    bob.endpoint.receive(ALICE, CODEC.encode(hello), wire.now_ns)
    ((peer, data),) = bob.endpoint.take_frames()
    refusal = CODEC.decode(data)
    assert isinstance(refusal, SessionError)
    assert (peer, refusal.code, refusal.request_id) == (ALICE, ErrorCode.VERSION, 7)
    assert "1 §4.1" in refusal.rule
    assert not bob.endpoint.is_up(ALICE)


@pytest.mark.parametrize("code", [ErrorCode.VERSION, ErrorCode.LIMIT, ErrorCode.DENIED])
def test_greeting_refused_fails_what_waits_for_it_at_once(code: ErrorCode) -> None:
    wire = Wire()
    alice = Client(wire.join(ALICE))
    alice.ask()
    ((_, data),) = alice.endpoint.take_frames()
    hello = CODEC.decode(data)
    assert isinstance(hello, SessionHello)
    error = SessionError(epoch=Epoch(9), peer_epoch=Epoch(1), request_id=hello.request_id, code=code, text="no")
    alice.endpoint.receive(BOB, CODEC.encode(error), wire.now_ns + MS)
    assert alice.codes == [ErrorCode.PEER_LOST]
    assert alice.endpoint.sessions[BOB].state is SessionState.DOWN


def test_refusal_of_another_request_while_greeting_does_not_end_the_greeting() -> None:
    wire = Wire()
    alice, bob = pair(wire)
    bob.later = True
    number = alice.ask()
    wire.run(10 * MS)
    alice.endpoint.receive(
        BOB,
        CODEC.encode(SessionError(epoch=Epoch(1), peer_epoch=Epoch(1), code=ErrorCode.NO_SESSION)),
        wire.now_ns,
    )
    assert alice.endpoint.sessions[BOB].state is SessionState.GREETING
    error = SessionError(epoch=Epoch(1), peer_epoch=Epoch(1), request_id=number, code=ErrorCode.DENIED)
    alice.endpoint.receive(BOB, CODEC.encode(error), wire.now_ns)
    assert alice.codes == [ErrorCode.DENIED]
    assert alice.endpoint.sessions[BOB].state is SessionState.GREETING
    assert alice.lost == []


def test_simultaneous_hellos_give_one_session_up_at_both_ends() -> None:
    wire = Wire()
    alice, bob = Client(wire.join(ALICE)), Client(wire.join(BOB))
    alice.endpoint.keep_session(BOB)
    bob.endpoint.keep_session(ALICE)
    wire.run(100 * MS)
    assert alice.endpoint.is_up(BOB)
    assert bob.endpoint.is_up(ALICE)
    assert (alice.up, bob.up) == ([BOB], [ALICE])
    assert wire.count(SessionHello) == 2
    assert wire.count(SessionError) == 0


def test_hello_without_an_epoch_is_refused() -> None:
    wire = Wire()
    _, bob = pair(wire)
    hello = SessionHello(request_id=1, versions=(1,), role=Role.AGENT, heartbeat_ns=SECOND)
    bob.endpoint.receive(ALICE, CODEC.encode(hello), wire.now_ns)
    ((_, data),) = bob.endpoint.take_frames()
    assert isinstance(CODEC.decode(data), SessionError)
    assert not bob.endpoint.is_up(ALICE)


def test_greeting_of_a_kept_session_lasts_until_the_peer_appears() -> None:
    wire = Wire()
    alice = Client(wire.join(ALICE))
    alice.endpoint.keep_session(BOB)
    wire.run(20 * SECOND)
    wire.join(BOB)
    wire.run(SECOND)
    assert alice.endpoint.is_up(BOB)


# Liveness (1 §4.5).


def test_session_idle_is_kept_up_by_heartbeats() -> None:
    wire = Wire()
    alice, _bob = pair(wire)
    alice.ask()
    wire.run(10 * SECOND)
    assert alice.endpoint.is_up(BOB)
    assert alice.lost == []
    assert 9 <= wire.count(SessionHeartbeat, ALICE) <= 10


def test_traffic_of_any_kind_stands_for_heartbeats() -> None:
    wire = Wire()
    alice, _ = pair(wire)
    for number in range(40):
        alice.ask(str(number))
        wire.run(250 * MS)
    assert wire.count(SessionHeartbeat) == 0
    assert alice.lost == []


def test_error_answers_count_as_a_sign_of_life() -> None:
    wire = Wire(fault=lambda _, message: [] if isinstance(message, SessionHeartbeat) else [MS])
    alice, bob = pair(wire)

    def refuse(peer: NodeId, message: HeraldClose) -> Reply:
        raise RequestError(ErrorCode.NORES, "no")

    bob.endpoint.handle(HeraldClose, refuse)
    for number in range(20):
        alice.ask(str(number))
        wire.run(500 * MS)
    assert alice.lost == []


def deserted() -> tuple[Wire, Client]:
    """Alice, who has asked Bob something, and will never hear of him again."""
    wire = Wire()
    alice, bob = pair(wire)
    bob.later = True
    alice.ask(timeout_ns=60 * SECOND)
    wire.run(10 * MS)
    del wire.members[BOB]
    return wire, alice


def test_peer_silent_is_lost_between_liveness_and_one_heartbeat_more() -> None:
    wire, alice = deserted()
    wire.run(2_980 * MS)
    assert alice.answers == []
    wire.run(1_020 * MS)
    assert alice.codes == [ErrorCode.PEER_LOST]
    assert alice.lost == [(BOB, Loss.SILENT)]


def test_participant_that_was_paused_loses_nobody_whose_frames_still_wait_for_it() -> None:
    wire, alice = deserted()
    wire.now_ns += 10 * SECOND
    alice.endpoint.handle_deadline(wire.now_ns)
    assert alice.lost == []
    wire.run(2_900 * MS)
    assert alice.lost == []
    wire.run(1_200 * MS)
    assert alice.lost == [(BOB, Loss.SILENT)]


def test_peer_never_there_fails_requests_with_peer_lost_after_liveness() -> None:
    wire = Wire()
    alice = Client(wire.join(ALICE))
    alice.ask(timeout_ns=60 * SECOND)
    wire.run(4 * SECOND)
    assert alice.codes == [ErrorCode.PEER_LOST]
    assert alice.lost == []


def test_request_on_a_kept_session_waits_for_the_peer_to_come_back() -> None:
    wire = Wire()
    alice = Client(wire.join(ALICE))
    alice.endpoint.keep_session(BOB)
    alice.ask(timeout_ns=60 * SECOND)
    wire.run(10 * SECOND)
    bob = Service(wire.join(BOB))
    wire.run(2 * SECOND)
    assert alice.codes == []
    assert len(alice.answers) == len(bob.handled) == 1


def test_one_way_loss_makes_both_ends_lose_and_find_each_other_again() -> None:
    wire = Wire()
    alice, bob = Client(wire.join(ALICE)), Client(wire.join(BOB))
    alice.endpoint.keep_session(BOB)
    wire.run(SECOND)
    wire.fault = lambda sender, _: [] if sender == ALICE else [MS]
    wire.run(9 * SECOND)
    assert bob.lost == [(ALICE, Loss.SILENT)]
    wire.fault = prompt
    wire.run(5 * SECOND)
    assert alice.endpoint.is_up(BOB)
    assert bob.endpoint.is_up(ALICE)


# Restarts and epochs (1 §4.3).


def test_restart_fails_old_requests_and_opens_a_session_with_the_new_incarnation() -> None:
    wire = Wire()
    alice, bob = pair(wire)
    bob.later = True
    alice.ask("old")
    wire.run(100 * MS)
    reborn = Service(wire.join(BOB, epoch=2))
    alice.ask("new")
    wire.run(2 * SECOND)
    assert alice.codes == [ErrorCode.PEER_LOST, ErrorCode.PEER_LOST]
    assert alice.lost == [(BOB, Loss.RESTARTED)]
    assert reborn.handled == []
    alice.ask("after")
    wire.run(SECOND)
    assert reborn.handled == ["after"]
    assert isinstance(alice.answers[-1], SessionAck)


def test_restart_of_the_asker_forgets_its_requests_and_its_ids_can_be_used_again() -> None:
    wire = Wire()
    alice, bob = pair(wire)
    bob.later = True
    alice.ask("old")
    wire.run(100 * MS)
    again = Client(wire.join(ALICE, epoch=2))
    again.ask("new")
    wire.run(100 * MS)
    assert bob.handled == ["old", "new"]
    bob.endpoint.fail(*bob.owed[0], RequestError(ErrorCode.OTHER, "the answer to the former incarnation"))
    wire.run(SECOND)
    assert again.answers == []
    bob.endpoint.reply(*bob.owed[1], SessionAck())
    wire.run(SECOND)
    assert [type(answer) for answer in again.answers] == [SessionAck]


def test_restart_told_by_a_welcome_to_a_session_that_is_up_is_announced_and_lost_again_later() -> None:
    wire = Wire()
    alice = Client(wire.join(ALICE))

    def says(message: Message) -> None:
        alice.endpoint.receive(BOB, CODEC.encode(message), wire.now_ns)

    one, two = Epoch(1), Epoch(2)
    says(SessionHello(epoch=one, request_id=1, versions=(1,), role=Role.AGENT, heartbeat_ns=SECOND))
    says(SessionWelcome(epoch=two, peer_epoch=one, version=1, role=Role.AGENT, heartbeat_ns=SECOND))
    assert alice.lost == [(BOB, Loss.RESTARTED)]
    assert alice.up == [BOB, BOB]
    says(SessionGoodbye(epoch=two, peer_epoch=one))
    assert alice.lost == [(BOB, Loss.RESTARTED), (BOB, Loss.LEFT)]


def test_hello_of_a_former_incarnation_is_refused_as_stale() -> None:
    wire = Wire()
    alice, bob = pair(wire, epoch=5)
    alice.ask()
    wire.run(100 * MS)
    hello = SessionHello(epoch=Epoch(4), request_id=3, versions=(1,), role=Role.AGENT, heartbeat_ns=SECOND)
    bob.endpoint.receive(ALICE, CODEC.encode(hello), wire.now_ns)
    ((_, data),) = bob.endpoint.take_frames()
    refusal = CODEC.decode(data)
    assert isinstance(refusal, SessionError)
    assert (refusal.code, refusal.peer_epoch) == (ErrorCode.STALE, 4)
    assert bob.endpoint.is_up(ALICE)
    assert bob.endpoint.sessions[ALICE].epoch == 5


def test_request_of_a_former_incarnation_is_dropped() -> None:
    wire = Wire()
    alice, bob = pair(wire, epoch=5)
    alice.ask()
    wire.run(100 * MS)
    late = HeraldClose(epoch=Epoch(4), peer_epoch=Epoch(1), request_id=99, link_id=LinkId("l"), window_id=WindowId("w"))
    bob.endpoint.receive(ALICE, CODEC.encode(late), wire.now_ns)
    assert bob.handled == ["1"]
    assert bob.endpoint.take_frames() == []
    assert bob.endpoint.counters.stale == 1


def test_request_meant_for_a_former_incarnation_is_refused_and_its_sender_greets_again() -> None:
    wire = Wire()
    alice, _bob = pair(wire)
    alice.ask()
    wire.run(100 * MS)
    reborn = Service(wire.join(BOB, epoch=2))
    reborn.endpoint.keep_session(ALICE)
    wire.fault = lambda sender, message: [] if isinstance(message, SessionHello) and sender == BOB else [MS]
    alice.ask("meant for the former")
    wire.run(2 * SECOND)
    assert reborn.handled == []
    assert alice.codes == [ErrorCode.PEER_LOST]
    assert alice.endpoint.sessions[BOB].epoch == 2


def test_message_of_a_stranger_is_answered_with_no_session_and_makes_no_session() -> None:
    wire = Wire()
    _, bob = pair(wire)
    bob.endpoint.receive(
        ALICE,
        CODEC.encode(HeraldClose(epoch=Epoch(3), link_id=LinkId("l"), window_id=WindowId("w"))),
        wire.now_ns,
    )
    ((_, data),) = bob.endpoint.take_frames()
    refusal = CODEC.decode(data)
    assert isinstance(refusal, SessionError)
    assert (refusal.code, refusal.peer_epoch) == (ErrorCode.NO_SESSION, 3)
    assert (bob.handled, bob.endpoint.sessions) == ([], {})


# Goodbye (1 §4.6).


def test_goodbye_fails_requests_and_tells_that_the_peer_left() -> None:
    wire = Wire()
    alice, bob = pair(wire)
    bob.later = True
    alice.ask()
    wire.run(100 * MS)
    bob.endpoint.close()
    del bob.endpoint.duties._handlers[HeraldClose]
    wire.run(100 * MS)
    assert alice.codes == [ErrorCode.PEER_LOST]
    assert alice.lost == [(BOB, Loss.LEFT)]


def test_close_while_a_kept_session_is_down_fails_what_waits_and_sends_nothing_more() -> None:
    wire = Wire()
    alice, _ = pair(wire)
    alice.endpoint.keep_session(BOB)
    wire.run(SECOND)
    del wire.members[BOB]

    def until(state: SessionState) -> None:
        while alice.endpoint.sessions[BOB].state is not state:
            wire.run(10 * MS)

    until(SessionState.DOWN)
    until(SessionState.GREETING)
    alice.ask(timeout_ns=60 * SECOND)
    until(SessionState.DOWN)
    assert alice.answers == []
    alice.endpoint.close()
    greeted = wire.count(SessionHello)
    wire.run(10 * SECOND)
    assert alice.codes == [ErrorCode.PEER_LOST]
    assert wire.count(SessionHello) == greeted


# The broker's word (1 §6.3).


@pytest.mark.parametrize("direct", [False, True])
def test_no_route_from_the_broker_makes_a_session_greet_again_unless_its_peer_is_reached_directly(direct: bool) -> None:
    """What goes directly goes on: it is about something that was sent by way of the broker before (1 §6.3)."""
    wire = Wire()
    alice, _ = pair(wire)
    broker = wire.join(BROKER, role=Role.BROKER)
    alice.endpoint.keep_session(BROKER)
    alice.ask()
    wire.run(100 * MS)
    error = SessionError(epoch=broker.epoch, code=ErrorCode.NO_ROUTE, peer=BOB, text="bob is not connected")
    alice.endpoint.is_direct = lambda peer: direct and peer == BOB
    alice.endpoint.receive(BROKER, CODEC.encode(error), wire.now_ns)
    session = alice.endpoint.sessions[BOB]
    assert session.state is (SessionState.UP if direct else SessionState.GREETING)
    assert session.hint == ("" if direct else "bob is not connected")
    wire.run(100 * MS)
    assert alice.endpoint.is_up(BOB)
    assert alice.lost == []


def test_error_for_people_is_counted_and_kept() -> None:
    """Spec 1 §6.2."""
    wire = Wire()
    alice, _ = pair(wire)
    broker = wire.join(BROKER, role=Role.BROKER)
    alice.endpoint.keep_session(BROKER)
    wire.run(100 * MS)
    error = SessionError(epoch=broker.epoch, code=ErrorCode.LIMIT, peer=BOB, text="too much is on its way to bob")
    alice.endpoint.receive(BROKER, CODEC.encode(error), wire.now_ns)
    counters = alice.endpoint.counters
    assert (counters.errors, counters.last_error) == (1, "broker: LIMIT: too much is on its way to bob")
    assert alice.endpoint.is_up(BROKER)


@pytest.mark.parametrize("up", [True, False])
def test_broker_is_greeted_anew_when_others_may_connect_elsewhere(up: bool) -> None:
    """Spec 1 §4.7: also when a hello with the former endpoints is still on its way."""
    wire = Wire()
    broker = wire.join(BROKER, role=Role.BROKER)
    alice = wire.join(ALICE)
    alice.keep_session(BROKER)
    if up:
        wire.run(100 * MS)
        assert broker.sessions[ALICE].endpoints == ()
    alice.introductions.offer(("tcp://10.0.0.1:7200",))
    wire.run(100 * MS)
    assert alice.is_up(BROKER)
    assert broker.sessions[ALICE].endpoints == ("tcp://10.0.0.1:7200",)
    hellos = alice.sessions[BROKER].hellos.copy()
    alice.introductions.offer(("tcp://10.0.0.1:7200",))
    assert alice.sessions[BROKER].hellos == hellos


def test_no_route_from_anybody_else_is_ignored() -> None:
    wire = Wire()
    alice, _bob = pair(wire)
    alice.ask()
    wire.run(100 * MS)
    error = SessionError(epoch=Epoch(1), code=ErrorCode.NO_ROUTE, peer=BOB)
    alice.endpoint.receive(BOB, CODEC.encode(error), wire.now_ns)
    assert alice.endpoint.is_up(BOB)


def test_no_route_from_one_who_only_calls_itself_a_broker_is_ignored() -> None:
    """A name is proved by its key, a role is not (1 §8)."""
    wire = Wire()
    alice, _ = pair(wire)
    impostor = wire.join(NodeId("mallory"), role=Role.BROKER)
    alice.ask()
    impostor.keep_session(ALICE)
    wire.run(100 * MS)
    error = SessionError(epoch=impostor.epoch, peer_epoch=alice.endpoint.epoch, code=ErrorCode.NO_ROUTE, peer=BOB)
    alice.endpoint.receive(NodeId("mallory"), CODEC.encode(error), wire.now_ns)
    assert alice.endpoint.is_up(BOB)


@pytest.mark.parametrize(
    "settings",
    [
        {"heartbeat_ns": 0},
        {"heartbeat_ns": 4 * SECOND},
        {"retry_ns": 0},
        {"retry_ns": 2 * SECOND},
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        SessionSettings(**settings)
