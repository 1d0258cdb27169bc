"""The command `bellwire simnet`: whole networks in virtual time, with everything going wrong."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bellwire.protocols.errors import ConfigError
from bellwire.shell.options import Json, error_console, show_json, show_table

if TYPE_CHECKING:
    from bellwire.simnet.faults import Plan
    from bellwire.virtual.run import Report
    from bellwire.virtual.scenario import Scenario
    from bellwire.virtual.story import Story
    from bellwire.virtual.sweep import RunnerCapable, Summary, Swept

app = typer.Typer()

SIMULATION = "Simulate"
FAILED = 1
TOLD_STORIES = 5


@app.command("simnet", rich_help_panel=SIMULATION)
def simnet(
    scenario: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SCENARIO]...", help="Scenarios that come with Bellwire, or .toml files."),
    ] = None,
    seeds: Annotated[
        str, typer.Option(metavar="FROM:TO", help="Seeds to run of each scenario, the last one left out.")
    ] = "0:100",
    seed: Annotated[int | None, typer.Option(min=0, help="Run this seed alone, and shrink it if it fails.")] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Processes; 0 for as many as there are cores.")] = 0,
    dask: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Run on the Dask cluster of this scheduler, as tcp://HOST:8786.")
    ] = "",
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="With --seed: write what happens, one event a line.")
    ] = None,
    faults: Annotated[
        str, typer.Option(metavar="NUMBERS", help="With --seed: only these of its faults, as 2,5, or none.")
    ] = "",
    stop_after: Annotated[int, typer.Option(min=0, help="End when so many seeds have failed; 0 for never.")] = 10,
    shrink: Annotated[bool, typer.Option(help="Look for the shortest story of a failing seed.")] = True,
    json: Json = False,
) -> None:
    """Run networks in virtual time, with faults from a seed, and check what must always hold.

    Without a scenario, those that come with Bellwire are listed. Exit code 0 means that no invariant was broken in any.
    A Dask cluster needs this very Bellwire on its scheduler and workers, and gives the same results as this machine.

    Example: `bellwire simnet two-nodes-mixed star-five-mixed --seeds 0:1000`, then
    `bellwire simnet two-nodes-mixed --seed 17 --trace t.jsonl`
    """
    from bellwire.virtual.scenario import load_scenario

    names = scenario or []
    if not names:
        _list(json=json)
        return
    if len(set(names)) < len(names):
        raise ConfigError("a scenario is named twice: its seeds would give the same again")
    loaded = {name: load_scenario(name) for name in names}
    if seed is None:
        _only_with_seed(trace=trace, faults=faults)
        with _runner(jobs, dask) as runner:
            failed = _many(loaded, _range(seeds), runner, stop_after, shrink, json)
    elif len(names) > 1 or dask:
        raise ConfigError("--seed is one run on this machine: name one scenario, and no --dask")
    else:
        failed = _one(loaded[names[0]], names[0], seed, faults, trace, shrinks=shrink, json=json)
    raise typer.Exit(FAILED if failed else 0)


def _list(*, json: bool) -> None:
    from bellwire.virtual.scenario import load_scenario, packaged_scenarios

    rows = [(name, load_scenario(name).about) for name in packaged_scenarios()]
    if json:
        show_json([{"scenario": name, "about": about} for name, about in rows])
    else:
        show_table("Scenarios", ("scenario", "about"), rows)


def _only_with_seed(*, trace: Path | None, faults: str) -> None:
    if trace is not None:
        raise ConfigError("--trace needs --seed: a trace is of one run")
    if faults:
        raise ConfigError("--faults needs --seed: every seed draws faults of its own")


def _range(text: str) -> range:
    first, colon, last = text.partition(":")
    if not (colon and first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise ConfigError(f"--seeds {text!r} is not of the form FROM:TO, as 0:1000")
    return range(int(first), int(last))


@contextmanager
def _runner(jobs: int, dask: str) -> Iterator[RunnerCapable]:
    """Where the seeds run: on this machine, or on a cluster."""
    from bellwire.virtual.sweep import LocalRunner

    if not dask:
        yield LocalRunner(jobs or os.cpu_count() or 1)
        return
    if jobs:
        raise ConfigError("--jobs is for this machine: how much runs at once on a Dask cluster is up to its workers")
    from bellwire.virtual.cluster import dask_runner

    with dask_runner(dask) as runner:
        yield runner


# One seed.


def _one(
    scenario: Scenario, name: str, seed: int, faults: str, trace: Path | None, *, shrinks: bool, json: bool
) -> bool:
    from bellwire.simnet.trace import Trace
    from bellwire.virtual.run import run_seed
    from bellwire.virtual.story import tell

    plan = _plan(scenario, seed, faults)
    if trace is None:
        report = run_seed(scenario, seed, plan=plan)
    else:
        try:
            with trace.open("w", encoding="utf-8", newline="\n") as file:
                report = run_seed(scenario, seed, plan=plan, trace=Trace(file.write))
        except OSError as error:
            raise ConfigError(f"{trace}: cannot be written: {error.strerror or error}") from None
    story = tell(scenario, name, report, plan=plan, shrinks=shrinks) if report.violations else None
    if json:
        show_json({"scenario": name, "seed": seed, "story": story.as_dict() if story else {}, **_plain(report)})
        return story is not None
    rows = [*report.outcomes.items(), *((f"fault: {fault}", count) for fault, count in report.faults.items())]
    title = f"{name}, seed {seed}: {report.events} events, {report.gates_checked} gates checked against the world"
    show_table(title, ("what", "how often"), rows)
    if story:
        _say(story)
    return story is not None


def _plan(scenario: Scenario, seed: int, faults: str) -> Plan | None:
    """Those of a seed's faults that were named; nothing for all of them."""
    from bellwire.virtual.run import plan_of

    if not faults:
        return None
    drawn = {str(fault.number): fault for fault in plan_of(scenario, seed)}
    numbers = [] if faults == "none" else faults.split(",")
    unknown = [number for number in numbers if number not in drawn]
    if unknown:
        known = ", ".join(drawn) or "none"
        raise ConfigError(f"--faults {faults!r}: seed {seed} draws no fault {unknown[0]!r}, its faults are {known}")
    return tuple(fault for number, fault in drawn.items() if number in numbers)


def _plain(report: Report) -> dict[str, Any]:
    import msgspec

    content: dict[str, Any] = msgspec.to_builtins(report, str_keys=True)
    return content


# Many seeds.


def _many(
    scenarios: Mapping[str, Scenario], seeds: range, runner: RunnerCapable, stop_after: int, shrinks: bool, json: bool
) -> bool:
    from bellwire.virtual.build import commit
    from bellwire.virtual.story import tell

    began = time.perf_counter()
    swept = _sweep(scenarios, seeds, runner, stop_after)
    seconds = time.perf_counter() - began
    stories = [
        tell(scenarios[failure.scenario], failure.scenario, failure.report, shrinks=shrinks)
        for failure in swept.whole.failing[:TOLD_STORIES]
    ]
    if json:
        show_json(
            {
                **swept.whole.as_dict(),
                "scenarios": [{"scenario": name, **each.as_dict()} for name, each in swept.scenarios.items()],
                "seconds": seconds,
                **runner.where(),
                "commit": commit(),
                "stories": [story.as_dict() for story in stories],
            }
        )
    else:
        _show(swept, seconds)
        for story in stories:
            _say(story)
        untold = swept.whole.failing[TOLD_STORIES:]
        if untold:
            names = ", ".join(f"{failure.report.seed} of {failure.scenario}" for failure in untold)
            error_console().print(f"\nalso failed: {names}", markup=False, soft_wrap=True)
    return swept.whole.failed > 0


def _sweep(scenarios: Mapping[str, Scenario], seeds: range, runner: RunnerCapable, stop_after: int) -> Swept:
    """Run the seeds, behind a bar of all that are to be run."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from bellwire.virtual.sweep import sweep

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    failed, console = 0, error_console()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(next(iter(scenarios)), total=len(seeds) * len(scenarios))

        def advance(name: str, report: Report) -> None:
            nonlocal failed
            failed += bool(report.violations)
            progress.update(task, advance=1, description=f"{name}, {failed} failed" if failed else name)

        return sweep(scenarios, seeds, runner, stop_after=stop_after, on_report=advance)


def _show(swept: Swept, seconds: float) -> None:
    from bellwire.virtual.sweep import all_rows

    whole, several = swept.whole, len(swept.scenarios) > 1
    stopped = f" of {whole.asked}, stopped because enough have failed," if whole.seeds < whole.asked else ""
    title = f"{', '.join(swept.scenarios)}: {whole.seeds} seeds{stopped} in {seconds:.1f} s, {whole.failed} failed"
    columns = [_counts(summary) for summary in ([*swept.scenarios.values(), whole] if several else [whole])]
    heads = [*swept.scenarios, "all"] if several else ["how often"]
    show_table(title, ("what", *heads), [(what, *(counts[what] for counts in columns)) for what in _counts(whole)])
    if whole.rows_not_reached:
        title = f"Rows of transition tables that these seeds did not reach: {len(whole.rows_not_reached)} of {len(all_rows())}"
        show_table(title, ("row",), [[row] for row in whole.rows_not_reached])
    if whole.rows_unreachable:
        show_table("Rows that no seed can reach", ("row", "why"), list(whole.rows_unreachable.items()))
    for row in whole.rows_disproved:
        error_console().print(f"reached, though listed as unreachable: {row}", markup=False, soft_wrap=True)


def _counts(summary: Summary) -> Counter[str]:
    """What a summary has counted, in the order in which it is shown."""
    counts = Counter(
        {
            "seeds": summary.seeds,
            "failed": summary.failed,
            "events": summary.events,
            "pairs made": summary.pairs_made,
            "gates checked against the world": summary.gates_checked,
        }
    )
    counts.update({f"broken: {broken}": count for broken, count in sorted(summary.broken.items())})
    counts.update({f"fault: {fault}": count for fault, count in sorted(summary.faults.items())})
    counts.update(dict(sorted(summary.outcomes.items())))
    return counts


def _say(story: Story) -> None:
    console = error_console()
    console.print()
    for line in story.lines():
        console.print(line, markup=False, soft_wrap=True)
