"""The rows in virtual time: joined from parts, whatever process made them."""

from __future__ import annotations

import demo
import numpy as np
import pytest
from oxford import estimation, experiments, published, virtual
from oxford.experiments import Row
from oxford.tomography import NO_ESTIMATE, Estimate

FEWEST = 0.01


def test_rows_in_virtual_time_are_the_same_on_any_number_of_processes() -> None:
    done: list[int] = []
    one = virtual.measure(demo.TESTBED, FEWEST, seed=3, jobs=1, advance=lambda: done.append(1))
    two = virtual.measure(demo.TESTBED, FEWEST, seed=3, jobs=2, advance=lambda: done.append(2))
    assert len(done) == 2 * len(virtual.parts(FEWEST)) == 2 * len(virtual.PARTS)
    for first, second in zip(one.rows, two.rows, strict=True):
        assert (first.published, first.ours, first.pairs) == (second.published, second.ours, second.pairs)
    assert (one.shots, one.lost_shots, one.virtual_s) == (two.shots, two.lost_shots, two.virtual_s)
    assert one.shots == sum(total for total in virtual.PART.totals().values())
    # A pair takes a tenth of a second in the laboratory, whatever it takes here.
    assert one.virtual_s == pytest.approx(sum(row.pairs for row in one.rows) * 0.102, rel=0.1)


def test_parts_of_every_row_together_have_small_errors() -> None:
    assert set(virtual.PARTS) == set(virtual.PART.totals()) == set(experiments.MEASUREMENTS)
    shots = {name: total * virtual.PARTS[name] for name, total in virtual.PART.totals().items()}
    assert all(total >= 6_000 for total in shots.values())
    assert len(virtual.parts(2.0)) == 2 * len(virtual.parts(1.0))


def test_rows_get_what_virtual_time_found_of_the_same() -> None:
    def row(of: published.Published, value: float) -> Row:
        ours = Estimate(value=value, sigma=0.01, shots=100)
        return Row(published=of, ours=ours, exact=NO_ESTIMATE, pairs=100)

    found = virtual.Found(
        rows=[row(published.SWAP, 0.6), row(published.CZ, 0.8)], shots=200, lost_shots=0, virtual_s=20.0
    )
    rows = virtual.with_virtual([row(published.CZ, 0.7), row(published.SWAP, 0.5)], found)
    assert [(each.ours.value, each.virtual.value) for each in rows] == [(0.7, 0.8), (0.5, 0.6)]


def test_pooled_estimates_are_the_estimate_of_all_samples() -> None:
    rng = np.random.default_rng(4)
    samples = [float(value) for value in rng.normal(0.7, 0.2, 900)]
    parts = [experiments.mean_estimate(samples[start : start + 100]) for start in range(0, 900, 100)]
    whole, joined = experiments.mean_estimate(samples), estimation.pooled(parts)
    assert joined.value == pytest.approx(whole.value, abs=1e-12)
    assert joined.sigma == pytest.approx(whole.sigma, rel=0.01)
    assert joined.shots == 900


def test_pooled_estimates_weigh_by_their_shots() -> None:
    few, many = Estimate(value=0.0, sigma=0.3, shots=10), Estimate(value=1.0, sigma=0.1, shots=90)
    joined = estimation.pooled([few, many])
    assert (joined.value, joined.shots) == (0.9, 100)
    assert joined.sigma == pytest.approx((0.03**2 + 0.09**2) ** 0.5)
