"""A station's windows over a stream of tags: which tags are theirs, and what ends them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from bellwire.protocols.ids import LinkId, QubitName, WindowId
from bellwire.protocols.instructions import (
    AnyCompletion,
    AnyInstruction,
    Arm,
    BellState,
    Cancel,
    Done,
    Failed,
    Measure,
    WindowEnded,
)
from bellwire.protocols.node import Batch
from bellwire.tags.settings import FinderSettings
from bellwire.tags.simulate import SimulatedTagger, SimulationSettings
from bellwire.tags.station import MAX_WINDOWS, TagStation
from bellwire.tags.stream import CLOCK, Tags

PLUS, MINUS = BellState.PSI_PLUS, BellState.PSI_MINUS
PATTERNS = ((1, 2, PLUS), (3, 4, PLUS), (1, 4, MINUS), (2, 3, MINUS))
TRIGGERED = FinderSettings(trigger=0, gates_ps=((10, 30),), patterns=PATTERNS, horizon_ps=5)
STARTED = FinderSettings(trigger=0, start=9, gates_ps=((10, 30),), patterns=PATTERNS, horizon_ps=5)
PERIODIC = FinderSettings(period_ps=100, start=9, gates_ps=((10, 30),), patterns=PATTERNS, horizon_ps=5)


class Bench:
    """A station under test: what it is given and what it has answered."""

    def __init__(self, settings: FinderSettings = TRIGGERED, *, waits: bool = False) -> None:
        self.station = TagStation(settings, waits=waits)
        self.now_ns = 1_000
        self.batches = 0

    def submit(self, *instructions: AnyInstruction) -> int:
        self.batches += 1
        self.station.submit(Batch(number=self.batches, instructions=instructions), self.now_ns)
        return self.batches

    def arm(self, window: str = "w", *, attempts: int = 100, start_in_ns: int = 0, timeout_ns: int = 1_000) -> int:
        return self.submit(
            Arm(
                window_id=WindowId(window),
                link_id=LinkId("link"),
                attempts=attempts,
                start_in_ns=start_in_ns,
                timeout_ns=timeout_ns,
            )
        )

    def feed(self, *tags: tuple[int, int]) -> None:
        self.station.feed(Tags.of(tags), self.now_ns)

    def answers(self) -> dict[int, tuple[AnyCompletion, ...]]:
        return dict(self.station.take_answers())

    def ends(self) -> list[tuple[str, int, BellState | None]]:
        """Windows that have ended, in order."""
        last = [completions[-1] for _, completions in self.station.take_answers()]
        return [(one.window_id, one.attempts, one.bell_state) for one in last if isinstance(one, WindowEnded)]


def pair(begin_ps: int, state: BellState = PLUS) -> list[tuple[int, int]]:
    return [(begin_ps, 0), (begin_ps + 15, 1), (begin_ps + 20, 2 if state is PLUS else 4)]


# What ends a window.


def test_window_ends_with_its_first_coincidence() -> None:
    bench = Bench()
    bench.feed((50, 0))
    number = bench.arm()
    assert bench.station.looking
    bench.feed((100, 0), (115, 1), *pair(200, MINUS), *pair(300), (400, 0))
    assert bench.answers() == {number: (WindowEnded(window_id=WindowId("w"), attempts=2, bell_state=MINUS),)}
    assert not bench.station.looking
    assert bench.station.next_deadline_ns() is None


def test_window_ends_after_its_last_attempt_when_that_is_over() -> None:
    bench = Bench()
    bench.arm(attempts=2)
    bench.feed((100, 0), (200, 0), (234, CLOCK))
    assert bench.ends() == []
    bench.feed((235, CLOCK))
    assert bench.ends() == [("w", 2, None)]


def test_window_of_few_attempts_takes_no_herald_of_a_later_one() -> None:
    bench = Bench()
    bench.arm(attempts=2)
    bench.feed((100, 0), (200, 0), *pair(300), (400, 0))
    assert bench.ends() == [("w", 2, None)]


def test_window_times_out_on_the_stations_clock_with_the_attempts_that_began() -> None:
    bench = Bench()
    bench.arm(timeout_ns=500)
    bench.feed((100, 0), (200, 0), (300, CLOCK))
    assert bench.station.next_deadline_ns() == 1_500
    bench.now_ns = 1_499
    bench.station.handle_deadline(bench.now_ns)
    assert bench.ends() == []
    bench.now_ns = 1_500
    bench.station.handle_deadline(bench.now_ns)
    assert bench.ends() == [("w", 2, None)]


def test_window_without_any_tag_times_out_after_no_attempt() -> None:
    for settings in (TRIGGERED, STARTED, PERIODIC):
        bench = Bench(settings)
        bench.arm(timeout_ns=500)
        bench.feed((10_000, CLOCK))
        bench.now_ns = 1_500
        bench.station.handle_deadline(bench.now_ns)
        assert bench.ends() == [("w", 0, None)]


def test_window_cancelled_ends_at_once_after_the_attempts_that_began() -> None:
    bench = Bench()
    bench.arm("w")
    bench.feed((100, 0), (200, 0), (300, CLOCK))
    number = bench.submit(Cancel(window_id=WindowId("w")))
    answers = bench.answers()
    assert answers[number] == (Done(),)
    assert answers[1] == (WindowEnded(window_id=WindowId("w"), attempts=2),)
    bench.feed(*pair(400), (500, 0))
    assert bench.answers() == {}


def test_window_with_starts_counts_from_its_start_and_ends_with_another() -> None:
    bench = Bench(STARTED)
    bench.arm("first")
    bench.arm("second")
    bench.feed(*pair(100), (150, 9), (200, 0), (300, 0), (350, 9), *pair(400), (500, 0))
    assert bench.ends() == [("first", 2, None), ("second", 1, PLUS)]


def test_window_whose_last_attempt_another_start_cuts_short_keeps_its_herald() -> None:
    bench = Bench(STARTED)
    bench.arm("first")
    bench.feed((150, 9), *pair(200, MINUS), (222, 9), (300, CLOCK))
    assert bench.ends() == [("first", 1, MINUS)]


def test_window_by_period_needs_no_tags_of_attempts() -> None:
    bench = Bench(PERIODIC)
    bench.arm("herald")
    bench.feed((57, 9), (57 + 415, 1), (57 + 420, 4), (600, CLOCK))
    assert bench.ends() == [("herald", 5, MINUS)]
    bench.arm("none", attempts=3)
    bench.feed((1_000, 9), (1_234, CLOCK))
    assert bench.ends() == []
    bench.feed((1_235, CLOCK))
    assert bench.ends() == [("none", 3, None)]


# Which tags are a window's.


def test_window_takes_no_tags_from_before_it_was_armed() -> None:
    bench = Bench()
    bench.feed(*pair(100))
    bench.arm()
    bench.feed((200, 0), *pair(300), (400, 0))
    assert bench.ends() == [("w", 2, PLUS)]


def test_stream_that_nobody_looks_at_is_not_kept() -> None:
    bench = Bench()
    for begin in range(0, 100_000, 100):
        bench.feed(*pair(begin))
        assert bench.station.unread == 0


def test_window_takes_no_tags_that_came_late_from_before_it_was_armed() -> None:
    bench = Bench(FinderSettings(trigger=0, gates_ps=((10, 30),), patterns=PATTERNS, horizon_ps=500))
    bench.feed((400, CLOCK))
    bench.arm()
    bench.feed(*pair(300), *pair(500), (2_000, CLOCK))
    assert bench.ends() == [("w", 1, PLUS)]


def test_window_that_starts_later_takes_the_stream_from_then_on() -> None:
    bench = Bench()
    bench.arm(start_in_ns=200)
    assert not bench.station.looking
    assert bench.station.next_deadline_ns() == 1_200
    bench.feed(*pair(100), (150, 0))
    bench.now_ns = 1_200
    bench.station.handle_deadline(bench.now_ns)
    assert bench.station.looking
    bench.feed((200, 0), *pair(300, MINUS), (400, 0))
    assert bench.ends() == [("w", 2, MINUS)]


def test_windows_take_turns_in_one_part_of_the_stream() -> None:
    bench = Bench()
    for window in ("a", "b", "c"):
        bench.arm(window, attempts=3)
    triggers = [(begin, 0) for begin in (100, 300, 400, 500, 600)]
    bench.feed(triggers[0], *pair(200), *triggers[1:], *pair(700, MINUS), (800, 0), (900, CLOCK))
    assert bench.ends() == [("a", 2, PLUS), ("b", 3, None), ("c", 2, MINUS)]


def test_windows_that_wait_their_turn_leave_at_their_own_timeout() -> None:
    bench = Bench()
    bench.arm("a", timeout_ns=1_000)
    bench.arm("b", timeout_ns=500)
    bench.now_ns = 1_600
    bench.station.handle_deadline(bench.now_ns)
    assert bench.ends() == [("b", 0, None)]
    bench.feed(*pair(100), (200, 0))
    assert bench.ends() == [("a", 1, PLUS)]


def test_source_that_waits_loses_no_tag_between_windows() -> None:
    bench = Bench(waits=True)
    bench.feed(*pair(100), *pair(200, MINUS), (300, 0), *pair(400), (500, 0))
    for expected in ((1, PLUS), (1, MINUS), (2, PLUS)):
        bench.arm()
        assert bench.ends() == [("w", *expected)]
    bench.arm()
    assert bench.station.looking


def test_source_that_ends_makes_the_last_coincidence_certain() -> None:
    bench = Bench(FinderSettings(trigger=0, gates_ps=((10, 30),), patterns=PATTERNS, horizon_ps=1_000))
    bench.arm("a")
    bench.arm("b", attempts=2)
    bench.feed(*pair(100), (200, 0), (300, 0))
    assert bench.ends() == []
    bench.station.finish(bench.now_ns)
    assert bench.ends() == [("a", 1, PLUS), ("b", 2, None)]


def test_reset_forgets_windows_and_begins_with_another_clock() -> None:
    bench = Bench()
    bench.arm()
    bench.feed((10_000, 0))
    bench.station.reset()
    assert bench.station.next_deadline_ns() is None
    bench.arm()
    bench.feed(*pair(100), (200, 0))
    assert bench.ends() == [("w", 1, PLUS)]


@pytest.mark.parametrize("size", [1, 2, 7, 50, 10_000])
def test_windows_over_a_simulated_tagger_are_as_its_truth_however_it_is_cut(size: int) -> None:
    settings = SimulationSettings(efficiencies=(0.5, 0.5), dark_hz=0.0)
    tagger = SimulatedTagger(settings, np.random.default_rng(5))
    parts = list(tagger.window(2_000))
    whole = Tags.joined([*(tags for tags, _ in parts), tagger.quiet(10**7)])
    truth = [row for _, true in parts for row in true.rows()]
    assert len(truth) > 100
    station = TagStation(settings.finder(), waits=True)
    ends: list[WindowEnded] = []
    places = [*range(0, len(whole), size), len(whole)]
    for first, last in pairwise(places):
        if not station.looking:
            arm = Arm(window_id=WindowId("w"), link_id=LinkId("link"), attempts=10**6, timeout_ns=10**9)
            station.submit(Batch(number=1, instructions=(arm,)), 0)
        station.feed(whole.part(first, last), 0)
        while answers := station.take_answers():
            ends += [one for _, completions in answers for one in completions if isinstance(one, WindowEnded)]
            station.submit(Batch(number=1, instructions=(arm,)), 0)
    attempts = np.cumsum([end.attempts for end in ends]).tolist()
    assert list(zip(attempts, [end.bell_state for end in ends], strict=True)) == truth


# Batches.


def test_batch_of_what_a_station_cannot_do_fails_as_a_whole() -> None:
    bench = Bench()
    arm = Arm(window_id=WindowId("w"), link_id=LinkId("link"), timeout_ns=5)
    for batch, failed in (
        ((Measure(qubit=QubitName("q")), Cancel(window_id=WindowId("x"))), "no qubits"),
        ((arm, Cancel(window_id=WindowId("w"))), "arm has to come last"),
        ((Arm(window_id=WindowId("w"), link_id=LinkId("link"), timeout_ns=5, qubit=QubitName("c0")),), "no qubit c0"),
    ):
        number = bench.submit(*batch)
        completions = bench.answers()[number]
        assert len(completions) == len(batch)
        assert all(isinstance(one, Failed) for one in completions)
        assert isinstance(completions[0], Failed)
        assert failed in completions[0].text
    assert bench.station.next_deadline_ns() is None


def test_batch_that_cancels_and_arms_is_answered_when_the_window_has_ended() -> None:
    bench = Bench()
    arm = Arm(window_id=WindowId("w"), link_id=LinkId("link"), attempts=1, timeout_ns=50)
    number = bench.submit(Cancel(window_id=WindowId("unknown")), arm)
    assert bench.answers() == {}
    bench.feed(*pair(100), (200, 0))
    assert bench.answers() == {number: (Done(), WindowEnded(window_id=WindowId("w"), attempts=1, bell_state=PLUS))}


def test_window_that_is_armed_already_or_one_too_many_is_refused() -> None:
    bench = Bench()
    bench.arm("w")
    number = bench.arm("w")
    (again,) = bench.answers()[number]
    assert isinstance(again, Failed)
    assert "window w is armed already" in again.text
    for more in range(MAX_WINDOWS - 1):
        bench.arm(f"w{more}")
    assert bench.answers() == {}
    number = bench.arm("one more")
    (refused,) = bench.answers()[number]
    assert isinstance(refused, Failed)
    assert f"{MAX_WINDOWS} windows are armed" in refused.text


def test_empty_batch_is_answered() -> None:
    bench = Bench()
    number = bench.submit()
    assert bench.answers() == {number: ()}
