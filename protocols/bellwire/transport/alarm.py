"""One alarm on the event loop, more exact than the loop's own timers where the system allows.

asyncio hands its timeouts to epoll in whole milliseconds, so that its timers are late by up to one. A Linux timer descriptor
wakes the same epoll within tens of microseconds. Who cannot have these either lets the alarm spin for the last of its delay.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable

MAX_SPIN_NS = 1_000_000
"""The longest that an alarm spins."""

_SECOND_NS = 1_000_000_000


class _Spec(ctypes.Structure):
    """`struct itimerspec`: the interval, then the first expiry, as seconds and nanoseconds."""

    _fields_ = [(name, ctypes.c_long) for name in ("every_s", "every_ns", "first_s", "first_ns")]


class Alarm:
    """Calls `call` once after a delay, unless it is set again or closed before."""

    def __init__(self, call: Callable[[], None], spin_ns: int = 0) -> None:
        """Make an alarm on the running loop.

        It wakes up `spin_ns` early and spins until it is time, while nothing else on the loop happens: at most `MAX_SPIN_NS`.
        """
        self._spin_ns = min(spin_ns, MAX_SPIN_NS)
        self._due_ns = 0
        self._loop = asyncio.get_running_loop()
        self._call = call
        self._handle: asyncio.TimerHandle | None = None
        self._libc, self._fd = _timer_descriptor()
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._ring)

    def set(self, delay_ns: int) -> None:
        """Ring after `delay_ns`, and no more at the time that was set before."""
        if self._spin_ns:
            self._due_ns = time.monotonic_ns() + delay_ns
        delay_ns = max(delay_ns - self._spin_ns, 1)
        if self._libc is not None:
            spec = _Spec(0, 0, delay_ns // _SECOND_NS, delay_ns % _SECOND_NS)
            if self._libc.timerfd_settime(self._fd, 0, ctypes.byref(spec), None) == 0:
                return
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._loop.call_later(delay_ns / _SECOND_NS, self._spin)

    def close(self) -> None:
        """Never ring again."""
        if self._handle is not None:
            self._handle.cancel()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        self._libc = None
        self._call = _nothing

    def _ring(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return  # set again after it rang and before the loop came here
        self._spin()

    def _spin(self) -> None:
        while time.monotonic_ns() < self._due_ns:
            pass
        self._call()


def _nothing() -> None:
    """What a closed alarm calls."""


def _timer_descriptor() -> tuple[ctypes.CDLL | None, int]:
    if sys.platform != "linux":
        return None, -1
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        descriptor: int = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    except AttributeError:
        return None, -1
    return (libc, descriptor) if descriptor >= 0 else (None, -1)
