"""Family `event`: what is told once at the broker and reaches everybody who wants to hear of it (spec 1 §4.9)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from bellwire.protocols.limits import MAX_ID_CHARS
from bellwire.protocols.messages.base import Message, Name, Node, Positive, Request, Text
from bellwire.protocols.messages.session import SessionAck

About = Annotated[str, Meta(max_length=MAX_ID_CHARS)]


class EventSubscribe(Request, frozen=True, kw_only=True, tag="event.subscribe"):
    """The sender wants to hear the events of a topic. Saying so twice changes nothing."""

    answered_by = (SessionAck,)

    topic: Name


class EventUnsubscribe(Request, frozen=True, kw_only=True, tag="event.unsubscribe"):
    """The sender wants to hear the events of a topic no more."""

    answered_by = (SessionAck,)

    topic: Name


class EventPublish(Request, frozen=True, kw_only=True, tag="event.publish"):
    """Something has happened: a notice of it goes to every subscriber of the topic."""

    answered_by = (SessionAck,)

    topic: Name
    about: About = ""
    text: Text = ""


class EventNotice(Message, frozen=True, kw_only=True, tag="event.notice"):
    """What somebody has published. It is sent once: a gap in `number` tells that one was lost."""

    topic: Name
    publisher: Node
    number: Positive
    about: About = ""
    text: Text = ""
