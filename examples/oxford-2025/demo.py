"""Run the experiment of Main et al., Nature 638, 383 (2025), in virtual time and on five real processes, and compare.

    python examples/oxford-2025/demo.py [--json FILE] [--shots-scale X] [--seed N]

Measures what the paper measured, as an application of a network: first in virtual time, with enough shots for small errors;
then with a broker, a simulated world, a heralding station and the agents of Alice and Bob as processes of this machine. Ends
with a table. Takes two to three minutes; Ctrl-C ends everything.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import tomllib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Annotated, Any, Final

import typer
from oxford import experiments, model, report, virtual
from oxford.circuits import cz
from oxford.experiments import MEASUREMENTS, Row, Shots
from oxford.lab import Lab
from oxford.tomography import Setting
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bellwire.agent.testbed import load_testbed, prepare
from bellwire.agent.up import RunningTestbed
from bellwire.client import connect, observe
from bellwire.protocols.errors import BellwireError, ConfigError
from bellwire.shell.config import to_toml

HERE: Final = Path(__file__).resolve().parent
TESTBED: Final = HERE / "testbed.toml"
PILOT_SHOTS: Final = 60
PILOT_TIME_SCALE: Final = 1e5
"""So fast that a herald is there at once, and what is left is latency."""
MEASURING_S: Final = 105.0
"""How long all shots on daemons together may take. A machine that is too slow for that makes fewer of them."""
INTERRUPTED: Final = 130


def own_testbed(directory: Path, seed: int, time_scale: float) -> Path:
    """Write a copy of the testbed's file with another seed and another pace of world time."""
    content = tomllib.loads(TESTBED.read_text(encoding="utf-8"))
    content.update(seed=seed, time_scale=time_scale, preset=str(HERE / content["preset"]))
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / TESTBED.name
    path.write_text(to_toml(content), encoding="utf-8")
    return path


@asynccontextmanager
async def laboratory(
    testbed: Path, directory: Path, time_scale: float, say: Callable[[str], None]
) -> AsyncIterator[Lab]:
    """Start the five processes and take part as an application and as an observer; end all of it at the end."""
    running = RunningTestbed(prepare(testbed, directory), say)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(running.close)
        await running.start()
        say(f"running: {', '.join(f'{name} ({pid})' for name, pid in running.pids.items())}")
        net = await stack.enter_async_context(connect(running.prepared.client))
        oracle = await stack.enter_async_context(observe(running.prepared.client))
        yield Lab(net, oracle, time_scale)


async def pilot(directory: Path, seed: int, facts: model.Facts) -> float:
    """Measure the latency of a teleported gate and a program on this machine, and give the pace that it allows."""
    zero = Setting(inputs=("0", "0"), basis="ZZ")
    testbed = own_testbed(directory, seed, PILOT_TIME_SCALE)
    async with laboratory(testbed, directory / "state", PILOT_TIME_SCALE, lambda _: None) as lab:
        for _ in range(PILOT_SHOTS):
            await lab.shot(cz(), zero)
    latency = experiments.latency(lab.timings.gates, lab.timings.programs, facts, PILOT_TIME_SCALE)
    return experiments.fitting_time_scale(facts, latency.gate_s + latency.program_s)


def progress_bar(console: Console) -> Progress:
    """Show what is done of what."""
    columns = (TextColumn("{task.description:10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console)


async def measure(lab: Lab, shots: Shots, limit_s: float, seed: int, progress: Progress) -> list[Row]:
    """Measure every row, one after the other, within a time."""
    random, begun = Random(seed), perf_counter()
    tasks = {name: progress.add_task(name, total=total, start=False) for name, total in shots.totals().items()}

    def advance(name: str) -> None:
        progress.start_task(tasks[name])
        progress.advance(tasks[name])

    first, *others = MEASUREMENTS.values()
    rows = await first(lab, shots, random, advance)
    per_pair_s = sum(lab.timings.pairs) / len(lab.timings.pairs)
    fewer = shots.after_bell(per_pair_s, limit_s - (perf_counter() - begun))
    if fewer != shots:
        progress.console.print(f"A pair takes {per_pair_s * 1e3:.0f} ms here: making fewer shots, to end in time.")
        for name, total in list(fewer.totals().items())[1:]:
            progress.update(tasks[name], total=total)
    for measurement in others:
        rows += await measurement(lab, fewer, random, advance)
    return rows


def measure_in_virtual_time(console: Console, shots_scale: float, seed: int) -> tuple[virtual.Found, float]:
    """Measure every row in virtual time, on all cores; give what was found and the seconds that it took."""
    begun = perf_counter()
    with progress_bar(console) as progress:
        task = progress.add_task("virtual", total=len(virtual.parts(shots_scale)))
        found = virtual.measure(TESTBED, shots_scale, seed, os.cpu_count() or 1, lambda: progress.advance(task))
    return found, perf_counter() - begun


async def experiment(
    console: Console, directory: Path, shots_scale: float, seed: int, found: virtual.Found, virtual_seconds: float
) -> str:
    """Run everything on daemons and report, beside what was found in virtual time; give the machine-readable copy."""
    begun = perf_counter()
    _, preset = load_testbed(TESTBED)
    facts = model.Facts.of(preset)

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    with console.status("starting five processes, measuring latency"):
        time_scale = await pilot(directory / "pilot", seed, facts)
    say(f"world time runs {time_scale:g} x wall time")
    testbed = own_testbed(directory, seed, time_scale)
    async with laboratory(testbed, directory / "state", time_scale, say) as lab:
        with progress_bar(console) as progress:
            shots, limit_s = Shots().scaled(shots_scale), MEASURING_S * max(1.0, shots_scale)
            rows = await measure(lab, shots, limit_s, seed, progress)
    run = report.Run(
        seed=seed,
        time_scale=time_scale,
        seconds=perf_counter() - begun,
        lost_shots=lab.lost,
        crosstalk=model.crosstalk(preset),
        latency=experiments.latency(lab.timings.gates, lab.timings.programs, facts, time_scale),
        prediction=facts.prediction,
        virtual=found,
        virtual_seconds=virtual_seconds,
    )
    rows = [report.with_expected_rate(row, run.prediction) for row in virtual.with_virtual(rows, found)]
    console.print(report.table(rows, console.width))
    for note in report.notes(rows, run):
        console.print(f"* {note}", markup=False, highlight=False)
    say(
        f"{sum(row.pairs for row in rows)} pairs on daemons in {run.seconds:.0f} s. Shots lost and made again: {lab.lost}."
    )
    if run.latency.worst > experiments.LATENCY_BUDGET:
        console.print(
            f"Warning: latency cost more than {experiments.LATENCY_BUDGET:.1%} of a fidelity. This machine became busy"
            " after its latency was measured.",
            style="yellow",
            highlight=False,
        )
    return report.as_json(rows, run)


async def unless_interrupted(work: Coroutine[Any, Any, str]) -> str | None:
    """Do the work; SIGINT and SIGTERM cancel it, which cleans up, and then there is no result."""
    task, loop = asyncio.ensure_future(work), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        return None


def _check_writable(path: Path) -> None:
    """See to it now, and not after the run, that the rows can be written. A file that is not there is not left there.

    Raises:
        ConfigError: when they cannot.
    """
    try:
        new = not path.exists()
        with path.open("a", encoding="utf-8"):
            pass
        if new:
            path.unlink()
    except OSError as error:
        raise ConfigError(f"--json {path}: {error.strerror or error}") from None


def main(
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the rows to this file, too.")] = None,
    shots_scale: Annotated[float, typer.Option(min=0.01, max=100.0, help="Times as many shots.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of every chance in the world, and of the order of shots.")] = 2025,
) -> None:
    """Run the distributed quantum computing experiment of Main et al. (2025), in virtual time and on five processes."""
    try:
        if json is not None:
            _check_writable(json)
        console = Console()
        found, seconds = measure_in_virtual_time(console, shots_scale, seed)
        with tempfile.TemporaryDirectory(prefix="bellwire-oxford-") as folder:
            work = experiment(console, Path(folder), shots_scale, seed, found, seconds)
            result = asyncio.run(unless_interrupted(work))
        if result is None:
            sys.exit(INTERRUPTED)
        if json is not None:
            json.write_text(result, encoding="utf-8")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BellwireError as error:
        Console(stderr=True).print(f"demo: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)


if __name__ == "__main__":
    typer.run(main)
