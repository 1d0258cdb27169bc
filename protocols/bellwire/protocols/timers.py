"""A queue of deadlines. It never looks at a clock: the owner says what time it is."""

from __future__ import annotations

import heapq
from collections.abc import Callable

MAX_DEAD_TIMERS = 16
"""Cancelled timers that may stay in a queue however few live ones there are."""


class Timer:
    """One deadline. Cancelling is lazy: the queue drops it when its time comes, or when dead ones are most of what it holds."""

    __slots__ = ("_queue", "call")

    def __init__(self, call: Callable[[], None], queue: TimerQueue) -> None:
        self.call: Callable[[], None] | None = call
        """What is called when it fires; `None` once it fired or was cancelled."""
        self._queue = queue

    def cancel(self) -> None:
        """See to it that the timer never fires. Cancelling twice, or after it fired, does nothing."""
        if self.call is not None:
            self.call = None
            self._queue.cancelled()


class TimerQueue:
    """Timers in order of their deadline; equal deadlines fire in the order in which they were set."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Timer]] = []
        self._count = 0
        self._dead = 0

    def __len__(self) -> int:
        """How many timers the queue holds, dead ones included: at most twice the live ones, and a few."""
        return len(self._heap)

    def at(self, at_ns: int, call: Callable[[], None]) -> Timer:
        """Call `call` once `at_ns` has come."""
        timer = Timer(call, self)
        self._count += 1
        heapq.heappush(self._heap, (at_ns, self._count, timer))
        return timer

    def next_deadline_ns(self) -> int | None:
        """When the next live timer is due, or `None` when none is set."""
        heap = self._heap
        while heap:
            at_ns, _, timer = heap[0]
            if timer.call is not None:
                return at_ns
            heapq.heappop(heap)
            self._dead -= 1
        return None

    def is_due(self, now_ns: int) -> bool:
        """Whether the time of a live timer has come."""
        if not self._heap or self._heap[0][0] > now_ns:
            return False
        deadline_ns = self.next_deadline_ns()
        return deadline_ns is not None and deadline_ns <= now_ns

    def fire_due(self, now_ns: int) -> None:
        """Fire every timer whose time has come, those included that the firing ones set for now."""
        heap = self._heap
        while heap and heap[0][0] <= now_ns:
            timer = heapq.heappop(heap)[2]
            call, timer.call = timer.call, None
            if call is not None:
                call()
            else:
                self._dead -= 1

    def cancelled(self) -> None:
        """Note that one of the timers was cancelled."""
        self._dead += 1
        if self._dead > MAX_DEAD_TIMERS and 2 * self._dead > len(self._heap):
            self._heap[:] = [entry for entry in self._heap if entry[2].call is not None]
            heapq.heapify(self._heap)
            self._dead = 0
