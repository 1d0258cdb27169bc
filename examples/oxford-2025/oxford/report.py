"""The table that the demo ends with, its machine-readable copy, and the notes that belong to them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from rich import box
from rich.table import Table

from oxford import published
from oxford.experiments import LATENCY_BUDGET, Latency, Row
from oxford.model import Prediction
from oxford.tomography import Estimate

WIDE: Final = 118
"""From this many columns on there is room to say how a row was measured."""

HOW: Final = {
    published.BELL.what: "XX, YY and ZZ parities",
    published.RATE.what: "waits above their dead time, in world time",
    published.CZ.what: "process tomography, linear inversion",
    published.GROVER.what: "truth table, mean of four items",
    published.ISWAP.what: "direct fidelity estimation",
    published.SWAP.what: "direct fidelity estimation",
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run was like, besides its rows. `gates` are the shots' own; `seconds` of the wall's clock."""

    seed: int
    time_scale: float
    seconds: float
    lost_shots: int
    crosstalk: float
    latency: Latency
    prediction: Prediction


def gap(row: Row) -> float:
    """Give what we measured minus what the paper reports."""
    return row.ours.value - row.published.value


def gap_in_sigmas(row: Row) -> float:
    """Give the gap in standard errors: ours and the paper's, where it gives one, together."""
    return gap(row) / math.hypot(row.ours.sigma, row.published.sigma or 0.0)


def table(rows: Sequence[Row], width: int) -> Table:
    """Lay the rows out for people, for a terminal of that width."""
    grid = Table(
        title=f"Ours beside {published.PAPER}",
        caption="0.862(9) is 0.862 ± 0.009; sigmas: the gap in standard errors, ours and theirs",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    grid.add_column("what", no_wrap=True)
    for heading in ("ours", "exact", "published", "gap", "sigmas", "shots"):
        grid.add_column(heading, justify="right", no_wrap=True)
    if width >= WIDE:
        grid.add_column("measured by")
    for row in rows:
        paper = Estimate(value=row.published.value, sigma=row.published.sigma or 0.0, shots=0)
        cells = [
            row.published.short,
            concise(row.ours),
            concise(row.exact),
            concise(paper),
            f"{gap(row):+.3f}" if row.published.value < 1 else f"{gap(row):+.2f}",
            f"{gap_in_sigmas(row):+.1f}",
            str(row.ours.shots),
        ]
        grid.add_row(*cells, *([HOW[row.published.what]] if width >= WIDE else []))
    return grid


def concise(estimate: Estimate) -> str:
    """Write 0.862 ± 0.009 as 0.862(9); without an error to at most four digits, and nothing as a dash."""
    value, sigma = estimate.value, estimate.sigma
    if math.isnan(value):
        return "-"
    if not sigma >= 1e-6:
        return f"{value:.4g}"
    leading = math.floor(math.log10(sigma))
    digits = max(0, -leading + (sigma / 10**leading < 3.5))
    return (
        f"{value:.{digits}f}({sigma:.{digits}f})" if digits == 0 else f"{value:.{digits}f}({round(sigma * 10**digits)})"
    )


def notes(run: Run) -> list[str]:
    """Say what a reader of the table has to know, and where model and paper differ."""
    prediction, latency = run.prediction, run.latency
    gaps = ", ".join(
        f"{name} by {value - paper.value:+.3f}"
        for name, value, paper in (
            ("Grover", prediction.grover, published.GROVER),
            ("iSWAP", prediction.iswap, published.ISWAP),
            ("SWAP", prediction.swap, published.SWAP),
        )
    )
    return [
        "ours: what an application measures over the network, with preparation and readout errors. exact: the world's own"
        " state after further shots, without them; for the rate, what attempts and recooling make on average.",
        f"The one free parameter, measurement_crosstalk = {run.crosstalk:g}, is calibrated on the CZ row. Grover, iSWAP and"
        f" SWAP are predictions. Without shot noise and latency the preset says: CZ {prediction.cz:.3f}, Grover"
        f" {prediction.grover:.3f}, iSWAP {prediction.iswap:.3f}, SWAP {prediction.swap:.3f}.",
        f"The predictions differ from the paper: {gaps}. The model lets teleported gates err independently of each other and"
        " leaves out what adds up between them, such as drifts and coherent errors of local gates.",
        "The pair's state is the measured density matrix, printed to three digits: its fidelity is 0.9695, the paper quotes"
        " 0.9689. The rate comes from attempt times that we recall from the paper and could not look up, see README.md.",
        f"World time ran {run.time_scale:g} x wall time. Classical latency in this run: {latency.gate_s * 1e3:.1f} ±"
        f" {latency.gate_sigma_s * 1e3:.1f} ms per teleported gate, {latency.program_s * 1e3:.1f} ms per local program."
        f" Circuit qubits decohere meanwhile: that cost {latency.worst:.2%} of a fidelity at most (budget"
        f" {LATENCY_BUDGET:.1%}).",
    ]


def as_json(rows: Sequence[Row], run: Run) -> str:
    """Write a run for machines: numbers that do not exist are null."""
    content: dict[str, Any] = {
        "paper": published.PAPER,
        "seed": run.seed,
        "time_scale": run.time_scale,
        "wall_s": run.seconds,
        "pairs": sum(row.pairs for row in rows),
        "lost_shots": run.lost_shots,
        "measurement_crosstalk": run.crosstalk,
        "latency": {**asdict(run.latency), "budget": LATENCY_BUDGET},
        "predicted": asdict(run.prediction),
        "rows": [
            {
                "what": row.published.what,
                "ours": row.ours.value,
                "ours_sigma": row.ours.sigma,
                "exact": _or_none(row.exact.value),
                "exact_sigma": _or_none(row.exact.sigma),
                "published": row.published.value,
                "published_sigma": row.published.sigma,
                "published_note": row.published.note,
                "gap": gap(row),
                "gap_sigmas": gap_in_sigmas(row),
                "shots": row.ours.shots,
                "pairs": row.pairs,
                "measured_by": HOW[row.published.what],
            }
            for row in rows
        ],
    }
    return json.dumps(content, indent=2) + "\n"


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def with_expected_rate(row: Row, prediction: Prediction) -> Row:
    """Put into the rate's row what the preset's attempts, recoolings and efficiencies make on average."""
    if row.published is not published.RATE:
        return row
    return replace(row, exact=Estimate(value=prediction.pairs_per_s, sigma=0.0, shots=0))
