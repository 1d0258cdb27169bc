"""Family `time`: the two-step exchange of IEEE 1588 over leases, and what participants say of their clocks (spec 4)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from bellwire.protocols.ids import NodeId
from bellwire.protocols.limits import (
    INT64_MAX,
    MAX_BURST_EXCHANGES,
    MAX_DURATION_NS,
    MAX_HOST_CHARS,
    MAX_TIME_LEASE_NS,
    MIN_TIME_INTERVAL_NS,
    PATH_KEY_BYTES,
)
from bellwire.protocols.messages.base import Message, Natural, Node, NodeOrNone, Reply, Request, TimeNs

Sequence = Annotated[int, Meta(ge=1, le=INT64_MAX)]
Exchange = Annotated[int, Meta(ge=0, le=MAX_BURST_EXCHANGES - 1)]
Exchanges = Annotated[int, Meta(ge=0, le=MAX_BURST_EXCHANGES)]
IntervalNs = Annotated[int, Meta(ge=MIN_TIME_INTERVAL_NS, le=MAX_TIME_LEASE_NS)]
LeaseNs = Annotated[int, Meta(ge=MIN_TIME_INTERVAL_NS, le=MAX_TIME_LEASE_NS)]
UncertaintyNs = Annotated[int, Meta(ge=0, le=MAX_DURATION_NS)]
UncertaintyPs = Annotated[int, Meta(ge=0, le=MAX_DURATION_NS)]
Octet = Annotated[int, Meta(ge=0, le=255)]


class ClockState(StrEnum):
    """States of a participant's idea of the network's time."""

    FREERUN = "freerun"
    ACQUIRING = "acquiring"
    LOCKED = "locked"
    HOLDOVER = "holdover"


class TimeGrant(Reply, frozen=True, kw_only=True, tag="time.grant"):
    """The lease is given, from now and for `lease_ns`.

    With a `path_key` the source offers a side path: UDP, at `path_host`, or where the session is reached when that is empty.
    """

    lease_ns: LeaseNs
    path_id: Natural = 0
    path_host: Annotated[str, Meta(max_length=MAX_HOST_CHARS)] = ""
    path_port: Annotated[int, Meta(ge=0, le=65_535)] = 0
    path_key: Annotated[bytes, Meta(max_length=PATH_KEY_BYTES)] = b""


class TimeLease(Request, frozen=True, kw_only=True, tag="time.lease"):
    """A node asks for a burst of exchanges every `interval_ns`; with `exchanges` 0 for announcements alone.

    A new lease takes the place of the one before; its first burst begins at once.
    """

    answered_by = (TimeGrant,)

    interval_ns: IntervalNs
    exchanges: Exchanges
    lease_ns: LeaseNs


class TimeAnnounce(Message, frozen=True, kw_only=True, tag="time.announce"):
    """What a source says of itself before every burst, for the choice of the best: less is better, `priority` first."""

    priority: Octet
    clock_class: Octet
    uncertainty_ns: UncertaintyNs
    grandmaster: Node
    steps_removed: Octet


class TimeSync(Message, frozen=True, kw_only=True, tag="time.sync"):
    """Sync: its departure is noted by the source, its arrival by the node. `exchange` counts within the burst, from 0."""

    sequence: Sequence
    exchange: Exchange


class TimeDelayReq(Message, frozen=True, kw_only=True, tag="time.delay_req"):
    """Delay_Req: the node's answer to a Sync, whose departure it notes itself."""

    sequence: Sequence


class TimeFollowUp(Message, frozen=True, kw_only=True, tag="time.follow_up"):
    """Follow_Up: when the Sync of the same `sequence` left, and how far off that may be."""

    sequence: Sequence
    origin_ns: TimeNs
    uncertainty_ns: UncertaintyNs


class TimeDelayResp(Message, frozen=True, kw_only=True, tag="time.delay_resp"):
    """Delay_Resp: when the Delay_Req of the same `sequence` arrived."""

    sequence: Sequence
    received_ns: TimeNs


class TimeReport(Reply, frozen=True, kw_only=True, tag="time.report"):
    """What a participant believes of the network's time.

    `offset_ns` is the network's time less its own clock's, and is off by at most `uncertainty_ns` (nil while it knows
    nothing). While its `source` is `hardware`, that clock's own time is off by at most `uncertainty_ps`. `followers` hold
    leases of it.
    """

    state: ClockState
    source: NodeOrNone = NodeId("")
    grandmaster: NodeOrNone = NodeId("")
    offset_ns: Annotated[int, Meta(ge=-INT64_MAX, le=INT64_MAX)] = 0
    uncertainty_ns: UncertaintyNs | None = None
    uncertainty_ps: UncertaintyPs | None = None
    drift_ppb: Annotated[int, Meta(ge=-1_000_000_000, le=1_000_000_000)] = 0
    path_delay_ns: Natural | None = None
    followers: Annotated[tuple[Node, ...], Meta(max_length=1_024)] = ()


class TimeStatus(Request, frozen=True, kw_only=True, tag="time.status"):
    """Somebody asks what a participant believes of the network's time."""

    answered_by = (TimeReport,)
