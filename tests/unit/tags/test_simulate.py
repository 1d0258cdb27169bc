"""The simulated tagger: its truth is found by the finder, and its rates are those of the closed form."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pytest

from bellwire.protocols.errors import ConfigError
from bellwire.protocols.instructions import BellState
from bellwire.sim.photonics import PhotonArm, PhotonicLink
from bellwire.sim.schemes import DoubleClick
from bellwire.tags.finder import STATES, Found, Search
from bellwire.tags.simulate import HERALDED, START, TRIGGER, Encoding, SimulatedTagger, SimulationSettings, successes
from bellwire.tags.stream import CLOCK, Tags

Heralds = list[tuple[int, BellState]]


def heralds(found: Found) -> Heralds:
    return [(n, STATES[s]) for n, s in zip(found.attempts.tolist(), found.states.tolist(), strict=True)]


def look(settings: SimulationSettings, parts: Iterable[Tags]) -> tuple[Heralds, Search]:
    search = Search(settings.finder())
    found = [search.feed(part) for part in parts]
    return heralds(Found.joined([*found, search.finish()])), search


def run(settings: SimulationSettings, attempts: int, seed: int) -> tuple[Heralds, Heralds, Search]:
    """Give what was heralded in truth, what was found, and the search."""
    tagger = SimulatedTagger(settings, np.random.default_rng(seed))
    truth: Heralds = []

    def parts() -> Iterable[Tags]:
        for tags, true in tagger.window(attempts):
            truth.extend(true.rows())
            yield tags
        yield tagger.quiet(settings.period_ps)

    found, search = look(settings, parts())
    return truth, found, search


@pytest.mark.parametrize("encoding", Encoding)
@pytest.mark.parametrize("efficiencies", [(0.03, 0.03), (0.9, 0.2), (1.0, 1.0)])
def test_tagger_without_dark_counts_tells_the_truth(encoding: Encoding, efficiencies: tuple[float, float]) -> None:
    settings = SimulationSettings(encoding=encoding, efficiencies=efficiencies, dark_hz=0.0)
    truth, found, search = run(settings, 200_000, 1)
    assert found == truth
    assert len(truth) > 50
    assert {state for _, state in truth} == set(HERALDED)
    counts = search.counts
    assert (counts.attempts, counts.late, counts.outside, counts.crowded) == (200_000, 0, 0, 0)


def test_tagger_same_seed_gives_the_same_tags() -> None:
    def tags(seed: int) -> Tags:
        tagger = SimulatedTagger(SimulationSettings(), np.random.default_rng(seed))
        return Tags.joined([part for part, _ in tagger.window(100_000)])

    one, two, other = tags(1), tags(1), tags(2)
    assert np.array_equal(one.times_ps, two.times_ps)
    assert np.array_equal(one.channels, two.channels)
    assert not np.array_equal(one.times_ps[:100], other.times_ps[:100])


def test_tagger_tags_are_in_order_across_its_parts_and_begin_with_a_start() -> None:
    settings = SimulationSettings(period_ps=200_000, photon_ps=180_000, dark_hz=1e6, jitter_ps=15_000.0)
    tagger = SimulatedTagger(settings, np.random.default_rng(1), begin_ps=777)
    whole = Tags.joined([*(part for part, _ in tagger.window(200_000)), tagger.quiet(10**6)])
    assert np.all(np.diff(whole.times_ps) >= 0)
    assert (int(whole.times_ps[0]), int(whole.channels[0])) == (777, START)
    assert np.count_nonzero(whole.channels == START) == 1
    assert np.array_equal(whole.times_ps[whole.channels == TRIGGER], 777 + 200_000 * np.arange(200_000))
    assert (int(whole.times_ps[-1]), int(whole.channels[-1])) == (tagger.now_ps - 1, CLOCK)


def test_tagger_loses_no_photon_that_a_detector_sees() -> None:
    """Also those whose time lies in the next part: with no losses and no dead time, two for each attempt."""
    settings = SimulationSettings(
        efficiencies=(1.0, 1.0), period_ps=200_000, photon_ps=180_000, dark_hz=0.0, jitter_ps=30_000.0, dead_time_ps=0
    )
    tagger = SimulatedTagger(settings, np.random.default_rng(1))
    whole = Tags.joined([*(part for part, _ in tagger.window(150_000)), tagger.quiet(10**6)])
    assert np.count_nonzero((whole.channels >= 1) & (whole.channels <= 4)) == 300_000


def test_tagger_detectors_are_dead_after_each_click() -> None:
    settings = SimulationSettings(dark_hz=3e6, dead_time_ps=80_000)
    tagger = SimulatedTagger(settings, np.random.default_rng(1))
    whole = Tags.joined([part for part, _ in tagger.window(300_000)])
    for detector in range(1, 5):
        times_ps = whole.times_ps[whole.channels == detector]
        assert np.diff(times_ps).min() >= 80_000
        # A detector that clicks at rate r and is then dead for τ clicks at r / (1 + r τ): Poisson, non-extended dead time.
        expected = 0.3 / (1 / (3e6 + 0.1 * 1e6) + 80e-9)
        assert len(times_ps) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("herald", [None, *HERALDED])
def test_tagger_window_that_is_told_its_herald_has_that_one_alone(herald: BellState | None) -> None:
    settings = SimulationSettings(efficiencies=(0.6, 0.6), dark_hz=0.0)
    tagger = SimulatedTagger(settings, np.random.default_rng(1))
    for attempts in (1, 2, 17, 70_000):
        found, search = look(settings, tagger.window_with(attempts, herald))
        assert found == ([] if herald is None else [(attempts, herald)])
        assert search.counts.attempts == attempts
        assert attempts < 17 or search.counts.single > 0


def test_tagger_window_of_a_state_that_two_clicks_cannot_herald_is_refused() -> None:
    tagger = SimulatedTagger(SimulationSettings(), np.random.default_rng(1))
    with pytest.raises(ConfigError, match=r"a double click heralds psi\+ or psi-, not phi\+"):
        next(tagger.window_with(3, BellState.PHI_PLUS))


def closed_form(settings: SimulationSettings) -> tuple[float, float]:
    """Probabilities per attempt of any herald and of a true one, to the lowest order in dark counts: `sim.photonics`."""
    dark = settings.dark_hz * settings.gate_ps * 1e-12
    first, second = (
        PhotonArm(collection_ratio=ratio, coupling_ratio=1.0, fibre_length_m=0.0, fibre_loss_db_per_km=0.0)
        for ratio in settings.efficiencies
    )
    link = PhotonicLink(
        first=first,
        second=second,
        refractive_index=1.0,
        detector_efficiency_ratio=1.0,
        dark_count_probability=dark,
        visibility_ratio=1.0,
    )
    return DoubleClick().heralding(link).success_probability, settings.efficiencies[0] * settings.efficiencies[1] / 2


def sigmas(number: int, expected: float) -> float:
    return (number - expected) / math.sqrt(expected)


@pytest.mark.parametrize("encoding", Encoding)
def test_rate_of_heralds_is_eta_squared_over_two(encoding: Encoding) -> None:
    attempts = 10_000_000
    settings = SimulationSettings(encoding=encoding, efficiencies=(0.05, 0.05), dark_hz=0.0)
    truth, found, _ = run(settings, attempts, 11)
    assert found == truth
    assert len(found) > 10_000
    assert abs(sigmas(len(found), attempts * 0.05**2 / 2)) < 3
    plus = sum(state is BellState.PSI_PLUS for _, state in found)
    assert abs(sigmas(plus, len(found) / 2)) < 3


def test_rate_of_accidentals_is_that_of_dark_counts_to_first_order() -> None:
    attempts = 40_000_000
    settings = SimulationSettings(efficiencies=(0.02, 0.025), dark_hz=40_000.0, gate_ps=20_000, jitter_ps=100.0)
    truth, found, search = run(settings, attempts, 12)
    every, true = closed_form(settings)
    assert len(found) > 10_000
    assert abs(sigmas(len(found), attempts * every)) < 3
    accidental = len(set(found) - set(truth))
    assert accidental > 2_000
    assert abs(sigmas(accidental, attempts * (every - true))) < 3
    # Nothing is accepted that is not a herald or an accident of a gate: the other dark counts are outside.
    assert search.counts.outside > 0.9 * 4 * settings.dark_hz * attempts * 1e-6 * 0.98


def test_finder_with_gates_too_wide_takes_more_accidentals() -> None:
    settings = SimulationSettings(efficiencies=(0.02, 0.02), dark_hz=20_000.0)
    wide = SimulationSettings(efficiencies=(0.02, 0.02), dark_hz=20_000.0, gate_ps=100_000)
    tagger = SimulatedTagger(settings, np.random.default_rng(13))
    narrow_search, wide_search = Search(settings.finder()), Search(wide.finder())
    for tags, _ in tagger.window(10_000_000):
        narrow_search.feed(tags)
        wide_search.feed(tags)
    few, many = (sum(search.counts.heralds.values()) for search in (narrow_search, wide_search))
    (near, _), (far, _) = closed_form(settings), closed_form(wide)
    assert many - few == pytest.approx((far - near) * 10_000_000, abs=5 * math.sqrt((far - near) * 10_000_000))


@pytest.mark.parametrize("probability", [0.0, 1e-300, 1e-7, 0.02, 0.5, 0.999, 1.0])
def test_successes_are_independent_attempts(probability: float) -> None:
    rng = np.random.default_rng(1)
    drawn = [successes(rng, 1_000, probability) for _ in range(500)]
    for places in drawn:
        assert np.all(np.diff(places) > 0)
        assert not len(places) or (places[0] >= 0 and places[-1] < 1_000)
    number = sum(map(len, drawn))
    spread = math.sqrt(500_000 * probability * (1 - probability)) + 1e-9
    assert abs(number - 500_000 * probability) < 4 * max(spread, 1)
    first_half = sum(int(np.count_nonzero(places < 500)) for places in drawn)
    assert abs(first_half - number / 2) <= 4 * math.sqrt(number / 4)
    assert not len(successes(rng, 0, probability))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"photon_ps": 5_000}, "photon_ps: 5000: a gate of 20000 around it begins before its attempt"),
        ({"period_ps": 105_000}, "period_ps: 105000: the last gate ends after 110000"),
        ({"encoding": Encoding.TIME_BIN, "bin_ps": 10_000}, "gates_ps"),
        ({"encoding": Encoding.TIME_BIN, "bin_ps": 900_000}, "period_ps: 1000000: the last gate ends after 1010000"),
    ],
)
def test_settings_whose_gates_do_not_fit_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        SimulationSettings(**changes)  # type: ignore[arg-type]
