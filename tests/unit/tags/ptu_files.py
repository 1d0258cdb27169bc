"""Writes PTU files as PicoQuant documents them, independently of the library that reads them."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

INT8, FLOAT8, EMPTY8, ANSI = 0x10000008, 0x20000008, 0xFFFF0008, 0x4001FFFF
PICOHARP_T2, HYDRAHARP1_T2, HYDRAHARP2_T2, GENERIC_T2, GENERIC_T3 = 0x10203, 0x10204, 0x1010204, 0x10207, 0x10307
SPECIAL = 1 << 31


def tag(name: str, kind: int, value: bytes) -> bytes:
    return struct.pack("<32siI", name.encode(), -1, kind) + value


def write_ptu(
    path: Path,
    records: Sequence[int],
    kind: int = HYDRAHARP2_T2,
    *,
    mode: int = 2,
    tick_s: float = 1e-12,
    number: int | None = None,
    without: str = "",
    more: Mapping[str, float] | None = None,
) -> Path:
    """Write a file of raw 32-bit records. `number` is what the header says of how many there are."""
    integers = {
        "TTResultFormat_TTTRRecType": kind,
        "TTResultFormat_BitsPerRecord": 32,
        "Measurement_Mode": mode,
        "Measurement_SubMode": 0,
        "TTResult_NumberOfRecords": len(records) if number is None else number,
    }
    comment = b"a test\0\0"
    header = b"PQTTTR\0\0" + b"1.0.00\0\0" + tag("File_Comment", ANSI, struct.pack("<q", len(comment)) + comment)
    for name, value in integers.items():
        if name != without:
            header += tag(name, INT8, struct.pack("<q", value))
    for name, real in {"MeasDesc_GlobalResolution": tick_s, **(more or {})}.items():
        if name != without:
            header += tag(name, FLOAT8, struct.pack("<d", real))
    path.write_bytes(header + tag("Header_End", EMPTY8, bytes(8)) + struct.pack(f"<{len(records)}I", *records))
    return path


# HydraHarp, TimeHarp 260, MultiHarp: a bit "special", six of the channel, 25 of the time.


def photon(channel: int, time: int) -> int:
    return (channel - 1) << 25 | time


def sync(time: int) -> int:
    return SPECIAL | time


def marker(bits: int, time: int) -> int:
    return SPECIAL | bits << 25 | time


def overflow(number: int = 1) -> int:
    return SPECIAL | 0x3F << 25 | number


WRAP, WRAP_1 = 33_554_432, 33_552_000
"""Ticks of an overflow: version 2 of these records, and 1."""


# PicoHarp: four bits of the channel, 28 of the time.


def pico(channel: int, time: int) -> int:
    return channel << 28 | time


PICO_OVERFLOW, PICO_WRAP = 15 << 28, 210_698_240


# T3 of the same devices as `photon`: 15 bits of the delay and ten of the sync's number after the channel.


def photon_t3(channel: int, delay: int, sync_number: int) -> int:
    return (channel - 1) << 25 | delay << 10 | sync_number


T3_WRAP = 1_024
