"""Copies of Bellwire's code, with or without one of the faults of tests/mutation in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import mutant
from mutant import ROOT
from scripts import load_script

BELLWIRE = [sys.executable, "-m", "bellwire.shell"]


def copied(root: Path) -> dict[str, str]:
    """Copy the code and the scenarios to `root`: the environment variables that have a Python run the copy."""
    shutil.copytree(ROOT / "scenarios", root / "scenarios")
    return mutant.copied(root)


def mutate(root: Path, name: str) -> None:
    """Put a mutant into a copy."""
    [chosen] = [each for each in load_script("mutation/run.py").load() if each.name == name]
    chosen.apply(root)


def bellwire(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of a copy to its end."""
    whole = {**os.environ, **environment}
    return subprocess.run([*BELLWIRE, *arguments], env=whole, capture_output=True, text=True, timeout=100, check=False)
