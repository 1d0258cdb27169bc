"""A clock that drifts and wanders, and paths that are asymmetric and bursty: what a servo has to be right about."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import sqrt
from random import Random

from bellwire.protocols.network_clock import NetworkClock
from bellwire.protocols.time_servo import ClockSpec, Sample, Servo, sample_of

SECOND = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Paths:
    """How long frames take: to the node `base_ns` times 1 + asymmetry, back 1 − asymmetry, and a random rest on top."""

    base_ns: int = 60_000
    asymmetry: float = 0.3
    jitter_ns: int = 40_000
    busy_permille: int = 100
    busy_ns: int = 1_000_000


@dataclass
class ClockWorld:
    """One node against one source. `offset_ns` is the network's time less the node's own clock, in truth."""

    seed: int
    paths: Paths = Paths()
    drift_ppb: float = 50_000.0
    wander_ppb: float = 10.0
    servo: Servo = field(default_factory=lambda: Servo(ClockSpec()))
    now_ns: float = 1_000.0 * SECOND

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.clock = NetworkClock(own=False)
        self.offset_ns = self.random.uniform(-0.05, 0.05) * SECOND
        self.drift_ppb = self.random.uniform(-self.drift_ppb, self.drift_ppb)
        self.bursts = 0

    @property
    def local_ns(self) -> int:
        return int(self.now_ns - self.offset_ns)

    @property
    def error_ns(self) -> float:
        """By how much the node is wrong."""
        return self.clock.network_ns(self.local_ns) - self.local_ns - self.offset_ns

    @property
    def claim_ns(self) -> int:
        claim_ns = self.clock.uncertainty_ns(self.local_ns)
        assert claim_ns is not None
        return claim_ns

    def wait(self, duration_ns: float) -> None:
        self.now_ns += duration_ns
        self.offset_ns += self.drift_ppb * duration_ns / SECOND
        self.drift_ppb += self.random.gauss(0.0, self.wander_ppb * sqrt(duration_ns / SECOND))

    def exchange(self, busy: bool) -> Sample | None:
        """Sync there, Delay_Req back."""
        t1 = self.now_ns
        self.wait(self._delay(1, busy))
        t2 = self.local_ns
        self.wait(20_000)
        t3 = self.local_ns
        self.wait(self._delay(-1, busy))
        return sample_of(int(t1), t2, t3, int(self.now_ns) + 1, uncertainty_ns=1, clock=self.servo.clock)

    def _delay(self, way: int, busy: bool) -> float:
        paths, random = self.paths, self.random
        delay_ns = paths.base_ns * (1 + way * paths.asymmetry) + random.expovariate(1 / paths.jitter_ns)
        return delay_ns + (random.expovariate(1 / paths.busy_ns) if busy else 0.0)

    def burst(self, interval_ns: int, *, step: bool = False) -> None:
        """Three exchanges that count, and what a node makes of the best of them."""
        busy = self.random.randrange(1_000) < self.paths.busy_permille
        samples = [sample for sample in (self.exchange(busy) for _ in range(3)) if sample is not None]
        best = min(samples, key=lambda sample: sample.half_ns)
        assert self.servo.agrees(best)
        self.servo.take(best)
        local_ns = self.local_ns
        self.clock.bound = self.servo.bound(local_ns)
        if step:
            self.clock.step(local_ns, self.servo.offset_at(local_ns), self.servo.drift_ppb)
        else:
            error_ns = self.servo.offset_at(local_ns) - (self.clock.network_ns(local_ns) - local_ns)
            self.clock.steer(local_ns, self.servo.rate_ppb(error_ns, interval_ns))
        self.bursts += 1
        self.wait(interval_ns)

    def settle(self) -> None:
        """As a node does before it is LOCKED."""
        for _ in range(4):
            self.burst(SECOND // 16, step=True)
