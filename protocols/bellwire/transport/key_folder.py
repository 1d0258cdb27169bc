"""A folder of public key files that may change at any time."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from bellwire.protocols.errors import ConfigError

K = TypeVar("K")

_Mark = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class _Seen(Generic[K]):
    """A file as it was when it was read: its marks, and the key in it or what is wrong with it."""

    mark: _Mark
    key: K | None
    problem: str = ""


class KeyFolder(Generic[K]):
    """The key files of a folder, each read when it has changed. One that is malformed counts for nobody, and stops no other.

    Files whose names end with `suffix` are keys. `load` reads one, or raises a `ConfigError` that says what is wrong with it.
    `what` is what the keys are, for people.
    """

    def __init__(self, folder: Path, suffix: str, what: str, load: Callable[[Path], K]) -> None:
        """Nothing is read before the first `scan`."""
        self.folder = folder
        self.keys: dict[str, K] = {}
        """The keys, by the name of their file."""
        self.problems: dict[Path, str] = {}
        """What was wrong with files when the folder was last read."""
        self._suffix = suffix
        self._what = what
        self._load = load
        self._seen: dict[str, _Seen[K]] = {}

    def scan(self) -> bool:
        """Read the folder anew. Returns whether it has changed.

        Raises:
            ConfigError: when it cannot be read, or everybody may write to it; what was known stays known then.
        """
        marks = self._marks()
        former, self._seen = self._seen, {}
        for name in sorted(marks):
            known = former.get(name)
            if known is None or known.mark != marks[name]:
                known = self._read(name, marks[name])
            self._seen[name] = known
        self.problems = {self.folder / name: each.problem for name, each in self._seen.items() if each.problem}
        if self._seen == former:
            return False
        self.keys = {name: each.key for name, each in self._seen.items() if each.key is not None}
        return True

    def is_unchanged(self, name: str) -> bool:
        """Whether a file that was read is what it was then: only this file is looked at."""
        return self._seen[name].mark == _mark(self.folder / name)

    def _marks(self) -> dict[str, _Mark]:
        marks: dict[str, _Mark] = {}
        try:
            mode = self.folder.stat().st_mode
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    if entry.name.endswith(self._suffix) and (mark := _mark(entry)) is not None:
                        marks[entry.name] = mark
        except FileNotFoundError:
            raise ConfigError(f"{self.folder}: no such directory of {self._what}") from None
        except OSError as error:
            raise ConfigError(f"{self.folder}: cannot read {self._what}: {error.strerror}") from None
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise ConfigError(f"{self.folder}: everybody may add {self._what} to it: chmod o-w it")
        return marks

    def _read(self, name: str, mark: _Mark) -> _Seen[K]:
        try:
            return _Seen(mark, self._load(self.folder / name))
        except ConfigError as error:
            return _Seen(mark, None, str(error))


def _mark(file: Path | os.DirEntry[str]) -> _Mark | None:
    """What tells a file from what it was before; `None` when there is none."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
