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
    Bit,
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
from bellwire.protocols.readout import IN_Z, Basis, Readout

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


class Wanted(Request, frozen=True, kw_only=True):
    """What CREATE and the offer to the other end have in common: what is wanted of the link.

    `consecutive`: no pair of another request comes between those of this one. `atomic`: that, and all pairs are handed over
    at one moment or none is. `local` and `remote` say what the originator and the other end measure in (type M).
    """

    number: Number = 1
    min_fidelity: Ratio = 0.0
    purpose_id: Purpose = 0
    priority: Priority = 0
    request_type: RequestType = RequestType.KEEP
    atomic: bool = False
    consecutive: bool = False
    local: Readout = IN_Z
    remote: Readout = IN_Z


class LinkCreate(Wanted, frozen=True, kw_only=True, tag="link.create"):
    """CREATE: an application asks the agent at one end for pairs with the node `peer`."""

    answered_by = (LinkCreated,)

    peer: Node
    max_time_ns: DurationNs


class LinkAccept(Reply, frozen=True, kw_only=True, tag="link.accept"):
    """The peer has the request in its queue too."""


class LinkAdd(Wanted, frozen=True, kw_only=True, tag="link.add"):
    """The originator's agent offers a request to the agent at the other end of the link.

    `application` is who gets an OK for every pair, from both ends; empty for pairs that the agents make for themselves.
    """

    answered_by = (LinkAccept,)

    link_id: Link
    create_id: Create
    deadline_ns: TimeNs
    application: NodeOrNone = NodeId("")


class Delivered(Request, frozen=True, kw_only=True):
    """What both forms of OK say of a pair: which one, of which request, how good, and when its end knew.

    `goodness` is the expected fidelity: as configured, or estimated from test rounds, with its 95 % confidence interval.

    `time_of_goodness_ns` is when this end had its herald, `confirmed_ns` when it knew that both ends hold the pair.
    """

    create_id: Create
    pair_id: Pair
    sequence_number: Natural
    purpose_id: Purpose
    peer: Node
    originator: bool
    bell_state: BellState
    goodness: Ratio
    goodness_low: Ratio = 0.0
    goodness_high: Ratio = 1.0
    goodness_estimated: bool = False
    time_of_goodness_ns: TimeNs
    confirmed_ns: TimeNs


class LinkOk(Delivered, frozen=True, kw_only=True, tag="link.ok"):
    """OK of type K: one pair of a request is confirmed at both ends. Sent by either end to the application."""

    answered_by = (SessionAck,)

    expires_ns: TimeNs


class LinkMeasured(Delivered, frozen=True, kw_only=True, tag="link.measured"):
    """OK of type M: one pair of a request was confirmed at both ends, and this end has measured its half."""

    answered_by = (SessionAck,)

    basis: Basis
    outcome: Bit


class LinkErr(Request, frozen=True, kw_only=True, tag="link.err"):
    """ERR: a request ended without the pairs it asked for."""

    answered_by = (SessionAck,)

    create_id: Create
    code: ErrorCode
    text: Text = ""


class LinkExpire(Request, frozen=True, kw_only=True, tag="link.expire"):
    """EXPIRE: pairs of a request are no more, by their end of life or because an end lost them, also where an OK was sent.

    They are those whose sequence numbers lie from `sequence_low` (included) to `sequence_high` (excluded).
    """

    answered_by = (SessionAck,)

    create_id: Create
    sequence_low: Natural
    sequence_high: Natural
    text: Text = ""
