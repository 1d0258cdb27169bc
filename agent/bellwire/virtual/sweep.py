"""Many seeds of one scenario, on all cores: what was exercised, and what broke."""

from __future__ import annotations

import multiprocessing
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.pool import Pool
from typing import Any

import msgspec

from bellwire.protocols.describe import MACHINES
from bellwire.virtual.run import Report, run_seed
from bellwire.virtual.scenario import Scenario

MAX_FAILURES = 100
"""Failing seeds that a summary keeps whole."""


@dataclass(slots=True)
class Summary:
    """What came of a sweep."""

    scenario: str
    seeds: int = 0
    failing: list[Report] = field(default_factory=list)
    failed: int = 0
    events: int = 0
    frames: int = 0
    gates_checked: int = 0
    pairs_made: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)

    def add(self, report: Report) -> None:
        """Count one seed."""
        self.seeds += 1
        self.events += report.events
        self.frames += report.frames
        self.gates_checked += report.gates_checked
        self.pairs_made += report.pairs_made
        self.outcomes.update(report.outcomes)
        self.faults.update(report.faults)
        self.rows.update(report.rows)
        self.broken.update(report.checkers)
        if report.violations:
            self.failed += 1
            if len(self.failing) < MAX_FAILURES:
                self.failing.append(report)

    @property
    def uncovered(self) -> list[str]:
        """The rows of transition tables that no seed has taken."""
        return [row for row in all_rows() if not self.rows[row]]

    def as_dict(self) -> dict[str, Any]:
        """The summary as plain data, for `--json`."""
        return {
            "scenario": self.scenario,
            "seeds": self.seeds,
            "failed": self.failed,
            "broken": dict(sorted(self.broken.items())),
            "events": self.events,
            "frames": self.frames,
            "gates_checked": self.gates_checked,
            "pairs_made": self.pairs_made,
            "faults": dict(sorted(self.faults.items())),
            "outcomes": dict(sorted(self.outcomes.items())),
            "rows_covered": len(all_rows()) - len(self.uncovered),
            "rows": len(all_rows()),
            "rows_uncovered": self.uncovered,
            "failing": [
                {"seed": report.seed, "violations": report.violations}
                for report in sorted(self.failing, key=lambda report: report.seed)
            ],
        }


def all_rows() -> list[str]:
    """Every row of every transition table, as reports name them."""
    return [f"{machine.name} {state.value} {given.value}" for machine in MACHINES for state, given in machine.table]


_SCENARIO: Scenario | None = None


def _begin(encoded: bytes) -> None:
    """Begin a worker: it leaves Ctrl-C to the one that started it."""
    global _SCENARIO
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _SCENARIO = msgspec.msgpack.decode(encoded, type=Scenario)


def _run(seed: int) -> Report:
    assert _SCENARIO is not None
    return run_seed(_SCENARIO, seed)


@contextmanager
def _workers(scenario: Scenario, jobs: int) -> Iterator[Pool]:
    context = multiprocessing.get_context("spawn")
    pool = context.Pool(jobs, initializer=_begin, initargs=(msgspec.msgpack.encode(scenario),))
    try:
        yield pool
    finally:
        pool.terminate()
        pool.join()


def sweep(
    scenario: Scenario,
    name: str,
    seeds: range,
    *,
    jobs: int = 1,
    stop_after: int = 0,
    on_report: Callable[[Report], None] | None = None,
) -> Summary:
    """Run many seeds. With `stop_after`, it ends when so many have failed."""
    summary = Summary(name)

    def take(reports: Iterator[Report]) -> None:
        for report in reports:
            summary.add(report)
            if on_report is not None:
                on_report(report)
            if stop_after and summary.failed >= stop_after:
                return

    if jobs == 1:
        take(run_seed(scenario, seed) for seed in seeds)
        return summary
    with _workers(scenario, jobs) as pool:
        chunk = max(1, min(16, len(seeds) // (4 * jobs)))
        take(pool.imap_unordered(_run, seeds, chunksize=chunk))
    return summary
