"""Family `pair`: the two ends agree that they hold the two halves of one pair (spec 2 §4)."""

from __future__ import annotations

from bellwire.protocols.instructions import BellState
from bellwire.protocols.messages.base import Bit, Create, Link, Natural, Pair, Reply, Request, Text, TimeNs
from bellwire.protocols.messages.session import SessionAck


class PairConfirmed(Reply, frozen=True, kw_only=True, tag="pair.confirmed"):
    """The secondary end holds its half of the pair too, in the same frame."""


class PairConfirm(Request, frozen=True, kw_only=True, tag="pair.confirm"):
    """The primary end holds its half of the pair and gives it a number; it will keep it until `expires_ns`."""

    answered_by = (PairConfirmed,)

    link_id: Link
    pair_id: Pair
    create_id: Create
    sequence_number: Natural
    bell_state: BellState
    expires_ns: TimeNs


class PairRelease(Request, frozen=True, kw_only=True, tag="pair.release"):
    """The sender's half is gone without having been used with the receiver; the receiver's half is worthless."""

    answered_by = (SessionAck,)

    link_id: Link
    pair_id: Pair
    reason: Text = ""


class PairCompared(Reply, frozen=True, kw_only=True, tag="pair.compared"):
    """The outcome of the secondary end, in the same basis."""

    outcome: Bit


class PairOutcome(Request, frozen=True, kw_only=True, tag="pair.outcome"):
    """The outcome of the primary end, of a pair that both measured for a test round."""

    answered_by = (PairCompared,)

    link_id: Link
    pair_id: Pair
    outcome: Bit
