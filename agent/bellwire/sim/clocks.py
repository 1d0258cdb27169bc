"""Simulated clocks that discipline themselves, as far as a node can tell: what they claim of the network's time."""

from __future__ import annotations

from random import Random
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from bellwire.protocols.hardware_clock import ClockClaim
from bellwire.protocols.limits import INT64_MAX, MAX_NAME_CHARS
from bellwire.protocols.messages import ClockState
from bellwire.protocols.messages.base import Natural
from bellwire.sim.preset import ClockModel
from bellwire.sim.quantity import SHORT_TIME_PS, TIME_NS, number

JITTERS: Final = 5
"""A claim counts so many root mean squares of jitter; what is drawn never has more."""


class ClockInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A simulated clock. It gives the time of the world's own clock.

    That is the monotonic clock of the `host`, which all of its processes read alike, plus `host_offset_ns`. `seed` is of its
    every chance.
    """

    accuracy_ps: Natural
    jitter_ps: Natural
    interval_ns: Natural
    seed: Natural
    host: Annotated[str, Meta(max_length=MAX_NAME_CHARS)] = ""
    host_offset_ns: Annotated[int, Meta(ge=-INT64_MAX, le=INT64_MAX)] = 0

    @classmethod
    def of(cls, model: ClockModel, seed: int) -> ClockInfo:
        """Give what a preset says of it."""
        return cls(
            accuracy_ps=round(number(model.accuracy, "accuracy", SHORT_TIME_PS)),
            jitter_ps=round(number(model.jitter, "jitter", SHORT_TIME_PS)),
            interval_ns=round(number(model.interval, "interval", TIME_NS)),
            seed=seed,
        )


class SimulatedClock:
    """Makes the claims of one clock: off by a constant within its accuracy, and by its jitter."""

    def __init__(self, info: ClockInfo) -> None:
        self.info = info
        self._random = Random(info.seed)
        self._bias_ps = self._random.uniform(-info.accuracy_ps, info.accuracy_ps)

    def claim(self, *, local_ns: int, network_ns: int, reading_ns: int) -> ClockClaim:
        """What it claims when the network's time is `network_ns`; the two were read within `reading_ns` of each other."""
        most_ps = JITTERS * self.info.jitter_ps
        jitter_ps = min(max(self._random.gauss(0.0, self.info.jitter_ps), -most_ps), most_ps)
        return ClockClaim(
            state=ClockState.LOCKED,
            local_ns=local_ns,
            offset_ns=network_ns - local_ns + round((self._bias_ps + jitter_ps) / 1_000),
            uncertainty_ps=self.info.accuracy_ps + most_ps,
            reading_ns=reading_ns + 1,
        )
