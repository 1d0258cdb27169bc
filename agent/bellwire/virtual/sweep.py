"""Many seeds of one scenario or of several: what was exercised, and what broke. Where the seeds run is up to a runner."""

from __future__ import annotations

import bisect
import multiprocessing
import signal
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from multiprocessing.pool import Pool
from typing import Any, Final, Protocol

import msgspec

from bellwire.protocols.describe import MACHINES
from bellwire.virtual.run import Report, run_seed
from bellwire.virtual.scenario import Scenario
from bellwire.virtual.unreachable import UNREACHABLE

MAX_FAILURES: Final = 100
"""Failing seeds that a summary keeps whole: those with the lowest numbers."""

MAX_CHUNK: Final = 16
"""Seeds that are handed out at once, at most: so few that a sweep can be stopped soon."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A seed of a scenario that has broken an invariant."""

    scenario: str
    report: Report


@dataclass(slots=True)
class Summary:
    """What came of seeds, of one scenario or of several. `asked` is how many were to be run."""

    asked: int
    seeds: int = 0
    failed: int = 0
    failing: list[Failure] = field(default_factory=list)
    events: int = 0
    frames: int = 0
    gates_checked: int = 0
    pairs_made: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)

    def add(self, scenario: str, report: Report) -> None:
        """Count one seed of a scenario. The order in which its seeds are counted makes no difference."""
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
            bisect.insort(self.failing, Failure(scenario, report), key=lambda failure: failure.report.seed)
            del self.failing[MAX_FAILURES:]

    @property
    def rows_unreachable(self) -> dict[str, str]:
        """The rows of transition tables that no seed has taken because none can, each with the reason."""
        return {row: why for row, why in UNREACHABLE.items() if not self.rows[row]}

    @property
    def rows_not_reached(self) -> list[str]:
        """The rows that no seed has taken, and another one might."""
        return [row for row in all_rows() if not self.rows[row] and row not in UNREACHABLE]

    @property
    def rows_disproved(self) -> list[str]:
        """The rows that a seed has taken, although there is a reason why none can."""
        return [row for row in UNREACHABLE if self.rows[row]]

    def as_dict(self) -> dict[str, Any]:
        """The summary as plain data, for `--json`."""
        rows = all_rows()
        return {
            "seeds": self.seeds,
            "seeds_asked": self.asked,
            "failed": self.failed,
            "broken": dict(sorted(self.broken.items())),
            "events": self.events,
            "frames": self.frames,
            "gates_checked": self.gates_checked,
            "pairs_made": self.pairs_made,
            "faults": dict(sorted(self.faults.items())),
            "outcomes": dict(sorted(self.outcomes.items())),
            "rows": len(rows),
            "rows_covered": sum(bool(self.rows[row]) for row in rows),
            "rows_not_reached": self.rows_not_reached,
            "rows_unreachable": self.rows_unreachable,
            "rows_disproved": self.rows_disproved,
            "failing": [
                {
                    "scenario": failure.scenario,
                    "seed": failure.report.seed,
                    "violations": failure.report.violations,
                }
                for failure in self.failing
            ],
        }


@dataclass(frozen=True, slots=True)
class Swept:
    """What came of a sweep: of each scenario by its name, and of all of them together."""

    scenarios: dict[str, Summary]
    whole: Summary

    def add(self, scenario: str, report: Report) -> None:
        """Count one seed of a scenario."""
        for summary in (self.scenarios[scenario], self.whole):
            summary.add(scenario, report)


def all_rows() -> list[str]:
    """Every row of every transition table, as reports name them."""
    return [f"{machine.name} {state.value} {given.value}" for machine in MACHINES for state, given in machine.table]


class RunnerCapable(Protocol):
    """Where seeds run."""

    def where(self) -> dict[str, Any]:
        """Where that was, as plain data, for `--json`."""

    def run(self, scenario: Scenario, seeds: range) -> Generator[Report, None, None]:
        """Run seeds of a scenario, and give each report once it is there. Closing the generator ends what still runs."""


class LocalRunner:
    """Runs seeds on this machine: in so many processes, or in this very one when that is one."""

    def __init__(self, jobs: int = 1) -> None:
        self.jobs = jobs

    def where(self) -> dict[str, Any]:
        """Where seeds run: in how many processes."""
        return {"jobs": self.jobs}

    def run(self, scenario: Scenario, seeds: range) -> Generator[Report, None, None]:
        """Run seeds, and give the reports as they come."""
        if self.jobs == 1:
            yield from (run_seed(scenario, seed) for seed in seeds)
            return
        with _workers(scenario, self.jobs) as pool:
            yield from pool.imap_unordered(_run, seeds, chunksize=chunk_size(seeds, self.jobs))


def chunk_size(seeds: range, jobs: int) -> int:
    """How many seeds are handed out at once: some, but so few that all jobs have their share to the end."""
    return max(1, min(MAX_CHUNK, len(seeds) // (4 * jobs)))


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
    scenarios: Mapping[str, Scenario],
    seeds: range,
    runner: RunnerCapable,
    *,
    stop_after: int = 0,
    on_report: Callable[[str, Report], None] | None = None,
) -> Swept:
    """Run the seeds of every scenario, one scenario after another. With `stop_after`, all ends when so many have failed."""
    summaries = {name: Summary(len(seeds)) for name in scenarios}
    swept = Swept(summaries, Summary(len(seeds) * len(scenarios)))
    for name, scenario in scenarios.items():
        with closing(runner.run(scenario, seeds)) as reports:
            for report in reports:
                swept.add(name, report)
                if on_report is not None:
                    on_report(name, report)
                if stop_after and swept.whole.failed >= stop_after:
                    return swept
    return swept
