"""The faults of the mutation run still fit the code (tests/mutation)."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MUTANTS = tomllib.loads((ROOT / "tests/mutation/mutants.toml").read_text(encoding="utf-8"))["mutant"]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: str(mutant["name"]))
def test_mutant_replaces_a_text_that_stands_once(mutant: dict[str, str]) -> None:
    assert (ROOT / mutant["file"]).read_text(encoding="utf-8").count(mutant["old"]) == 1
    assert mutant["old"] != mutant["new"]


def test_mutants_are_many_and_each_has_a_name_of_its_own() -> None:
    assert len({mutant["name"] for mutant in MUTANTS}) == len(MUTANTS) >= 25
