"""The finder finds what the rules say, one tag after the other, however the stream is cut into parts."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bellwire.protocols.errors import BackendError
from bellwire.protocols.instructions import BellState
from bellwire.tags import order
from bellwire.tags.finder import STATES, Found, Search
from bellwire.tags.settings import FinderSettings
from bellwire.tags.stream import CLOCK, Tags

from .reference import Coincidence, Outcome, Tag, outcome

TRIGGER, START = 0, 9
PLUS, MINUS = BellState.PSI_PLUS, BellState.PSI_MINUS
POLARISATION = ((1, 2, PLUS), (3, 4, PLUS), (1, 4, MINUS), (2, 3, MINUS))
TIME_BINS = ((1, 1, PLUS), (2, 2, PLUS), (1, 2, MINUS), (2, 1, MINUS))


def triggered(**changes: object) -> FinderSettings:
    return FinderSettings(**{"trigger": TRIGGER, "gates_ps": ((10, 30),), "patterns": POLARISATION, **changes})  # type: ignore[arg-type]


def rows(found: Found) -> list[Coincidence]:
    return [
        (window, attempt, str(STATES[state]), begin, (times[0], times[1]), (channels[0], channels[1]))
        for window, attempt, state, begin, times, channels in zip(
            found.windows.tolist(),
            found.attempts.tolist(),
            found.states.tolist(),
            found.begins_ps.tolist(),
            found.clicks_ps.tolist(),
            found.channels.tolist(),
            strict=True,
        )
    ]


def search(tags: Sequence[Tag], finder: FinderSettings, cuts: Iterable[int] = ()) -> Outcome:
    """What the finder makes of a stream that is cut at these places."""
    whole, looking = Tags.of(tags), Search(finder)
    places = sorted({0, len(tags), *(cut for cut in cuts if cut < len(tags))})
    found = Found.joined([*(looking.feed(whole.part(*part)) for part in pairwise(places)), looking.finish()])
    counts = looking.counts
    assert counts.tags == len(tags)
    assert sum(counts.heralds.values()) == len(found)
    names = ("late", "attempts", "clicks", "dead", "outside", "single", "crowded", "unmatched")
    return Outcome(found=rows(found), **{name: getattr(counts, name) for name in names})


# One rule after the other.


@pytest.mark.parametrize(
    ("clicks", "state"),
    [
        ([(110, 1), (120, 2)], "psi+"),
        ([(110, 4), (129, 3)], "psi+"),
        ([(115, 4), (115, 1)], "psi-"),
        ([(110, 1), (120, 3)], None),
        ([(110, 1)], None),
        ([(109, 1), (120, 2)], None),
        ([(110, 1), (130, 2)], None),
        ([(110, 1), (120, 2), (121, 3)], None),
        ([(110, 1), (120, 2), (131, 3)], "psi+"),
        ([(110, 1), (112, 7), (120, 2)], "psi+"),
    ],
)
def test_finder_clicks_of_an_attempt_herald_by_gate_and_pattern(clicks: list[Tag], state: str | None) -> None:
    found = search([(100, TRIGGER), *clicks, (200, TRIGGER)], triggered()).found
    assert [(row[1], row[2]) for row in found] == ([(1, state)] if state else [])


@pytest.mark.parametrize(
    ("clicks", "state"),
    [
        ([(110, 1), (150, 1)], "psi+"),
        ([(110, 2), (150, 1)], "psi-"),
        ([(110, 1), (112, 2)], None),
        ([(150, 1), (152, 2)], None),
        ([(110, 1), (135, 2)], None),
    ],
)
def test_finder_time_bins_take_one_click_each(clicks: list[Tag], state: str | None) -> None:
    finder = triggered(gates_ps=((10, 30), (50, 70)), patterns=TIME_BINS)
    found = search([(100, TRIGGER), *clicks, (200, TRIGGER)], finder).found
    assert [row[2] for row in found] == ([state] if state else [])


def test_finder_time_bins_of_ordered_channels_are_not_exchanged() -> None:
    finder = triggered(gates_ps=((10, 30), (50, 70)), patterns=((1, 2, MINUS), (2, 1, PLUS)))
    found = search([(100, TRIGGER), (110, 1), (150, 2), (200, TRIGGER), (210, 2), (250, 1)], finder).found
    assert [(row[1], row[2]) for row in found] == [(1, "psi-"), (2, "psi+")]


def test_finder_attempt_ends_where_the_next_begins() -> None:
    tags = [(100, TRIGGER), (112, 1), (115, TRIGGER), (125, 2), (126, 4)]
    assert search(tags, triggered()).found == []
    assert search(tags, triggered()).single == 1


def test_finder_dead_time_drops_an_afterpulse_and_not_what_follows_it() -> None:
    tags = [(100, TRIGGER), (110, 1), (114, 1), (118, 1), (120, 2)]
    assert search(tags, triggered(dead_time_ps=9)).found[0][4] == (110, 120)
    # At 8 the third click is no longer dead: the dropped one before it extends nothing.
    assert search(tags, triggered(dead_time_ps=8)).crowded == 1


def test_finder_delays_move_clicks_into_their_attempt() -> None:
    tags = [(100, TRIGGER), (200, TRIGGER), (300, TRIGGER), (312, 1), (420, 2)]
    found = search(tags, triggered(delays_ps=((1, 100), (2, 200)))).found
    assert [row[:3] for row in found] == [(1, 2, "psi+")]
    assert found[0][4] == (212, 220)


def test_finder_clicks_of_one_time_stay_in_the_order_in_which_they_came() -> None:
    tags: list[Tag] = []
    for begin in range(0, 10_000, 100):
        tags += [(begin, TRIGGER), (begin + 20, 4), (begin + 20, 1), (begin + 60, 7)]
    found = search(tags, triggered(delays_ps=((7, 50),))).found
    assert [row[5] for row in found] == [(4, 1)] * 100


def test_finder_starts_number_windows_and_attempts_anew() -> None:
    pair = [(10, 1), (20, 2)]
    tags: list[Tag] = [(0, TRIGGER), *pair]
    for start in (100, 500):
        tags.append((start, START))
        for attempt in range(2):
            begin = start + 100 * (attempt + 1)
            tags += [(begin, TRIGGER), *((begin + time, channel) for time, channel in pair)]
    found = search(tags, triggered(start=START)).found
    assert [row[:2] for row in found] == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_finder_period_from_a_start_counts_attempts_without_tags_of_their_own() -> None:
    finder = triggered(trigger=None, period_ps=100, start=START)
    tags = [(5, 1), (7, START), (12 + 7, 1), (20 + 7, 3), (512 + 7, 1), (520 + 7, 4), (10_000, 1)]
    assert [row[:4] for row in search(tags, finder).found] == [(1, 6, "psi-", 507)]


def test_finder_late_tags_are_sorted_within_the_horizon_and_dropped_beyond() -> None:
    tags = [(100, TRIGGER), (120, 2), (110, 1), (300, TRIGGER), (310, 1), (500, CLOCK), (320, 2)]
    near = search(tags, triggered(horizon_ps=100))
    assert (near.late, [row[1] for row in near.found]) == (1, [1])
    far = search(tags, triggered(horizon_ps=200))
    assert (far.late, [row[1] for row in far.found]) == (0, [1, 2])


def test_finder_clock_tags_make_a_coincidence_certain_in_a_quiet_stream() -> None:
    looking = Search(triggered(horizon_ps=50))
    assert not len(looking.feed(Tags.of([(100, TRIGGER), (110, 1), (120, 2)])))
    assert not len(looking.feed(Tags.of([(179, CLOCK)])))
    assert len(looking.feed(Tags.of([(180, CLOCK)]))) == 1


def test_search_tags_that_all_have_to_wait_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "MAX_HELD_TAGS", 10)
    looking = Search(triggered(horizon_ps=1_000))
    looking.feed(Tags.of([(time, 1) for time in range(10)]))
    with pytest.raises(BackendError, match="more than 10 tags within 1000 ps"):
        looking.feed(Tags.of([(5, 1)]))


# Against the reference.

WIDE = triggered(gates_ps=((0, 30),), horizon_ps=0)
STARTED = triggered(gates_ps=((0, 30),), horizon_ps=0, start=START)


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[Tag], FinderSettings, list[int]]:
    """A stream of few channels in little time, so that everything happens often; settings; and where it is cut."""
    has_start = draw(st.booleans())
    by_period = draw(st.booleans())
    two_gates = draw(st.booleans())
    first = draw(st.integers(0, 6))
    gates = ((first, first + draw(st.integers(1, 12))),)
    if two_gates:
        second = gates[0][1] + draw(st.integers(0, 4))
        gates += ((second, second + draw(st.integers(1, 8))),)  # type: ignore[assignment]
    finder = FinderSettings(
        trigger=None if by_period else TRIGGER,
        period_ps=draw(st.integers(30, 40)) if by_period else None,
        origin_ps=draw(st.integers(-20, 20)) if by_period and not has_start else 0,
        start=START if has_start else None,
        gates_ps=gates,
        patterns=TIME_BINS if two_gates else POLARISATION,
        delays_ps=draw(st.sampled_from([(), ((1, 13),), ((TRIGGER, -5), (2, 17), (3, -40)), ((START, 4), (1, 1))])),
        dead_time_ps=draw(st.sampled_from([0, 1, 5, 40])),
        horizon_ps=draw(st.sampled_from([0, 7, 50])),
    )
    channels = st.sampled_from([TRIGGER, TRIGGER, 1, 1, 2, 2, 3, 4, 7, START, CLOCK])
    most = draw(st.sampled_from([3, 8, 25]))
    steps = draw(st.lists(st.tuples(st.integers(-most // 3, most), channels), max_size=60))
    tags, time_ps = [], 0
    for step, channel in steps:
        time_ps += step
        tags.append((time_ps, channel))
    return tags, finder, draw(st.lists(st.integers(0, 60), max_size=8))


@settings(max_examples=1_000, deadline=None)
@given(streams())
@example(
    case=([(0, 0), (12, 1), (14, 2), (16, 0), (20, 7), (21, 7), (40, 7)], WIDE, [])
)  # superseded before its gate ends
@example(case=([(0, 9), (1, 0), (2, 1), (3, 2), (4, 9), (5, 7), (6, 9), (7, 0), (90, 7)], STARTED, []))  # … by a start
@example(
    case=([(0, 0), (1, 1), (2, 2), (3, 3), (4, 7), (5, 7), (90, 7)], WIDE, [6])
)  # a crowd is one in the next part too
def test_finder_any_stream_in_any_parts_is_as_the_reference(case: tuple[list[Tag], FinderSettings, list[int]]) -> None:
    tags, finder, cuts = case
    expected = outcome(tags, finder)
    assert search(tags, finder, cuts) == expected
    assert search(tags, finder, range(len(tags))) == expected


@settings(max_examples=300, deadline=None)
@given(
    times=st.lists(st.integers(0, 300), max_size=80).map(sorted),
    detectors=st.lists(st.integers(0, 3), min_size=80, max_size=80),
    dead_ps=st.integers(1, 60),
    cut=st.integers(0, 80),
)
def test_dead_time_any_clicks_in_two_parts_is_as_the_reference(
    times: list[int], detectors: list[int], dead_ps: int, cut: int
) -> None:
    from bellwire.tags.dead_time import DeadTime

    from .reference import alive

    tags = list(zip(times, detectors[: len(times)], strict=True))
    dead_time, kept = DeadTime(dead_ps, 4), []
    for part in (tags[:cut], tags[cut:]):
        mask = dead_time.alive(
            np.array([time for time, _ in part], dtype=np.int64), np.array([d for _, d in part], dtype=np.int8)
        )
        kept += part if mask is None else [tag for tag, lives in zip(part, mask.tolist(), strict=True) if lives]
    assert kept == alive(tags, (0, 1, 2, 3), dead_ps)


def test_finder_long_stream_takes_no_more_memory_than_a_short_one() -> None:
    """Parts of 100,000 tags, disordered within the horizon, with delays: the peak is that of a few parts."""

    def peak(parts: int) -> int:
        rng = np.random.default_rng(1)
        looking = Search(triggered(gates_ps=((0, 400),), delays_ps=((1, 5_000),), dead_time_ps=50, horizon_ps=2_000))
        channels = np.array([TRIGGER, 1, 2, 3, 4], dtype=np.int16)
        tracemalloc.start()
        for number in range(parts):
            times = np.arange(number * 100_000, (number + 1) * 100_000) * 100 + rng.integers(-1_000, 1_000, 100_000)
            looking.feed(Tags(times, channels[rng.integers(0, 5, 100_000)]))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert looking.counts.heralds
        return most

    short = peak(3)
    assert peak(60) < 1.1 * short
    assert short < 40_000_000
