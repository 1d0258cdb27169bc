"""Family `herald`: windows of attempts, and what the station saw in them (spec 2 §3)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from bellwire.protocols.instructions import BellState
from bellwire.protocols.limits import MAX_ATTEMPTS_PER_WINDOW
from bellwire.protocols.messages.base import (
    Create,
    DurationNs,
    Link,
    Name,
    Natural,
    Ratio,
    Reply,
    Request,
    Text,
    TimeNs,
    Window,
)
from bellwire.protocols.messages.session import SessionAck

Attempts = Annotated[int, Meta(ge=1, le=MAX_ATTEMPTS_PER_WINDOW)]


class HeraldReady(Reply, frozen=True, kw_only=True, tag="herald.ready"):
    """The receiver's hardware has been told to arm for the window; a station's that is shared, from `start_ns`."""

    start_ns: TimeNs | None = None


class HeraldOpen(Request, frozen=True, kw_only=True, tag="herald.open"):
    """The primary end opens a window of attempts, at the secondary end and at the station."""

    answered_by = (HeraldReady,)

    link_id: Link
    window_id: Window
    create_id: Create
    scheme: Name
    start_ns: TimeNs
    attempts: Attempts
    timeout_ns: DurationNs
    bright_ratio: Ratio | None = None


class HeraldWait(Request, frozen=True, kw_only=True, tag="herald.wait"):
    """The station's detectors are in use: the window waits for its turn, after `ahead` others."""

    answered_by = (SessionAck,)

    link_id: Link
    window_id: Window
    ahead: Natural


class HeraldClose(Request, frozen=True, kw_only=True, tag="herald.close"):
    """The primary end has given a window up: the other parties need not wait for it."""

    answered_by = (SessionAck,)

    link_id: Link
    window_id: Window
    reason: Text = ""


class HeraldReport(Request, frozen=True, kw_only=True, tag="herald.report"):
    """The station's word on a window, to both ends: the attempt that heralded and the Bell state, or 0 and none."""

    answered_by = (SessionAck,)

    link_id: Link
    window_id: Window
    attempt: Annotated[int, Meta(ge=0, le=MAX_ATTEMPTS_PER_WINDOW)]
    bell_state: BellState | None = None
