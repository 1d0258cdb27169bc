"""Heralding schemes as closed forms, and what a difference in time does to them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from bellwire.protocols.errors import BackendError
from bellwire.protocols.herald import SCHEMES
from bellwire.protocols.instructions import BellState
from bellwire.sim.photonics import PacketShape, PhotonArm, PhotonicLink, WavePacket
from bellwire.sim.schemes import MODELS, Direct, DoubleClick, HeraldSchemeCapable, SingleClick, TimeBin
from bellwire.sim.states import FloatArray, measured_state

PSI = (BellState.PSI_PLUS, BellState.PSI_MINUS)


def arm(ratio: float) -> PhotonArm:
    return PhotonArm(collection_ratio=ratio, coupling_ratio=1.0, fibre_length_m=0.0, fibre_loss_db_per_km=0.0)


def link(
    first: float,
    second: float | None = None,
    *,
    dark: float = 0.0,
    visibility: float = 1.0,
    packet: WavePacket | None = None,
) -> PhotonicLink:
    return PhotonicLink(
        first=arm(first),
        second=arm(first if second is None else second),
        refractive_index=1.468,
        detector_efficiency_ratio=1.0,
        dark_count_probability=dark,
        visibility_ratio=visibility,
        wave_packet=packet,
    )


def one_arm(ratio: float, *, dark: float = 0.0, visibility: float = 1.0) -> PhotonicLink:
    return replace(link(ratio, dark=dark, visibility=visibility), second=None)


@pytest.mark.parametrize(
    ("alpha", "eta", "probability", "fidelity"), [(0.1, 0.001, 2.0e-4, 0.90005), (0.2, 0.3, 0.1164, 0.82474)]
)
def test_single_click_matches_its_closed_form_and_the_published_rows(
    alpha: float, eta: float, probability: float, fidelity: float
) -> None:
    heralding = SingleClick().heralding(link(eta), bright_ratio=alpha)
    assert heralding.success_probability == pytest.approx(2 * alpha * eta - alpha**2 * eta**2, rel=1e-12)
    assert heralding.success_probability == pytest.approx(probability, rel=1e-4)
    for bell_state in PSI:
        assert heralding.fidelity(bell_state) == pytest.approx((1 - alpha) / (1 - alpha * eta / 2), rel=1e-12)
        assert heralding.fidelity(bell_state) == pytest.approx(fidelity, abs=5e-6)


def test_single_click_loses_coherence_with_the_root_of_the_overlap() -> None:
    """Without loss of both photons to tell: F = (1 - α)(1 + √V)/2 for small η."""
    heralding = SingleClick().heralding(link(1e-6, visibility=0.81), bright_ratio=0.2)
    assert heralding.fidelity(BellState.PSI_PLUS) == pytest.approx(0.8 * 1.9 / 2, rel=1e-6)


def test_single_click_of_photons_that_part_at_the_beam_splitter_is_no_herald() -> None:
    """Two photons that can be told apart leave by different outputs half of the time, and click twice."""
    both = 0.5**2
    alike = SingleClick().heralding(link(1.0), bright_ratio=0.5).success_probability
    apart = SingleClick().heralding(link(1.0, visibility=0.0), bright_ratio=0.5).success_probability
    assert alike - apart == pytest.approx(both / 2)


def test_single_click_of_unequal_arms_leaves_an_unbalanced_state() -> None:
    heralding = SingleClick().heralding(link(0.02, 0.01), bright_ratio=1e-6)
    assert heralding.success_probability == pytest.approx(0.03e-6, rel=1e-4)
    assert heralding.fidelity(BellState.PSI_PLUS) == pytest.approx((1 + 2 * math.sqrt(2) / 3) / 2, rel=1e-4)


def test_single_click_of_dark_counts_reports_the_dim_state() -> None:
    """To first order: p = 2αη + 2d, and of the herald a share d/(αη + d) is false and mostly |00⟩."""
    alpha, eta, dark = 1e-3, 1e-2, 1e-6
    heralding = SingleClick().heralding(link(eta, dark=dark), bright_ratio=alpha)
    assert heralding.success_probability == pytest.approx(2 * alpha * eta + 2 * dark, rel=2e-3)
    assert heralding.states[BellState.PSI_PLUS][0, 0].real == pytest.approx(dark / (alpha * eta + dark), rel=5e-3)


def test_time_bin_has_the_rate_of_a_coincidence_and_loses_fidelity_with_the_overlap() -> None:
    heralding = TimeBin().heralding(link(0.4, 0.1, visibility=0.9))
    assert heralding.success_probability == pytest.approx(0.4 * 0.1 / 2)
    for bell_state in PSI:
        assert heralding.fidelity(bell_state) == pytest.approx((1 + 0.9) / 2)


def test_time_bin_of_dark_counts_mixes_in_what_emitted_in_one_bin() -> None:
    """To first order: |00⟩ and |11⟩ herald with ηd each, and p = η²/2 + 4ηd."""
    eta, dark = 0.01, 1e-5
    heralding = TimeBin().heralding(link(eta, dark=dark))
    state = heralding.states[BellState.PSI_PLUS]
    assert state[0, 0].real * heralding.success_probability == pytest.approx(eta * dark, rel=0.02)
    assert heralding.success_probability == pytest.approx(eta**2 / 2 + 4 * eta * dark, rel=1e-3)


def test_direct_heralds_whenever_the_photon_of_its_one_arm_arrives() -> None:
    heralding = Direct().heralding(one_arm(0.3, visibility=0.9))
    assert heralding.success_probability == pytest.approx(0.3)
    assert heralding.fidelity_ratio == pytest.approx(0.95)


def test_direct_of_dark_counts_knows_nothing() -> None:
    heralding = Direct().heralding(one_arm(1e-4, dark=5e-5))
    assert heralding.success_probability == pytest.approx(2e-4, rel=1e-3)
    assert heralding.fidelity_ratio == pytest.approx(0.5 + 0.5 / 4, rel=1e-3)


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.scheme.name)
def test_scheme_leaves_states_for_exactly_the_heralds_that_the_protocol_names(model: HeraldSchemeCapable) -> None:
    assert SCHEMES[model.scheme.name] is model.scheme
    rng = np.random.default_rng(5)
    for _ in range(200):
        first, second, visibility = rng.random(3)
        given = link(first, second, dark=0.01 * rng.random(), visibility=visibility)
        ratio = 0.01 + 0.9 * rng.random() if model.scheme.bright else None
        heralding = model.heralding(given if model.scheme.midpoint else replace(given, second=None), bright_ratio=ratio)
        assert 0 <= heralding.success_probability <= 1
        assert set(heralding.states) == set(model.scheme.bell_states)
        for state in heralding.states.values():
            measured_state(state, tolerance=1e-12)


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.scheme.name)
def test_scheme_in_the_dark_never_heralds(model: HeraldSchemeCapable) -> None:
    given = link(0.0) if model.scheme.midpoint else one_arm(0.0)
    heralding = model.heralding(given, bright_ratio=0.1 if model.scheme.bright else None)
    assert heralding.success_probability == 0
    measured_state(heralding.states[BellState.PSI_PLUS])


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.scheme.name)
def test_scheme_with_arms_or_a_bright_ratio_that_do_not_fit_is_refused(model: HeraldSchemeCapable) -> None:
    fits = 0.1 if model.scheme.bright else None
    with pytest.raises(BackendError):
        model.heralding(one_arm(0.1) if model.scheme.midpoint else link(0.1), bright_ratio=fits)
    with pytest.raises(BackendError):
        model.heralding(link(0.1) if model.scheme.midpoint else one_arm(0.1), bright_ratio=None if fits else 0.1)


# -- overlap in time --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset_ns", [0.0, 0.3, -1.0, 4.0])
@pytest.mark.parametrize("shape", PacketShape)
def test_overlap_of_wave_packets_is_the_square_of_their_amplitudes_product(
    shape: PacketShape, offset_ns: float
) -> None:
    """The closed forms against the integral |∫ a(t) a(t - δ) dt|², of amplitudes whose intensity integrates to 1."""
    times = np.linspace(-60, 60, 1_200_001)

    def amplitude(time: FloatArray) -> FloatArray:
        if shape is PacketShape.EXPONENTIAL:
            tail = np.exp(-np.maximum(time, 0) / (2 * 2.0)) / math.sqrt(2.0)
            return np.asarray(np.where(time >= 0, tail, 0.0))
        return np.asarray((2 * math.pi * 2.0**2) ** -0.25 * np.exp(-(time**2) / (4 * 2.0**2)))

    assert np.trapezoid(amplitude(times) ** 2, times) == pytest.approx(1, abs=1e-4)
    product = np.trapezoid(amplitude(times) * amplitude(times - offset_ns), times)
    packet = WavePacket(shape=shape, width_ns=2.0)
    assert packet.overlap_ratio(offset_ns) == pytest.approx(product**2, abs=2e-4)


@pytest.mark.parametrize(
    ("shape", "overlap"), [(PacketShape.EXPONENTIAL, math.exp(-0.5)), (PacketShape.GAUSSIAN, math.exp(-1 / 16))]
)
def test_timing_error_costs_every_scheme_its_fidelity(shape: PacketShape, overlap: float) -> None:
    given = link(1e-6, packet=WavePacket(shape=shape, width_ns=8.0))
    late = DoubleClick().heralding(given, offset_ns=4.0)
    assert late.fidelity_ratio == pytest.approx((1 + overlap) / 2)
    assert TimeBin().heralding(given, offset_ns=-4.0).fidelity_ratio == pytest.approx((1 + overlap) / 2)
    single = SingleClick().heralding(given, bright_ratio=0.1, offset_ns=4.0)
    assert single.fidelity_ratio == pytest.approx(0.9 * (1 + math.sqrt(overlap)) / 2, rel=1e-6)
    assert Direct().heralding(replace(given, second=None), offset_ns=4.0).fidelity_ratio == pytest.approx(
        (1 + overlap) / 2
    )


@pytest.mark.parametrize("width_ns", [0.0, -1.0, math.inf, math.nan])
def test_wave_packet_of_no_width_is_refused(width_ns: float) -> None:
    with pytest.raises(BackendError):
        WavePacket(shape=PacketShape.GAUSSIAN, width_ns=width_ns)
