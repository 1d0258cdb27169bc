"""Compare servos on simulated clocks: `python bench/servos.py` prints the table of decision 10. Seeds are fixed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from bellwire.protocols.time_servo import FILTER_LENGTH, MAX_SLEW_PPB, ClockSpec, Sample, Servo

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
from clock_world import SECOND, ClockWorld, Paths

SEEDS = 20
BURSTS = 200
SETTLED_BURSTS = 60

WORLDS = {
    "quiet": (Paths(), 10.0),
    "busy": (Paths(busy_permille=600), 10.0),
    "wandering": (Paths(), 300.0),
    "symmetric": (Paths(asymmetry=0.0, jitter_ns=10_000), 10.0),
}


def pi_gains(interval_s: float, *, hardware: bool = False) -> tuple[float, float]:
    """The gains kp (per second) and ki (per second and sample) of linuxptp's PI servo, as its pi.c has them."""
    kp_scale, ki_scale = (0.7, 0.3) if hardware else (0.1, 0.001)
    return min(kp_scale * interval_s**-0.3, 0.7 / interval_s), min(ki_scale * interval_s**0.4, 0.3 / interval_s)


class PiServo(Servo):
    """Steers to the sample of least delay of the last few bursts, with a PI controller."""

    hardware = False
    bursts = FILTER_LENGTH
    integral_ppb = 0.0
    started = False

    def take(self, sample: object) -> None:
        drift_ppb = self.drift_ppb
        super().take(sample)  # type: ignore[arg-type]
        if self.started:
            self.drift_ppb = drift_ppb
            self._bound_drift()
        else:
            self.integral_ppb = self.drift_ppb  # linuxptp begins with the slope of its first samples too

    def offset_at(self, local_ns: int) -> int:
        best = min(list(self._history)[-self.bursts :], key=lambda sample: sample.delay_ns)
        return self._bound(best).offset_at(local_ns)

    def rate_ppb(self, error_ns: int, interval_ns: int) -> int:
        self.started = True
        kp, ki = pi_gains(interval_ns / SECOND, hardware=self.hardware)
        limit_ppb = self.clock.max_drift_ppb
        self.integral_ppb = min(max(self.integral_ppb + ki * error_ns, -limit_ppb), limit_ppb)
        self.drift_ppb = round(self.integral_ppb)
        self._bound_drift()
        return self.drift_ppb + min(max(round(kp * error_ns), -MAX_SLEW_PPB), MAX_SLEW_PPB)


class LatestPiServo(PiServo):
    """The same on the best exchange of the last burst alone: nothing it steers to is old."""

    bursts = 1


class HardPiServo(LatestPiServo):
    """That with linuxptp's gains for hardware stamps."""

    hardware = True


class KalmanServo(Servo):
    """A Kalman filter of offset and drift, on the best exchange of every burst, all of them as noisy as they mostly are."""

    noise_ns = 20_000.0
    wander_ppb = 50.0
    """Of its model: the drift's random walk each root second."""

    def __init__(self, clock: ClockSpec) -> None:
        super().__init__(clock)
        self.estimate = np.zeros(2)
        self.spread = np.zeros((2, 2))

    def noise_of(self, sample: Sample) -> float:  # noqa: ARG002
        return self.noise_ns

    def take(self, sample: Sample) -> None:
        before_ns = self._since_ns if len(self) else None
        super().take(sample)
        noise = self.noise_of(sample) ** 2
        if before_ns is None:
            self.base_ns = sample.offset_ns
            self.spread = np.diag([noise, float(self.clock.max_drift_ppb) ** 2])
        else:
            passed_s = (sample.local_ns - before_ns) / SECOND
            step = np.array([[1.0, passed_s], [0.0, 1.0]])
            walk = self.wander_ppb**2 * np.array([[passed_s**3 / 3, passed_s**2 / 2], [passed_s**2 / 2, passed_s]])
            self.estimate = step @ self.estimate
            self.spread = step @ self.spread @ step.T + walk
        gain = self.spread[:, 0] / (self.spread[0, 0] + noise)
        self.estimate = self.estimate + gain * (sample.offset_ns - self.base_ns - self.estimate[0])
        self.spread = self.spread - np.outer(gain, self.spread[0])
        limit_ppb = self.clock.max_drift_ppb
        self.drift_ppb = min(max(round(self.estimate[1]), -limit_ppb), limit_ppb)
        self._middle_ns = self.base_ns + round(self.estimate[0])
        self._bound_drift()


class WeighingKalmanServo(KalmanServo):
    """That with the noise of an exchange by its excess of delay, as least squares has it, and the wander of the worst world."""

    wander_ppb = 300.0

    def noise_of(self, sample: Sample) -> float:
        least_ns = min(each.delay_ns for each in self._history)
        return sample.delay_ns - least_ns + least_ns / 4 + 100


SERVOS: dict[str, Callable[[ClockSpec], Servo]] = {
    "least delay of 8, PI": PiServo,
    "PI, software gains": LatestPiServo,
    "PI, hardware gains": HardPiServo,
    "Kalman": KalmanServo,
    "Kalman, noise by delay": WeighingKalmanServo,
    "least squares": Servo,
}


def errors_us(make: Callable[[ClockSpec], Servo], paths: Paths, wander_ppb: float) -> list[float]:
    """Errors in microseconds, just before the next burst, in the steady state of many runs."""
    errors = []
    for seed in range(SEEDS):
        world = ClockWorld(seed, paths, wander_ppb=wander_ppb, servo=make(ClockSpec()))
        world.settle()
        for _ in range(BURSTS):
            world.burst(SECOND)
            if world.bursts > SETTLED_BURSTS:
                errors.append(abs(world.error_ns) / 1e3)
    return errors


def main() -> None:
    """Run every servo in every world."""
    table = Table(title=f"error p50, p99 in us; {SEEDS} clocks of up to 50 ppm, {BURSTS} bursts of a second each")
    table.add_column("world")
    for name in SERVOS:
        table.add_column(name, justify="right")
    for world, (paths, wander_ppb) in WORLDS.items():
        figures = [np.percentile(errors_us(make, paths, wander_ppb), [50, 99]) for make in SERVOS.values()]
        table.add_row(world, *(f"{p50:.1f}, {p99:.1f}" for p50, p99 in figures))
    Console().print(table)


if __name__ == "__main__":
    main()
