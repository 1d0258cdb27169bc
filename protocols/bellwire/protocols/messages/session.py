"""Family `session`: who is there, in which incarnation, speaking which version (spec 1 §4)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from bellwire.protocols.errors import ErrorCode
from bellwire.protocols.ids import Epoch, NodeId
from bellwire.protocols.limits import INT64_MAX, MAX_ENDPOINTS, MAX_REPORTED_PEERS, PUBLIC_KEY_BYTES
from bellwire.protocols.messages.base import (
    DurationNs,
    EndpointField,
    Message,
    Name,
    Natural,
    Node,
    NodeOrNone,
    Positive,
    Reply,
    Request,
    Role,
    Text,
)

Versions = Annotated[tuple[Annotated[int, Meta(ge=1, le=65_535)], ...], Meta(min_length=1, max_length=16)]
Capabilities = Annotated[tuple[Name, ...], Meta(max_length=64)]
Endpoints = Annotated[tuple[EndpointField, ...], Meta(max_length=MAX_ENDPOINTS)]
Peers = Annotated[tuple[Node, ...], Meta(max_length=MAX_REPORTED_PEERS)]

PublicKey = Annotated[bytes, Meta(min_length=PUBLIC_KEY_BYTES, max_length=PUBLIC_KEY_BYTES)]

INTRODUCTIONS = "introductions"
"""The capability of a broker that introduces everybody before it relays (spec 1 §4.7)."""


class FencePart(StrEnum):
    """What a fence says of the path that it comes on (spec 1 §4.8)."""

    END = "end"
    BEGIN = "begin"
    BREAK = "break"


class SessionAck(Reply, frozen=True, kw_only=True, tag="session.ack"):
    """The request was taken, and there is nothing more to say about it."""


class SessionError(Reply, frozen=True, kw_only=True, tag="session.error"):
    """A request was refused, or a message broke a rule.

    `request_id` is 0 when no request is meant. `peer` is set by the broker alone: whom a message did not reach.
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
    """Open or renew a session: the versions spoken, and how often the sender will be heard at least.

    `endpoints` are told to the broker alone: where others may connect to the sender.
    """

    answered_by = (SessionWelcome,)

    versions: Versions
    role: Role
    capabilities: Capabilities = ()
    heartbeat_ns: DurationNs
    endpoints: Endpoints = ()


class SessionHeartbeat(Message, frozen=True, kw_only=True, tag="session.heartbeat"):
    """Sent when there was nothing else to send for a heartbeat interval."""


class SessionGoodbye(Message, frozen=True, kw_only=True, tag="session.goodbye"):
    """The sender leaves, and has given up everything that it shared with the receiver."""

    reason: Text = ""


class SessionIntroduction(Message, frozen=True, kw_only=True, tag="session.introduction"):
    """The broker says who `node` is, before anything of it is relayed: its role and key as authenticated, and where it is."""

    node: Node
    role: Role
    public_key: PublicKey
    incarnation: Annotated[Epoch, Meta(ge=1, le=INT64_MAX)]
    endpoints: Endpoints = ()


class SessionRevocation(Message, frozen=True, kw_only=True, tag="session.revocation"):
    """The broker says that a participant's key is not authorized any more."""

    node: Node


class Acquaintance(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who was introduced: a name, and the CURVE public key that stood for it."""

    node: Node
    public_key: PublicKey


class SessionKnown(Request, frozen=True, kw_only=True, tag="session.known"):
    """To the broker: some of those who were introduced to the sender, by this broker or by another one before it."""

    answered_by = (SessionAck,)

    known: Annotated[tuple[Acquaintance, ...], Meta(max_length=MAX_REPORTED_PEERS)]


class SessionFence(Message, frozen=True, kw_only=True, tag="session.fence"):
    """The sender's messages go another way from here on: the end of a stretch on one path, the beginning of one on another."""

    number: Positive
    part: FencePart


class SessionFenced(Message, frozen=True, kw_only=True, tag="session.fenced"):
    """The beginning of a stretch has come: its fence need not be repeated."""

    number: Positive


class SessionReport(Reply, frozen=True, kw_only=True, tag="session.report"):
    """The peers with which a session is up, by the path that the answerer's messages to them take.

    `unnamed` counts those for which there was no room.
    """

    direct: Peers = ()
    relayed: Peers = ()
    unnamed: Natural = 0


class SessionStatus(Request, frozen=True, kw_only=True, tag="session.status"):
    """Ask a participant with whom it is in session, and which way."""

    answered_by = (SessionReport,)
