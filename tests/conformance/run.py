"""Break agents, stations and brokers on purpose, one small fault at a time, and see which cases of the kit notice each.

    python tests/conformance/run.py [NAME …] [--jobs N] [--whole] [--json FILE]

Exit code 0 only if every case named with a fault fails on it, and none of them on the code as it is. The faults are in
faults.toml; those of backends are in tests/unit/backends/test_contract.py. --whole runs the whole profile over each fault.
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
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

sys.path.append(str(Path(__file__).parents[1] / "support"))
from mutant import Mutant, copied, python_path

COMMANDS = {"node": "agent", "station": "station", "broker": "broker"}
TIMEOUT_S = 600


@dataclass(frozen=True, kw_only=True)
class Fault(Mutant):
    """A small fault of a target of some role, which `cases` have to notice."""

    role: str
    cases: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the kit says of a target: the ids of the cases that failed, and whether all that should have did."""

    name: str
    failed: tuple[str, ...]
    caught: bool
    seconds: float


def load() -> list[Fault]:
    """The faults of faults.toml."""
    with (Path(__file__).parent / "faults.toml").open("rb") as file:
        return [Fault(**(fault | {"cases": tuple(fault["cases"])})) for fault in tomllib.load(file)["fault"]]


def check(
    role: str, cases: tuple[str, ...], *options: str, environment: dict[str, str] | None = None
) -> dict[str, Any]:
    """Run the kit, from the code as it is, over a target that has some environment variables, and give its JSON."""
    target = f"{sys.executable} -m bellwire.shell {COMMANDS[role]} {{dir}}/{role}.toml"
    if environment is not None:
        target = f"env {' '.join(f'{name}={value}' for name, value in environment.items())} {target}"
    command = [sys.executable, "-m", "bellwire.shell", "conformance", "--strict", "--json"]
    ended = subprocess.run(
        [*command, "--role", role, "--start", target, *options, *cases],
        env=os.environ | {"PYTHONPATH": python_path()},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if not ended.stdout.startswith("{"):
        raise RuntimeError(f"the kit said nothing of the {role}: {ended.stderr.strip()}")
    told: dict[str, Any] = json.loads(ended.stdout)
    return told


def judge(fault: Fault, whole: bool = False) -> Verdict:
    """Run the kit over a target that has the fault."""
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bellwire-fault-") as folder:
        root = Path(folder)
        environment = copied(root)
        fault.apply(root)
        try:
            told = check(fault.role, () if whole else fault.cases, environment=environment)
        except RuntimeError as error:  # A target that does not get as far as any case.
            told = {"cases": [{"id": str(error), "verdict": "fail"}]}
    failed = tuple(case["id"] for case in told["cases"] if case["verdict"] == "fail")
    caught = set(fault.cases) <= set(failed)
    return Verdict(name=fault.name, failed=failed, caught=caught, seconds=time.monotonic() - began_s)


def main() -> int:
    """Parse the command line and judge the faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="faults to run; all of them when none is named")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--whole", action="store_true", help="run the whole profile over each fault")
    parser.add_argument("--json", type=Path, help="write the verdicts to this file, too")
    arguments = parser.parse_args()
    faults = [fault for fault in load() if not arguments.names or fault.name in arguments.names]
    console = Console()
    with Progress(console=console) as progress, ThreadPoolExecutor(arguments.jobs) as pool:
        task = progress.add_task("faults", total=len(faults))

        def run(fault: Fault) -> Verdict:
            verdict = judge(fault, arguments.whole)
            progress.advance(task)
            return verdict

        verdicts = list(pool.map(run, faults))
    wrong = []
    for role in COMMANDS:
        cases = tuple(sorted({case for fault in faults if fault.role == role for case in fault.cases}))
        wrong += [case["id"] for case in check(role, cases)["cases"] if case["verdict"] == "fail"] if cases else []
    table = Table("fault", "what it breaks", "target", "caught by", "seconds")
    for fault, verdict in zip(faults, verdicts, strict=True):
        caught = ", ".join(map(escape, verdict.failed))
        caught = caught if verdict.caught else f"[bold red]MISSED[/] {caught}"
        table.add_row(fault.name, fault.says, fault.role, caught, f"{verdict.seconds:.0f}")
    console.print(table)
    missed = sum(not verdict.caught for verdict in verdicts)
    console.print(f"{len(verdicts) - missed} of {len(verdicts)} caught")
    if wrong:
        console.print(f"[bold red]the code as it is fails too[/]: {', '.join(wrong)}")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(verdict) for verdict in verdicts], indent=2) + "\n")
    return 1 if missed or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
