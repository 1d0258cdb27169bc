"""The format of recorded and transmitted time tags: a header, then records of fixed width. Little-endian, integers only.

    offset  bytes  content
         0      8  "BELLTAGS"
         8      2  version of the format: 1
        10      2  bytes of a record: 10
        12      2  channels named below
        14      2  zero
        16      8  resolution: the tagger's smallest step, in picoseconds
        24      8  start epoch: nanoseconds since 1970 (UTC) at the tagger's time 0; 0 when that is not known
        32      8  tags in the file; -1 while it is being written, and on a socket
        40      4  CRC-32 of the whole header, with zeros in this place
        44     20  zero
        64   32 n  a channel: 2 bytes its number, 30 bytes its name in UTF-8, filled up with zeros

and then, for each tag, in the order in which they came:

         0      8  time in picoseconds on the tagger's clock, signed
         8      2  channel, signed; -32768 for no event but the progress of the clock

So `numpy.fromfile(path, RECORD, offset=header.size)` and `numpy.memmap` read it, with
`RECORD = numpy.dtype([("time_ps", "<i8"), ("channel", "<i2")])`.

On a socket the header is followed by chunks: 4 bytes that give a number of records, at most 65,536, then so many records.
A chunk of none keeps the connection alive.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from bellwire.protocols.errors import ConfigError
from bellwire.tags.stream import CHUNK_TAGS, HIGHEST_CHANNEL, LOWEST_CHANNEL, MAX_TIME_PS, Tags

MAGIC: Final = b"BELLTAGS"
VERSION: Final = 1
RECORD: Final = np.dtype([("time_ps", "<i8"), ("channel", "<i2")])
FIXED: Final = struct.Struct("<8sHHHHqqqI20x")
"""The header without its channels."""

CHANNEL: Final = struct.Struct("<h30s")
COUNT: Final = struct.Struct("<I")
"""What stands before each chunk on a socket."""

MAX_CHANNELS: Final = 1_024
MAX_NAME_BYTES: Final = 30
MAX_CHUNK_TAGS: Final = CHUNK_TAGS
UNKNOWN: Final = -1
_CRC_AT: Final = 40
_INT64_MAX: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What is known of a stream of tags.

    Attributes:
        resolution_ps: the tagger's smallest step.
        start_epoch_ns: nanoseconds since 1970 (UTC) at the tagger's time 0; 0 when that is not known.
        channels: names of channels by their numbers.
        tags: how many follow; `UNKNOWN` while they are being written, and on a socket.

    Raises:
        ConfigError: when a number is out of its range or a name is none.
    """

    resolution_ps: int = 1
    start_epoch_ns: int = 0
    channels: dict[int, str] = field(default_factory=dict)
    tags: int = UNKNOWN

    def __post_init__(self) -> None:
        if not 1 <= self.resolution_ps <= MAX_TIME_PS:
            raise ConfigError(f"a resolution of {self.resolution_ps} ps, expected at least 1")
        if not 0 <= self.start_epoch_ns <= _INT64_MAX:
            raise ConfigError(f"a start epoch of {self.start_epoch_ns} ns, expected 0 or nanoseconds since 1970")
        if not UNKNOWN <= self.tags <= _INT64_MAX:
            raise ConfigError(f"{self.tags} tags, expected their number")
        if len(self.channels) > MAX_CHANNELS:
            raise ConfigError(f"{len(self.channels)} named channels, at most {MAX_CHANNELS} are allowed")
        for channel, name in self.channels.items():
            if not LOWEST_CHANNEL <= channel <= HIGHEST_CHANNEL:
                raise ConfigError(f"channel {channel} is not within {LOWEST_CHANNEL} to {HIGHEST_CHANNEL}")
            if not name.isprintable() or not 1 <= len(name.encode()) <= MAX_NAME_BYTES:
                raise ConfigError(f"{name!r} is not a channel's name: 1 to {MAX_NAME_BYTES} bytes of printable UTF-8")

    @property
    def size(self) -> int:
        """How long the header is, as it is written."""
        return FIXED.size + len(self.channels) * CHANNEL.size

    def with_tags(self, tags: int) -> Header:
        """Give the header of so many tags."""
        return replace(self, tags=tags)

    def encode(self) -> bytes:
        """Give it as it is written."""
        fixed = (MAGIC, VERSION, RECORD.itemsize, len(self.channels), 0)
        data = bytearray(FIXED.pack(*fixed, self.resolution_ps, self.start_epoch_ns, self.tags, 0))
        for channel, name in self.channels.items():
            data += CHANNEL.pack(channel, name.encode())
        struct.pack_into("<I", data, _CRC_AT, zlib.crc32(data))
        return bytes(data)


def header_bytes(fixed: bytes, place: str) -> int:
    """Tell how long the header is that begins with these `FIXED.size` bytes. `place` begins an error's text.

    Raises:
        ConfigError: when they begin no header, or one of another version.
    """
    if not fixed.startswith(MAGIC):
        raise ConfigError(f"{place}: holds no time tags: it does not begin with {MAGIC.decode()}")
    if len(fixed) < FIXED.size:
        raise ConfigError(f"{place}: truncated: {len(fixed)} bytes, of a header of at least {FIXED.size}")
    _, version, record, channels, *_ = FIXED.unpack(fixed[: FIXED.size])
    if version != VERSION:
        raise ConfigError(f"{place}: is of version {version} of the format, expected {VERSION}")
    if record != RECORD.itemsize or channels > MAX_CHANNELS:
        raise ConfigError(f"{place}: the header is corrupt: records of {record} bytes, {channels} channels")
    return FIXED.size + int(channels) * CHANNEL.size


def decode_header(data: bytes, place: str) -> Header:
    """Read a header, of exactly `header_bytes`. `place` begins an error's text.

    Raises:
        ConfigError: when it is truncated or corrupt.
    """
    size = header_bytes(data, place)
    if len(data) < size:
        raise ConfigError(f"{place}: truncated: {len(data)} bytes, of a header of {size}")
    *_, resolution_ps, start_epoch_ns, tags, crc = FIXED.unpack_from(data)
    blank = data[:_CRC_AT] + bytes(4) + data[_CRC_AT + 4 : size]
    if zlib.crc32(blank) != crc:
        raise ConfigError(f"{place}: the header is corrupt: its checksum does not fit")
    channels: dict[int, str] = {}
    try:
        for channel, name in CHANNEL.iter_unpack(data[FIXED.size : size]):
            channels[channel] = name.rstrip(b"\0").decode()
        return Header(resolution_ps=resolution_ps, start_epoch_ns=start_epoch_ns, channels=channels, tags=tags)
    except (ConfigError, UnicodeDecodeError) as error:
        raise ConfigError(f"{place}: the header is corrupt: {error}") from None


def encode_tags(tags: Tags) -> npt.NDArray[np.void]:
    """Give tags as records, shape (n,)."""
    records = np.empty(len(tags), dtype=RECORD)
    records["time_ps"] = tags.times_ps
    records["channel"] = tags.channels
    return records


def decode_tags(records: npt.NDArray[np.void], place: str) -> Tags:
    """Give records as tags. `place` begins an error's text.

    Raises:
        ConfigError: when a time is out of range: what was read is not what was written.
    """
    times_ps = np.ascontiguousarray(records["time_ps"], dtype=np.int64)
    if len(times_ps) and (times_ps.min() < -MAX_TIME_PS or times_ps.max() > MAX_TIME_PS):
        worst = int(np.flatnonzero((times_ps < -MAX_TIME_PS) | (times_ps > MAX_TIME_PS))[0])
        raise ConfigError(f"{place}: corrupt: a time of {times_ps[worst]} ps is out of range")
    return Tags(times_ps, np.ascontiguousarray(records["channel"], dtype=np.int16))
