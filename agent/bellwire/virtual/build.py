"""Which Bellwire runs here: its version, its commit, and a digest of its very code."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import subprocess
from pathlib import Path

import msgspec


class Build(msgspec.Struct, frozen=True, kw_only=True):
    """One installation of Bellwire. `commit` is empty outside of a working tree; `code` covers what no commit does."""

    version: str
    commit: str
    code: str
    numpy: str

    def gives_the_same_as(self, other: Build) -> bool:
        """Whether the same seeds give the same reports. The commit says nothing beyond the code, and may not be known."""
        return (self.version, self.code, self.numpy) == (other.version, other.code, other.numpy)

    def __str__(self) -> str:
        at = f" at commit {self.commit}" if self.commit else ""
        return f"bellwire {self.version}{at} (code {self.code[:12]}, numpy {self.numpy})"


@functools.cache
def build() -> Build:
    """The installation that this process runs, as it is on disk when this is first asked."""
    return Build(
        version=importlib.metadata.version("bellwire"),
        commit=commit(),
        code=_code_digest(),
        numpy=importlib.metadata.version("numpy"),
    )


def commit() -> str:
    """The commit of the working tree that is run, marked when it was changed; empty outside of one."""
    try:
        # An installed package may lie in somebody else's working tree, whose commit says nothing of it.
        _git("ls-files", "--error-unmatch", "scenario.py")
        return _git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*").strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout


def _code_digest() -> str:
    """A digest of every module and preset, the same however Bellwire was installed. Scenarios travel with the seeds."""
    files: dict[str, Path] = {}
    for portion in importlib.import_module("bellwire").__path__:
        for suffix in ("py", "toml"):
            for path in Path(portion).rglob(f"*.{suffix}"):
                files.setdefault(path.relative_to(portion).as_posix(), path)
    digest = hashlib.sha256()
    for name in sorted(files):
        if not name.startswith("virtual/scenarios/"):
            content = files[name].read_bytes()
            digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()
