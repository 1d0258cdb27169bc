"""Break the protocol code on purpose, one small fault at a time, and see which checker of simnet catches each.

    python tests/mutation/run.py [NAME …] [--times N] [--jobs N] [--json FILE]

Exit code 0 only if every mutant is caught, and nothing is said of the code as it is, which is run over the same seeds. The
faults are in mutants.toml, the checkers in bellwire.virtual.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

sys.path.append(str(Path(__file__).parents[1] / "support"))
from mutant import ROOT, Mutant, copied

SCENARIOS = {
    "light-faults": 20,
    "clock-faults": 20,
    "ambushes": 800,
    "two-nodes-mixed": 200,
    "star-five-mixed": 100,
    "switched-star": 60,
    "stored-pairs": 60,
    "link-faults": 60,
}
"""Scenarios, and how many seeds of each are run over a mutant until one is noticed."""
HEALTHY = "none"
TIMEOUT_S = 900
"""A mutant that has not come to an end by then hangs, which is caught too."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of a mutant."""

    name: str
    caught_by: tuple[str, ...]
    scenario: str
    seed: int | None
    seconds: float


def load() -> list[Mutant]:
    """The mutants of mutants.toml."""
    with (Path(__file__).parent / "mutants.toml").open("rb") as file:
        return [Mutant(**mutant) for mutant in tomllib.load(file)["mutant"]]


def judge(mutant: Mutant | None, times: int) -> Verdict:
    """Run the scenarios over a copy of the code that has the fault, until a checker objects."""
    began = time.monotonic()
    name = mutant.name if mutant is not None else HEALTHY
    with tempfile.TemporaryDirectory(prefix="bellwire-mutant-") as folder:
        root = Path(folder)
        environment = os.environ | copied(root)
        if mutant is not None:
            mutant.apply(root)
        for scenario, seeds in SCENARIOS.items():
            command = [sys.executable, "-m", "bellwire.shell", "simnet", str(ROOT / "scenarios" / f"{scenario}.toml")]
            options = ["--seeds", f"0:{seeds * times}", "--jobs", "1", "--stop-after", "1", "--no-shrink", "--json"]
            caught, seed = _caught([*command, *options], environment)
            if caught:
                seconds = time.monotonic() - began
                return Verdict(name=name, caught_by=caught, scenario=scenario, seed=seed, seconds=seconds)
    return Verdict(name=name, caught_by=(), scenario="", seed=None, seconds=time.monotonic() - began)


def _caught(command: list[str], environment: dict[str, str]) -> tuple[tuple[str, ...], int | None]:
    """The checkers that object to a run, and the seed; a run that hangs or dies without a report is caught by that."""
    try:
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return ("hang",), None
    if ended.returncode == 0:
        return (), None
    if not ended.stdout.startswith("{"):
        return ("crash",), None
    told = json.loads(ended.stdout)
    return tuple(told["broken"]), told["failing"][0]["seed"]


def main() -> int:
    """Parse the command line and judge the mutants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="mutants to run; all of them when none is named")
    parser.add_argument("--times", type=int, default=1, help="so many times as many seeds of each scenario")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="write the verdicts to this file, too")
    arguments = parser.parse_args()
    mutants = [mutant for mutant in load() if not arguments.names or mutant.name in arguments.names]
    console = Console()
    with Progress(console=console) as progress, ThreadPoolExecutor(arguments.jobs) as pool:
        task = progress.add_task("mutants", total=1 + len(mutants))

        def run(mutant: Mutant | None) -> Verdict:
            verdict = judge(mutant, arguments.times)
            progress.advance(task)
            return verdict

        healthy, *verdicts = pool.map(run, [None, *mutants])
    table = Table("mutant", "what it breaks", "caught by", "in", "seed", "seconds")
    for mutant, verdict in zip(mutants, verdicts, strict=True):
        caught = ", ".join(verdict.caught_by) or "[bold red]SURVIVED[/]"
        seed = "" if verdict.seed is None else str(verdict.seed)
        table.add_row(mutant.name, mutant.says, caught, verdict.scenario, seed, f"{verdict.seconds:.0f}")
    console.print(table)
    survivors = sum(not verdict.caught_by for verdict in verdicts)
    console.print(f"{len(verdicts) - survivors} of {len(verdicts)} caught")
    if healthy.caught_by:
        console.print(f"[bold red]the code as it is fails too[/]: {healthy.scenario}, seed {healthy.seed}")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(verdict) for verdict in verdicts], indent=2) + "\n")
    return 1 if survivors or healthy.caught_by else 0


if __name__ == "__main__":
    sys.exit(main())
