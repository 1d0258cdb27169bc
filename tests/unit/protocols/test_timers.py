"""The queue of deadlines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bellwire.protocols.timers import MAX_DEAD_TIMERS, Timer, TimerQueue


def test_timers_due_fire_in_order_and_equal_ones_in_order_of_setting() -> None:
    queue, fired = TimerQueue(), list[str]()
    queue.at(5, lambda: fired.append("b"))
    queue.at(3, lambda: fired.append("a"))
    queue.at(5, lambda: fired.append("c"))
    queue.at(6, lambda: fired.append("d"))
    queue.fire_due(5)
    assert fired == ["a", "b", "c"]
    assert queue.next_deadline_ns() == 6


def test_timer_set_for_now_by_a_firing_one_fires_too() -> None:
    queue, fired = TimerQueue(), list[str]()

    def outer() -> None:
        queue.at(2, lambda: fired.append("inner"))

    queue.at(1, outer)
    queue.fire_due(2)
    assert fired == ["inner"]


def test_timer_cancelled_never_fires_and_is_no_deadline() -> None:
    queue, fired = TimerQueue(), list[str]()
    timer = queue.at(1, lambda: fired.append("x"))
    timer.cancel()
    timer.cancel()
    assert timer.call is None
    assert queue.next_deadline_ns() is None
    queue.fire_due(10)
    assert fired == []


def test_timer_cancelled_by_an_earlier_one_does_not_fire() -> None:
    queue, fired = TimerQueue(), list[str]()
    timers: list[Timer] = []
    queue.at(1, lambda: timers[0].cancel())  # noqa: PLW0108
    timers.append(queue.at(1, lambda: fired.append("x")))
    queue.fire_due(1)
    assert fired == []


def test_timer_fires_once() -> None:
    queue, fired = TimerQueue(), list[str]()
    timer = queue.at(1, lambda: fired.append("x"))
    queue.fire_due(1)
    timer.cancel()
    queue.fire_due(9)
    assert fired == ["x"]


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=300))
def test_queue_with_cancelled_timers_stays_small_and_fires_the_others_in_order(timers: list[tuple[int, bool]]) -> None:
    queue, fired = TimerQueue(), list[int]()
    for at_ns, cancelled in timers:
        timer = queue.at(at_ns, lambda at_ns=at_ns: fired.append(at_ns))  # type: ignore[misc]
        if cancelled:
            timer.cancel()
    live = sorted(at_ns for at_ns, cancelled in timers if not cancelled)
    assert len(queue) <= 2 * len(live) + MAX_DEAD_TIMERS + 1
    assert queue.next_deadline_ns() == (live[0] if live else None)
    queue.fire_due(50)
    assert fired == live
    assert len(queue) == 0
