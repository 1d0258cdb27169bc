"""What happened, for the journal and for whoever watches (spec 1 §7). Past tense, each with the cause that set it off."""

from __future__ import annotations

from collections import deque

import msgspec

from bellwire.protocols.ids import CauseId
from bellwire.protocols.limits import MAX_JOURNAL_ENTRIES


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One thing that happened. `subjects` are the ids that it is about: pairs, windows, requests, gates, peers."""

    name: str
    at_ns: int
    cause_id: CauseId
    subjects: tuple[str, ...]
    detail: str = ""


class Journal:
    """A bounded log of events, in order. `story` picks out everything that concerns one id, causes included."""

    def __init__(self, limit: int = MAX_JOURNAL_ENTRIES) -> None:
        self._events: deque[Event] = deque(maxlen=limit)

    def note(self, event: Event) -> None:
        """Append an event; the oldest one goes when the journal is full."""
        self._events.append(event)

    def __len__(self) -> int:
        return len(self._events)

    def story(self, subject: str) -> list[Event]:
        """The events about `subject`, and those that share a cause with one of them, in order."""
        causes = {event.cause_id for event in self._events if subject in event.subjects}
        return [event for event in self._events if event.cause_id in causes or subject in event.subjects]
