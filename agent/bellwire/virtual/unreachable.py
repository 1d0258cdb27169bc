"""Rows of transition tables that simnet cannot reach, each with the reason: what in the code keeps it from being taken.

A row is named as reports name it: machine, state, input. A reason holds for every scenario and every fault that simnet has;
a row that just was not reached yet has none. A sweep that reaches a row with a reason says so: then the reason is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

UNREACHABLE: Final[Mapping[str, str]] = {
    "session up wanted": (
        "outside of DOWN only Endpoint.keep_session gives it, and brains and clocks call that when they start: before any frame"
    ),
    "session down goodbye": (
        "Endpoint takes a peer's goodbye only while the session is UP, and says none of its own while it is DOWN"
    ),
    "window reported herald": (
        "a station reports a window to an end in one request, and an end handles a request once, however often it comes"
    ),
}
