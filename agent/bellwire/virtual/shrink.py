"""The shortest story: faults are left out of a failing run for as long as the same checker still fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from bellwire.simnet.faults import Plan
from bellwire.virtual.run import Report, plan_of, run_seed
from bellwire.virtual.scenario import Scenario

T = TypeVar("T")


def minimal(items: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> list[T]:
    """Leave items out while it still fails, until no single one can be left out (ddmin; Zeller and Hildebrandt, 2002).

    `fails(items)` is taken for granted. Items keep their order.
    """
    kept, parts = list(items), 2
    if kept and fails([]):
        return []
    while len(kept) >= 2:
        size = -(-len(kept) // parts)
        chunks = [kept[start : start + size] for start in range(0, len(kept), size)]
        for chunk in chunks:
            rest = [item for item in kept if item not in chunk]
            if fails(rest):
                kept, parts = rest, max(parts - 1, 2)
                break
        else:
            if size == 1:
                return kept
            parts = min(2 * parts, len(kept))
    return kept


def shrink(scenario: Scenario, seed: int, checkers: set[str]) -> tuple[Plan, Report]:
    """Find a smallest plan with which one of the same checkers still fails, and what it then says.

    Faults that never fired go first, in one step.
    """
    whole = plan_of(scenario, seed)
    report = run_seed(scenario, seed, plan=whole)

    def fails(plan: Sequence[object]) -> bool:
        nonlocal report
        tried = run_seed(scenario, seed, plan=tuple(plan))  # type: ignore[arg-type]
        if tried.checkers & checkers:
            report = tried
            return True
        return False

    fired = tuple(fault for fault in whole if report.fired.get(fault.number))
    begun = fired if len(fired) < len(whole) and fails(fired) else whole
    kept = tuple(minimal(begun, fails))
    if report.seed != seed or len(kept) == len(whole):
        return kept, report
    return kept, run_seed(scenario, seed, plan=kept)
