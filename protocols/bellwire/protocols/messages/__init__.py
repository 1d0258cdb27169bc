"""Every message of the signaling protocol, one module per family (spec 1 §3)."""

from __future__ import annotations

from bellwire.protocols.messages.base import Message, Reply, Request, Role
from bellwire.protocols.messages.gate import (
    GateDone,
    GateKind,
    GateOpen,
    GateOutcome,
    GateReady,
    GateRequest,
    GateResult,
    GateStatus,
    GateVariant,
)
from bellwire.protocols.messages.herald import HeraldClose, HeraldOpen, HeraldReady, HeraldReport
from bellwire.protocols.messages.link import (
    Delivered,
    LinkAccept,
    LinkAdd,
    LinkCreate,
    LinkCreated,
    LinkErr,
    LinkExpire,
    LinkMeasured,
    LinkOk,
    RequestType,
    Wanted,
)
from bellwire.protocols.messages.pair import PairConfirm, PairConfirmed, PairRelease
from bellwire.protocols.messages.program import ProgramResult, ProgramRun, Step
from bellwire.protocols.messages.session import (
    SessionAck,
    SessionError,
    SessionGoodbye,
    SessionHeartbeat,
    SessionHello,
    SessionWelcome,
)

SESSION_MESSAGES: tuple[type[Message], ...] = (
    SessionHello,
    SessionWelcome,
    SessionHeartbeat,
    SessionGoodbye,
    SessionAck,
    SessionError,
)

MESSAGES: tuple[type[Message], ...] = (
    *SESSION_MESSAGES,
    LinkCreate,
    LinkCreated,
    LinkAdd,
    LinkAccept,
    LinkOk,
    LinkMeasured,
    LinkErr,
    LinkExpire,
    HeraldOpen,
    HeraldClose,
    HeraldReady,
    HeraldReport,
    PairConfirm,
    PairConfirmed,
    PairRelease,
    GateRequest,
    GateResult,
    GateOpen,
    GateReady,
    GateOutcome,
    GateDone,
    ProgramRun,
    ProgramResult,
)
"""Every message type of this version of the protocol."""

__all__ = [
    "MESSAGES",
    "SESSION_MESSAGES",
    "Delivered",
    "GateDone",
    "GateKind",
    "GateOpen",
    "GateOutcome",
    "GateReady",
    "GateRequest",
    "GateResult",
    "GateStatus",
    "GateVariant",
    "HeraldClose",
    "HeraldOpen",
    "HeraldReady",
    "HeraldReport",
    "LinkAccept",
    "LinkAdd",
    "LinkCreate",
    "LinkCreated",
    "LinkErr",
    "LinkExpire",
    "LinkMeasured",
    "LinkOk",
    "Message",
    "PairConfirm",
    "PairConfirmed",
    "PairRelease",
    "ProgramResult",
    "ProgramRun",
    "Reply",
    "Request",
    "RequestType",
    "Role",
    "SessionAck",
    "SessionError",
    "SessionGoodbye",
    "SessionHeartbeat",
    "SessionHello",
    "SessionWelcome",
    "Step",
    "Wanted",
]
