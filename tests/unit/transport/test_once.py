"""What is counted within stretches of time, and what is reported once."""

from __future__ import annotations

from bellwire.transport.once import Once
from bellwire.transport.rates import TURNS_PER_S, Rate


def test_rate_lets_through_its_part_of_each_turn() -> None:
    rate = Rate(3 * TURNS_PER_S)
    assert [rate.allows(7) for _ in range(5)] == [True, True, True, False, False]
    assert rate.allows(8)


def test_line_is_said_again_only_after_another_or_when_it_was_over() -> None:
    said: list[str] = []
    once = Once(said.append)
    for line in ("full", "full", "gone", "full"):
        once(line)
    once.forget()
    once("full")
    assert said == ["full", "gone", "full", "full"]
    Once(None)("to nobody")
