"""Files of time tags: read in parts however long they are, and recorded so that a crash costs no tag."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final

import numpy as np

from bellwire.protocols.errors import ConfigError
from bellwire.tags.format import (
    FIXED,
    MAGIC,
    RECORD,
    UNKNOWN,
    Header,
    decode_header,
    decode_tags,
    encode_tags,
    header_bytes,
)
from bellwire.tags.stream import CHUNK_TAGS, Tags

PTU_MAGIC: Final = b"PQTTTR"


class TagReader(ABC):
    """A file of tags. Reading it twice gives the same tags twice."""

    path: Path
    header: Header
    tags: int
    """Records of the file; of a file in another format some may be no tags."""

    kind: str
    """What people call the format."""

    whole: bool = True
    """Whether the file was closed by whoever wrote it."""

    period_ps: int = 0
    """From attempt to attempt, where the file's tags are timed from attempts that are no tags themselves; 0 for others."""

    @abstractmethod
    def chunks(self, size: int = CHUNK_TAGS) -> Iterator[Tags]:
        """Read the tags in the file's order, at most `size` at once.

        Raises:
            ConfigError: when the file is corrupt, or cannot be read any more.
        """


class TagFile(TagReader):
    """A file of Bellwire's own format.

    With `salvage`, what remains of a truncated file is read.

    Raises:
        ConfigError: when it cannot be read, is truncated, or its header is corrupt.
    """

    kind = "bellwire"

    def __init__(self, path: Path, *, salvage: bool = False) -> None:
        self.path = path
        place = str(path)
        try:
            with path.open("rb") as file:
                fixed = file.read(FIXED.size)
                size = header_bytes(fixed, place)
                self.header = decode_header(fixed + file.read(size - FIXED.size), place)
                records, rest = divmod(os.fstat(file.fileno()).st_size - size, RECORD.itemsize)
        except OSError as error:
            raise unreadable(path, error) from None
        named = self.header.tags
        self.whole = named != UNKNOWN
        self.tags = named if self.whole else records
        if (rest and not self.whole) or records < self.tags:
            if not salvage:
                hint = f"; `bellwire tags convert --salvage` keeps the {records} whole ones" if records else ""
                missing = f" of {named}" if self.whole else f" and {rest} bytes of another one"
                raise ConfigError(f"{path}: truncated: it holds {records} tags{missing}{hint}")
            self.tags = records
            self.whole = False
        elif self.whole and (rest or records > named):
            raise ConfigError(f"{path}: corrupt: its header says {named} tags, it holds more")

    def chunks(self, size: int = CHUNK_TAGS) -> Iterator[Tags]:
        """Read the tags, at most `size` at once. Raises ConfigError as `TagReader.chunks` does."""
        left = self.tags
        try:
            with self.path.open("rb") as file:
                file.seek(self.header.size)
                while left:
                    records = np.fromfile(file, dtype=RECORD, count=min(size, left))
                    if not len(records):
                        raise ConfigError(f"{self.path}: became shorter while it was read: {left} tags are missing")
                    left -= len(records)
                    yield decode_tags(records, str(self.path))
        except OSError as error:
            raise unreadable(self.path, error) from None


class Recorder:
    """Writes tags to a file, as they come. Closing it writes into the header how many there are.

    The file of a recorder that was not closed can be read nevertheless.

    Raises:
        ConfigError: when there is a file of that name, or it cannot be written.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self.header = header.with_tags(UNKNOWN)
        self.tags = 0
        try:
            self._file: BinaryIO = path.open("xb")
        except FileExistsError:
            raise ConfigError(f"{path}: exists; what was recorded is never overwritten") from None
        except OSError as error:
            raise unwritable(path, error) from None
        self._write(self.header.encode())

    def write(self, tags: Tags) -> None:
        """Append tags.

        Raises:
            ConfigError: when the file cannot be written, for instance because the disk is full.
        """
        self._write(encode_tags(tags).tobytes())
        self.tags += len(tags)

    def _write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise unwritable(self.path, error) from None

    def close(self) -> None:
        """Complete the file. Raises ConfigError as `write` does."""
        if self._file.closed:
            return
        try:
            with self._file:
                self._file.seek(0)
                self._file.write(self.header.with_tags(self.tags).encode())
        except OSError as error:
            raise unwritable(self.path, error) from None

    def __enter__(self) -> Recorder:
        """Give the recorder itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Complete the file, whatever happened: its tags are good."""
        self.close()


def open_tags(path: Path, *, salvage: bool = False) -> TagReader:
    """Open a file of tags, of a format that is known by how the file begins.

    Raises:
        ConfigError: when it cannot be read, is of no format that is known, is truncated, or its header is corrupt.
    """
    try:
        with path.open("rb") as file:
            begin = file.read(len(MAGIC))
    except OSError as error:
        raise unreadable(path, error) from None
    if begin.startswith(PTU_MAGIC):
        from bellwire.tags.ptu import PtuReader

        return PtuReader(path, salvage=salvage)
    if begin != MAGIC:
        raise ConfigError(f"{path}: holds no time tags: expected Bellwire's own format or PicoQuant's PTU")
    return TagFile(path, salvage=salvage)


def unreadable(path: Path, error: OSError) -> ConfigError:
    """Say in one line why a file cannot be read."""
    return ConfigError(f"{path}: cannot be read: {error.strerror or error}")


def unwritable(path: Path, error: OSError) -> ConfigError:
    """Say in one line why a file cannot be written."""
    return ConfigError(f"{path}: cannot be written: {error.strerror or error}")
