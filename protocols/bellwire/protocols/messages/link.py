"""Family `link`: the link-layer service of draft-dahlberg-ll-quantum-03, and the queue that two ends agree on (spec 2 §2)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from bellwire.protocols.errors import ErrorCode
from bellwire.protocols.ids import NodeId
from bellwire.protocols.instructions import BellState
from bellwire.protocols.limits import MAX_PAIRS_PER_REQUEST
from bellwire.protocols.messages.base import (
    Create,
    DurationNs,
    Link,
    Natural,
    Node,
    NodeOrNone,
    Pair,
    Ratio,
    Reply,
    Request,
    Text,
    TimeNs,
)
from bellwire.protocols.messages.session import SessionAck

Priority = Annotated[int, Meta(ge=0, le=7)]
Purpose = Annotated[int, Meta(ge=0, le=65_535)]
Number = Annotated[int, Meta(ge=1, le=MAX_PAIRS_PER_REQUEST)]


class RequestType(StrEnum):
    """K: create and keep. M: create and measure (draft-dahlberg-ll-quantum-03 §4.1)."""

    KEEP = "K"
    MEASURE = "M"


class LinkCreated(Reply, frozen=True, kw_only=True, tag="link.created"):
    """The request has its `create_id` and is being offered to the other end; `link.err` tells when it is refused there."""

    create_id: Create


class LinkCreate(Request, frozen=True, kw_only=True, tag="link.create"):
    """CREATE: an application asks the agent at one end for pairs with the node `peer`."""

    answered_by = (LinkCreated,)

    peer: Node
    number: Number = 1
    min_fidelity: Ratio = 0.0
    max_time_ns: DurationNs
    purpose_id: Purpose = 0
    priority: Priority = 0
    request_type: RequestType = RequestType.KEEP


class LinkAccept(Reply, frozen=True, kw_only=True, tag="link.accept"):
    """The peer has the request in its queue too."""


class LinkAdd(Request, frozen=True, kw_only=True, tag="link.add"):
    """The originator's agent offers a request to the agent at the other end of the link.

    `application` is who gets an OK for every pair, from both ends; empty for pairs that the agents make for themselves.
    """

    answered_by = (LinkAccept,)

    link_id: Link
    create_id: Create
    number: Number
    min_fidelity: Ratio
    deadline_ns: TimeNs
    purpose_id: Purpose
    priority: Priority
    request_type: RequestType
    application: NodeOrNone = NodeId("")


class LinkOk(Request, frozen=True, kw_only=True, tag="link.ok"):
    """OK: one pair of a request is confirmed at both ends. Sent by either end to the application.

    `time_of_goodness_ns` is when this end had its herald, `confirmed_ns` when it knew that both ends hold the pair.
    """

    answered_by = (SessionAck,)

    create_id: Create
    pair_id: Pair
    sequence_number: Natural
    purpose_id: Purpose
    peer: Node
    originator: bool
    bell_state: BellState
    goodness: Ratio
    time_of_goodness_ns: TimeNs
    confirmed_ns: TimeNs
    expires_ns: TimeNs


class LinkErr(Request, frozen=True, kw_only=True, tag="link.err"):
    """ERR: a request ended without the pairs it asked for."""

    answered_by = (SessionAck,)

    create_id: Create
    code: ErrorCode
    text: Text = ""


class LinkExpire(Request, frozen=True, kw_only=True, tag="link.expire"):
    """EXPIRE: a pair whose OK was sent is no more, by its end of life or because an end lost it."""

    answered_by = (SessionAck,)

    create_id: Create
    pair_id: Pair
    sequence_number: Natural
    text: Text = ""
