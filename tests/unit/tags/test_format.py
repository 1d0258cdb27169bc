"""Files of tags: what was written is read, also by NumPy alone; whatever is damaged is told in one line."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bellwire.protocols.errors import ConfigError
from bellwire.tags.files import Recorder, TagFile, open_tags
from bellwire.tags.format import RECORD, UNKNOWN, Header, decode_header
from bellwire.tags.stream import CLOCK, MAX_TIME_PS, Tags

HEADER = Header(resolution_ps=4, start_epoch_ns=1_700_000_000_123_456_789, channels={0: "trigger", -3: "détecteur V"})
TAGS = Tags.of([(0, 0), (1_500, -3), (1_200, -3), (MAX_TIME_PS, CLOCK), (-5, 7)])


def recorded(path: Path, tags: Tags = TAGS, header: Header = HEADER) -> Path:
    with Recorder(path, header) as recorder:
        recorder.write(tags)
    return path


def read(path: Path, size: int = 2, *, salvage: bool = False) -> list[tuple[int, int]]:
    parts = list(open_tags(path, salvage=salvage).chunks(size))
    assert all(len(part) <= size for part in parts)
    whole = Tags.joined(parts)
    return list(zip(whole.times_ps.tolist(), whole.channels.tolist(), strict=True))


def pairs(tags: Tags) -> list[tuple[int, int]]:
    return list(zip(tags.times_ps.tolist(), tags.channels.tolist(), strict=True))


channels = st.integers(-32_767, 32_767)
names = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1).filter(
    lambda name: name.isprintable() and len(name.encode()) <= 30
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.builds(
        Header,
        resolution_ps=st.integers(1, MAX_TIME_PS),
        start_epoch_ns=st.integers(0, 2**63 - 1),
        channels=st.dictionaries(channels, names, max_size=5),
    ),
    tags=st.lists(st.tuples(st.integers(-MAX_TIME_PS, MAX_TIME_PS), st.integers(-32_768, 32_767)), max_size=9),
    size=st.integers(1, 9),
)
def test_recorder_any_tags_are_read_back(
    tmp_path: Path, header: Header, tags: list[tuple[int, int]], size: int
) -> None:
    path = tmp_path / "any.tags"
    path.unlink(missing_ok=True)
    with Recorder(path, header) as recorder:
        for part in (tags[:3], tags[3:]):
            recorder.write(Tags.of(part))
    assert read(path, size) == tags
    opened = open_tags(path)
    assert opened.header == header.with_tags(len(tags))
    assert (opened.whole, opened.tags, opened.kind) == (True, len(tags), "bellwire")


def test_file_is_read_by_numpy_as_documented(tmp_path: Path) -> None:
    path = recorded(tmp_path / "a.tags")
    offset = 64 + 32 * 2
    record = np.dtype([("time_ps", "<i8"), ("channel", "<i2")])
    assert np.fromfile(path, record, offset=offset).tolist() == pairs(TAGS)
    assert np.memmap(path, record, "r", offset).tolist() == pairs(TAGS)
    data = path.read_bytes()
    assert data[:8] == b"BELLTAGS"
    assert struct.unpack_from("<HHHHqqq", data, 8) == (1, 10, 2, 0, 4, HEADER.start_epoch_ns, len(TAGS))
    assert data[64:66] + data[66:96].rstrip(b"\0") == struct.pack("<h", 0) + b"trigger"


def test_recorder_never_overwrites(tmp_path: Path) -> None:
    path = recorded(tmp_path / "a.tags")
    with pytest.raises(ConfigError, match=r"a\.tags: exists; what was recorded is never overwritten"):
        Recorder(path, HEADER)
    assert read(path) == pairs(TAGS)


def test_recorder_that_died_leaves_tags_that_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "dead.tags"
    recorder = Recorder(path, HEADER)
    recorder.write(TAGS)
    recorder._file.flush()
    opened = open_tags(path)
    assert (opened.whole, opened.tags, opened.header.tags) == (False, len(TAGS), UNKNOWN)
    assert read(path) == pairs(TAGS)
    recorder.close()
    recorder.close()
    assert open_tags(path).whole


def test_recorder_whose_user_failed_completes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tags"

    def record() -> None:
        with Recorder(path, HEADER) as recorder:
            recorder.write(TAGS)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        record()
    assert open_tags(path).whole


def test_file_truncated_anywhere_is_one_line_and_what_is_whole_can_be_salvaged(tmp_path: Path) -> None:
    data = recorded(tmp_path / "a.tags").read_bytes()
    path = tmp_path / "cut.tags"
    for length in range(8, len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ConfigError, match=r"cut\.tags: truncated: [^\n]*$"):
            open_tags(path)
        whole = (length - HEADER.size) // RECORD.itemsize
        if whole >= 0:
            assert read(path, salvage=True) == pairs(TAGS)[:whole]
            assert not open_tags(path, salvage=True).whole


def test_file_of_a_dead_recorder_cut_within_a_tag_is_truncated(tmp_path: Path) -> None:
    path = tmp_path / "cut.tags"
    path.write_bytes(HEADER.encode() + bytes(13))
    with pytest.raises(ConfigError, match=r"truncated: it holds 1 tags and 3 bytes of another one; .*--salvage"):
        open_tags(path)
    assert read(path, salvage=True) == [(0, 0)]


def test_header_with_any_bit_flipped_is_one_line(tmp_path: Path) -> None:
    data = HEADER.with_tags(0).encode()
    path = tmp_path / "a.tags"
    for place in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"a\.tags: [^\n]*$"):
            open_tags(path)


def spoilt(change: Callable[[bytearray], None]) -> bytes:
    data = bytearray(HEADER.with_tags(len(TAGS)).encode())
    change(data)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "holds no time tags"),
        (b"PK\x03\x04 something else", "holds no time tags"),
        (b"BELLTAGS", "truncated: 8 bytes, of a header of at least 64"),
        (spoilt(lambda data: struct.pack_into("<H", data, 8, 2)), "is of version 2 of the format, expected 1"),
        (spoilt(lambda data: struct.pack_into("<H", data, 10, 16)), "corrupt: records of 16 bytes"),
        (spoilt(lambda data: struct.pack_into("<H", data, 12, 60_000)), "corrupt: records of 10 bytes, 60000 channels"),
        (spoilt(lambda data: struct.pack_into("<q", data, 16, 5)), "corrupt: its checksum does not fit"),
    ],
)
def test_header_that_is_none_is_named_for_what_it_is(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "a.tags"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as error:
        open_tags(path)
    assert str(error.value).startswith(f"{path}: ")
    assert said in str(error.value)


def test_file_longer_than_its_header_says_is_corrupt(tmp_path: Path) -> None:
    path = recorded(tmp_path / "a.tags")
    path.write_bytes(path.read_bytes() + bytes(10))
    with pytest.raises(ConfigError, match="corrupt: its header says 5 tags, it holds more"):
        open_tags(path)


def test_file_with_a_time_out_of_range_is_corrupt(tmp_path: Path) -> None:
    path = recorded(tmp_path / "a.tags", Tags.of([(1, 1), (MAX_TIME_PS + 1, 1)]))
    with pytest.raises(ConfigError, match=f"corrupt: a time of {MAX_TIME_PS + 1} ps is out of range"):
        read(path)


def test_file_that_shrinks_while_it_is_read_is_told(tmp_path: Path) -> None:
    path = recorded(tmp_path / "a.tags")
    opened = TagFile(path)
    path.write_bytes(path.read_bytes()[: HEADER.size + 20])
    with pytest.raises(ConfigError, match="became shorter while it was read: 3 tags are missing"):
        list(opened.chunks(2))


def test_file_that_is_not_there_or_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.tags: cannot be read: No such file"):
        open_tags(tmp_path / "none.tags")
    with pytest.raises(ConfigError, match=r"a\.tags: cannot be written: No such file"):
        Recorder(tmp_path / "none" / "a.tags", HEADER)


def test_recorder_on_a_full_disk_says_so() -> None:
    full = Path("/dev/full")
    recorder = Recorder.__new__(Recorder)
    recorder.path, recorder.header, recorder.tags = full, HEADER, 0
    recorder._file = full.open("wb", buffering=0)
    with pytest.raises(ConfigError, match="/dev/full: cannot be written: No space left on device"):
        recorder.write(TAGS)
    with pytest.raises(ConfigError, match="No space left"):
        recorder.close()
    assert recorder._file.closed


@pytest.mark.parametrize(
    "changes",
    [
        {"resolution_ps": 0},
        {"start_epoch_ns": -1},
        {"tags": -2},
        {"channels": {CLOCK: "clock"}},
        {"channels": {40_000: "far"}},
        {"channels": {1: ""}},
        {"channels": {1: "ä" * 16}},
        {"channels": {1: "two\nlines"}},
        {"channels": dict.fromkeys(range(1025), "one of many")},
    ],
)
def test_header_of_what_cannot_be_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Header(**changes)  # type: ignore[arg-type]


def test_header_of_zeros_behind_the_magic_is_no_header() -> None:
    with pytest.raises(ConfigError):
        decode_header(b"BELLTAGS" + bytes(56), "here")
