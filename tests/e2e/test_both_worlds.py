"""The same program on daemons and in virtual time: outcomes of one distribution, and of another when the physics differ."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import pytest

BELLWIRE = [sys.executable, "-m", "bellwire.shell"]
EXAMPLE = Path(__file__).parents[2] / "examples" / "two-nodes" / "testbed.toml"
SHOTS_ON_DAEMONS = 1_000
SHOTS_IN_VIRTUAL_TIME = 4_000
SURELY = 1e-6
"""Samples that are less likely than this, if they are of one distribution, are not. So seldom does the test fail by chance."""

PROGRAM = """
name = "uneven"
qubits = ["alice.a", "bob.b"]
steps = [
    ["ry", "alice.a", 1.2],
    ["cx", "alice.a", "bob.b"],
    ["rx", "bob.b", 0.5],
    ["measure", "alice.a"],
    ["measure", "bob.b"],
]
"""


def write_testbed(folder: Path, name: str, fidelity: float) -> Path:
    """A testbed whose links, gates, memories and readout are all noisy."""
    preset = (files("bellwire.sim") / "presets" / "ideal.toml").read_text()
    for key, ideal, noisy in (
        ("werner_fidelity", "1.0", str(fidelity)),
        ("two_qubit_gate_fidelity", "1.0", "0.98"),
        ("readout_error", "0.0", "0.02"),
        ("measurement_crosstalk", "0.0", "0.03"),
    ):
        assert f"{key} = {{ value = {ideal}," in preset
        preset = preset.replace(f"{key} = {{ value = {ideal},", f"{key} = {{ value = {noisy},")
    (folder / f"{name}-preset.toml").write_text(preset, encoding="utf-8")
    testbed = EXAMPLE.read_text(encoding="utf-8").replace('preset = "ideal"', f'preset = "{name}-preset.toml"')
    path = folder / f"{name}.toml"
    path.write_text(testbed, encoding="utf-8")
    return path


def counts(*command: str | Path) -> dict[str, int]:
    done = subprocess.run([*BELLWIRE, *map(str, command)], capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)["counts"]
    return found


def virtual_counts(folder: Path, testbed: Path) -> dict[str, int]:
    shots = str(SHOTS_IN_VIRTUAL_TIME)
    return counts("run", folder / "program.toml", "--virtual", testbed, "--shots", shots, "--seed", "1", "--json")


def chance(first: Mapping[str, int], second: Mapping[str, int]) -> float:
    """How likely samples of one distribution differ so much, or more: chi-square of two bits, three degrees of freedom."""
    totals = sum(first.values()), sum(second.values())
    chi_square = 0.0
    for outcome in ("00", "01", "10", "11"):
        share = (first.get(outcome, 0) + second.get(outcome, 0)) / sum(totals)
        for sample, total in zip((first, second), totals, strict=True):
            chi_square += (sample.get(outcome, 0) - share * total) ** 2 / (share * total)
    return math.erfc(math.sqrt(chi_square / 2)) + math.sqrt(2 * chi_square / math.pi) * math.exp(-chi_square / 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("worlds")
    (folder / "program.toml").write_text(PROGRAM, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def on_daemons(folder: Path) -> dict[str, int]:
    testbed = write_testbed(folder, "noisy", 0.9)
    inner: tuple[str | Path, ...] = (
        *BELLWIRE,
        "run",
        folder / "program.toml",
        "--shots",
        str(SHOTS_ON_DAEMONS),
        "--json",
    )
    return counts("up", testbed, "--state", folder / "state", "--", *inner)


def test_program_has_the_same_outcomes_on_daemons_and_in_virtual_time(folder: Path, on_daemons: dict[str, int]) -> None:
    assert min(on_daemons.values()) > SHOTS_ON_DAEMONS / 40  # All four come: there is something to compare.
    assert chance(on_daemons, virtual_counts(folder, folder / "noisy.toml")) > SURELY


def test_program_on_worse_links_is_told_apart(folder: Path, on_daemons: dict[str, int]) -> None:
    worse = write_testbed(folder, "worse", 0.65)
    assert chance(on_daemons, virtual_counts(folder, worse)) < SURELY


def test_chance_is_that_of_tables() -> None:
    assert chance({"00": 1, "01": 2, "10": 3, "11": 4}, {"00": 2, "01": 4, "10": 6, "11": 8}) == pytest.approx(1.0)
    # Chi-square of these is 4 x 140^2 / 10,000 = 7.84; for three degrees of freedom tables have 5 % at 7.815.
    first = {"00": 10_140, "01": 9_860, "10": 10_000, "11": 10_000}
    second = {"00": 9_860, "01": 10_140, "10": 10_000, "11": 10_000}
    assert chance(first, second) == pytest.approx(0.0494, abs=1e-4)


# Every way to herald, on daemons.

STAR = EXAMPLE.parents[1] / "star" / "testbed.toml"

EVERY_LINK = """
name = "every-link"
qubits = ["alice.a", "bob.b", "carol.c", "dora.d"]
steps = [
    ["x", "alice.a"],
    ["cx", "alice.a", "dora.d"],
    ["cx", "dora.d", "bob.b"],
    ["cx", "dora.d", "carol.c"],
    ["measure", "alice.a"],
    ["measure", "bob.b"],
    ["measure", "carol.c"],
    ["measure", "dora.d"],
]
"""


def test_gates_over_links_of_every_scheme_and_a_switched_station_are_exact_in_both_worlds(tmp_path: Path) -> None:
    """Single clicks and time bins through one set of detectors, and a link without a station; halves in storage."""
    program = tmp_path / "program.toml"
    program.write_text(EVERY_LINK, encoding="utf-8")
    command = ("run", program, "--shots", "4", "--json")
    assert counts("up", STAR, "--state", tmp_path / "state", "--", *BELLWIRE, *command) == {"1111": 4}
    assert counts(*command, "--virtual", STAR) == {"1111": 4}
