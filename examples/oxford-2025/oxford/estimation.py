"""Direct fidelity estimation of Clifford circuits (Flammia and Liu, PRL 106, 230501, 2011), and other small statistics.

The Choi state of a Clifford circuit U is a stabiliser state: its stabilisers are U P U† ⊗ Pᵀ for the 16 Pauli operators P,
and its fidelity is the mean of their expectations. Without a second pair of qubits, P's eigenstates go in at random and
U P U† is measured: the outcome times the eigenvalue averages to that expectation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bellwire.protocols.instructions import BellState
from bellwire.sim.states import ComplexArray
from oxford.paulis import LABELS, average_fidelity, conjugated
from oxford.tomography import Estimate, Setting

EIGENSTATES = {"I": ("0", "1"), "X": ("+", "-"), "Y": ("+i", "-i"), "Z": ("0", "1")}
"""Eigenstates of each operator, +1 first. The identity's stand for a maximally mixed qubit; both count +1."""

BELL_BASES = ("XX", "YY", "ZZ")


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One shot's plan: what to prepare and measure, and how to read the bits.

    Attributes:
        label: the Pauli operator P that goes in.
        support: for each module, whether its bit counts.
        sign: eigenvalue of what goes in times the sign of U P U†.
    """

    label: str
    setting: Setting
    support: tuple[bool, bool]
    sign: int

    def read(self, bits: Sequence[int]) -> int:
        """Give the sample, +1 or -1, that a shot's bits, Alice's first, contribute."""
        flips = sum(bit for bit, counts in zip(bits, self.support, strict=True) if counts)
        return -self.sign if flips % 2 else self.sign


def probes(unitary: ComplexArray) -> dict[str, list[Probe]]:
    """Plan the probes of a Clifford circuit, shape (4, 4): for each of 15 operators, the four signs of its eigenstates.

    Raises:
        ValueError: when the circuit is not Clifford.
    """
    plan: dict[str, list[Probe]] = {}
    for label in LABELS[1:]:
        measured, sign = conjugated(unitary, label)
        support = (measured[0] != "I", measured[1] != "I")
        plan[label] = []
        for minus in itertools.product((0, 1), repeat=2):
            eigenvalue = (-1) ** sum(m for m, pauli in zip(minus, label, strict=True) if pauli != "I")
            alice, bob = (EIGENSTATES[pauli][m] for pauli, m in zip(label, minus, strict=True))
            plan[label].append(
                Probe(
                    label=label,
                    setting=Setting(inputs=(alice, bob), basis=measured.replace("I", "Z")),
                    support=support,
                    sign=sign * eigenvalue,
                )
            )
    return plan


def direct_fidelity(samples: Mapping[str, Sequence[int]]) -> Estimate:
    """Give the average gate fidelity from the samples of each of the 15 operators; the identity's is 1.

    Raises:
        ValueError: when an operator has fewer than two samples.
    """
    total, variance, shots = 1.0, 0.0, 0
    for label in LABELS[1:]:
        values = samples.get(label, ())
        if len(values) < 2:
            raise ValueError(f"operator {label} has {len(values)} samples, at least 2 are needed")
        mean, error = mean_and_error(values)
        total += mean
        variance += error**2
        shots += len(values)
    return Estimate(value=average_fidelity(total / 16), sigma=0.8 * math.sqrt(variance) / 16, shots=shots)


def success(hits: Mapping[str, Sequence[int]]) -> Estimate:
    """Give the mean over cases of the share of hits: of each case a list of 0 and 1."""
    parts = [proportion(values) for values in hits.values()]
    sigma = math.sqrt(sum(part.sigma**2 for part in parts)) / len(parts)
    return Estimate(
        value=sum(part.value for part in parts) / len(parts), sigma=sigma, shots=sum(part.shots for part in parts)
    )


def proportion(hits: Sequence[int]) -> Estimate:
    """Give the share of ones with its standard error; for all or none, that of one miss (rule of succession)."""
    shots = len(hits)
    share = sum(hits) / shots
    smoothed = (sum(hits) + 1) / (shots + 2)
    spread = share if 0 < share < 1 else smoothed
    return Estimate(value=share, sigma=math.sqrt(spread * (1 - spread) / shots), shots=shots)


def bell_fidelity(parities: Mapping[str, Sequence[int]]) -> Estimate:
    """Give the fidelity to Ψ+ from parities (+1 or -1) in XX, YY and ZZ: (1 + ⟨XX⟩ + ⟨YY⟩ - ⟨ZZ⟩) / 4."""
    total, variance, shots = 1.0, 0.0, 0
    for basis in BELL_BASES:
        mean, error = mean_and_error(parities[basis])
        total += -mean if basis == "ZZ" else mean
        variance += error**2
        shots += len(parities[basis])
    return Estimate(value=total / 4, sigma=math.sqrt(variance) / 4, shots=shots)


def parity(bits: Sequence[int], basis: str, bell_state: BellState) -> int:
    """Give the parity of a pair's two bits as if its herald had named Ψ+.

    The herald says by which Pauli the pair differs from Ψ+; that flips the parity in the bases that it anticommutes with.
    """
    x, z = bell_state.x ^ BellState.PSI_PLUS.x, bell_state.z ^ BellState.PSI_PLUS.z
    turned = {"XX": z, "YY": x ^ z, "ZZ": x}[basis]
    return -1 if (sum(bits) + turned) % 2 else 1


def mean_and_error(samples: Iterable[float]) -> tuple[float, float]:
    """Give mean and standard error of samples, at least two."""
    values = list(samples)
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


def pooled(parts: Sequence[Estimate]) -> Estimate:
    """Give what independent estimates of one number say together, each with the weight of its shots."""
    shots = sum(part.shots for part in parts)
    value = sum(part.value * part.shots for part in parts) / shots
    sigma = math.sqrt(sum((part.sigma * part.shots) ** 2 for part in parts)) / shots
    return Estimate(value=value, sigma=sigma, shots=shots)


def rate_above_dead_time(waits: Sequence[float]) -> Estimate:
    """Give the rate of an exponential waiting time that begins after an unknown dead time, from at least three waits.

    The maximum likelihood estimate of a shifted exponential, corrected for bias: dead time from the shortest wait, mean
    from the rest; the error is 1/√n of the rate.
    """
    count = len(waits)
    above = (sum(waits) / count - min(waits)) * count / (count - 1)
    value = (count - 2) / (count - 1) / above
    return Estimate(value=value, sigma=value / math.sqrt(count - 2), shots=count)
