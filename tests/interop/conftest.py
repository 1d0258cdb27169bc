"""The node agent of `agent/`, built."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

AGENT = Path(__file__).parent / "agent"


def call(*command: str) -> None:
    done = subprocess.run(command, cwd=AGENT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"


@pytest.fixture(scope="session")
def typescript_agent(tmp_path_factory: pytest.TempPathFactory) -> Sequence[str]:
    """The command that runs it; its settings' file comes next. Built once, whichever of pytest's workers needs it first."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    built = root / "typescript_agent.built"
    with (root / "typescript_agent.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.exists():
            build()
            built.touch()
    return ("node", str(AGENT / "build" / "main.js"))


def build() -> None:
    """Install what it needs when the lockfile is newer than what there is, and compile it."""
    if shutil.which("npm") is None:
        pytest.fail("npm is needed for the second implementation (Debian: apt-get install nodejs npm)")
    lockfile, installed = AGENT / "package-lock.json", AGENT / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lockfile.stat().st_mtime:
        call("npm", "ci")
    call("npm", "run", "build")
