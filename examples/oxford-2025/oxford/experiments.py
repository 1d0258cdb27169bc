"""The rows of the table: each measured as an experimenter would, and beside that read from the world's exact state."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final, TypeVar

import numpy as np

from bellwire.sim.states import ComplexArray, FloatArray, bell_vector, state_fidelity
from oxford import estimation, model
from oxford.circuits import MARKED, Circuit, cz, grover, iswap, swap
from oxford.lab import Lab
from oxford.paulis import average_fidelity, process_fidelity, transfer_of_choi
from oxford.published import BELL, CZ, GROVER, ISWAP, RATE, SWAP, Published
from oxford.tomography import NO_ESTIMATE, Estimate, Plan, Setting

Advance = Callable[[str], None]
"""Told, after each shot, which row the shot was for."""

_PROGRAMS_TOO: Final = 1.15
"""How much longer a shot takes than its pairs."""

_Item = TypeVar("_Item")


@dataclass(frozen=True, kw_only=True)
class Shots:
    """How often each setting of each row is measured. The defaults take some 2,400 pairs.

    `exact` shots of a row are those whose state is read from the world; without any, nothing is said of it.
    """

    bell_per_basis: int = 80
    cz_per_setting: int = 3
    grover_per_item: int = 40
    iswap_per_operator: int = 12
    swap_per_operator: int = 8
    exact: int = 20

    def scaled(self, factor: float) -> Shots:
        """Give so many times the shots, at least 2 of each setting that has any."""
        return Shots(
            bell_per_basis=_times(self.bell_per_basis, factor),
            cz_per_setting=_times(self.cz_per_setting, factor),
            grover_per_item=_times(self.grover_per_item, factor),
            iswap_per_operator=_times(self.iswap_per_operator, factor),
            swap_per_operator=_times(self.swap_per_operator, factor),
            exact=_times(self.exact, factor),
        )

    def totals(self) -> dict[str, int]:
        """Count the shots of each row, exact ones included, in the order in which they are made."""
        return {
            "Bell pairs": 3 * self.bell_per_basis + self.exact,
            "CZ": len(Plan().settings) * self.cz_per_setting + self.exact,
            "Grover": len(MARKED) * (self.grover_per_item + self.grover_exact),
            "iSWAP": 15 * self.iswap_per_operator + self.exact,
            "SWAP": 15 * self.swap_per_operator + self.exact,
        }

    def pairs(self) -> int:
        """Count the pairs that all rows take."""
        per_shot = {"Grover": 2, "iSWAP": 2, "SWAP": 3}
        return sum(total * per_shot.get(name, 1) for name, total in self.totals().items())

    def after_bell(self, seconds_per_pair: float, limit_s: float) -> Shots:
        """Give the shots that can still be made within a time, now that the Bell pairs are done: these, or fewer of them."""
        left = self.pairs() - self.totals()["Bell pairs"]
        return self.scaled(min(1.0, limit_s / (left * seconds_per_pair * _PROGRAMS_TOO)))

    @property
    def grover_exact(self) -> int:
        """Exact shots for each marked item."""
        return max(2, self.exact // len(MARKED)) if self.exact else 0


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row: what we measured, what the world's exact state says, what the paper reports.

    `virtual` is what we measured in virtual time, when `ours` is of daemons.
    """

    published: Published
    ours: Estimate
    exact: Estimate
    pairs: int
    virtual: Estimate = NO_ESTIMATE


def _times(number: int, factor: float) -> int:
    return max(2, round(number * factor)) if number else 0


def shuffled(items: Sequence[_Item], times: int, random: Random) -> list[_Item]:
    """Give every item that often, in random order: drifts and pauses then hit all settings alike."""
    order = [item for item in items for _ in range(times)]
    random.shuffle(order)
    return order


async def bell_pairs(lab: Lab, shots: Shots, random: Random, advance: Advance) -> list[Row]:
    """Measure the remote pair's fidelity from parities in XX, YY and ZZ, and the rate of pairs in world time.

    Waiting times are a dead time (classical latency, and the pair's first attempt) and an exponential on top. The rate is
    that of the exponential: one over mean minus shortest.
    """
    parities: dict[str, list[int]] = {basis: [] for basis in estimation.BELL_BASES}
    lab.timings.pairs.clear()
    for basis in shuffled(estimation.BELL_BASES, shots.bell_per_basis, random):
        herald, bits = await lab.pair(basis)
        parities[basis].append(estimation.parity(bits, basis, herald))
        advance("Bell pairs")
    exact: list[float] = []
    for _ in range(shots.exact):
        herald, state = await lab.pair_state()
        exact.append(state_fidelity(state, bell_vector(herald)))
        advance("Bell pairs")
    waits = lab.timings.pairs
    pairs = len(waits)
    rate = estimation.rate_above_dead_time(waits)
    return [
        Row(published=BELL, ours=estimation.bell_fidelity(parities), exact=mean_estimate(exact), pairs=pairs),
        Row(
            published=RATE,
            ours=replace(rate, value=rate.value / lab.time_scale, sigma=rate.sigma / lab.time_scale),
            exact=NO_ESTIMATE,
            pairs=0,
        ),
    ]


async def teleported_cz(lab: Lab, shots: Shots, random: Random, advance: Advance) -> list[Row]:
    """Measure the teleported CZ by process tomography."""
    circuit, plan = cz(), Plan()
    counts: dict[Setting, FloatArray] = {setting: np.zeros(4) for setting in plan.settings}
    for setting in shuffled(plan.settings, shots.cz_per_setting, random):
        alice, bob = await lab.shot(circuit, setting)
        counts[setting][2 * alice + bob] += 1
        advance("CZ")
    ours = plan.average_gate_fidelity(counts, circuit.unitary())
    exact = await exact_fidelity(lab, circuit, shots.exact, lambda: advance("CZ"))
    return [Row(published=CZ, ours=ours, exact=exact, pairs=ours.shots + shots.exact)]


async def grover_search(lab: Lab, shots: Shots, random: Random, advance: Advance) -> list[Row]:
    """Measure how often Grover's search reads the marked item, averaged over the four."""
    hits: dict[str, list[int]] = {marked: [] for marked in MARKED}
    zero = Setting(inputs=("0", "0"), basis="ZZ")
    for marked in shuffled(MARKED, shots.grover_per_item, random):
        alice, bob = await lab.shot(grover(marked), zero)
        hits[marked].append(int(f"{alice}{bob}" == marked))
        advance("Grover")
    exact: list[float] = []
    for marked in shuffled(MARKED, shots.grover_exact, random):
        state = await lab.final_state(grover(marked))
        exact.append(float(state[int(marked, 2), int(marked, 2)].real))
        advance("Grover")
    ours = estimation.success(hits)
    return [Row(published=GROVER, ours=ours, exact=mean_estimate(exact), pairs=2 * (ours.shots + len(exact)))]


async def iswap_gate(lab: Lab, shots: Shots, random: Random, advance: Advance) -> list[Row]:
    """Measure iSWAP by direct fidelity estimation."""
    return [await _clifford(lab, iswap(), ISWAP, shots.iswap_per_operator, shots.exact, random, advance)]


async def swap_gate(lab: Lab, shots: Shots, random: Random, advance: Advance) -> list[Row]:
    """Measure SWAP by direct fidelity estimation."""
    return [await _clifford(lab, swap(), SWAP, shots.swap_per_operator, shots.exact, random, advance)]


async def _clifford(
    lab: Lab, circuit: Circuit, published: Published, per_operator: int, exact: int, random: Random, advance: Advance
) -> Row:
    """Measure a Clifford circuit by direct fidelity estimation over the stabilisers of its Choi state."""
    samples: dict[str, list[int]] = {}
    plans = estimation.probes(circuit.unitary())
    order = [plan[at % len(plan)] for plan in plans.values() for at in range(per_operator)]
    for probe in shuffled(order, 1, random):
        bits = await lab.shot(circuit, probe.setting)
        samples.setdefault(probe.label, []).append(probe.read(bits))
        advance(circuit.name)
    ours = estimation.direct_fidelity(samples)
    true = await exact_fidelity(lab, circuit, exact, lambda: advance(circuit.name))
    pairs = circuit.teleported_gates * (ours.shots + exact)
    return Row(published=published, ours=ours, exact=true, pairs=pairs)


MEASUREMENTS: Final[dict[str, Callable[[Lab, Shots, Random, Advance], Awaitable[list[Row]]]]] = {
    "Bell pairs": bell_pairs,
    "CZ": teleported_cz,
    "Grover": grover_search,
    "iSWAP": iswap_gate,
    "SWAP": swap_gate,
}
"""What is measured, by the names that `Shots.totals` has: each gives the rows that it is about."""


async def exact_fidelity(lab: Lab, circuit: Circuit, shots: int, advance: Callable[[], None]) -> Estimate:
    """Give the mean over shots of the exact average gate fidelity: shots differ in outcomes and in waiting time."""
    found = []
    for _ in range(shots):
        choi = await lab.choi_state(circuit)
        found.append(choi_fidelity(choi, circuit))
        advance()
    return mean_estimate(found)


def choi_fidelity(choi: ComplexArray, circuit: Circuit) -> float:
    """Give the average gate fidelity that a Choi state, shape (16, 16), stands for."""
    return average_fidelity(process_fidelity(transfer_of_choi(choi), circuit.unitary()))


def mean_estimate(samples: Sequence[float]) -> Estimate:
    """Give the mean of samples, none or at least two, with its standard error."""
    if not samples:
        return NO_ESTIMATE
    mean, error = estimation.mean_and_error(samples)
    return Estimate(value=mean, sigma=error, shots=len(samples))


LATENCY_BUDGET: Final = 1e-3
"""How much classical latency may cost of any fidelity shown."""


LATENCY_AIM: Final = 0.7e-3
"""What the demo aims at, so that a busy moment does not break the budget."""

TIME_SCALES: Final = (1.0, 6.0)
"""The slowest and the fastest that world time may run."""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """What of the wall's time in a shot was not waiting for a herald, and what it cost.

    Attributes:
        gate_s, gate_sigma_s: per teleported gate; its mean duration without the mean wait for a herald.
        program_s: per local program.
        costs: of each circuit's fidelity or success, by name.
    """

    gate_s: float
    gate_sigma_s: float
    program_s: float
    costs: dict[str, float]

    @property
    def worst(self) -> float:
        """The largest cost of any row."""
        return max(self.costs.values())


def latency(gates: Sequence[float], programs: Sequence[float], facts: model.Facts, time_scale: float) -> Latency:
    """Find the latency from the durations of teleported gates and programs, in seconds, and what it cost.

    From the initialisation to the readout of its circuit qubits a shot of n gates lasts n gates and n programs: n - 1
    between gates, half of the first one and half of the last.
    """
    mean, sigma = estimation.mean_and_error(gates)
    gate_s = max(0.0, mean - facts.mean_wait_ns / 1e9 / time_scale)
    program_s = sum(programs) / len(programs)
    costs = latency_costs(facts, gate_s + program_s, time_scale)
    return Latency(gate_s=gate_s, gate_sigma_s=sigma, program_s=program_s, costs=costs)


def latency_costs(facts: model.Facts, per_gate_s: float, time_scale: float) -> dict[str, float]:
    """Give what each circuit loses when its qubits wait that much longer in each gate, in seconds of the wall's clock."""
    slower = facts.predict(extra_ns=per_gate_s * time_scale * 1e9)
    return {name: getattr(facts.prediction, name) - getattr(slower, name) for name in ("cz", "grover", "iswap", "swap")}


def fitting_time_scale(facts: model.Facts, per_gate_s: float) -> float:
    """Give the fastest world time, in steps of 0.1, at which that latency costs no fidelity more than `LATENCY_AIM`."""
    worst = max(latency_costs(facts, per_gate_s, 1.0).values())
    slowest, fastest = TIME_SCALES
    return min(fastest, max(slowest, math.floor(10 * LATENCY_AIM / max(worst, 1e-9)) / 10))
