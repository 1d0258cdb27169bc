"""PTU files: times, channels, markers and overflows as PicoQuant documents them, however the file is cut into parts."""

from __future__ import annotations

import builtins
import logging
from pathlib import Path
from typing import Any

import numpy as np
import ptufile
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bellwire.protocols.errors import ConfigError
from bellwire.protocols.instructions import BellState
from bellwire.tags.files import open_tags
from bellwire.tags.finder import Found, Search
from bellwire.tags.ptu import MARKER
from bellwire.tags.settings import FinderSettings
from bellwire.tags.stream import MAX_TIME_PS, Tags

from . import ptu_files as ptu
from .ptu_files import marker, overflow, photon, photon_t3, pico, sync, write_ptu


def read(path: Path, size: int = 3, *, salvage: bool = False) -> list[tuple[int, int]]:
    tags = Tags.joined(open_tags(path, salvage=salvage).chunks(size))
    return list(zip(tags.times_ps.tolist(), tags.channels.tolist(), strict=True))


@pytest.mark.parametrize("kind", [ptu.HYDRAHARP2_T2, ptu.GENERIC_T2, 0x10205, 0x10206])
def test_t2_sync_and_first_input_are_told_apart(tmp_path: Path, kind: int) -> None:
    records = [sync(5), photon(1, 7), photon(2, 9), overflow(3), sync(1), photon(64, 1), overflow(), photon(1, 2)]
    expected = [(5, 0), (7, 1), (9, 2), (3 * ptu.WRAP + 1, 0), (3 * ptu.WRAP + 1, 64), (4 * ptu.WRAP + 2, 1)]
    path = write_ptu(tmp_path / "a.ptu", records, kind)
    for size in (1, 2, 3, 100):
        assert read(path, size) == expected
    opened = open_tags(path)
    assert (opened.kind, opened.whole, opened.tags, opened.period_ps) == ("PicoQuant PTU", True, len(records), 0)


def test_t2_first_version_has_a_shorter_clock_and_single_overflows(tmp_path: Path) -> None:
    path = write_ptu(tmp_path / "a.ptu", [photon(1, 1), overflow(7), photon(1, 1)], ptu.HYDRAHARP1_T2)
    assert read(path) == [(1, 1), (ptu.WRAP_1 + 1, 1)]


def test_t2_long_pause_is_as_long_as_it_was(tmp_path: Path) -> None:
    """The library loses such pauses: its product has 32 bits."""
    path = write_ptu(tmp_path / "a.ptu", [photon(1, 1), overflow(128), photon(1, 1), overflow(2**25 - 1), sync(3)])
    assert read(path, 2) == [(1, 1), (128 * ptu.WRAP + 1, 1), ((128 + 2**25 - 1) * ptu.WRAP + 3, 0)]


def test_t2_old_style_overflow_of_none_is_one(tmp_path: Path) -> None:
    path = write_ptu(tmp_path / "a.ptu", [overflow(0), photon(3, 1)])
    assert read(path, 1) == [(ptu.WRAP + 1, 3)]


def test_t2_of_a_picoharp_numbers_its_channels_as_its_inputs(tmp_path: Path) -> None:
    records = [pico(0, 16), pico(1, 32), ptu.PICO_OVERFLOW, pico(4, 3), pico(15, 16 + 2)]
    path = write_ptu(tmp_path / "a.ptu", records, ptu.PICOHARP_T2, tick_s=4e-12)
    # The lower four bits of a marker's time are the marker, and the 28 bits are counted as they are: PicoQuant does so too.
    expected = [(64, 0), (128, 1), (4 * (ptu.PICO_WRAP + 3), 4), (4 * (ptu.PICO_WRAP + 18), MARKER + 2)]
    for size in (1, 4, 100):
        assert read(path, size) == expected
    assert open_tags(path).header.resolution_ps == 4


def test_t2_marker_of_several_inputs_is_a_tag_for_each(tmp_path: Path) -> None:
    path = write_ptu(tmp_path / "a.ptu", [photon(1, 1), marker(0b1010, 2), photon(2, 3), marker(1, 4)])
    for size in (1, 100):
        assert read(path, size) == [(1, 1), (2, MARKER + 2), (2, MARKER + 4), (3, 2), (4, MARKER + 1)]


def test_t3_photons_lie_on_one_clock_by_the_sync_period(tmp_path: Path) -> None:
    records = [photon_t3(1, 100, 0), photon_t3(4, 32_767, 3), overflow(2), photon_t3(2, 0, 5), marker(2, 7)]
    path = write_ptu(
        tmp_path / "a.ptu", records, ptu.GENERIC_T3, mode=3, tick_s=12.5e-9, more={"MeasDesc_Resolution": 16e-12}
    )
    wrapped = 2 * ptu.T3_WRAP
    expected = [
        (1_600, 1),
        (3 * 12_500 + 32_767 * 16, 4),
        ((wrapped + 5) * 12_500, 2),
        ((wrapped + 7) * 12_500, MARKER + 2),
    ]
    for size in (1, 100):
        assert read(path, size) == expected
    assert (open_tags(path).period_ps, open_tags(path).header.resolution_ps) == (12_500, 16)


def test_t3_file_of_the_librarys_own_writer_gives_its_photons(tmp_path: Path) -> None:
    histogram = np.zeros((1, 3, 4, 2, 50), dtype=np.uint16)
    for place in ((0, 0, 1, 0, 7), (0, 1, 3, 1, 49), (0, 2, 0, 0, 0)):
        histogram[place] = 1
    path = tmp_path / "image.ptu"
    with ptufile.PtuWriter(
        path, histogram.shape, 10e-9, 20e-12, 1e-6, record_type=ptufile.PtuRecordType.GenericT3
    ) as out:
        out.write(histogram)
    tags = [(time_ps, channel) for time_ps, channel in read(path, 5) if channel <= MARKER]
    assert [(time_ps % 10_000, channel) for time_ps, channel in tags] == [(7 * 20, 1), (49 * 20, 2), (0, 1)]
    assert [time_ps for time_ps, _ in tags] == sorted(time_ps for time_ps, _ in tags)


def test_t3_sync_period_is_whole_so_that_attempts_keep_their_numbers(tmp_path: Path) -> None:
    """A sync period of 12,500.3125 ps would be 0.3 µs off after a million of them, if attempts were found by its whole part."""
    records = [overflow(1_000)] * 1_000 + [photon_t3(1, 100, 1), photon_t3(2, 120, 1), photon_t3(1, 0, 2)]
    more = {"MeasDesc_Resolution": 16e-12}
    path = write_ptu(tmp_path / "a.ptu", records, ptu.GENERIC_T3, mode=3, tick_s=12_500.3125e-12, more=more)
    reader = open_tags(path)
    assert reader.period_ps == 12_500
    pattern = ((1, 2, BellState.PSI_PLUS),)
    search = Search(FinderSettings(period_ps=reader.period_ps, gates_ps=((1_000, 3_000),), patterns=pattern))
    found = Found.joined([*(search.feed(tags) for tags in reader.chunks(7)), search.finish()])
    assert found.attempts.tolist() == [1_000 * 1_000 * ptu.T3_WRAP + 1 + 1]


def test_t2_resolution_that_is_no_whole_number_of_picoseconds_stays_exact_for_long(tmp_path: Path) -> None:
    path = write_ptu(tmp_path / "a.ptu", [overflow(1_000_000), photon(1, 1)], tick_s=3.3125e-12)
    ((time_ps, _),) = read(path, 7)
    assert abs(time_ps - (1_000_000 * ptu.WRAP + 1) * 3.3125) <= 1


def test_file_with_a_creation_date_says_when_it_began(tmp_path: Path) -> None:
    path = write_ptu(tmp_path / "a.ptu", [photon(1, 1)])
    assert open_tags(path).header.start_epoch_ns == 0
    days = 45_000.5  # since 1899-12-30
    created = ptu.tag("File_CreatingTime", 0x21000008, np.float64(days).tobytes())
    data = path.read_bytes()
    path.write_bytes(data[:16] + created + data[16:])
    assert open_tags(path).header.start_epoch_ns == int((days - 25_569) * 86_400) * 10**9
    assert read(path) == [(1, 1)]


records_of_t2 = st.lists(
    st.one_of(
        st.builds(photon, st.integers(1, 64), st.integers(0, 2**25 - 1)),
        st.builds(sync, st.integers(0, 2**25 - 1)),
        st.builds(marker, st.integers(1, 15), st.integers(0, 2**25 - 1)),
        st.builds(overflow, st.integers(0, 2**20)),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=records_of_t2, size=st.integers(1, 12))
def test_t2_any_records_in_any_parts_are_as_one_record_after_the_other(
    tmp_path: Path, records: list[int], size: int
) -> None:
    expected, wraps = [], 0
    for record in records:
        special, channel, time = record >> 31, record >> 25 & 0x3F, record & 0x1FFFFFF
        if special and channel == 0x3F:
            wraps += time or 1
        elif special and channel:
            bits = [bit for bit in range(4) if channel >> bit & 1]
            expected += [(wraps * ptu.WRAP + time, MARKER + bit + 1) for bit in bits]
        else:
            expected.append((wraps * ptu.WRAP + time, 0 if special else channel + 1))
    assert read(write_ptu(tmp_path / "any.ptu", records), size) == expected


def test_file_truncated_is_one_line_and_can_be_salvaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_ptu(tmp_path / "a.ptu", [photon(1, 1), photon(2, 2), photon(1, 3)])
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ConfigError, match=r"a\.ptu: truncated: it holds 1 records of 3; .*--salvage"):
        open_tags(path)
    assert read(path, salvage=True) == [(1, 1)]
    assert not open_tags(path, salvage=True).whole
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_file_whose_writer_died_before_it_counted_is_read_whole(tmp_path: Path) -> None:
    path = write_ptu(tmp_path / "a.ptu", [photon(1, 1), photon(2, 2)], number=0)
    assert read(path) == [(1, 1), (2, 2)]
    assert not open_tags(path).whole


def test_file_whose_header_is_cut_anywhere_is_one_line(tmp_path: Path) -> None:
    data = write_ptu(tmp_path / "a.ptu", []).read_bytes()
    path = tmp_path / "cut.ptu"
    for length in range(8, len(data) - 8):
        path.write_bytes(data[:length])
        with pytest.raises(ConfigError, match=r"cut\.ptu: the header is corrupt: [^\n]*$"):
            open_tags(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"without": "MeasDesc_GlobalResolution"}, "it has no MeasDesc_GlobalResolution"),
        ({"without": "TTResult_NumberOfRecords"}, "it has no TTResult_NumberOfRecords"),
        ({"kind": 0x4242}, "no decoder available"),
        ({"kind": ptu.GENERIC_T3}, "not a T2"),
        ({"tick_s": 0.0}, "a resolution of 0 ps"),
        ({"tick_s": float("nan")}, "a resolution of nan ps"),
    ],
)
def test_file_whose_header_makes_no_sense_is_one_line(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = write_ptu(tmp_path / "a.ptu", [photon(1, 1)], **change)
    with pytest.raises(ConfigError, match=rf"a\.ptu: the header is corrupt: .*{said}"):
        open_tags(path)


def test_file_whose_times_leave_the_range_is_corrupt(tmp_path: Path) -> None:
    path = write_ptu(tmp_path / "a.ptu", [overflow(2**25 - 1)] * 3_000)
    with pytest.raises(ConfigError, match=r"corrupt: a time of .* is out of range"):
        read(path, 100)
    assert MAX_TIME_PS < 3_000 * 2**50


def test_library_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_ptu(tmp_path / "a.ptu", [photon(1, 1)])
    real = builtins.__import__

    def without(name: str, *arguments: Any, **more: Any) -> Any:
        if name == "ptufile":
            raise ImportError(name)
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"a\.ptu: PTU files need ptufile: pip install 'bellwire\[tags\]'"):
        open_tags(path)
