"""The command `bellwire simnet`: whole networks in virtual time, with everything going wrong."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bellwire.protocols.errors import ConfigError
from bellwire.shell.options import Json, error_console, show_json, show_table

if TYPE_CHECKING:
    from bellwire.virtual.run import Report
    from bellwire.virtual.scenario import Scenario
    from bellwire.virtual.sweep import Summary

app = typer.Typer()

SIMULATION = "Simulate"
FAILED = 1
SHOWN_FAILURES = 5


@app.command("simnet", rich_help_panel=SIMULATION)
def simnet(
    scenario: Annotated[
        str, typer.Argument(metavar="SCENARIO", help="A scenario that comes with Bellwire, or a .toml file.")
    ] = "",
    seeds: Annotated[str, typer.Option(metavar="FROM:TO", help="Seeds to run, the last one left out.")] = "0:100",
    seed: Annotated[int | None, typer.Option(min=0, help="Run this seed alone, and shrink it if it fails.")] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Processes; 0 for as many as there are cores.")] = 0,
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="With --seed: write what happens, one event a line.")
    ] = None,
    stop_after: Annotated[int, typer.Option(min=0, help="End when so many seeds have failed; 0 for never.")] = 10,
    shrink: Annotated[bool, typer.Option(help="Look for the shortest story of a failing seed.")] = True,
    json: Json = False,
) -> None:
    """Run a network in virtual time, with faults from a seed, and check what must always hold.

    Without a scenario, those that come with Bellwire are listed. Exit code 0 means that no invariant was broken.

    Example: `bellwire simnet two-nodes-mixed --seeds 0:1000`, then `bellwire simnet two-nodes-mixed --seed 17 --trace t.jsonl`
    """
    from bellwire.virtual.scenario import load_scenario

    if not scenario:
        _list(json=json)
        return
    if trace is not None and seed is None:
        raise ConfigError("--trace needs --seed: a trace is of one run")
    loaded = load_scenario(scenario)
    if seed is not None:
        failed = _one(loaded, scenario, seed, trace, shrinks=shrink, json=json)
    else:
        failed = _many(loaded, scenario, _range(seeds), jobs or os.cpu_count() or 1, stop_after, shrink, json)
    raise typer.Exit(FAILED if failed else 0)


def _list(*, json: bool) -> None:
    from bellwire.virtual.scenario import load_scenario, packaged_scenarios

    rows = [(name, load_scenario(name).about) for name in packaged_scenarios()]
    if json:
        show_json([{"scenario": name, "about": about} for name, about in rows])
    else:
        show_table("Scenarios", ("scenario", "about"), rows)


def _range(text: str) -> range:
    first, colon, last = text.partition(":")
    if not (colon and first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise ConfigError(f"--seeds {text!r} is not of the form FROM:TO, as 0:1000")
    return range(int(first), int(last))


def commit() -> str:
    """The commit of the working tree that is run, marked when it was changed; empty outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _one(scenario: Scenario, name: str, seed: int, trace: Path | None, *, shrinks: bool, json: bool) -> bool:
    from bellwire.simnet.trace import Trace
    from bellwire.virtual.run import run_seed

    if trace is None:
        report = run_seed(scenario, seed)
    else:
        try:
            with trace.open("w", encoding="utf-8", newline="\n") as file:
                report = run_seed(scenario, seed, trace=Trace(file.write))
        except OSError as error:
            raise ConfigError(f"{trace}: cannot be written: {error.strerror or error}") from None
    told = _story(scenario, name, report, shrinks=shrinks) if report.violations else {}
    if json:
        show_json({"scenario": name, "seed": seed, "story": told, **_plain(report)})
        return bool(report.violations)
    rows = [*report.outcomes.items(), *((f"fault: {fault}", count) for fault, count in report.faults.items())]
    title = f"{name}, seed {seed}: {report.events} events, {report.gates_checked} gates checked against the world"
    show_table(title, ("what", "how often"), rows)
    if report.violations:
        _tell(told)
    return bool(report.violations)


def _plain(report: Report) -> dict[str, Any]:
    import msgspec

    content: dict[str, Any] = msgspec.to_builtins(report, str_keys=True)
    return content


def _many(scenario: Scenario, name: str, seeds: range, jobs: int, stop_after: int, shrinks: bool, json: bool) -> bool:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from bellwire.virtual.sweep import sweep

    began = time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    failed = 0
    with Progress(*columns, console=error_console(), transient=True) as progress:
        task = progress.add_task(name, total=len(seeds))

        def advance(report: Report) -> None:
            nonlocal failed
            failed += bool(report.violations)
            progress.update(task, advance=1, description=f"{name}, {failed} failed" if failed else name)

        summary = sweep(scenario, name, seeds, jobs=jobs, stop_after=stop_after, on_report=advance)
    seconds = time.perf_counter() - began
    stories = [_story(scenario, name, report, shrinks=shrinks) for report in summary.failing[:SHOWN_FAILURES]]
    if json:
        show_json({**summary.as_dict(), "seconds": seconds, "jobs": jobs, "commit": commit(), "stories": stories})
    else:
        _show(summary, seconds)
        for story in stories:
            _tell(story)
    return summary.failed > 0


def _story(scenario: Scenario, name: str, report: Report, *, shrinks: bool) -> dict[str, Any]:
    """What a person needs to know of a failing seed: the seed, the commit, the faults that matter and what they led to."""
    import msgspec

    from bellwire.virtual.run import plan_of
    from bellwire.virtual.shrink import shrink

    plan, violations = plan_of(scenario, report.seed), report.violations
    drawn = len(plan)
    if shrinks:
        plan, shrunk = shrink(scenario, report.seed, report.checkers)
        violations = shrunk.violations or violations
    return {
        "scenario": name,
        "seed": report.seed,
        "commit": commit(),
        "faults_drawn": drawn,
        "faults": msgspec.to_builtins(plan),
        "violations": violations,
    }


def _tell(story: dict[str, Any]) -> None:
    from bellwire.virtual.run import START_NS, WARM_UP_NS

    console = error_console()

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    at = f" at commit {story['commit']}" if story["commit"] else ""
    say(f"\nseed {story['seed']} of {story['scenario']} failed{at}")
    say(f"  {len(story['faults'])} of {story['faults_drawn']} faults are needed:")
    for fault in story["faults"]:
        what = ", ".join(f"{key} {value}" for key, value in fault.items() if key not in ("fault", "number") and value)
        say(f"    {fault['fault']}: {what}")
    for violation in story["violations"][:3]:
        after_s = (violation["at_ns"] - START_NS - WARM_UP_NS) / 1e9
        say(f"  after {after_s:.6f} s, {violation['checker']}: {violation['text']}")
    say(f"  bellwire simnet {story['scenario']} --seed {story['seed']} --trace trace.jsonl")


def _show(summary: Summary, seconds: float) -> None:
    title = (
        f"{summary.scenario}: {summary.seeds} seeds in {seconds:.1f} s, {summary.failed} failed; "
        f"{summary.events} events, {summary.pairs_made} pairs, {summary.gates_checked} gates checked against the world"
    )
    rows: list[tuple[str, object]] = [(f"broken: {name}", count) for name, count in sorted(summary.broken.items())]
    rows += [(f"fault: {name}", count) for name, count in sorted(summary.faults.items())]
    rows += sorted(summary.outcomes.items())
    show_table(title, ("what", "how often"), rows)
    uncovered = summary.uncovered
    if uncovered:
        show_table(
            f"Rows of transition tables that no seed reached: {len(uncovered)}", ("row",), [[r] for r in uncovered]
        )
    else:
        error_console().print("every row of every transition table was reached")
