"""Time tags in memory: what every source gives, and what the finder takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.int64]
Channels = npt.NDArray[np.int16]

CLOCK: Final = -32_768
"""The channel of a tag that stands for no event: the tagger's clock has come so far. It keeps a quiet stream going."""

LOWEST_CHANNEL: Final = -32_767
HIGHEST_CHANNEL: Final = 32_767

MAX_TIME_PS: Final = 2**61
"""Times lie within ± so many picoseconds (26 days), so that sums and differences of them never overflow."""

BEFORE_ALL_PS: Final = -MAX_TIME_PS - 1

CHUNK_TAGS: Final = 65_536
"""Tags that are handled at once: few enough to stay in a processor's cache."""


@dataclass(frozen=True, slots=True, eq=False)
class Tags:
    """Some tags of a stream, in the order in which they came.

    Attributes:
        times_ps: picoseconds on the tagger's clock, shape (n,).
        channels: the input that each came in on, shape (n,); `CLOCK` for none.
    """

    times_ps: Times
    channels: Channels

    def __len__(self) -> int:
        """How many tags there are."""
        return len(self.times_ps)

    def part(self, first: int, last: int | None = None) -> Tags:
        """Give the tags from number `first` up to `last`, which is left out. They share their memory with these."""
        return Tags(self.times_ps[first:last], self.channels[first:last])

    def copy(self) -> Tags:
        """Give the tags in memory of their own."""
        return Tags(self.times_ps.copy(), self.channels.copy())

    @classmethod
    def of(cls, tags: Iterable[tuple[int, int]]) -> Tags:
        """Make them of pairs (time in picoseconds, channel)."""
        pairs = list(tags)
        return cls(
            np.array([time_ps for time_ps, _ in pairs], dtype=np.int64),
            np.array([channel for _, channel in pairs], dtype=np.int16),
        )

    @classmethod
    def joined(cls, parts: Iterable[Tags]) -> Tags:
        """Put parts one behind the other. A single one is given as it is."""
        filled = [part for part in parts if len(part)]
        if not filled:
            return NO_TAGS
        if len(filled) == 1:
            return filled[0]
        return cls(
            np.concatenate([part.times_ps for part in filled]), np.concatenate([part.channels for part in filled])
        )

    @classmethod
    def clock(cls, time_ps: int) -> Tags:
        """The one tag that says that the tagger's clock has come so far."""
        return cls.of([(time_ps, CLOCK)])


NO_TAGS: Final = Tags(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int16))
