"""Calibrate the preset's one free parameter, `measurement_crosstalk`, on the CZ row of the paper and on nothing else.

    python examples/oxford-2025/calibrate.py

It prints the value that makes the exact average gate fidelity of the teleported CZ that of the paper, and what the preset
then says of the other rows. It changes no file; a test fails when the preset and this script disagree.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from oxford import model
from oxford.published import CZ
from rich.console import Console

from bellwire.sim.preset import Preset, load_preset

PRESET = Path(__file__).parent / "preset.toml"
DIGITS = 4
"""To which the value in the preset is rounded: the fidelity's third digit is the paper's uncertainty."""


def calibrated(preset: Preset) -> float:
    """Give the value of the free parameter, rounded as in the preset."""
    return round(model.solve_crosstalk(preset, CZ.value), DIGITS)


def main() -> None:
    """Print what the calibration says."""
    console = Console()
    preset = load_preset(PRESET)
    value = calibrated(preset)
    console.print(f"measurement_crosstalk = {value}   (preset: {model.crosstalk(preset)})")
    for row, predicted in asdict(model.predict(model.with_crosstalk(preset, value))).items():
        console.print(f"  {row:14} {predicted:.4f}")


if __name__ == "__main__":
    main()
