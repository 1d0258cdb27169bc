"""What an endpoint counts."""

from __future__ import annotations

from dataclasses import dataclass

from bellwire.protocols.ids import NodeId
from bellwire.protocols.messages import SessionError


@dataclass(slots=True)
class Counters:
    """What went wrong on the wire, for whoever watches."""

    malformed: int = 0
    stale: int = 0
    strangers: int = 0
    unexpected: int = 0
    repeated: int = 0
    retransmitted: int = 0
    errors: int = 0
    """Errors for people: what peers and the broker told, and nothing here acts on."""
    last_error: str = ""
    """The last of them: who told it, its code and its text."""
    late: int = 0
    """Messages that came after their stretch was over (spec 1 §4.8)."""
    unkept: int = 0
    """Messages that found no room while their path changed."""

    def note_error(self, peer: NodeId, message: SessionError) -> None:
        """Count an error that is for people (spec 1 §6.2)."""
        self.errors += 1
        self.last_error = f"{peer}: {message.code}: {message.text}"
