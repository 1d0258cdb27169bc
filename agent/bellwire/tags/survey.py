"""What is in a file of tags, for people: counts by channel, duration, and how far the tags are out of order."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np

from bellwire.tags.files import TagReader
from bellwire.tags.stream import BEFORE_ALL_PS, CLOCK


def survey(reader: TagReader, advance: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
    """Read a whole file; `advance` is told how many tags have been read.

    Raises:
        ConfigError: when the file is corrupt.
    """
    counts = np.zeros(2**16, dtype=np.int64)
    first_ps = newest_ps = BEFORE_ALL_PS
    tags = out_of_order = disorder_ps = 0
    for chunk in reader.chunks():
        advance(len(chunk))
        if not len(chunk):
            continue
        first_ps = int(chunk.times_ps[0]) if not tags else first_ps
        tags += len(chunk)
        counts += np.bincount(chunk.channels.view(np.uint16), minlength=2**16)
        newest = np.maximum(np.maximum.accumulate(chunk.times_ps), newest_ps)
        behind_ps = newest - chunk.times_ps
        out_of_order += int(np.count_nonzero(behind_ps))
        disorder_ps = max(disorder_ps, int(behind_ps.max()))
        newest_ps = int(newest[-1])
    duration_s = (newest_ps - first_ps) / 1e12
    header = reader.header
    seen = [channel for channel in range(CLOCK + 1, 2**15) if counts[channel % 2**16] or channel in header.channels]
    return {
        "format": reader.kind,
        "whole": reader.whole,
        "resolution_ps": header.resolution_ps,
        "start": _utc(header.start_epoch_ns),
        "period_ps": reader.period_ps,
        "tags": tags,
        "duration_s": duration_s,
        "out_of_order": out_of_order,
        "disorder_ps": disorder_ps,
        "channels": [
            {
                "channel": channel,
                "name": header.channels.get(channel, ""),
                "tags": int(counts[channel % 2**16]),
                "tags_per_s": float(counts[channel % 2**16] / duration_s) if duration_s else 0.0,
            }
            for channel in seen
        ],
    }


def _utc(epoch_ns: int) -> str | None:
    """The time in words, down to the second; None when it is not known."""
    if not epoch_ns:
        return None
    return datetime.fromtimestamp(epoch_ns // 1_000_000_000, UTC).isoformat()
