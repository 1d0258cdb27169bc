"""What a world looks up at run time: a preset's models, computed once into channels, states and clocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Final

import numpy as np

from bellwire.protocols.errors import ConfigError
from bellwire.protocols.herald import BrightStates
from bellwire.protocols.instructions import Gate
from bellwire.protocols.node import QubitKind
from bellwire.sim.channels import Channel, depolarising, depolarising_from_fidelity, gate_channel
from bellwire.sim.preset import LinkModel, NodeModel
from bellwire.sim.quantity import RATIO, TIME_NS, number
from bellwire.sim.schemes import Heralding
from bellwire.sim.states import GROUND, ComplexArray, frozen


@dataclass(frozen=True, kw_only=True, eq=False)
class QubitPhysics:
    """Noise of one kind of qubit.

    Attributes:
        decays: whether waiting does anything to it.
        initial: the state that initialising leaves, shape (2, 2).
        gate_fidelity_ratio: average gate fidelity of gates on one and on two qubits; `is_reference` overrides both.
    """

    is_reference: bool = False
    is_communication: bool = False
    is_storage: bool = False
    decays: bool = False
    t1_ns: float = math.inf
    t2_ns: float = math.inf
    initial: ComplexArray = field(default_factory=lambda: GROUND)
    readout_error: float = 0.0
    gate_fidelity_ratio: tuple[float, float] = (1.0, 1.0)


MAX_HERALDINGS: Final = 1024
"""Unusual windows of one link whose heralding is remembered."""

BRIGHT_RATIOS: Final = (*np.geomspace(1e-4, 0.02, 32).tolist(), *np.linspace(0.03, 0.5, 48).tolist())
"""Where a simulated link is calibrated: without dark counts straight lines in between err by less than 1e-4."""

REFERENCE_PHYSICS = QubitPhysics(is_reference=True)


@lru_cache(maxsize=2048)
def noisy_gate(gate: Gate, angle: float, average_fidelity_ratio: float) -> Channel:
    """Give a gate followed by the depolarising channel that gives it that average gate fidelity.

    Raises:
        BackendError: when the angle is not finite or no depolarising channel has that fidelity.
    """
    ideal = gate_channel(gate, angle)
    if average_fidelity_ratio == 1.0:
        return ideal
    return ideal.then(depolarising_from_fidelity(average_fidelity_ratio, gate.qubits))


def gate_fidelity(qubits: Sequence[QubitPhysics]) -> float:
    """Give the average fidelity of a gate on these qubits: the lowest of theirs, and 1 when one is a reference."""
    if len(qubits) == 1:
        return qubits[0].gate_fidelity_ratio[0]
    if any(qubit.is_reference for qubit in qubits):
        return 1.0
    return min(qubit.gate_fidelity_ratio[1] for qubit in qubits)


@dataclass(frozen=True, kw_only=True, eq=False)
class NodePhysics:
    """Noise of one node's hardware: by kind of qubit, and what a measurement does to the neighbours."""

    kinds: Mapping[QubitKind, QubitPhysics]
    crosstalk: Channel | None

    @classmethod
    def of(cls, model: NodeModel) -> NodePhysics:
        """Compute it from a preset's node model."""
        kinds = {QubitKind.REFERENCE: REFERENCE_PHYSICS}
        for kind, qubit in ((QubitKind.COMMUNICATION, model.communication), (QubitKind.STORAGE, model.storage)):
            if qubit is None:
                continue
            error = number(qubit.initialise_error, "initialise_error", RATIO, high=1.0)
            kinds[kind] = QubitPhysics(
                is_communication=kind is QubitKind.COMMUNICATION,
                is_storage=kind is QubitKind.STORAGE,
                decays=not (math.isinf(qubit.t1_ns) and math.isinf(qubit.t2_ns)),
                t1_ns=qubit.t1_ns,
                t2_ns=qubit.t2_ns,
                initial=frozen(np.diag([1 - error, error])),
                readout_error=number(qubit.readout_error, "readout_error", RATIO, high=1.0),
                gate_fidelity_ratio=(
                    number(qubit.one_qubit_gate_fidelity, "one_qubit_gate_fidelity", RATIO, low=1 / 3, high=1.0),
                    number(qubit.two_qubit_gate_fidelity, "two_qubit_gate_fidelity", RATIO, low=1 / 5, high=1.0),
                ),
            )
        probability = number(model.measurement_crosstalk, "measurement_crosstalk", RATIO, high=1.0)
        return cls(kinds=kinds, crosstalk=depolarising(probability) if probability > 0 else None)


@dataclass(frozen=True, kw_only=True)
class AttemptClock:
    """When attempts happen, counted from a window's beginning, in world time.

    Attributes:
        period_ns: of one attempt. 0: all attempts happen at once.
        burst_attempts: attempts between two recoolings; 0 when there is no recooling.
        recooling_ns: time of a recooling.

    Raises:
        ConfigError: when a number is negative, or there are bursts of attempts that take no time.
    """

    period_ns: float
    burst_attempts: int = 0
    recooling_ns: float = 0.0

    def __post_init__(self) -> None:
        if self.period_ns < 0 or self.burst_attempts < 0 or self.recooling_ns < 0:
            raise ConfigError("expected an attempt clock without negative times")
        if self.burst_attempts and self.period_ns == 0:
            raise ConfigError("expected attempts that take time, since there are recoolings between them")

    @property
    def mean_period_ns(self) -> float:
        """Mean time of an attempt, recooling included."""
        if not self.burst_attempts:
            return self.period_ns
        return self.period_ns + self.recooling_ns / self.burst_attempts

    def end_ns(self, attempt: int) -> float:
        """Tell when attempt number `attempt` (counted from 1) ends; 0 for attempt 0."""
        pauses = (attempt - 1) // self.burst_attempts if self.burst_attempts and attempt else 0
        return attempt * self.period_ns + pauses * self.recooling_ns

    def attempts_ended(self, elapsed_ns: float) -> int:
        """Count the attempts that have ended by then. For a period of 0 there is no such number: 0."""
        return self._count(elapsed_ns, started=False)

    def attempts_started(self, elapsed_ns: float) -> int:
        """Count the attempts that have ended by then or are under way: their photons have left."""
        return self._count(elapsed_ns, started=True)

    def _count(self, elapsed_ns: float, *, started: bool) -> int:
        if self.period_ns == 0 or elapsed_ns <= 0:
            return 0
        rounded = math.ceil if started else math.floor
        if not self.burst_attempts:
            return rounded(elapsed_ns / self.period_ns)
        cycle_ns = self.burst_attempts * self.period_ns + self.recooling_ns
        cycles, rest_ns = divmod(elapsed_ns, cycle_ns)
        return int(cycles) * self.burst_attempts + min(rounded(rest_ns / self.period_ns), self.burst_attempts)


@dataclass(frozen=True, kw_only=True, eq=False)
class LinkPhysics:
    """How a link heralds.

    Attributes:
        usual: what comes of an attempt when the ends emit in time, and no window asks for a bright ratio of its own.
        clock: when attempts happen.
        model: what a window is looked up in that is not as usual.
    """

    usual: Heralding
    clock: AttemptClock
    model: LinkModel

    @classmethod
    def of(cls, model: LinkModel) -> LinkPhysics:
        """Compute it from a preset's link model."""
        heralding = model.heralding()
        period_ns = number(model.attempt_period, "attempt_period", TIME_NS)
        if model.burst is None:
            clock = AttemptClock(period_ns=period_ns)
        else:
            on_ns = number(model.burst.attempts_on, "attempts_on", TIME_NS)
            clock = AttemptClock(
                period_ns=period_ns,
                burst_attempts=max(1, math.floor(on_ns / period_ns + 1e-9)),
                recooling_ns=number(model.burst.recooling, "recooling", TIME_NS),
            )
        return cls(usual=heralding, clock=clock, model=model)

    @cached_property
    def _looked_up(self) -> Callable[[float | None, float], Heralding]:
        return lru_cache(maxsize=MAX_HERALDINGS)(self.model.heralding)

    def heralding(self, bright_ratio: float | None, offset_ns: float) -> Heralding:
        """Give what comes of an attempt of a window, with its bright ratio and its ends' difference in time.

        Raises:
            BackendError: when the link has no bright ratio, or not this one.
        """
        if bright_ratio is None and offset_ns == 0:
            return self.usual
        return self._looked_up(bright_ratio, abs(offset_ns))

    def bright_states(self) -> BrightStates | None:
        """Give the fidelity of bright ratios up to a half, the model's own among them; None for a link without.

        Beyond a half every second pair has two photons and more: nobody asks for that.
        """
        scheme, photonics = self.model.scheme, self.model.photonics
        if scheme is None or photonics is None or photonics.default_bright_ratio is None:
            return None
        ratios = {round(ratio, 9) for ratio in BRIGHT_RATIOS}
        points = [
            (ratio, round(self.model.heralding(ratio).fidelity_ratio, 12))
            for ratio in sorted(ratios | {photonics.default_bright_ratio})
        ]
        return BrightStates(points=tuple(points))

    @property
    def success_probability(self) -> float:
        """That an attempt is heralded as usual, by any herald."""
        return self.usual.success_probability

    @property
    def fidelity_ratio(self) -> float:
        """Mean overlap of the states heralded as usual with the Bell states that their heralds name."""
        return self.usual.fidelity_ratio

    @property
    def pairs_per_s(self) -> float:
        """Mean rate of heralds as usual, in world time, recooling included; infinite for a period of 0."""
        return self.rate_per_s(None)

    def rate_per_s(self, bright_ratio: float | None) -> float:
        """Mean rate of heralds with a bright ratio, or as usual. Otherwise as `pairs_per_s`."""
        mean_ns = self.clock.mean_period_ns
        return self.heralding(bright_ratio, 0.0).success_probability / mean_ns * 1e9 if mean_ns else math.inf
