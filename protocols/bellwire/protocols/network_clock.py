"""What a participant knows of the network's time (spec 1 §4.1)."""

from __future__ import annotations

from bellwire.protocols.ids import NodeId

CLOCK_READINGS = 5
"""How often the clock is read when a session with it begins."""


class NetworkClock:
    """The offset of the network's time from the participant's own clock, and how far off that may be.

    Without a `source` the participant's own clock is the network's.
    """

    def __init__(self, source: NodeId | None) -> None:
        self.source = source
        self.offset_ns = 0
        self.error_ns: int | None = 0 if source is None else None
        self._readings = 0

    @property
    def known(self) -> bool:
        """Whether the network's time has been heard."""
        return self.error_ns is not None

    def forget(self) -> None:
        """The source has restarted: read it anew. Until then the offset known so far goes on."""
        self.error_ns, self._readings = None, 0

    def read(self, network_ns: int, *, sent_ns: int, now_ns: int) -> bool:
        """Take a reading that was asked for at `sent_ns` and came at `now_ns`. Returns whether another one is wanted.

        It was read half a round trip ago, give or take as much. The first round trip carries connecting and a cold path, so a
        few more follow, and the shortest one counts.
        """
        half_ns = (now_ns - sent_ns) // 2
        if self.error_ns is None or half_ns < self.error_ns:
            self.offset_ns = network_ns + half_ns - now_ns
            self.error_ns = half_ns
        self._readings += 1
        return self._readings < CLOCK_READINGS
