"""Copies of Bellwire's code, with or without one of the faults of tests/mutation in it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BELLWIRE = [sys.executable, "-m", "bellwire.shell"]


def copied(root: Path) -> dict[str, str]:
    """Copy the code and the scenarios to `root`: the environment variables that have a Python run the copy."""
    rooms = _mutation().ROOMS
    for folder in (*rooms, "scenarios"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    paths = os.pathsep.join(str(root / room) for room in rooms)
    return {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}


def mutate(root: Path, name: str) -> None:
    """Put a mutant into a copy."""
    [mutant] = [mutant for mutant in _mutation().load() if mutant.name == name]
    mutant.apply(root)


def bellwire(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of a copy to its end."""
    whole = {**os.environ, **environment}
    return subprocess.run([*BELLWIRE, *arguments], env=whole, capture_output=True, text=True, timeout=100, check=False)


def _mutation() -> Any:
    """The script that knows the mutants, as a module."""
    spec = importlib.util.spec_from_file_location("mutation_run", ROOT / "tests" / "mutation" / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
