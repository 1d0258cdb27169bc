"""Photonic links: two nodes whose photons meet at a heralding station between them.

The photon of one side's attempt makes a click with probability

    η = collection · coupling · 10^(-loss · length / 10) · detector

and light takes n · length / c to the station. What the station makes of the clicks is a scheme: a strategy object
that gives the probability of a herald per attempt and the state that each herald leaves. A scheme is found by its
name in `SCHEMES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from bellwire.protocols.errors import BackendError
from bellwire.protocols.instructions import BellState
from bellwire.sim.states import MIXED, ComplexArray, bell_density_matrix, bell_vector, frozen, state_fidelity

LIGHT_M_PER_S: Final = 299_792_458
HIGHEST_DARK_COUNT_PROBABILITY: Final = 0.01
"""The formulas keep the lowest order in dark counts."""


def fibre_transmission(length_m: float, loss_db_per_km: float) -> float:
    """Give the fraction of photons that a fibre lets through: 10^(-loss · length / 10)."""
    return float(10 ** (-loss_db_per_km * length_m / 1e4))


def fibre_delay_ns(length_m: float, refractive_index: float) -> float:
    """Give how long light takes through a fibre: n · length / c."""
    return refractive_index * length_m / LIGHT_M_PER_S * 1e9


def _check_ratio(value: float, what: str, highest: float = 1.0) -> None:
    if not 0 <= value <= highest:
        raise BackendError(f"expected {what} in [0, {highest}], got {value}")


@dataclass(frozen=True, kw_only=True)
class PhotonArm:
    """One side of a link: from the emitter to the station.

    Attributes:
        collection_ratio: photons emitted per attempt that the optics catch.
        coupling_ratio: caught photons that enter the fibre.
        fibre_length_m: from the node to the station.
        fibre_loss_db_per_km: attenuation of that fibre.

    Raises:
        BackendError: when a ratio is outside [0, 1], or a length or a loss is negative.
    """

    collection_ratio: float
    coupling_ratio: float
    fibre_length_m: float
    fibre_loss_db_per_km: float

    def __post_init__(self) -> None:
        _check_ratio(self.collection_ratio, "a collection efficiency")
        _check_ratio(self.coupling_ratio, "a coupling efficiency")
        if not (0 <= self.fibre_length_m < float("inf") and 0 <= self.fibre_loss_db_per_km < float("inf")):
            raise BackendError("expected a fibre of finite length and loss, neither below zero")


@dataclass(frozen=True, kw_only=True)
class PhotonicLink:
    """Two arms and the station where they meet.

    Attributes:
        first, second: the arms of the link's first and second end.
        refractive_index: group index of the fibres.
        detector_efficiency_ratio: clicks per photon that arrives at a detector.
        dark_count_probability: of one detector in the time window of one attempt.
        visibility_ratio: of the two photons' interference: their overlap.

    Raises:
        BackendError: when a number is out of its range.
    """

    first: PhotonArm
    second: PhotonArm
    refractive_index: float
    detector_efficiency_ratio: float
    dark_count_probability: float
    visibility_ratio: float

    def __post_init__(self) -> None:
        _check_ratio(self.detector_efficiency_ratio, "a detector efficiency")
        _check_ratio(self.dark_count_probability, "a dark count probability", HIGHEST_DARK_COUNT_PROBABILITY)
        _check_ratio(self.visibility_ratio, "a visibility")
        if not 1 <= self.refractive_index < 10:
            raise BackendError(f"expected a refractive index of at least 1, got {self.refractive_index}")

    def detection_ratio(self, arm: PhotonArm) -> float:
        """Give η of an arm: clicks per attempt when only that arm emits."""
        through = fibre_transmission(arm.fibre_length_m, arm.fibre_loss_db_per_km)
        return arm.collection_ratio * arm.coupling_ratio * through * self.detector_efficiency_ratio

    def delay_ns(self, arm: PhotonArm) -> float:
        """Give the time that light takes from an arm's node to the station."""
        return fibre_delay_ns(arm.fibre_length_m, self.refractive_index)


@dataclass(frozen=True, kw_only=True, eq=False)
class Heralding:
    """What a scheme makes of a link.

    Attributes:
        success_probability: that an attempt is heralded, by any of the heralds.
        states: the two-qubit state that each herald leaves, shape (4, 4), first end's qubit slowest. All heralds are
            equally likely.
    """

    success_probability: float
    states: Mapping[BellState, ComplexArray]

    def fidelity(self, bell_state: BellState) -> float:
        """Give the overlap of the state left by a herald with the Bell state that it names."""
        return state_fidelity(self.states[bell_state], bell_vector(bell_state))


class HeraldSchemeCapable(Protocol):
    """A way to herald entanglement with single photons."""

    def heralding(self, link: PhotonicLink) -> Heralding:
        """Give success probability and heralded states of a link."""
        ...


class DoubleClick:
    """Two photons entangled with the emitters in polarisation, Bell measurement by a beam splitter and two polarisers.

    Four detectors: two polarisations at each of two outputs. A herald is one click of each polarisation: at the same
    output it names Ψ+, at different outputs Ψ-. Half of all photon pairs give one (Braunstein and Mann, PRA 51,
    R1727). With d the dark count probability of a detector,

        true     η_a η_b / 2
        one dark [η_a (1 - η_b) + η_b (1 - η_a)] · 2d    the photon, and a detector of the 2 of the other polarisation
        two dark (1 - η_a)(1 - η_b) · 4d²                one of the 4 pairs of detectors that name a herald

    and p is their sum, each to the lowest order in d. A true herald leaves (1 + V)/2 of the Bell state named and
    (1 - V)/2 of the other Ψ, since photons that can be told apart leave no coherence. A false one says nothing
    about the emitter whose photon was lost, and leaves I/4. So, with f = true/p,

        F = f (1 + V)/2 + (1 - f)/4.

    Unequal arms change the rate but not the state: each term of the superposition needs one photon through either arm.
    """

    def heralding(self, link: PhotonicLink) -> Heralding:
        """Give success probability and heralded states of a link."""
        first, second = link.detection_ratio(link.first), link.detection_ratio(link.second)
        dark = link.dark_count_probability
        true = first * second / 2
        one_dark = (first * (1 - second) + second * (1 - first)) * 2 * dark
        two_dark = (1 - first) * (1 - second) * 4 * dark**2
        total = true + one_dark + two_dark
        share = true / total if total > 0 else 0.0
        plus, minus = bell_density_matrix(BellState.PSI_PLUS), bell_density_matrix(BellState.PSI_MINUS)
        nothing = np.kron(MIXED, MIXED)
        kept, lost = (1 + link.visibility_ratio) / 2, (1 - link.visibility_ratio) / 2
        return Heralding(
            success_probability=total,
            states={
                BellState.PSI_PLUS: frozen(share * (kept * plus + lost * minus) + (1 - share) * nothing),
                BellState.PSI_MINUS: frozen(share * (kept * minus + lost * plus) + (1 - share) * nothing),
            },
        )


SCHEMES: Final[Mapping[str, HeraldSchemeCapable]] = {"double_click": DoubleClick()}
"""The schemes that a preset can name."""
