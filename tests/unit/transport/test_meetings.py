"""Who is introduced when: before the first message, once, and again when either begins anew (spec 1 §4.7)."""

from __future__ import annotations

import pytest

from bellwire.protocols.ids import NodeId
from bellwire.transport import meetings
from bellwire.transport.meetings import Meetings


class Meeter:
    def __init__(self) -> None:
        self.met: list[tuple[str, str]] = []
        self.room = True
        self.meetings = Meetings(self.meet)

    def meet(self, sender: NodeId, receiver: NodeId) -> bool:
        self.met.append((sender, receiver))
        return self.room


def test_two_clients_meet_once_whoever_speaks() -> None:
    meeter = Meeter()
    for sender, receiver in ((b"a", b"b"), (b"a", b"b"), (b"b", b"a"), (b"a", b"c"), (b"a", b"a")):
        meeter.meetings.note(sender, receiver)
    assert meeter.met == [("a", "b"), ("a", "c")]
    assert len(meeter.meetings) == 2


def test_client_that_begins_anew_meets_everybody_again() -> None:
    meeter = Meeter()
    for _ in range(2):
        meeter.meetings.note(b"a", b"b")
        meeter.meetings.note(b"c", b"b")
        meeter.meetings.note(b"a", b"c")
        meeter.meetings.forget(NodeId("b"))
    assert meeter.met == [("a", "b"), ("c", "b"), ("a", "c"), ("a", "b"), ("c", "b")]
    assert len(meeter.meetings) == 1
    meeter.meetings.forget(NodeId("nobody"))


def test_introduction_for_which_there_was_no_room_comes_again() -> None:
    meeter = Meeter()
    meeter.room = False
    meeter.meetings.note(b"a", b"b")
    meeter.room = True
    meeter.meetings.note(b"a", b"b")
    meeter.meetings.note(b"a", b"b")
    assert meeter.met == [("a", "b")] * 2


def test_meetings_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meetings, "MAX_MEETINGS", 3)
    meeter = Meeter()
    for number in range(10):
        meeter.meetings.note(b"a", b"n%d" % number)
        assert len(meeter.meetings) <= 3
    meeter.meetings.note(b"a", b"n0")
    assert meeter.met[-1] == ("a", "n0")
