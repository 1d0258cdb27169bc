"""Whose turn it is at a station's detectors (spec 2 §3.6)."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bellwire.protocols.detectors import Detectors, StationSettings
from bellwire.protocols.ids import LinkId, WindowId

A, B, C = LinkId("a"), LinkId("b"), LinkId("c")


def queue(detectors: Detectors, *windows: str) -> list[int]:
    """Queue windows, named by their link and a number."""
    return [detectors.queue(LinkId(window[0]), WindowId(window)) for window in windows]


def turns(detectors: Detectors) -> list[tuple[str, int]]:
    return [(turn.window_id, turn.switch_ns) for turn in detectors.take_turns()]


def test_one_set_serves_links_in_turn_and_the_windows_of_one_in_order() -> None:
    detectors = Detectors(StationSettings(sets=1, switch_ns=5))
    assert queue(detectors, "a1") == [0]
    assert turns(detectors) == [("a1", 5)]
    assert queue(detectors, "a2", "a3", "b1", "c1", "b2") == [1, 2, 3, 4, 5]
    assert turns(detectors) == []
    served, last = [], "a1"
    while detectors.waiting:
        detectors.give_back(WindowId(last))
        ((last, switch_ns),) = turns(detectors)
        served.append((last, switch_ns))
    assert served == [("a2", 0), ("b1", 5), ("c1", 5), ("a3", 5), ("b2", 5)]


def test_several_sets_keep_to_their_links_and_turn_the_one_not_used_for_longest() -> None:
    detectors = Detectors(StationSettings(sets=2, switch_ns=5))
    queue(detectors, "a1", "b1", "c1")
    assert turns(detectors) == [("a1", 5), ("b1", 5)]
    detectors.give_back(WindowId("b1"))
    detectors.give_back(WindowId("a1"))
    assert turns(detectors) == [("c1", 5)], "b's set, which came back first"
    queue(detectors, "a2")
    assert turns(detectors) == [("a2", 0)]


def test_station_without_a_switch_lets_nobody_wait() -> None:
    detectors = Detectors(StationSettings())
    assert queue(detectors, *[f"a{number}" for number in range(50)]) == [0] * 50
    assert len(turns(detectors)) == 50
    detectors.give_back(WindowId("a7"))


def test_window_that_leaves_the_queue_has_no_turn() -> None:
    detectors = Detectors(StationSettings(sets=1))
    queue(detectors, "a1", "b1", "b2")
    assert turns(detectors) == [("a1", 0)]
    detectors.leave(B, WindowId("b1"))
    detectors.give_back(WindowId("a1"))
    assert turns(detectors) == [("b2", 0)]
    assert not detectors.waiting


@pytest.mark.parametrize("wrong", [{"sets": 0}, {"sets": 1, "switch_ns": -1}])
def test_detectors_that_are_none_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="detectors"):
        StationSettings(**wrong)


@given(st.integers(1, 3), st.lists(st.sampled_from("abc"), max_size=40), st.randoms(use_true_random=False))
def test_every_window_has_one_turn_and_no_link_waits_for_two_of_another(
    sets: int, links: list[str], random: object
) -> None:
    """Fair: between two windows of a link that waits, no other link is served twice."""
    detectors = Detectors(StationSettings(sets=sets, switch_ns=1))
    queue(detectors, *[f"{link}{number}" for number, link in enumerate(links)])
    busy: list[str] = []
    served: list[str] = []
    since: dict[str, Counter[str]] = {link: Counter() for link in "abc"}
    left = Counter(links)
    while len(served) < len(links):
        new = [window for window, _ in turns(detectors)]
        served += new
        busy += new
        assert len(busy) <= sets
        for window in new:
            link = window[0]
            left[link] -= 1
            for other, counts in since.items():
                if left[other] and other != link:
                    counts[link] += 1
                    assert counts[link] <= 1
            since[link].clear()
        busy.remove(done := random.choice(busy))  # type: ignore[attr-defined]
        detectors.give_back(WindowId(done))
    assert sorted(served) == sorted(f"{link}{number}" for number, link in enumerate(links))
