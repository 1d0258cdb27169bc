"""The table and its machine-readable copy."""

from __future__ import annotations

import json
import math

import pytest
from oxford import model, published, report
from oxford.experiments import Latency, Row, Shots
from oxford.tomography import NO_ESTIMATE, Estimate
from oxford.virtual import Found
from rich.console import Console

from bellwire.sim.preset import Preset

LATENCY = Latency(gate_s=0.003, gate_sigma_s=0.0004, program_s=0.001, costs={"cz": 0.0004, "swap": 0.0008})


@pytest.fixture(scope="module")
def run(oxford: Preset) -> report.Run:
    return report.Run(
        seed=1,
        time_scale=4.0,
        seconds=120.0,
        lost_shots=0,
        crosstalk=model.crosstalk(oxford),
        latency=LATENCY,
        prediction=model.predict(oxford),
        virtual=Found(rows=[row(published.CZ, 0.859, 0.005)], shots=5_000, lost_shots=3, virtual_s=900.0),
        virtual_seconds=30.0,
    )


def row(of: published.Published, value: float, sigma: float, exact: Estimate = NO_ESTIMATE) -> Row:
    """A row whose number in virtual time is 0.016 more, and four times as exact."""
    ours = Estimate(value=value, sigma=sigma, shots=10)
    virtual = Estimate(value=value + 0.016, sigma=sigma / 4, shots=160)
    return Row(published=of, ours=ours, exact=exact, pairs=10, virtual=virtual)


def test_gap_in_sigmas_adds_both_errors_and_takes_ours_alone_where_the_paper_has_none() -> None:
    assert report.gap_in_sigmas(Estimate(value=0.847, sigma=0.012, shots=10), published.CZ) == pytest.approx(-1.0)
    assert report.gap_in_sigmas(Estimate(value=10.2, sigma=0.25, shots=10), published.RATE) == pytest.approx(2.0)


def test_worlds_are_apart_by_the_errors_of_both() -> None:
    assert report.worlds_apart(row(published.CZ, 0.847, 0.012)) == pytest.approx(-0.016 / math.hypot(0.012, 0.003))


def test_json_of_rows_has_what_was_promised_and_null_for_what_is_not_there(run: report.Run) -> None:
    rows = [row(published.CZ, 0.85, 0.02, Estimate(value=0.86, sigma=0.001, shots=40)), row(published.RATE, 9.0, 0.4)]
    content = json.loads(report.as_json(rows, run))
    assert content["seed"] == 1
    for entry in content["rows"]:
        wanted = {"what", "ours", "ours_sigma", "exact", "published", "published_sigma", "shots"}
        wanted |= {"virtual", "virtual_sigma", "virtual_shots", "virtual_gap_sigmas", "worlds_apart_sigmas"}
        assert wanted <= set(entry)
    assert content["rows"][0]["virtual"] == pytest.approx(0.866)
    assert content["virtual"] == {"wall_s": 30.0, "virtual_s": 900.0, "shots": 5_000, "pairs": 10, "lost_shots": 3}
    assert content["rows"][0]["exact"] == 0.86
    assert content["rows"][1]["exact"] is None
    assert content["rows"][1]["published_sigma"] is None


@pytest.mark.parametrize("width", [80, 100, 160])
def test_table_shows_every_row_in_both_worlds_at_any_width(width: int) -> None:
    exact = Estimate(value=0.86304, sigma=0.00029, shots=20)
    rows = [row(published.CZ, 0.831, 0.012, exact), row(published.BELL, 0.958, 0.012), row(published.RATE, 9.0, 0.4)]
    console = Console(width=width)
    with console.capture() as capture:
        console.print(report.table(rows, width))
    text = capture.get()
    for expected in (
        "teleported CZ",
        "0.831(12)",
        "0.8470(30)",
        "0.86304(29)",
        "0.862(9)",
        "-1.6",
        "9.0(4)",
        "Bell pairs per s",
    ):
        assert expected in text
    assert ("-0.015" in text) == ("10 + 160" in text) == (width >= 100)
    assert ("linear inversion" in text) == (width == 160)


@pytest.mark.parametrize(
    ("value", "sigma", "text"),
    [
        (0.9689, 0.0008, "0.9689(8)"),
        (0.8462, 0.0254, "0.846(25)"),
        (9.473, 0.47, "9.5(5)"),
        (9.7, 0.0, "9.7"),
        (0.96946, 1e-17, "0.9695"),
        (103.2, 12.0, "103(12)"),
        (math.nan, math.nan, "-"),
    ],
)
def test_concise_number_has_its_error_in_brackets(value: float, sigma: float, text: str) -> None:
    assert report.concise(Estimate(value=value, sigma=sigma, shots=1)) == text


def test_expected_rate_goes_into_the_rate_row_alone(run: report.Run) -> None:
    rate = report.with_expected_rate(row(published.RATE, 9.0, 0.4), run.prediction)
    assert rate.exact.value == run.prediction.pairs_per_s
    assert math.isnan(report.with_expected_rate(row(published.CZ, 0.9, 0.1), run.prediction).exact.value)


def test_notes_tell_the_free_parameter_the_gaps_and_the_cost_of_latency(run: report.Run) -> None:
    text = "\n".join(report.notes([row(published.CZ, 0.847, 0.012)], run))
    for expected in (
        "5000 shots, 900 s of laboratory time",
        "differ by at most 1.3 standard errors",
        "measurement_crosstalk = 0.065",
        "iSWAP by +0.046",
        "SWAP by +0.015",
        "0.08%",
        "4 x wall",
    ):
        assert expected in text


def test_shots_scaled_down_keep_two_of_each_setting() -> None:
    assert Shots().scaled(0.001) == Shots(
        bell_per_basis=2, cz_per_setting=2, grover_per_item=2, iswap_per_operator=2, swap_per_operator=2, exact=2
    )


def test_shots_after_the_bell_pairs_fit_into_the_time_that_is_left() -> None:
    shots = Shots()
    left = shots.pairs() - shots.totals()["Bell pairs"]
    assert shots.after_bell(0.01, 145.0) == shots
    slow = shots.after_bell(0.2, 100.0)
    assert slow.pairs() < left / 2
    assert 2_000 < shots.pairs() < 3_000
