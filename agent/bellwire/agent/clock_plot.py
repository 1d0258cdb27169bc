"""Draws what `bellwire time` has seen. Needs matplotlib, which is an extra."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bellwire.protocols.errors import ConfigError


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw offsets over time, each from its first value, with the uncertainty as a band, and that once more by itself.

    Raises:
        ConfigError: when the file cannot be written.
    """
    figure = Figure(figsize=(8, 6), layout="constrained")
    offsets, uncertainties = figure.subplots(2, 1, sharex=True)
    began_ns = min(row["at_ns"] for row in rows)
    for node in dict.fromkeys(row["node"] for row in rows):
        told = [row for row in rows if row["node"] == node and row.get("source") and row["uncertainty_ns"] is not None]
        if not told:
            continue
        times_s = [(row["at_ns"] - began_ns) / 1e9 for row in told]
        off_us = [(row["offset_ns"] - told[0]["offset_ns"]) / 1e3 for row in told]
        sure_us = [row["uncertainty_ns"] / 1e3 for row in told]
        (line,) = offsets.plot(times_s, off_us, marker=".", label=node)
        band = [[off + way * sure for off, sure in zip(off_us, sure_us, strict=True)] for way in (-1, 1)]
        offsets.fill_between(times_s, *band, alpha=0.2, color=line.get_color())
        uncertainties.semilogy(times_s, sure_us, marker=".", label=node, color=line.get_color())
    offsets.set_ylabel("offset since the first look (µs)")
    uncertainties.set_ylabel("uncertainty (µs)")
    uncertainties.set_xlabel("time (s)")
    if offsets.lines:
        offsets.legend()
    try:
        figure.savefig(path)
    except OSError as error:
        raise ConfigError(f"--plot {path}: {error.strerror or error}") from None
