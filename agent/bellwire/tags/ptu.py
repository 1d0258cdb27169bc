"""PicoQuant's PTU files, modes T2 and T3, part by part; by the library `ptufile`, which reads their headers and most records.

Channels are numbered as on the device: 0 is the sync input, 1 and up are the others, and a marker input m, from 1, is
`MARKER + m`. The library decodes a file as a whole; here each part takes over the clock where the one before left it.

T2 records of the HydraHarp and what came after it are decoded here. Of those, `ptufile` (as of version 2026.2.6) gives the
sync and the first input the same number, and multiplies the number of overflows in 32 bits, so that a pause of 128 of them,
which is 4.3 ms at a resolution of 1 ps, shifts every later time.

In mode T3 the sync input has no records: photons come with the number of their sync and a time since then. They become times on
one clock by the sync period of the header, rounded to whole picoseconds, so that attempts which the sync set off are found by
that period, each under its sync's number however long the file is. Absolute times are as inexact as the rounding.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from bellwire.protocols.errors import ConfigError
from bellwire.tags.files import TagReader, unreadable
from bellwire.tags.format import Header
from bellwire.tags.stream import CHUNK_TAGS, MAX_TIME_PS, Channels, Tags, Times

if TYPE_CHECKING:
    from ptufile import PtuFile

Integers = npt.NDArray[np.int64]

MARKER: Final = 100
"""Marker input m is channel `MARKER + m`."""

MARKER_INPUTS: Final = 4
RECORD_BYTES: Final = 4
T2_WRAPS: Final = {
    0x00010204: 33_552_000,  # HydraHarp, version 1: a record for each overflow
    0x01010204: 33_554_432,  # HydraHarp, version 2: a record for a number of them, as all below
    0x00010205: 33_554_432,  # TimeHarp 260 N
    0x00010206: 33_554_432,  # TimeHarp 260 P
    0x00010207: 33_554_432,  # MultiHarp, PicoHarp 330
}
"""Ticks of an overflow, by the type of T2 records, of a bit for special ones, 6 for the channel and 25 for the time."""

HYDRAHARP_1: Final = 0x00010204
PS_PER_S: Final = 1e12
_NEEDED: Final = (
    "MeasDesc_GlobalResolution",
    "TTResultFormat_TTTRRecType",
    "TTResult_NumberOfRecords",
    "Measurement_Mode",
)


class PtuReader(TagReader):
    """A PTU file. Its `tags` counts records, of which some are overflows of the clock and no tags.

    With `salvage`, what remains of a truncated file is read.

    Raises:
        ConfigError: when it cannot be read, is truncated, its header is corrupt, or the library is not installed.
    """

    kind = "PicoQuant PTU"

    def __init__(self, path: Path, *, salvage: bool = False) -> None:
        self.path = path
        with self._open() as ptu:
            header: dict[str, Any] = ptu.tags
            self._begin = ptu.record_offset
            missing = [name for name in _NEEDED if name not in header]
            if missing:
                raise ConfigError(f"{path}: the header is corrupt: it has no {missing[0]}")
            try:
                self._is_t3 = bool(ptu.is_t3)
                self._type = int(header["TTResultFormat_TTTRRecType"])
                self._tick_ps = float(header["MeasDesc_GlobalResolution"]) * PS_PER_S
                self._bin_ps = float(header.get("MeasDesc_Resolution", 0.0)) * PS_PER_S
                named = int(header["TTResult_NumberOfRecords"])
                ptu.decode_records(np.zeros(1, dtype=np.uint32))
            except (ValueError, TypeError) as error:
                raise ConfigError(f"{path}: the header is corrupt: {error}") from None
            epoch_ns = _epoch_ns(ptu.datetime)
        if not 0 < self._tick_ps < MAX_TIME_PS or not 0 <= self._bin_ps < MAX_TIME_PS:
            raise ConfigError(f"{path}: the header is corrupt: a resolution of {self._tick_ps:g} ps")
        held = (path.stat().st_size - self._begin) // RECORD_BYTES
        self.whole = named > 0
        self.tags = named if self.whole else held
        if held < self.tags:
            if not salvage:
                hint = "; `bellwire tags convert --salvage` keeps those"
                raise ConfigError(f"{path}: truncated: it holds {held} records of {named}{hint}")
            self.tags = held
            self.whole = False
        if self._is_t3:
            self._tick_ps = max(1.0, round(self._tick_ps))
            self.period_ps = int(self._tick_ps)
        resolution_ps = self._bin_ps if self._is_t3 and self._bin_ps else self._tick_ps
        self.header = Header(resolution_ps=max(1, round(resolution_ps)), start_epoch_ns=epoch_ns)

    def chunks(self, size: int = CHUNK_TAGS) -> Iterator[Tags]:
        """Read the tags, at most `size` records at once. Raises ConfigError as `TagReader.chunks` does."""
        left, ticks = self.tags, 0
        try:
            with self._open() as ptu, self.path.open("rb") as file:
                file.seek(self._begin)
                while left:
                    records = np.fromfile(file, dtype="<u4", count=min(size, left))
                    if not len(records):
                        raise ConfigError(f"{self.path}: became shorter while it was read: {left} records are missing")
                    left -= len(records)
                    decoded = _decode_t2(records, self._type) if self._type in T2_WRAPS else _decode(ptu, records)
                    yield self._tags(decoded, ticks)
                    ticks += decoded.overflow_ticks
        except OSError as error:
            raise unreadable(self.path, error) from None

    def _tags(self, decoded: _Decoded, ticks: int) -> Tags:
        latest = ticks + decoded.overflow_ticks
        if latest * self._tick_ps > MAX_TIME_PS:
            raise ConfigError(f"{self.path}: corrupt: a time of {latest} ticks of {self._tick_ps:g} ps is out of range")
        times_ps = _scaled(decoded.ticks + ticks, self._tick_ps)
        if self._is_t3:
            times_ps += _scaled(decoded.delays, self._bin_ps)
        return _with_markers(times_ps, decoded.channels, decoded.markers)

    def _open(self) -> PtuFile:
        try:
            import ptufile
        except ImportError:
            raise ConfigError(f"{self.path}: PTU files need ptufile: pip install 'bellwire[tags]'") from None
        # What the library notices it logs, and what matters of it is an error here.
        logging.getLogger("ptufile").setLevel(logging.CRITICAL)
        try:
            return ptufile.PtuFile(self.path)
        except OSError as error:
            raise unreadable(self.path, error) from None
        except Exception as error:  # the library raises whatever a damaged header leads it to
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ConfigError(f"{self.path}: the header is corrupt: {reason}") from None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Decoded:
    """Records of a part. All of shape (n,).

    Attributes:
        ticks: times, from the clock's overflow before the part on.
        delays: since the sync, in mode T3; 0 for what is no photon.
        channels: of photons; -1 for what is none.
        markers: bits of the inputs of markers; 0 for what is none.
        overflow_ticks: what the clock's overflows in the part add up to.
    """

    ticks: Integers
    delays: Integers
    channels: Channels
    markers: npt.NDArray[np.uint8]
    overflow_ticks: int


def _decode(ptu: PtuFile, records: npt.NDArray[np.uint32]) -> _Decoded:
    """Decode by the library. The last record is of our making: a photon at the time that the overflows have added up to."""
    decoded = ptu.decode_records(np.append(records, np.uint32(0)))
    overflow_ticks = int(decoded["time"][-1])
    decoded = decoded[:-1]
    channels = decoded["channel"].astype(np.int16)
    photons = channels >= 0
    delays = np.zeros(len(decoded), dtype=np.int64)
    if "dtime" in (decoded.dtype.names or ()):
        delays[photons] = decoded["dtime"][photons]
        channels[photons] += 1
    ticks = decoded["time"].astype(np.int64)
    return _Decoded(
        ticks=ticks, delays=delays, channels=channels, markers=decoded["marker"], overflow_ticks=overflow_ticks
    )


def _decode_t2(records: npt.NDArray[np.uint32], kind: int) -> _Decoded:
    """Decode T2 records of one of the types in `T2_WRAPS`."""
    special = records >> 31 != 0
    code = (records >> 25 & 0x3F).astype(np.int16)
    time = (records & 0x1FF_FFFF).astype(np.int64)
    is_overflow = special & (code == 0x3F)
    number = np.where(is_overflow, 1 if kind == HYDRAHARP_1 else np.maximum(time, 1), 0)
    overflow_ticks = int(number.sum()) * T2_WRAPS[kind]
    return _Decoded(
        ticks=np.cumsum(number) * T2_WRAPS[kind] + time,
        delays=np.zeros(len(records), dtype=np.int64),
        channels=np.where(special, np.where(code == 0, 0, -1), code + 1).astype(np.int16),
        markers=np.where(special & (code < 16), code, 0).astype(np.uint8),
        overflow_ticks=overflow_ticks,
    )


def _with_markers(times_ps: Times, channels: Channels, markers: npt.NDArray[np.uint8]) -> Tags:
    """Give photons and markers alone; a marker record becomes a tag for each of the inputs that it names."""
    photons = np.flatnonzero(channels >= 0)
    marked = np.flatnonzero(markers)
    if not len(marked):
        return Tags(times_ps[photons], channels[photons])
    places, numbers = [photons], [channels[photons]]
    for bit in range(MARKER_INPUTS):
        here = marked[markers[marked] & (1 << bit) != 0]
        places.append(here)
        numbers.append(np.full(len(here), MARKER + bit + 1, dtype=np.int16))
    place, number = np.concatenate(places), np.concatenate(numbers)
    order = np.argsort(place, kind="stable")
    return Tags(times_ps[place[order]], number[order])


def _scaled(ticks: npt.NDArray[np.int64], tick_ps: float) -> Times:
    """Turn ticks into whole picoseconds. The fraction of a tick is kept apart, so that a long file stays exact."""
    whole = round(tick_ps)
    times_ps = ticks * whole
    if tick_ps != whole:
        times_ps += np.rint(ticks * (tick_ps - whole)).astype(np.int64)
    return times_ps


def _epoch_ns(begun: datetime | None) -> int:
    """Nanoseconds since 1970 of a file's creation, which it gives without a time zone: taken as UTC."""
    if begun is None:
        return 0
    if begun.tzinfo is None:
        begun = begun.replace(tzinfo=UTC)
    return max(0, int(begun.timestamp()) * 1_000_000_000 + begun.microsecond * 1_000)
