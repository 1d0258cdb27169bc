"""Published closed forms, by the exact model within its rounding, and by the sampled world within 3 standard errors.

Every row says its formula and its number. The world is the one that daemons run; its windows draw waiting times, so
10,000 heralds take seconds however rare they are.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from bellwire.protocols.ids import LinkId, NodeId, QubitName, WindowId
from bellwire.protocols.instructions import (
    AnyInstruction,
    Apply,
    Arm,
    BellState,
    Discard,
    Gate,
    Measure,
    Measured,
    WindowEnded,
)
from bellwire.protocols.limits import MAX_ATTEMPTS_PER_WINDOW
from bellwire.protocols.node import QubitKind
from bellwire.sim.physics import LinkPhysics
from bellwire.sim.preset import Preset, parse_preset
from bellwire.sim.states import bell_vector, state_fidelity
from bellwire.sim.topology import WorldLink, WorldNode
from bellwire.sim.world import World

HERALDS = 10_002
ALICE, BOB, CAROL = NodeId("alice"), NodeId("bob"), NodeId("carol")
C0, C1 = QubitName("c0"), QubitName("c1")
PERIOD_NS = 1_000_000

Half = tuple[NodeId, QubitName]


def quantity(value: float, unit: str) -> str:
    return f'{{ value = {value!r}, unit = "{unit}", tag = "assumed", source = "the row" }}'


def table(name: str, **keys: tuple[float, str] | str) -> str:
    lines = [f"{key} = {value if isinstance(value, str) else quantity(*value)}" for key, value in keys.items()]
    return "\n".join([f"[{name}]", *lines, ""])


def node_model(name: str, lifetime_ns: float) -> str:
    qubit: dict[str, tuple[float, str]] = {
        "t1": (lifetime_ns, "ns"),
        "t2": (lifetime_ns, "ns"),
        "initialise_error": (0.0, "1"),
        "readout_error": (0.0, "1"),
        "one_qubit_gate_fidelity": (1.0, "1"),
        "two_qubit_gate_fidelity": (1.0, "1"),
    }
    return table(f"nodes.{name}", measurement_crosstalk=(0.0, "1")) + table(f"nodes.{name}.communication", **qubit)


def preset(link: str, *, memory_ns: float = math.inf) -> Preset:
    """A preset of a link model `link`, of ideal nodes, and of nodes whose qubits last for `memory_ns`."""
    head = 'name = "rows"\npaper = "see each row"\n'
    return parse_preset(head + node_model("ideal", math.inf) + node_model("memory", memory_ns) + link, "rows.toml")


def werner_link(probability: float, fidelity: float) -> str:
    return table(
        "links.link",
        attempt_period=(float(PERIOD_NS), "ns"),
        success_probability=(probability, "1"),
        werner_fidelity=(fidelity, "1"),
    )


def photonic_link(
    scheme: str,
    eta: float,
    *,
    bright_ratio: float | None = None,
    dark: float = 0.0,
    visibility: float = 1.0,
    length_km: float = 0.0,
) -> str:
    """A link of two arms of that detection ratio, or of one fibre of that length."""
    arm = table(
        "links.link.photonics.first",
        collection_efficiency=(eta, "1"),
        coupling_efficiency=(1.0, "1"),
        fibre_length=(length_km, "km"),
        fibre_loss=(0.2, "dB/km"),
    )
    own: dict[str, tuple[float, str] | str] = {"scheme": f'"{scheme}"'}
    if bright_ratio is not None:
        own["bright_ratio"] = (bright_ratio, "1")
    if scheme == "time-bin":
        own["bin_separation"] = (300.0, "ns")
    return (
        table("links.link", attempt_period=(float(PERIOD_NS), "ns"))
        + table(
            "links.link.photonics",
            **own,
            detector_efficiency=(1.0, "1"),
            dark_count_probability=(dark, "1"),
            visibility=(visibility, "1"),
            refractive_index=(1.468, "1"),
        )
        + arm
        + ("" if scheme == "direct" else arm.replace("photonics.first", "photonics.second"))
    )


class Chain:
    """Alice, Bob and Carol in a world, joined by two links of one model. Time is the world's."""

    def __init__(self, given: Preset, *, seed: int, middle: str = "ideal", receives: bool = False) -> None:
        qubits = {C0: QubitKind.COMMUNICATION, C1: QubitKind.COMMUNICATION}
        models = {ALICE: "ideal", BOB: middle, CAROL: "ideal"}
        self.world = World(
            preset=given,
            nodes=[WorldNode(node=node, model=model, qubits=qubits) for node, model in models.items()],
            links=[
                WorldLink(
                    link_id=LinkId(f"{a}-{b}"), ends=(a, b), station=b if receives else NodeId("hub"), model="link"
                )
                for a, b in ((ALICE, BOB), (BOB, CAROL))
            ],
            seed=seed,
            start_ns=0,
        )
        self.now_ns = 0
        self._receives = receives
        self._number = 0

    def begin(self, *halves: Half) -> None:
        """Arm a window of as many attempts as it takes."""
        self._number += 1
        (first, _), (second, _) = halves
        parties: list[tuple[NodeId, QubitName | None]] = (
            [*halves] if self._receives else [*halves, (NodeId("hub"), None)]
        )
        for node, qubit in parties:
            arm = Arm(
                window_id=WindowId(f"w{self._number}"),
                link_id=LinkId(f"{first}-{second}"),
                qubit=qubit,
                attempts=MAX_ATTEMPTS_PER_WINDOW,
                timeout_ns=10**18,
            )
            self.world.submit(node, self._number, [arm], self.now_ns)

    def until_herald(self) -> tuple[int, BellState]:
        """Let time pass until a window has ended, and give its attempts and what its detectors saw."""
        deadline_ns = self.world.next_deadline_ns()
        assert deadline_ns is not None
        self.now_ns = max(self.now_ns, deadline_ns)
        self.world.handle_deadline(self.now_ns)
        ends = [batch.completions[-1] for batch in self.world.take_completions()]
        (seen,) = [end for end in ends if isinstance(end, WindowEnded) and end.bell_state is not None]
        assert seen.bell_state is not None
        return seen.attempts, seen.bell_state

    def run(self, node: NodeId, *instructions: AnyInstruction) -> list[int]:
        """Carry instructions out, and give the bits that were measured."""
        self.world.submit(node, 0, instructions, self.now_ns)
        (batch,) = self.world.take_completions()
        return [each.bit for each in batch.completions if isinstance(each, Measured)]

    def free(self, *halves: Half) -> None:
        for node, qubit in halves:
            self.run(node, Discard(qubit=qubit))

    def bit(self, half: Half, basis: str) -> int:
        """Measure a half in the x, y or z basis."""
        node, qubit = half
        turns = {"x": (Gate.H,), "y": (Gate.SDG, Gate.H), "z": ()}[basis]
        return self.run(node, *(Apply(gate=turn, qubits=(qubit,)) for turn in turns), Measure(qubit=qubit))[0]

    def swap(self, first: BellState, second: BellState) -> BellState:
        """Measure Bob's two halves in the Bell basis, and give the state in which that leaves Alice and Carol."""
        turns = (Apply(gate=Gate.CX, qubits=(C0, C1)), Apply(gate=Gate.H, qubits=(C0,)))
        phase, flip = self.run(BOB, *turns, Measure(qubit=C0), Measure(qubit=C1))
        frame = (first.x ^ second.x ^ flip, first.z ^ second.z ^ phase)
        return next(state for state in BellState if (state.x, state.z) == frame)


SIGNS: dict[str, Callable[[BellState], int]] = {
    "x": lambda state: 1 - 2 * state.z,
    "y": lambda state: -(1 - 2 * state.z) * (1 - 2 * state.x),
    "z": lambda state: 1 - 2 * state.x,
}


class Correlations:
    """Estimates F = (1 + ⟨xx⟩ + ⟨yy⟩ + ⟨zz⟩)/4, signed as the Bell state has them, from bits of pairs in turn."""

    def __init__(self) -> None:
        self.signed: dict[str, list[int]] = {basis: [] for basis in SIGNS}

    def next_basis(self) -> str:
        return min(self.signed, key=lambda basis: len(self.signed[basis]))

    def add(self, basis: str, bits: tuple[int, int], bell_state: BellState) -> None:
        self.signed[basis].append((1 - 2 * (bits[0] ^ bits[1])) * SIGNS[basis](bell_state))

    def agree_with(self, fidelity: float) -> None:
        means = [statistics.fmean(values) for values in self.signed.values()]
        error = math.sqrt(sum((1 - mean**2) / len(v) for mean, v in zip(means, self.signed.values(), strict=True))) / 4
        assert abs((1 + sum(means)) / 4 - fidelity) <= 3 * error


def agree(values: Sequence[float], expected: float) -> None:
    """Whether the mean is within 3 of its own standard errors."""
    error = statistics.stdev(values) / math.sqrt(len(values))
    assert error > 0
    assert abs(statistics.fmean(values) - expected) <= 3 * error


def rate_agrees(attempts: Sequence[int], probability: float) -> None:
    """Heralds per attempt: the error of so many geometric waiting times is p √((1 - p)/n)."""
    measured = len(attempts) / sum(attempts)
    assert abs(measured - probability) <= 3 * probability * math.sqrt((1 - probability) / len(attempts))


@pytest.mark.parametrize(
    ("link", "probability", "fidelity"),
    [
        # Double click: p = η²/2, F = 1; at 833 kHz 181.6 pairs/s (Stephenson 2020 reports 182/s, at F = 0.94).
        (photonic_link("double-click", 0.02088), (2.18e-4, 5e-7), (1.0, 1e-9)),
        # η = 0.02, V = 0.95, d = 1e-5, 4 detectors: p = η²/2 + 4dη(1-η) + 4d²(1-η)², first order in d; and F = 0.97217.
        (photonic_link("double-click", 0.02, dark=1e-5, visibility=0.95), (2.008e-4, 5e-8), (0.97217, 5e-6)),
        # Single click: p = 2αη - α²η², F = (1 - α)/(1 - αη/2).
        (photonic_link("single-click", 0.001, bright_ratio=0.1), (2.0e-4, 5e-8), (0.90005, 5e-6)),
        (photonic_link("single-click", 0.3, bright_ratio=0.2), (0.1164, 5e-6), (0.82474, 5e-6)),
        # Time bin: p = η²/2, F = (1 + V)/2 (Barrett and Kok 2005).
        (photonic_link("time-bin", 0.02, visibility=0.9), (2.0e-4, 1e-12), (0.95, 1e-9)),
    ],
    ids=["double-click", "double-click-noisy", "single-click", "single-click-bright", "time-bin"],
)
def test_scheme_gives_its_rate_and_fidelity_exactly_and_sampled(
    link: str, probability: tuple[float, float], fidelity: tuple[float, float]
) -> None:
    given = preset(link)
    exact = LinkPhysics.of(given.links["link"])
    assert exact.success_probability == pytest.approx(probability[0], abs=probability[1])
    assert exact.fidelity_ratio == pytest.approx(fidelity[0], abs=fidelity[1])
    chain, attempts, correlations = Chain(given, seed=11), [], Correlations()
    alice, bob = (ALICE, C0), (BOB, C0)
    for _ in range(HERALDS):
        chain.begin(alice, bob)
        attempt, bell_state = chain.until_herald()
        attempts.append(attempt)
        basis = correlations.next_basis()
        correlations.add(basis, (chain.bit(alice, basis), chain.bit(bob, basis)), bell_state)
        chain.free(alice, bob)
    rate_agrees(attempts, exact.success_probability)
    if fidelity[0] < 1:
        correlations.agree_with(exact.fidelity_ratio)
    else:
        assert all(value == 1 for values in correlations.signed.values() for value in values)


@pytest.mark.parametrize(
    ("km", "transmission", "delay_us"), [(17.6, 0.4446, 86.18), (25.0, 0.3162, 122.42), (50.0, 0.1, 244.84)]
)
def test_fibre_lets_through_and_delays_what_it_should(km: float, transmission: float, delay_us: float) -> None:
    """10^(-0.2 L / 10) with L in km, and n L / c with n = 1.468: as the rate of a link without a station."""
    given = preset(photonic_link("direct", 1.0, length_km=km))
    model = given.links["link"]
    assert model.photonics is not None
    assert model.photonics.shortest_attempt_ns / 2e3 == pytest.approx(delay_us, abs=5e-3)
    exact = LinkPhysics.of(model)
    assert exact.success_probability == pytest.approx(transmission, abs=5e-5)
    chain, attempts = Chain(given, seed=12, receives=True), []
    for _ in range(HERALDS):
        chain.begin((ALICE, C0), (BOB, C0))
        attempts.append(chain.until_herald()[0])
        chain.free((ALICE, C0), (BOB, C0))
    rate_agrees(attempts, exact.success_probability)


def expected_wait(links: int, probability: float) -> float:
    """The mean of the largest of so many geometric numbers: Σ_k (-1)^(k+1) C(n, k) / (1 - (1-p)^k)."""
    terms = [math.comb(links, k) / (1 - (1 - probability) ** k) for k in range(1, links + 1)]
    return sum(terms[::2]) - sum(terms[1::2])


def test_waiting_for_several_links_takes_the_mean_of_the_largest() -> None:
    rows = {2: 149.749, 3: 182.915, 4: 207.79}
    chain, attempts = Chain(preset(werner_link(0.01, 1.0)), seed=13), []
    for _ in range(12 * 1_000):
        chain.begin((ALICE, C0), (BOB, C0))
        attempts.append(chain.until_herald()[0])
        chain.free((ALICE, C0), (BOB, C0))
    rate_agrees(attempts, 0.01)
    for links, row in rows.items():
        assert expected_wait(links, 0.01) == pytest.approx(row, abs=5e-3)
        agree([max(attempts[i : i + links]) for i in range(0, len(attempts), links)], expected_wait(links, 0.01))


@pytest.mark.parametrize(("fidelity", "swapped"), [(0.9, 0.81333), (0.95, 0.90333)])
def test_swap_of_two_werner_pairs_multiplies_what_they_know(fidelity: float, swapped: float) -> None:
    """F = F₁F₂ + (1 - F₁)(1 - F₂)/3 (Briegel et al., PRL 81, 5932 (1998))."""
    exact = fidelity**2 + (1 - fidelity) ** 2 / 3
    assert exact == pytest.approx(swapped, abs=5e-6)
    chain, correlations = Chain(preset(werner_link(1.0, fidelity)), seed=14), Correlations()
    alice, carol = (ALICE, C0), (CAROL, C0)
    for number in range(HERALDS // 2):
        chain.begin(alice, (BOB, C0))
        _, first = chain.until_herald()
        chain.begin((BOB, C1), carol)
        _, second = chain.until_herald()
        frame = chain.swap(first, second)
        if number == 0:
            assert state_fidelity(
                chain.world.inspect([alice, carol], chain.now_ns), bell_vector(frame)
            ) == pytest.approx(exact)
        basis = correlations.next_basis()
        correlations.add(basis, (chain.bit(alice, basis), chain.bit(carol, basis)), frame)
        chain.free(alice, (BOB, C0), (BOB, C1), carol)
    correlations.agree_with(exact)


@pytest.mark.parametrize(("memory_attempts", "row"), [(50, 0.46852), (200, 0.68629)])
def test_swap_after_waiting_in_a_memory_loses_what_the_earlier_pair_forgot(memory_attempts: int, row: float) -> None:
    """F = 1/4 + 3/4 w² E[e^(-Δ/T)], with w = (4F₀ - 1)/3 and Δ the difference of two geometric waits of p = 0.01.

    E[x^Δ] = p/(2 - p) · (1 + 2qx/(1 - qx)) with q = 1 - p. Bob's qubits relax and dephase with T1 = T2 = T: every
    correlation of a pair then falls by e^(-t/T), as that of a Werner state does.
    """
    p, x = 0.01, math.exp(-1 / memory_attempts)
    forgotten = p / (2 - p) * (1 + 2 * (1 - p) * x / (1 - (1 - p) * x))
    exact = 0.25 + 0.75 * ((4 * 0.95 - 1) / 3) ** 2 * forgotten
    assert exact == pytest.approx(row, abs=5e-6)
    chain = Chain(preset(werner_link(p, 0.95), memory_ns=memory_attempts * PERIOD_NS), seed=15, middle="memory")
    alice, carol = (ALICE, C0), (CAROL, C0)
    fidelities = []
    for _ in range(HERALDS // 2):
        chain.begin(alice, (BOB, C0))
        chain.begin((BOB, C1), carol)
        heralded: list[BellState] = []
        held = chain.world.held
        while len(heralded) < 2:
            deadline_ns = chain.world.next_deadline_ns()
            assert deadline_ns is not None
            chain.now_ns = deadline_ns
            chain.world.handle_deadline(deadline_ns)
            ends = [batch.completions[-1] for batch in chain.world.take_completions()]
            heralded += [end.bell_state for end in ends if isinstance(end, WindowEnded) and end.bell_state is not None]
        assert held(BOB) == {C0, C1}
        frame = chain.swap(heralded[0], heralded[1])
        fidelities.append(state_fidelity(chain.world.inspect([alice, carol], chain.now_ns), bell_vector(frame)))
        chain.free(alice, (BOB, C0), (BOB, C1), carol)
    assert np.ptp(fidelities) > 0.1
    agree(fidelities, exact)
