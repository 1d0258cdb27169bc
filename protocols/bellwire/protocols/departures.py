"""When frames left: a transport that can tell better than the stimulus that sent them notes it (spec 4 §3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_AWAITED: Final = 64
"""Frames whose departure is awaited. One that the transport dropped is forgotten with the others."""


@dataclass(slots=True)
class Departure:
    """When a frame left, on the sender's own clock: the time of its stimulus, until the transport has noted a later one."""

    at_ns: int


class Departures:
    """The frames whose departure is of interest. `awaited` stays empty unless a transport has said that it notes them."""

    def __init__(self) -> None:
        self.noted = False
        self.awaited: dict[bytes, Departure] = {}

    def of(self, data: bytes, now_ns: int) -> Departure:
        """The departure of a frame that is about to be sent."""
        departure = Departure(now_ns)
        if self.noted:
            if len(self.awaited) >= MAX_AWAITED:
                self.awaited.clear()
            self.awaited[data] = departure
        return departure

    def note(self, data: bytes, now_ns: int) -> None:
        """A frame is handed to the socket. The time is the one just before that, so that no frame arrives before it left."""
        departure = self.awaited.pop(data, None)
        if departure is not None:
            departure.at_ns = now_ns
