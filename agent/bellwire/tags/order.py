"""Puts a stream of tags in order: cable lengths are taken off, and tags that came late within a horizon are sorted in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from bellwire.protocols.errors import BackendError
from bellwire.tags.stream import BEFORE_ALL_PS, NO_TAGS, Tags

MAX_HELD_TAGS: Final = 2**24
"""Tags that wait for others that may still come before them."""


class Orderer:
    """Takes tags as they come and gives them in order, each once, when no earlier one can come any more.

    A tag is late when an earlier one was more than `horizon_ps` ahead of it; it is counted and dropped. Which tags are late,
    and the order of the others, does not depend on how the stream is cut into parts. Tags of equal time stay in the order in
    which they came.

    Args:
        delays_ps: what is taken off the times of a channel's tags.
        horizon_ps: how far tags may come out of order, as their tagger timed them.
    """

    def __init__(self, delays_ps: Mapping[int, int], horizon_ps: int) -> None:
        self.newest_ps = BEFORE_ALL_PS
        """The tagger's time, as far as it is known: the latest of all tags that came."""

        self.late = 0
        """Tags that were dropped."""

        self._horizon_ps = horizon_ps
        self._hold_ps = horizon_ps + max(0, *delays_ps.values(), 0)
        self._delays = _by_channel(delays_ps)
        self._held = NO_TAGS
        self._until_ps = BEFORE_ALL_PS

    def feed(self, tags: Tags) -> tuple[Tags, int]:
        """Take tags as they came; give those that are in order now, and the time before which none will come any more.

        Raises:
            BackendError: when `MAX_HELD_TAGS` lie within horizon and delays: the clock stands still, or the settings are wrong.
        """
        if len(tags):
            tags = self._in_time(tags)
        if self._delays is not None and len(tags):
            tags = Tags(tags.times_ps - self._delays[tags.channels.view(np.uint16)], tags.channels)
        tags = _sorted(Tags.joined([self._held, tags]))
        self._until_ps = max(self._until_ps, self.newest_ps - self._hold_ps)
        cut = int(np.searchsorted(tags.times_ps, self._until_ps))
        held = len(tags) - cut
        if held > MAX_HELD_TAGS:
            raise BackendError(f"more than {MAX_HELD_TAGS} tags within {self._hold_ps} ps of horizon and delays")
        self._held = tags.part(cut).copy() if held else NO_TAGS
        return tags.part(0, cut), self._until_ps

    def finish(self) -> tuple[Tags, int]:
        """The stream is over: give what is left."""
        tags, self._held = self._held, NO_TAGS
        if len(tags):
            self._until_ps = int(tags.times_ps[-1]) + 1
        return tags, self._until_ps

    def _in_time(self, tags: Tags) -> Tags:
        """Drop the late ones, and note how far the tagger's clock has come."""
        times_ps = tags.times_ps
        if times_ps[0] >= self.newest_ps and _is_sorted(times_ps):
            self.newest_ps = int(times_ps[-1])
            return tags
        newest_ps = np.maximum.accumulate(times_ps)
        np.maximum(newest_ps, self.newest_ps, out=newest_ps)
        self.newest_ps = int(newest_ps[-1])
        in_time = times_ps >= newest_ps - self._horizon_ps
        late = len(tags) - int(np.count_nonzero(in_time))
        if not late:
            return tags
        self.late += late
        return Tags(times_ps[in_time], tags.channels[in_time])


def _by_channel(delays_ps: Mapping[int, int]) -> np.ndarray[tuple[int], np.dtype[np.int64]] | None:
    """A table of all channels' delays, for channels as unsigned numbers; None when there is no delay."""
    if not any(delays_ps.values()):
        return None
    table = np.zeros(2**16, dtype=np.int64)
    for channel, delay_ps in delays_ps.items():
        table[channel % 2**16] = delay_ps
    return table


def _is_sorted(times_ps: np.ndarray[tuple[int], np.dtype[np.int64]]) -> bool:
    return bool(np.all(times_ps[1:] >= times_ps[:-1]))


def _sorted(tags: Tags) -> Tags:
    if _is_sorted(tags.times_ps):
        return tags
    order = np.argsort(tags.times_ps, kind="stable")
    return Tags(tags.times_ps[order], tags.channels[order])
