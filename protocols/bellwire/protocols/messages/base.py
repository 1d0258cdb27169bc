"""What all messages have in common (spec 1 §3.2), and the field types that bound them (spec 1 §3.4)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from bellwire.protocols.ids import (
    NAME_PATTERN,
    OPERAND_PATTERN,
    CauseId,
    CreateId,
    Epoch,
    GateId,
    LinkId,
    NetworkTimeNs,
    NodeId,
    PairId,
    WindowId,
)
from bellwire.protocols.limits import (
    INT64_MAX,
    MAX_DURATION_NS,
    MAX_ID_CHARS,
    MAX_NAME_CHARS,
    MAX_NODE_ID_CHARS,
    MAX_TEXT_CHARS,
)

Node = Annotated[NodeId, Meta(max_length=MAX_NODE_ID_CHARS, pattern=NAME_PATTERN)]
NodeOrNone = Annotated[NodeId, Meta(max_length=MAX_NODE_ID_CHARS)]
EpochField = Annotated[Epoch, Meta(ge=0, le=INT64_MAX)]
Natural = Annotated[int, Meta(ge=0, le=INT64_MAX)]
Positive = Annotated[int, Meta(ge=1, le=INT64_MAX)]
DurationNs = Annotated[int, Meta(ge=1, le=MAX_DURATION_NS)]
TimeNs = Annotated[NetworkTimeNs, Meta(ge=0, le=INT64_MAX)]
Bit = Annotated[int, Meta(ge=0, le=1)]
Ratio = Annotated[float, Meta(ge=0.0, le=1.0)]
Text = Annotated[str, Meta(max_length=MAX_TEXT_CHARS)]
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS, pattern=NAME_PATTERN)]
Operand = Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARS, pattern=OPERAND_PATTERN)]
Link = Annotated[LinkId, Meta(min_length=1, max_length=MAX_ID_CHARS)]
Window = Annotated[WindowId, Meta(min_length=1, max_length=MAX_ID_CHARS)]
Pair = Annotated[PairId, Meta(min_length=1, max_length=MAX_ID_CHARS)]
PairOrNone = Annotated[PairId, Meta(max_length=MAX_ID_CHARS)]
GateIdField = Annotated[GateId, Meta(min_length=1, max_length=MAX_ID_CHARS)]
Create = Annotated[CreateId, Meta(min_length=1, max_length=MAX_ID_CHARS)]


class Role(StrEnum):
    """What a participant is, as it says in its hello."""

    AGENT = "agent"
    STATION = "station"
    BROKER = "broker"
    WORLD = "world"
    APPLICATION = "application"
    OBSERVER = "observer"


class Message(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="type"):
    """Base of all messages.

    `epoch` is the sender's incarnation, `peer_epoch` the incarnation of the receiver that the sender means (0 when it does
    not know it yet), `cause_id` the stimulus at the sender that set the message off. The session fills all three in.
    """

    epoch: EpochField = Epoch(0)
    peer_epoch: EpochField = Epoch(0)
    cause_id: Annotated[CauseId, Meta(max_length=MAX_ID_CHARS)] = CauseId("")


class Request(Message, frozen=True, kw_only=True):
    """A message that is repeated with the same `request_id` until it is answered, and handled once (spec 1 §4.4)."""

    answered_by: ClassVar[tuple[type[Reply], ...]] = ()

    request_id: Natural = 0


class Reply(Message, frozen=True, kw_only=True):
    """The answer to the request of the same `request_id`."""

    request_id: Natural = 0
