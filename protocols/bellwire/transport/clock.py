"""The clocks of a process. Only drivers and command lines read them; everything else is told the time."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bellwire.protocols.ids import Epoch, LocalTimeNs
from bellwire.protocols.limits import MAX_NAME_CHARS

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
"""Linux: names the time since the host was started, whose monotonic clock all processes of the host share."""

_OFFSET_NS = time.time_ns() - time.monotonic_ns()


def local_time_ns() -> LocalTimeNs:
    """Nanoseconds on this process's own clock: the wall clock at import plus the monotonic time since.

    It never jumps, whatever is done to the wall clock, and two processes of one host read nearly the same.
    """
    return LocalTimeNs(time.monotonic_ns() + _OFFSET_NS)


def new_epoch() -> Epoch:
    """An epoch for a participant that starts now: later incarnations get larger ones (spec 1 §4.3)."""
    return Epoch(time.time_ns())


@dataclass(frozen=True, slots=True, kw_only=True)
class HostClock:
    """The monotonic clock of a host, and what this process's own clock shows more than it."""

    host: str
    offset_ns: int


def host_clock() -> HostClock:
    """What processes of one host can compare their own clocks by."""
    host = BOOT_ID.read_text(encoding="ascii").strip() if BOOT_ID.exists() else platform.node()[:MAX_NAME_CHARS]
    return HostClock(host=host, offset_ns=_OFFSET_NS)


def monotonic_ns() -> int:
    """Nanoseconds of the host's monotonic clock."""
    return time.monotonic_ns()
