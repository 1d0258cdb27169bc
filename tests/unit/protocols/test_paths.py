"""The machines of paths: when to connect, what goes on which path, and the order in which messages are taken (spec 1 §4.8)."""

from __future__ import annotations

import pytest
from path_sides import ALICE, BOB, EPOCHS, HELD_MS, Side, fence, introduction

from bellwire.protocols import introductions
from bellwire.protocols.arrival import RELAY, Arrival, ArrivalInput, ArrivalState
from bellwire.protocols.codec import CODEC
from bellwire.protocols.counters import Counters
from bellwire.protocols.errors import RemoteProtocolError
from bellwire.protocols.ids import Epoch, NodeId
from bellwire.protocols.limits import MAX_HELD_BYTES, MAX_HELD_MESSAGES, MAX_MESSAGE_BYTES
from bellwire.protocols.messages import FencePart, SessionFenced
from bellwire.protocols.path import Dial, HangUp, Path, PathInput, PathState
from bellwire.protocols.paths import DROPPED, HELD
from bellwire.protocols.session import Loss

MS = 1_000_000


@pytest.mark.parametrize("state", PathState)
@pytest.mark.parametrize("given", PathInput)
def test_path_input_without_a_row_is_an_error_and_changes_nothing(state: PathState, given: PathInput) -> None:
    way = Side(ALICE, BOB, peers=("tcp://h:1",)).way
    way.state = state
    if (state, given) in Path.table:
        return
    with pytest.raises(RemoteProtocolError, match=rf"{given} not allowed in {state.upper()}"):
        way.step(given, 1)
    assert way.state is state


@pytest.mark.parametrize("given", [ArrivalInput.DUE, ArrivalInput.FULL])
def test_arrival_that_holds_nothing_is_never_due(given: ArrivalInput) -> None:
    arrival = Arrival(Epoch(1), lambda _: None, lambda _: None, Counters())
    with pytest.raises(RemoteProtocolError):
        arrival.step(given, 1)
    arrival.due()
    assert arrival.state is ArrivalState.FLOWING


# Connecting.


def test_fence_is_recognised_without_decoding() -> None:
    """Spec 1 §4.8: the type begins at the eighth octet."""
    assert fence(ALICE, BOB, FencePart.END, 2**62).startswith(b"session.fence", 7)


def test_malformed_fence_is_handed_on_and_so_refused_as_any_message() -> None:
    alice = Side(ALICE, BOB)
    cut = fence(BOB, ALICE, FencePart.BREAK, 1)[:-1]
    alice.paths.arrive(RELAY, BOB, cut, 0)
    assert alice.upper.heard == [cut]
    assert alice.parts() == []


@pytest.mark.parametrize(
    ("own", "theirs", "dials"),
    [((), ("tcp://h:1",), True), (("tcp://g:1",), (), False), (("tcp://g:1",), ("tcp://h:1",), True), ((), (), False)],
)
def test_lesser_name_or_who_cannot_be_reached_connects_at_once(
    own: tuple[str, ...], theirs: tuple[str, ...], dials: bool
) -> None:
    alice = Side(ALICE, BOB, *own, peers=theirs)
    alice.wait(0)
    wanted = [Dial(path=1, peer=BOB, endpoint="tcp://h:1", public_key=b"bob".ljust(32))] if dials else []
    assert alice.paths.take_instructions() == wanted


def test_greater_name_connects_when_the_other_did_not() -> None:
    bob = Side(BOB, ALICE, "tcp://g:1", peers=("tcp://h:1",))
    bob.wait(0)
    assert not bob.paths.take_instructions()
    bob.wait(bob.paths.settings.patience_ns)
    assert [type(each) for each in bob.paths.take_instructions()] == [Dial]


def test_attempts_end_and_come_again_at_the_next_endpoint_with_growing_pauses() -> None:
    alice = Side(ALICE, BOB, peers=("tcp://h:1", "tcp://i:2"))
    settings, now_ns, tried = alice.paths.settings, 0, []
    for pause_ns in (settings.redial_ns, 2 * settings.redial_ns):
        alice.wait(now_ns)
        tried += alice.paths.take_instructions()
        now_ns += settings.dial_ns
        alice.wait(now_ns)
        tried += alice.paths.take_instructions()
        assert alice.paths.next_deadline_ns() == now_ns + pause_ns
        now_ns += pause_ns
    assert [each.endpoint if isinstance(each, Dial) else type(each) for each in tried] == [
        "tcp://h:1",
        HangUp,
        "tcp://i:2",
        HangUp,
    ]


def test_crossing_ends_one_stretch_and_begins_the_next() -> None:
    alice = Side(ALICE, BOB, peers=("tcp://h:1",))
    alice.wait(0)
    alice.paths.stands(1, 0)
    assert alice.paths.is_direct(BOB)
    assert alice.parts() == [(RELAY, FencePart.END, 1), (1, FencePart.BEGIN, 1)]
    alice.paths.broken(1, 0)
    assert not alice.paths.is_direct(BOB)
    assert alice.parts() == [(RELAY, FencePart.BREAK, 2)]


def test_crossing_without_a_broker_does_not_wait_for_it() -> None:
    alice = Side(ALICE, BOB, peers=("tcp://h:1",), relays=False)
    alice.wait(0)
    alice.paths.stands(1, 0)
    assert alice.parts() == [(1, FencePart.BREAK, 1)]


def test_beginning_is_repeated_until_it_is_answered() -> None:
    alice, bob = Side(ALICE, BOB, peers=("tcp://h:1",), relays=False), Side(BOB, ALICE)
    alice.wait(0)
    alice.paths.stands(1, 0)
    first = alice.fences()
    alice.wait(200 * MS)
    assert alice.fences() == first
    assert alice.paths.next_deadline_ns() == 400 * MS
    bob.paths.accept(ALICE, first[0][1], 0)
    for _, data in bob.fences():
        alice.paths.arrive(1, BOB, data, 400 * MS)
    alice.fences()
    alice.wait(400 * MS)
    assert not alice.parts()


def test_lost_peer_is_left_alone_until_there_is_something_to_say_to_it() -> None:
    alice = Side(ALICE, BOB, peers=("tcp://h:1",))
    alice.wait(0)
    alice.paths.stands(1, 0)
    alice.paths.broken(1, 0)
    fallen = alice.fences()[-1]
    alice.paths._peer_lost(BOB, Loss.SILENT, "")
    assert alice.paths.next_deadline_ns() is None
    assert alice.say(b"hello") == [fallen]
    alice.wait(200 * MS)
    assert alice.fences() == [fallen], "repeated again"


def test_introduction_of_a_later_incarnation_begins_anew_what_comes() -> None:
    bob = Side(BOB, ALICE)
    path = bob.paths.accept(ALICE, fence(ALICE, BOB, FencePart.BREAK, 1), 0)
    bob.paths.arrive(path, ALICE, b"direct", 0)
    bob.paths.arrive(RELAY, ALICE, b"too late", 0)
    bob.introduce(introduction(ALICE, incarnation=11))
    assert not bob.paths.is_direct(ALICE)
    bob.paths.arrive(RELAY, ALICE, b"of the new one", 0)
    bob.paths.arrive(path, ALICE, b"of the former one", 0)
    assert bob.upper.heard == [b"direct", b"of the new one"]


def test_peer_that_was_forgotten_is_spoken_to_as_after_a_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(introductions, "MAX_PEERS", 2)
    alice = Side(ALICE, BOB, peers=("tcp://h:1",))
    alice.wait(0)
    alice.paths.stands(1, 0)
    alice.fences()
    for name in ("carol", "dave"):
        alice.introduce(introduction(NodeId(name), incarnation=1))
    assert alice.paths.take_instructions()[-1] == HangUp(path=1)
    alice.fences()
    alice.introduce(introduction(BOB))
    ((path, part, number),) = alice.parts()
    assert (path, part) == (RELAY, FencePart.BREAK)
    assert number > 1, "numbers are not used again"


@pytest.mark.parametrize("end", ["revoked", "forgotten", "broken", "restarted"])
def test_connection_that_is_a_path_no_more_is_told_of(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ended it: a transport keeps nothing of it."""
    monkeypatch.setattr(introductions, "MAX_PEERS", 2)
    bob = Side(BOB, ALICE)
    dropped: list[tuple[NodeId, int]] = []
    bob.paths.on_dropped.append(lambda peer, path: dropped.append((peer, path)))
    path = bob.paths.accept(ALICE, fence(ALICE, BOB, FencePart.BREAK, 1), 0)
    assert dropped == []
    if end == "revoked":
        bob.endpoint.introductions.revoke(ALICE)
    elif end == "forgotten":
        for name in ("carol", "dave"):
            bob.introduce(introduction(NodeId(name), incarnation=1))
    elif end == "broken":
        bob.paths.broken(path, 0)
    else:
        bob.introduce(introduction(ALICE, incarnation=11))
    assert dropped == [(ALICE, path)]


def test_participant_that_connects_to_nobody_takes_fences_and_sends_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spec 1 §4.8: those of others it takes as everybody does. Whoever sends one would hold all that follows for ever."""
    monkeypatch.setattr(introductions, "MAX_PEERS", 1)
    bob, alice = Side(BOB, ALICE, peers=("tcp://h:1",), connects=False), Side(ALICE, BOB)
    for side in (alice, bob):
        side.introduce(introduction(NodeId("carol"), incarnation=1))
        side.introduce(introduction(side.peer, "tcp://h:1"))
    bob.wait(bob.paths.settings.patience_ns)
    assert bob.paths.take_instructions() == []
    assert bob.say(b"as ever") == [(RELAY, b"as ever")]
    *_, (_, broken) = alice.say(b"behind the break")
    bob.paths.arrive(RELAY, ALICE, broken, 0)
    ((path, fenced),) = bob.fences()
    assert path == RELAY
    alice.paths.arrive(RELAY, BOB, fenced, 0)
    assert alice.fences() == [(RELAY, b"behind the break")]


def test_former_connection_does_not_come_back_for_what_it_still_holds() -> None:
    bob = Side(BOB, ALICE)
    begin = fence(ALICE, BOB, FencePart.BREAK, 1)
    assert bob.paths.begins(ALICE, begin)
    bob.paths.accept(ALICE, begin, 0)
    assert not bob.paths.begins(ALICE, begin)
    assert not bob.paths.begins(ALICE, b"anything")
    assert not bob.paths.begins(ALICE, fence(ALICE, BOB, FencePart.END, 5))
    assert not bob.paths.begins(ALICE, fence(ALICE, BOB, FencePart.BREAK, 5, epoch=9))
    assert bob.paths.begins(ALICE, fence(ALICE, BOB, FencePart.BREAK, 1, epoch=11))


# What comes.


def test_messages_of_the_new_path_wait_for_the_end_of_the_old_one() -> None:
    bob = Side(BOB, ALICE)
    path = bob.paths.accept(ALICE, fence(ALICE, BOB, FencePart.BEGIN, 1), 0)
    bob.paths.arrive(path, ALICE, b"3", 0)
    bob.paths.arrive(RELAY, ALICE, b"1", 0)
    bob.paths.arrive(RELAY, ALICE, b"2", 0)
    assert bob.upper.heard == [b"1", b"2"]
    bob.paths.arrive(RELAY, ALICE, fence(ALICE, BOB, FencePart.END, 1), 0)
    assert bob.upper.heard == [b"1", b"2", b"3"]


def test_end_that_never_comes_is_waited_for_a_third_of_the_liveness() -> None:
    bob = Side(BOB, ALICE)
    path = bob.paths.accept(ALICE, fence(ALICE, BOB, FencePart.BEGIN, 1), 0)
    bob.paths.arrive(path, ALICE, b"2", 0)
    bob.wait(999 * MS)
    assert not bob.upper.heard
    bob.wait(HELD_MS * MS)
    assert bob.upper.heard == [b"2"]
    bob.paths.arrive(RELAY, ALICE, b"1", HELD_MS * MS)
    assert bob.upper.heard == [b"2"], "too late: it would come out of order"
    assert bob.endpoint.counters.late == 1


def test_stretch_whose_end_has_come_while_it_was_held_is_followed_by_the_next_at_once() -> None:
    bob = Side(BOB, ALICE)
    first = bob.paths.accept(ALICE, fence(ALICE, BOB, FencePart.BEGIN, 1), 0)
    second = bob.paths.accept(ALICE, fence(ALICE, BOB, FencePart.BEGIN, 2), 0)
    for path, data in ((second, b"3"), (first, b"2"), (first, fence(ALICE, BOB, FencePart.END, 2)), (RELAY, b"1")):
        bob.paths.arrive(path, ALICE, data, 0)
    bob.paths.arrive(RELAY, ALICE, fence(ALICE, BOB, FencePart.END, 1), 0)
    assert bob.upper.heard == [b"1", b"2", b"3"]
    assert bob.way.arrival.state is ArrivalState.FLOWING


def test_held_messages_are_bounded() -> None:
    """Spec 1 §3.4."""
    bob = Side(BOB, ALICE)
    path = bob.paths.accept(ALICE, fence(ALICE, BOB, FencePart.BEGIN, 1), 0)
    for number in range(MAX_HELD_MESSAGES):
        bob.paths.arrive(path, ALICE, b"%d" % number, 0)
    assert len(bob.upper.heard) == MAX_HELD_MESSAGES


def test_octets_of_held_messages_are_bounded() -> None:
    """Spec 1 §3.4: however the stretches are arranged, and nothing that comes of it is out of order."""
    bob = Side(BOB, ALICE)
    path = bob.paths.accept(ALICE, fence(ALICE, BOB, FencePart.BEGIN, 1), 0)
    most, sent = 0, []
    for number in range(2, 200):
        bob.paths.arrive(path, ALICE, fence(ALICE, BOB, FencePart.BEGIN, number), 0)
    for number in range(200, 600):
        sent.append(b"%03d" % number + bytes(MAX_MESSAGE_BYTES - 3))
        bob.paths.arrive(path, ALICE, sent[-1], 0)
        bob.paths.arrive(path, ALICE, fence(ALICE, BOB, FencePart.BEGIN, number), 0)
        most = max(most, sum(len(data) for held in bob.way.arrival._held.values() for data in held))
    assert MAX_HELD_BYTES // 2 < most < MAX_HELD_BYTES
    assert bob.upper.heard == sent[: len(bob.upper.heard)]
    bob.wait(HELD_MS * MS)
    bob.wait(2 * HELD_MS * MS)
    assert bob.upper.heard == sent
    assert bob.way.arrival._octets == 0


@pytest.mark.parametrize(
    ("size", "room"), [(1, MAX_HELD_MESSAGES), (MAX_MESSAGE_BYTES, MAX_HELD_BYTES // MAX_MESSAGE_BYTES)]
)
def test_message_that_finds_no_room_while_the_path_changes_is_dropped_and_counted(size: int, room: int) -> None:
    alice = Side(ALICE, BOB, peers=("tcp://h:1",))
    alice.wait(0)
    for path, after in ((1, room), (2, room)):
        alice.paths.stands(path, 0)
        alice.paths.broken(path, 0)
        assert {alice.paths.route(BOB, bytes(size)) for _ in range(room)} == {HELD}
        assert alice.paths.route(BOB, bytes(size)) == DROPPED
        answer = SessionFenced(epoch=EPOCHS[BOB], peer_epoch=EPOCHS[ALICE], number=alice.way.number)
        alice.fences()
        alice.paths.arrive(RELAY, BOB, CODEC.encode(answer), 0)
        assert len(alice.fences()) == after
        alice.paths.new_path(alice.way)
    assert alice.endpoint.counters.unkept == 2


def test_stretches_without_end_are_bounded() -> None:
    bob = Side(BOB, ALICE)
    path = bob.paths.accept(ALICE, fence(ALICE, BOB, FencePart.BEGIN, 1), 0)
    for number in range(2, 3 * MAX_HELD_MESSAGES):
        bob.paths.arrive(path, ALICE, fence(ALICE, BOB, FencePart.BEGIN, number), 0)
    assert len(bob.way.arrival._held) < MAX_HELD_MESSAGES
