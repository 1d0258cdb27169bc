"""Small faults, put into copies of the code: what `make mutants` and `make faults` have in common."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("agent", "protocols", "broker")


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A small fault: `old` in `file` becomes `new`."""

    name: str
    says: str
    file: str
    old: str
    new: str

    def apply(self, root: Path) -> None:
        """Put the fault into a copy of the code.

        Raises:
            ValueError: when the code has moved on, and `old` does not stand in the file exactly once.
        """
        path = root / self.file
        text = path.read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: the text to replace stands {text.count(self.old)} times in {self.file}")
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


def copied(root: Path) -> dict[str, str]:
    """Copy the code to `root`: the environment variables that have a Python run the copy."""
    for room in ROOMS:
        shutil.copytree(ROOT / room, root / room, ignore=shutil.ignore_patterns("__pycache__"))
    return {"PYTHONPATH": python_path(root), "PYTHONDONTWRITEBYTECODE": "1"}


def python_path(root: Path = ROOT) -> str:
    """Where a Python finds the rooms of a copy, or of the code as it is."""
    return os.pathsep.join(str(root / room) for room in ROOMS)
