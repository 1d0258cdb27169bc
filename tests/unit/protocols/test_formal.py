"""The formal models (protocols/formal) and the code name the same things. `make model` checks the models themselves."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bellwire.protocols.gate_end import GateState
from bellwire.protocols.messages import GateVariant
from bellwire.protocols.pairs import PairState

FORMAL = Path(__file__).parents[3] / "protocols" / "formal"
MODELS = ("gate", "pair")


def load_check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("formal_check", FORMAL / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["formal_check"] = module
    spec.loader.exec_module(module)
    return module


def numbered(model: str) -> dict[str, int]:
    """The plain numbers that a model gives names to, in order."""
    text = (FORMAL / f"{model}.pml").read_text()
    return {name: int(value) for name, value in re.findall(r"^#define (\w+) (\d+)\b", text, re.MULTILINE)}


def test_gate_model_has_the_states_of_the_gate_machine_in_their_order() -> None:
    names = [name for name in numbered("gate") if name.lower() in set(GateState)]
    assert names == [state.name for state in GateState]
    assert {variant.name for variant in GateVariant} <= set(numbered("gate"))


def test_pair_model_has_the_states_of_the_pair_machine_in_their_order() -> None:
    names = [name for name in numbered("pair") if name.lower() in set(PairState)]
    assert names == [state.name for state in PairState]


@pytest.mark.parametrize("model", MODELS)
def test_macros_of_a_model_are_those_that_the_check_runs(model: str) -> None:
    check = load_check()
    text = (FORMAL / f"{model}.pml").read_text()
    asked = set(re.findall(r"^#ifn?def (\w+)", text, re.MULTILINE)) - {"KIND"}
    runs = [run for run in (*check.HOLDS, *check.MUTANTS) if run.model == model]
    given = {macro.partition("=")[0] for run in runs for macro in run.macros}
    assert given <= asked
    assert asked - given <= {"CRASHES", "FAULTS", "SILENCES", "LIES"}


def test_check_without_spin_says_in_one_line_what_to_install() -> None:
    environment = {**os.environ, "PATH": ""}
    done = subprocess.run(
        [sys.executable, str(FORMAL / "check.py")], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "the models need spin and gcc: apt-get install spin gcc\n"
    assert done.stdout == ""
