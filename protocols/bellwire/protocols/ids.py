"""Identifiers, each of a type of its own, and the rules for the texts behind them (spec 1 §3.3)."""

from __future__ import annotations

import re
from typing import NewType

from bellwire.protocols.errors import ConfigError
from bellwire.protocols.limits import MAX_ENDPOINT_CHARS, MAX_NAME_CHARS, MAX_NODE_ID_CHARS

NodeId = NewType("NodeId", str)
"""Name of a participant on the wire: agent, station, broker, world or application."""

LinkId = NewType("LinkId", str)
WindowId = NewType("WindowId", str)
PairId = NewType("PairId", str)
"""Globally unique, never reused, never a memory slot: `<window id>/<attempt>`."""

GateId = NewType("GateId", str)
CreateId = NewType("CreateId", str)
QubitName = NewType("QubitName", str)
"""A qubit of the hardware, as its backend calls it."""

CauseId = NewType("CauseId", str)
"""Names the stimulus that set something off, through every event and message that follows from it."""

Epoch = NewType("Epoch", int)
"""One incarnation of a participant. A later incarnation has a larger epoch."""

LocalTimeNs = NewType("LocalTimeNs", int)
"""Nanoseconds on a participant's own monotonic clock."""

NetworkTimeNs = NewType("NetworkTimeNs", int)
"""Nanoseconds on the clock that the network agrees on (spec 4)."""

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.\-]*\Z"
_NAME = re.compile(NAME_PATTERN)

OPERAND_PATTERN = r"^[^\s:]+\Z"
"""What can name a qubit in a request: a name of the application's own, or the id of a pair (spec 3 §4)."""
_OPERAND = re.compile(OPERAND_PATTERN)

ENDPOINT_PATTERN = r"^tcp://[^\s:/]+:[0-9]{1,5}\Z"
"""Where a participant can be connected to: a host's name or IPv4 address, and a port."""
_ENDPOINT = re.compile(ENDPOINT_PATTERN)

BROKER = NodeId("broker")
"""The broker's name. No other participant can have it."""


def node_id(text: str) -> NodeId:
    """Check that `text` can name a participant.

    Raises:
        ConfigError: when it is empty, too long or has characters outside letters, digits, `_`, `.` and `-`.
    """
    if len(text) > MAX_NODE_ID_CHARS or not _NAME.match(text):
        raise ConfigError(
            f"{text!r} is not a node name: 1 to {MAX_NODE_ID_CHARS} letters, digits, '_', '.' or '-', "
            "beginning with a letter or digit"
        )
    return NodeId(text)


def link_id(text: str) -> LinkId:
    """Check that `text` can name a link. The ids of pairs are made from it, and those are operands.

    Raises:
        ConfigError: when it is empty, too long or has a space or colon in it.
    """
    if len(text) > MAX_NAME_CHARS or not _OPERAND.match(text):
        raise ConfigError(
            f"{text[:80]!r} is not a link's name: 1 to {MAX_NAME_CHARS} characters without spaces and colons"
        )
    return LinkId(text)


def is_endpoint(text: str) -> bool:
    """Whether `text` can be told to others as an endpoint: `tcp://host:port` (spec 1 §4.7)."""
    return len(text) <= MAX_ENDPOINT_CHARS and _ENDPOINT.match(text) is not None


def pair_id(window_id: WindowId, attempt: int) -> PairId:
    """Name the pair that attempt number `attempt` (counted from 1) of a window heralded (spec 2 §3.4)."""
    return PairId(f"{window_id}/{attempt}")


def window_of(pair_id: PairId) -> WindowId:
    """The window that a pair was heralded in."""
    return WindowId(pair_id.rpartition("/")[0])
