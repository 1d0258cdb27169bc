"""Tags given back: at their recorded pace, faster, or as fast as possible."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest

from bellwire.tags.files import Recorder, open_tags
from bellwire.tags.format import Header
from bellwire.tags.simulate import SimulationSettings
from bellwire.tags.sources import STEP_NS, ReaderSource, SimulatedSource, paced
from bellwire.tags.stream import CLOCK, NO_TAGS, Tags

MS_PS = 1_000_000_000


class FakeTime:
    """A clock that goes on only while somebody waits for it, and a little each time that it is read."""

    def __init__(self, reading_ns: int = 0) -> None:
        self.now_ns = 5_000
        self.waits: list[int] = []
        self._reading_ns = reading_ns

    def clock(self) -> int:
        self.now_ns += self._reading_ns
        return self.now_ns

    async def wait(self, delay_ns: int) -> None:
        self.waits.append(delay_ns)
        self.now_ns += delay_ns


async def given(parts: list[Tags], speed: float, time: FakeTime) -> list[tuple[int, list[tuple[int, int]]]]:
    """What is given back: when, in nanoseconds since the beginning, and which tags."""
    seen = []
    async for tags in paced(parts, speed, clock=time.clock, wait=time.wait):
        seen.append((time.now_ns - 5_000, list(zip(tags.times_ps.tolist(), tags.channels.tolist(), strict=True))))
    return seen


def spread(*times_ms: float) -> Tags:
    return Tags.of([(round(time * MS_PS) + 777, 1) for time in times_ms])


async def test_paced_gives_tags_when_their_time_has_passed_and_the_clock_in_between() -> None:
    seen = await given([spread(0, 4, 12), NO_TAGS, spread(13, 47)], 1.0, FakeTime())
    assert [(at_ns / STEP_NS, len(tags)) for at_ns, tags in seen] == [(1, 2), (2, 1), (2, 1), (3, 1), (4, 1), (5, 1)]
    clocks = [tag for _, tags in seen for tag in tags if tag[1] == CLOCK]
    assert clocks == [(30 * MS_PS + 777, CLOCK), (40 * MS_PS + 777, CLOCK)]


@pytest.mark.parametrize("speed", [0.5, 1.0, 20.0])
async def test_paced_takes_as_long_as_the_record_divided_by_the_speed(speed: float) -> None:
    times = np.sort(np.random.default_rng(1).integers(0, 500, 300))
    time = FakeTime(reading_ns=1_000)
    seen = await given([spread(*times[:100]), spread(*times[100:])], speed, time)
    last_ms = float(times[-1] - times[0])
    assert seen[-1][0] == pytest.approx(last_ms * 1e6 / speed, abs=2 * STEP_NS)
    tags = [tag for _, tags in seen for tag in tags if tag[1] != CLOCK]
    assert [time_ps for time_ps, _ in tags] == [int(time) * MS_PS + 777 for time in times]
    for at_ns, part in seen:
        assert all((time_ps - times[0] * MS_PS) / 1e3 / speed <= at_ns + 1_000 for time_ps, _ in part)


async def test_paced_reader_that_is_late_does_not_wait_and_catches_up() -> None:
    time = FakeTime(reading_ns=3 * STEP_NS)
    await given([spread(0, 11, 22, 33)], 1.0, time)
    assert time.waits[1:] == [0, 0, 0]


async def test_paced_as_fast_as_possible_never_waits() -> None:
    time = FakeTime()
    seen = await given([spread(0, 1_000), spread(2_000)], 0, time)
    assert [len(tags) for _, tags in seen] == [2, 1]
    assert set(time.waits) == {0}


async def test_paced_tags_out_of_order_are_kept_as_they_are() -> None:
    parts = [spread(5, 3, 18, 16, 40), spread(39, 41)]
    seen = await given(parts, 1.0, FakeTime())
    times = [time_ps for _, tags in seen for time_ps, channel in tags if channel != CLOCK]
    assert times == [*parts[0].times_ps.tolist(), *parts[1].times_ps.tolist()]


async def taken(chunks: AsyncGenerator[Tags], number: int) -> list[Tags]:
    """The first parts of a source."""
    parts: list[Tags] = []
    async with aclosing(chunks):
        async for tags in chunks:
            parts.append(tags)
            if len(parts) == number:
                break
    return parts


async def test_reader_source_gives_the_file_each_time_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "a.tags"
    with Recorder(path, Header(channels={1: "one"})) as recorder:
        recorder.write(spread(1, 2, 3))
    source = ReaderSource(open_tags(path), 0)
    assert source.waits
    assert source.name == str(path)
    assert source.header.channels == {1: "one"}
    for _ in range(2):
        first, *rest = await taken(source.chunks(), 9)
        assert len(first) == 0
        assert Tags.joined(rest).times_ps.tolist() == spread(1, 2, 3).times_ps.tolist()
    assert not ReaderSource(open_tags(path), 2.0).waits


async def test_simulated_source_never_ends_and_is_the_same_each_time() -> None:
    source = SimulatedSource(SimulationSettings(), 3, 0)
    one, two = [Tags.joined(await taken(source.chunks(), 4)) for _ in range(2)]
    assert len(one) > 100_000
    assert np.array_equal(one.times_ps, two.times_ps)
    assert source.header.channels[0] == "trigger"
