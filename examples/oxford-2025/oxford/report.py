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
from oxford.published import Published
from oxford.tomography import Estimate
from oxford.virtual import Found

WIDE: Final = 94
"""From this many columns on there is room for all numbers."""

WIDEST: Final = 136
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
    """What a run was like, besides its rows. Seconds of the wall's clock: on daemons, and for what virtual time found."""

    seed: int
    time_scale: float
    seconds: float
    lost_shots: int
    crosstalk: float
    latency: Latency
    prediction: Prediction
    virtual: Found
    virtual_seconds: float


def gap(ours: Estimate, paper: Published) -> float:
    """Give what we measured minus what the paper reports."""
    return ours.value - paper.value


def gap_in_sigmas(ours: Estimate, paper: Published) -> float:
    """Give the gap in standard errors: ours and the paper's, where it gives one, together."""
    return gap(ours, paper) / math.hypot(ours.sigma, paper.sigma or 0.0)


def worlds_apart(row: Row) -> float:
    """Give by how many standard errors, theirs together, daemons and virtual time differ."""
    return (row.ours.value - row.virtual.value) / math.hypot(row.ours.sigma, row.virtual.sigma)


def table(rows: Sequence[Row], width: int) -> Table:
    """Lay the rows out for people, for a terminal of that width."""
    grid = Table(
        title=f"Ours, on daemons and in virtual time, beside {published.PAPER}",
        caption="0.862(9) is 0.862 ± 0.009; sigmas: what virtual has more than published, in standard errors of both",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    for heading in _cells(rows[0], width):
        grid.add_column(heading, justify="left" if heading in ("what", "measured by") else "right", no_wrap=True)
    for row in rows:
        grid.add_row(*_cells(row, width).values())
    return grid


def _cells(row: Row, width: int) -> dict[str, str]:
    """What of a row there is room for, by heading."""
    paper = row.published
    digits = 3 if paper.value < 1 else 2
    cells = {
        "what": paper.short,
        "daemons": concise(row.ours),
        "virtual": concise(row.virtual),
        "exact": concise(row.exact),
        "published": concise(Estimate(value=paper.value, sigma=paper.sigma or 0.0, shots=0)),
        "gap": f"{gap(row.virtual, paper):+.{digits}f}",
        "sigmas": f"{gap_in_sigmas(row.virtual, paper):+.1f}",
        "shots": f"{row.ours.shots} + {row.virtual.shots}",
        "measured by": HOW[paper.what],
    }
    for heading, least in (("gap", WIDE), ("shots", WIDE), ("measured by", WIDEST)):
        if width < least:
            del cells[heading]
    return cells


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


def notes(rows: Sequence[Row], run: Run) -> list[str]:
    """Say what a reader of the table has to know, and where model and paper differ."""
    prediction, latency, found = run.prediction, run.latency, run.virtual
    apart = max(abs(worlds_apart(row)) for row in rows)
    gaps = ", ".join(
        f"{name} by {value - paper.value:+.3f}"
        for name, value, paper in (
            ("Grover", prediction.grover, published.GROVER),
            ("iSWAP", prediction.iswap, published.ISWAP),
            ("SWAP", prediction.swap, published.SWAP),
        )
    )
    return [
        "daemons: what an application measures over the network, with preparation and readout errors. virtual: the same"
        f" application over the same agents in virtual time: {found.shots} shots, {found.virtual_s:.0f} s of laboratory time,"
        f" made in {run.virtual_seconds:.0f} s. exact: the own state of the daemons' world after further shots, without such"
        " errors; for the rate, what attempts and recooling make on average.",
        f"Daemons and virtual time differ by at most {apart:.1f} standard errors, in {len(rows)} rows.",
        f"The one free parameter, measurement_crosstalk = {run.crosstalk:g}, is calibrated on the CZ row. Grover, iSWAP and"
        f" SWAP are predictions. Without shot noise and latency the preset says: CZ {prediction.cz:.3f}, Grover"
        f" {prediction.grover:.3f}, iSWAP {prediction.iswap:.3f}, SWAP {prediction.swap:.3f}.",
        f"The predictions differ from the paper: {gaps}. The model lets teleported gates err independently of each other and"
        " leaves out what adds up between them, such as drifts and coherent errors of local gates.",
        "The pair's state is the measured density matrix, printed to three digits: its fidelity is 0.9695, the paper quotes"
        " 0.9689. The rate comes from attempt times that we recall from the paper and could not look up, see README.md.",
        f"On daemons world time ran {run.time_scale:g} x wall time. Classical latency in this run: {latency.gate_s * 1e3:.1f} ±"
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
        "virtual": {
            "wall_s": run.virtual_seconds,
            "virtual_s": run.virtual.virtual_s,
            "shots": run.virtual.shots,
            "pairs": sum(row.pairs for row in run.virtual.rows),
            "lost_shots": run.virtual.lost_shots,
        },
        "rows": [
            {
                "what": row.published.what,
                "ours": row.ours.value,
                "ours_sigma": row.ours.sigma,
                "virtual": row.virtual.value,
                "virtual_sigma": row.virtual.sigma,
                "exact": _or_none(row.exact.value),
                "exact_sigma": _or_none(row.exact.sigma),
                "published": row.published.value,
                "published_sigma": row.published.sigma,
                "published_note": row.published.note,
                "gap": gap(row.ours, row.published),
                "gap_sigmas": gap_in_sigmas(row.ours, row.published),
                "virtual_gap": gap(row.virtual, row.published),
                "virtual_gap_sigmas": gap_in_sigmas(row.virtual, row.published),
                "worlds_apart_sigmas": worlds_apart(row),
                "shots": row.ours.shots,
                "virtual_shots": row.virtual.shots,
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
