"""Photonic links against published numbers: fibres, arms, and double clicks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bellwire.protocols.errors import BackendError
from bellwire.protocols.instructions import BellState
from bellwire.sim.photonics import (
    PhotonArm,
    PhotonicLink,
    fibre_delay_ns,
    fibre_transmission,
)
from bellwire.sim.schemes import DoubleClick
from bellwire.sim.states import measured_state


def link(
    first: float, second: float | None = None, *, dark: float = 0.0, visibility: float = 1.0, length_m: float = 0.0
) -> PhotonicLink:
    """Make a link whose arms are detected with those probabilities, if the fibre has no length."""
    arms = [
        PhotonArm(collection_ratio=ratio, coupling_ratio=1.0, fibre_length_m=length_m, fibre_loss_db_per_km=0.2)
        for ratio in (first, first if second is None else second)
    ]
    return PhotonicLink(
        first=arms[0],
        second=arms[1],
        refractive_index=1.468,
        detector_efficiency_ratio=1.0,
        dark_count_probability=dark,
        visibility_ratio=visibility,
    )


def test_double_click_without_noise_matches_row_1_of_heralding() -> None:
    # eta 0.02088, attempts at 833 kHz: p = 2.18e-4, 181.6 pairs/s (Stephenson 2020 reports 182/s)
    heralding = DoubleClick().heralding(link(0.02088))
    assert heralding.success_probability == pytest.approx(2.18e-4, abs=5e-7)
    assert heralding.success_probability * 833_000 == pytest.approx(181.6, abs=0.05)
    assert heralding.fidelity(BellState.PSI_PLUS) == pytest.approx(1)
    assert heralding.fidelity(BellState.PSI_MINUS) == pytest.approx(1)


def test_double_click_with_visibility_and_dark_counts_matches_row_2_of_heralding() -> None:
    # eta 0.02, visibility 0.95, dark counts 1e-5, 4 detectors: p = 2.008e-4, F = 0.97217 (first order)
    heralding = DoubleClick().heralding(link(0.02, dark=1e-5, visibility=0.95))
    assert heralding.success_probability == pytest.approx(2.008e-4, abs=5e-8)
    assert heralding.fidelity(BellState.PSI_PLUS) == pytest.approx(0.97217, abs=5e-6)
    assert heralding.fidelity(BellState.PSI_MINUS) == pytest.approx(0.97217, abs=5e-6)


def test_double_click_with_unequal_arms_keeps_the_state_and_multiplies_the_rates() -> None:
    heralding = DoubleClick().heralding(link(0.4, 0.1, visibility=0.9))
    assert heralding.success_probability == pytest.approx(0.02)
    assert heralding.fidelity(BellState.PSI_MINUS) == pytest.approx(0.95)


def test_double_click_of_dark_counts_alone_leaves_nothing_known() -> None:
    heralding = DoubleClick().heralding(link(0.0, dark=1e-3))
    assert heralding.success_probability == pytest.approx(4e-6)
    np.testing.assert_allclose(heralding.states[BellState.PSI_PLUS], np.eye(4) / 4)


def test_double_click_in_the_dark_never_heralds() -> None:
    heralding = DoubleClick().heralding(link(0.0))
    assert heralding.success_probability == 0
    measured_state(heralding.states[BellState.PSI_PLUS])


@pytest.mark.parametrize(
    ("km", "transmission", "delay_us"), [(17.6, 0.4446, 86.18), (25, 0.3162, 122.42), (50, 0.1, 244.84)]
)
def test_fibre_matches_the_rows_of_fibre(km: float, transmission: float, delay_us: float) -> None:
    # 0.2 dB/km, refractive index 1.468
    assert fibre_transmission(km * 1e3, 0.2) == pytest.approx(transmission, abs=5e-5)
    assert fibre_delay_ns(km * 1e3, 1.468) / 1e3 == pytest.approx(delay_us, abs=5e-3)


def test_photonic_link_multiplies_the_losses_of_an_arm() -> None:
    arm = PhotonArm(collection_ratio=0.1, coupling_ratio=0.5, fibre_length_m=25_000, fibre_loss_db_per_km=0.2)
    long = PhotonicLink(
        first=arm,
        second=arm,
        refractive_index=1.468,
        detector_efficiency_ratio=0.8,
        dark_count_probability=0.0,
        visibility_ratio=1.0,
    )
    assert long.detection_ratio(arm) == pytest.approx(0.1 * 0.5 * 0.8 * 0.3162, rel=1e-4)
    assert long.delay_ns(arm) == pytest.approx(122_420, abs=5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"collection_ratio": 1.1},
        {"coupling_ratio": -0.1},
        {"fibre_length_m": -1.0},
        {"fibre_loss_db_per_km": float("nan")},
    ],
)
def test_photon_arm_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    right = {"collection_ratio": 0.5, "coupling_ratio": 0.5, "fibre_length_m": 1.0, "fibre_loss_db_per_km": 0.2}
    with pytest.raises(BackendError):
        PhotonArm(**{**right, **wrong})


@pytest.mark.parametrize("wrong", [{"dark": 0.5}, {"visibility": 1.1}, {"visibility": float("nan")}])
def test_photonic_link_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BackendError):
        link(0.1, **wrong)
