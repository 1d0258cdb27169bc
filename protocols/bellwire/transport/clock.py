"""The clocks of a process. Only drivers and command lines read them; everything else is told the time."""

from __future__ import annotations

import time

from bellwire.protocols.ids import Epoch, LocalTimeNs

_OFFSET_NS = time.time_ns() - time.monotonic_ns()


def local_time_ns() -> LocalTimeNs:
    """Nanoseconds on this process's own clock: the wall clock at import plus the monotonic time since.

    It never jumps, whatever is done to the wall clock, and two processes of one host read nearly the same.
    """
    return LocalTimeNs(time.monotonic_ns() + _OFFSET_NS)


def new_epoch() -> Epoch:
    """An epoch for a participant that starts now: later incarnations get larger ones (spec 1 §4.3)."""
    return Epoch(time.time_ns())
