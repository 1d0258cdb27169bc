"""Copies of Bellwire's code, with or without one of the faults of tests/mutation in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from scripts import load_script

ROOT = Path(__file__).parents[2]
BELLWIRE = [sys.executable, "-m", "bellwire.shell"]


def copied(root: Path) -> dict[str, str]:
    """Copy the code and the scenarios to `root`: the environment variables that have a Python run the copy."""
    rooms = load_script("mutation/run.py").ROOMS
    for folder in (*rooms, "scenarios"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    paths = os.pathsep.join(str(root / room) for room in rooms)
    return {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}


def mutate(root: Path, name: str) -> None:
    """Put a mutant into a copy."""
    [mutant] = [mutant for mutant in load_script("mutation/run.py").load() if mutant.name == name]
    mutant.apply(root)


def bellwire(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of a copy to its end."""
    whole = {**os.environ, **environment}
    return subprocess.run([*BELLWIRE, *arguments], env=whole, capture_output=True, text=True, timeout=100, check=False)
