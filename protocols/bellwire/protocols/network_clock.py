"""The network's time as a participant knows it: a line over its own clock, and a bound on how far off that is (spec 4 §3).

The line is continuous while it is steered, so that nobody who uses it sees time go backwards; only `step` breaks it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bellwire.protocols.timers import Timer, TimerQueue

BILLION: Final = 1_000_000_000


def scaled(duration_ns: int, ratio_ppb: int) -> int:
    """What a clock that is fast by `ratio_ppb` gains in a duration: nanoseconds, rounded down."""
    return duration_ns * ratio_ppb // BILLION


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """Where the true time lies, as it was measured at `local_ns`: `offset_ns` ± `half_ns` from the own clock.

    From there it is expected to gain `rate_ppb` on the own clock, ± `rate_error_ppb` that grows by `wander_ppb_per_s` and is
    never more than `rate_limit_ppb`.
    """

    local_ns: int
    offset_ns: int
    half_ns: int
    rate_ppb: int = 0
    rate_error_ppb: int = 0
    rate_limit_ppb: int = 0
    wander_ppb_per_s: int = 0

    def offset_at(self, local_ns: int) -> int:
        """The middle of the bound at a local time."""
        return self.offset_ns + scaled(local_ns - self.local_ns, self.rate_ppb)

    def half_at(self, local_ns: int) -> int:
        """Half the width of the bound at a local time: it ages."""
        age_ns = abs(local_ns - self.local_ns)
        error_ppb = min(self.rate_error_ppb + scaled(age_ns, self.wander_ppb_per_s), self.rate_limit_ppb)
        return self.half_ns + scaled(age_ns, error_ppb) + (1 if error_ppb else 0)


class NetworkClock:
    """The network's time over a participant's own clock. With `own`, the participant's own clock is the network's."""

    def __init__(self, *, own: bool) -> None:
        self.bound: Bound | None = Bound(local_ns=0, offset_ns=0, half_ns=0) if own else None
        self.known = own
        """Whether the network's time may be relied on, to within its uncertainty."""
        self.rate_ppb = 0
        self.on_changed: list[Callable[[], None]] = []
        """Told when the line has changed: local times of moments to come are to be computed anew."""
        self._local_ns = 0
        self._offset_ns = 0

    def network_ns(self, local_ns: int) -> int:
        """The network's time at a local time."""
        return local_ns + self._offset_ns + scaled(local_ns - self._local_ns, self.rate_ppb)

    def local_ns(self, network_ns: int) -> int:
        """The first local time at which the network's time is `network_ns` or more."""
        elapsed_ns = network_ns - self._local_ns - self._offset_ns
        local_ns = self._local_ns + elapsed_ns * BILLION // (BILLION + self.rate_ppb)
        while self.network_ns(local_ns) < network_ns:
            local_ns += 1
        while self.network_ns(local_ns - 1) >= network_ns:
            local_ns -= 1
        return local_ns

    def uncertainty_ns(self, local_ns: int) -> int | None:
        """How far off the network's time may be at a local time, or `None` while nothing is known of it."""
        bound = self.bound
        if bound is None:
            return None
        gap_ns = self.network_ns(local_ns) - local_ns - bound.offset_at(local_ns)
        return abs(gap_ns) + bound.half_at(local_ns)

    def steer(self, local_ns: int, rate_ppb: int) -> None:
        """From a local time on, gain `rate_ppb` on the own clock: without a step."""
        self._offset_ns = self.network_ns(local_ns) - local_ns
        self._local_ns, self.rate_ppb = local_ns, rate_ppb
        self._changed()

    def step(self, local_ns: int, offset_ns: int, rate_ppb: int) -> None:
        """From a local time on, be off the own clock by `offset_ns`, whatever was before."""
        self._local_ns, self._offset_ns, self.rate_ppb = local_ns, offset_ns, rate_ppb
        self._changed()

    def _changed(self) -> None:
        for listener in self.on_changed:
            listener()


class NetworkTimers:
    """Timers for moments of the network's time. They stay right while the clock is steered: one alarm follows them."""

    def __init__(self, clock: NetworkClock, timers: TimerQueue, now_ns: Callable[[], int]) -> None:
        self._clock = clock
        self._timers = timers
        self._now_ns = now_ns
        self._queue = TimerQueue()
        self._alarm: Timer | None = None
        self._alarm_ns = 0
        clock.on_changed.append(self._arm)

    def at(self, network_ns: int, call: Callable[[], None]) -> Timer:
        """Call `call` once the network's time has come to `network_ns`."""
        timer = self._queue.at(network_ns, call)
        self._arm()
        return timer

    def _arm(self) -> None:
        deadline_ns = self._queue.next_deadline_ns()
        if deadline_ns is None:
            return
        local_ns = self._clock.local_ns(deadline_ns)
        if self._alarm is not None and self._alarm.call is not None:
            if self._alarm_ns == local_ns:
                return
            self._alarm.cancel()
        self._alarm_ns = local_ns
        self._alarm = self._timers.at(local_ns, self._ring)

    def _ring(self) -> None:
        self._queue.fire_due(self._clock.network_ns(self._now_ns()))
        self._arm()
