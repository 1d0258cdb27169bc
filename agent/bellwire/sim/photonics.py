"""Photonic links: two nodes whose photons meet at a heralding station, or one whose photon the other one detects.

The photon of one side's attempt makes a click with probability

    η = collection · coupling · 10^(-loss · length / 10) · detector

and light takes n · length / c to the station. How well two photons interfere is their overlap V = |⟨a|b⟩|²: what the
optics leave of it (`visibility_ratio`), times what a difference of their emission times leaves (`WavePacket`). What the
clicks mean is a scheme: see `schemes`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from bellwire.protocols.errors import BackendError

LIGHT_M_PER_S: Final = 299_792_458
HIGHEST_DARK_COUNT_PROBABILITY: Final = 0.01
"""The formulas keep the lowest order in dark counts."""


def fibre_transmission(length_m: float, loss_db_per_km: float) -> float:
    """Give the fraction of photons that a fibre lets through: 10^(-loss · length / 10)."""
    return float(10 ** (-loss_db_per_km * length_m / 1e4))


def fibre_delay_ns(length_m: float, refractive_index: float) -> float:
    """Give how long light takes through a fibre: n · length / c."""
    return refractive_index * length_m / LIGHT_M_PER_S * 1e9


class PacketShape(StrEnum):
    """What the envelope of a photon's wave packet looks like."""

    EXPONENTIAL = "exponential"
    GAUSSIAN = "gaussian"


@dataclass(frozen=True, kw_only=True)
class WavePacket:
    """The envelope of the photons, alike at both ends.

    Attributes:
        shape: exponential, as spontaneous emission leaves it, or Gaussian, as a shaped pulse or a cavity does.
        width_ns: exponential: the lifetime τ of the intensity. Gaussian: the standard deviation σ of the intensity.

    Raises:
        BackendError: when the width is not a positive number.
    """

    shape: PacketShape
    width_ns: float

    def __post_init__(self) -> None:
        if not (self.width_ns > 0 and math.isfinite(self.width_ns)):
            raise BackendError(f"expected a wave packet of positive width, got {self.width_ns} ns")

    def overlap_ratio(self, offset_ns: float) -> float:
        """Give |⟨a|b⟩|² of two such photons, emitted `offset_ns` apart and otherwise alike.

        The amplitude is √(1/τ) e^(-t/2τ) from t = 0, or (2πσ²)^(-1/4) e^(-t²/4σ²). Its product with itself, shifted by
        δ, integrates to e^(-|δ|/2τ), or e^(-δ²/8σ²); the square of that is

            exponential  e^(-|δ|/τ)        Gaussian  e^(-δ²/4σ²)

        (Legero et al., Appl. Phys. B 77, 797 (2003), averaged over the times of detection.)
        """
        if self.shape is PacketShape.EXPONENTIAL:
            return math.exp(-abs(offset_ns) / self.width_ns)
        return math.exp(-((offset_ns / self.width_ns) ** 2) / 4)


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
    """Two arms and the station where they meet; or one arm, from the sending end to the receiving one.

    Attributes:
        first, second: the arms of the link's first and second end; with no `second`, `first` leads from end to end.
        refractive_index: group index of the fibres.
        detector_efficiency_ratio: clicks per photon that arrives at a detector.
        dark_count_probability: of one detector in the time window of one attempt.
        visibility_ratio: of the two photons' interference: their overlap, when they are emitted in time.
        wave_packet: what a difference in time does to it; None where emission is triggered together.

    Raises:
        BackendError: when a number is out of its range.
    """

    first: PhotonArm
    second: PhotonArm | None
    refractive_index: float
    detector_efficiency_ratio: float
    dark_count_probability: float
    visibility_ratio: float
    wave_packet: WavePacket | None = None

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

    @property
    def round_trip_ns(self) -> float:
        """Give the time in which light gets through the longest arm, and the herald back."""
        arms = (self.first,) if self.second is None else (self.first, self.second)
        return 2 * max(self.delay_ns(arm) for arm in arms)

    def overlap_ratio(self, offset_ns: float = 0.0) -> float:
        """Give the overlap of the two photons when their emission times differ by `offset_ns`."""
        packet = 1.0 if self.wave_packet is None else self.wave_packet.overlap_ratio(offset_ns)
        return self.visibility_ratio * packet
