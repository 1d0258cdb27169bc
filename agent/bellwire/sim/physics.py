"""What a world looks up at run time: a preset's models, computed once into channels, states and clocks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from bellwire.protocols.errors import ConfigError
from bellwire.protocols.instructions import BellState, Gate
from bellwire.protocols.node import QubitKind
from bellwire.sim.channels import Channel, depolarising, depolarising_from_fidelity, gate_channel
from bellwire.sim.preset import LinkModel, NodeModel
from bellwire.sim.quantity import RATIO, TIME_NS, number
from bellwire.sim.states import GROUND, ComplexArray, bell_vector, frozen, state_fidelity


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
        success_probability: per attempt, of any herald.
        states: what each herald leaves, shape (4, 4), first end's qubit slowest. All are equally likely.
        clock: when attempts happen.
    """

    success_probability: float
    states: Mapping[BellState, ComplexArray]
    clock: AttemptClock

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
        return cls(success_probability=heralding.success_probability, states=heralding.states, clock=clock)

    @property
    def fidelity_ratio(self) -> float:
        """Mean overlap of the heralded states with the Bell states that their heralds name."""
        overlaps = [state_fidelity(state, bell_vector(bell_state)) for bell_state, state in self.states.items()]
        return sum(overlaps) / len(overlaps)

    @property
    def pairs_per_s(self) -> float:
        """Mean rate of heralds in world time, recooling included; infinite for a period of 0."""
        mean_ns = self.clock.mean_period_ns
        return self.success_probability / mean_ns * 1e9 if mean_ns else math.inf
