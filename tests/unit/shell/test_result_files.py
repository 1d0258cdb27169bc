"""Scripts that run for minutes and then write a file say at once, in one line, when it cannot be written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
BENCH, DEMO = ROOT / "bench" / "run.py", ROOT / "examples" / "oxford-2025" / "demo.py"


@pytest.mark.parametrize("script", [BENCH, DEMO], ids=["bench", "demo"])
@pytest.mark.parametrize(
    ("place", "said"),
    [(".", "Is a directory"), ("none/rows.json", "No such file or directory")],
    ids=["folder", "none"],
)
def test_result_file_that_cannot_be_written_is_one_line_before_the_run(
    tmp_path: Path, script: Path, place: str, said: str
) -> None:
    command = [sys.executable, str(script), "--json", str(tmp_path / place)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert f"--json {tmp_path / place}: {said}" in done.stderr
    assert list(tmp_path.iterdir()) == []
