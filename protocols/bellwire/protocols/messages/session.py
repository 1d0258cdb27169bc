"""Family `session`: who is there, in which incarnation, speaking which version (spec 1 §4)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from bellwire.protocols.errors import ErrorCode
from bellwire.protocols.ids import NodeId
from bellwire.protocols.messages.base import (
    DurationNs,
    Message,
    Name,
    NodeOrNone,
    Reply,
    Request,
    Role,
    Text,
)

Versions = Annotated[tuple[Annotated[int, Meta(ge=1, le=65_535)], ...], Meta(min_length=1, max_length=16)]
Capabilities = Annotated[tuple[Name, ...], Meta(max_length=64)]


class SessionAck(Reply, frozen=True, kw_only=True, tag="session.ack"):
    """The request was taken, and there is nothing more to say about it."""


class SessionError(Reply, frozen=True, kw_only=True, tag="session.error"):
    """A request was refused, or a message broke a rule.

    `request_id` is 0 when no request is meant. `peer` is set by the broker alone: the participant that could not be reached.
    """

    code: ErrorCode
    text: Text = ""
    rule: Text = ""
    peer: NodeOrNone = NodeId("")


class SessionWelcome(Reply, frozen=True, kw_only=True, tag="session.welcome"):
    """Answer to a hello: the version chosen."""

    version: Annotated[int, Meta(ge=1, le=65_535)]
    role: Role
    capabilities: Capabilities = ()
    heartbeat_ns: DurationNs


class SessionHello(Request, frozen=True, kw_only=True, tag="session.hello"):
    """Open or renew a session: the versions spoken, and how often the sender will be heard at least."""

    answered_by = (SessionWelcome,)

    versions: Versions
    role: Role
    capabilities: Capabilities = ()
    heartbeat_ns: DurationNs


class SessionHeartbeat(Message, frozen=True, kw_only=True, tag="session.heartbeat"):
    """Sent when there was nothing else to send for a heartbeat interval."""


class SessionGoodbye(Message, frozen=True, kw_only=True, tag="session.goodbye"):
    """The sender leaves, and has given up everything that it shared with the receiver."""

    reason: Text = ""
