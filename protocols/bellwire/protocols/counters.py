"""What an endpoint counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """What went wrong on the wire, for whoever watches."""

    malformed: int = 0
    stale: int = 0
    strangers: int = 0
    unexpected: int = 0
    repeated: int = 0
    retransmitted: int = 0
