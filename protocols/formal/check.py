"""Check the models with spin: what must hold does, and every mutant is found. See README.md."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
WORKERS = 2
MEMORY_MB = 2_000
LIMIT_S = 110
DEPTH = 100_000
COMPILE = ("gcc", "-w", "-DCOLLAPSE", "-DNOREDUCE", f"-DMEMLIM={MEMORY_MB}")

HEAVY = threading.Lock()
"""Held by the runs that need gigabytes, so that only one of them does at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One model with some macros. `holds` says whether no counterexample may be found, or one has to be."""

    model: str
    macros: tuple[str, ...]
    what: str
    holds: bool = False
    cycles: bool = False
    heavy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What spin said."""

    errors: int
    states: int
    seconds: float
    megabytes: float
    violated: str


_TWO_GATES = ("FAULTS=0", "NO_CUT")
_TWO_PAIRS = ("SILENCES=0", "LIES=0", "NO_GATES", "NO_CUT")

HOLDS = (
    Run(model="gate", macros=("ONE_GATE",), what="one gate, every fault", holds=True),
    Run(model="gate", macros=("ONE_GATE",), what="one gate, every run is finite", holds=True, cycles=True),
    Run(model="gate", macros=_TWO_GATES, what="two gates, both ends restart", holds=True, heavy=True),
    Run(model="pair", macros=("ONE_PAIR",), what="one pair, every fault", holds=True),
    Run(model="pair", macros=("ONE_PAIR",), what="one pair, every run is finite", holds=True, cycles=True),
    Run(model="pair", macros=_TWO_PAIRS, what="two pairs, both ends restart", holds=True, heavy=True),
)

MUTANTS = (
    Run(model="gate", macros=("ONE_GATE", "REPEAT_REQUESTS"), what="no dedup: a repeated request is carried out again"),
    Run(model="gate", macros=("ONE_GATE", "NO_ACK"), what="done without waiting for the peer's gate.done"),
    Run(model="gate", macros=("ONE_GATE", "EARLY_ACK"), what="gate.done when the bits come, not when they are used"),
    Run(
        model="gate", macros=("ONE_GATE", "ACT_EARLY"), what="the source acts before it knows that the target is ready"
    ),
    Run(model="gate", macros=("ONE_GATE", "SYMMETRIC_FAILED"), what="an unanswered symmetric open counts as failed"),
    Run(
        model="gate",
        macros=(*_TWO_GATES, "CRASHES=1", "IGNORE_EPOCH"),
        what="messages of former incarnations are taken",
    ),
    Run(model="pair", macros=("ONE_PAIR", "REPEAT_REQUESTS"), what="no dedup: a repeated request is carried out again"),
    Run(model="pair", macros=("ONE_PAIR", "NO_ACK"), what="the primary does not wait for pair.confirmed"),
    Run(model="pair", macros=("ONE_PAIR", "EARLY_RELEASE"), what="an unanswered half is dropped before its lease ends"),
    Run(model="pair", macros=("ONE_PAIR", "NO_COMPARE"), what="the secondary does not compare the Bell states"),
    Run(model="pair", macros=("ONE_PAIR", "NO_COUNT"), what="an end does not compare the attempt with its own count"),
    Run(
        model="pair",
        macros=(*_TWO_PAIRS, "CRASHES=1", "IGNORE_EPOCH"),
        what="messages of former incarnations are taken",
    ),
    Run(
        model="gate",
        macros=("ONE_GATE", "UNSURE_IS_REFUSAL"),
        what="LIMIT or EXPIRE from the endpoint ends a gate as failed",
    ),
    Run(model="gate", macros=("ONE_GATE", "LATE_TIMERS"), what="a frame is dealt with before a timer that was due"),
    Run(
        model="pair", macros=("ONE_PAIR", "UNSURE_IS_REFUSAL"), what="LIMIT or EXPIRE from the endpoint drops the half"
    ),
    Run(model="pair", macros=("ONE_PAIR", "LATE_CLAIM"), what="a pair.confirm is accepted after its expires_ns"),
    Run(model="pair", macros=("ONE_PAIR", "SILENCED_RELEASE"), what="silence ends the repeating of pair.release"),
)


class Broken(Exception):
    """The tools did not do what was asked of them."""


def missing_tools() -> list[str]:
    """The programs that are needed and not there."""
    return [tool for tool in ("spin", "gcc") if shutil.which(tool) is None]


def _call(*command: str, directory: Path) -> str:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode != 0:
        raise Broken(f"{' '.join(command)}: {(done.stdout + done.stderr).strip()[-2000:]}")
    return done.stdout


def _defines(run: Run) -> list[str]:
    return [f"-D{macro}" for macro in run.macros]


def _verify(run: Run, directory: Path) -> Found:
    _call("spin", *_defines(run), "-a", str(HERE / f"{run.model}.pml"), directory=directory)
    _call(
        *COMPILE,
        "-O2" if run.heavy else "-O1",
        "-DNP" if run.cycles else "-DSAFETY",
        "-o",
        "pan",
        "pan.c",
        directory=directory,
    )
    began = time.monotonic()
    said = _call("./pan", *(["-l"] if run.cycles else []), f"-m{DEPTH}", directory=directory)
    seconds = time.monotonic() - began
    counts = [
        re.search(pattern, said) for pattern in (r"errors: (\d+)", r"(\d+) states, stored", r"([\d.]+)\s+total actual")
    ]
    errors, states, megabytes = (float(found[1]) if found else -1 for found in counts)
    truncated = re.search(r"max search depth too small|out of memory|Search not completed", said)
    if errors < 0 or states < 0 or (truncated and not errors):
        raise Broken(f"pan did not finish: {said.strip()[-2000:]}")
    violated = re.search(r"pan:1: (.*?) \(at depth", said)
    return Found(
        errors=int(errors),
        states=int(states),
        seconds=seconds,
        megabytes=megabytes,
        violated=violated[1] if violated else "",
    )


def check(run: Run) -> Found:
    """Have spin search all of a model.

    Raises:
        Broken: when spin, gcc or the search failed, or the search was cut short.
    """
    with tempfile.TemporaryDirectory(prefix="bellwire-model-") as directory:
        if not run.heavy:
            return _verify(run, Path(directory))
        with HEAVY:
            return _verify(run, Path(directory))


def trace(run: Run) -> str:
    """The steps of a counterexample, a short one where spin finds it, or the empty string when there is none."""
    with tempfile.TemporaryDirectory(prefix="bellwire-model-") as name:
        directory = Path(name)
        model = str(HERE / f"{run.model}.pml")
        _call("spin", *_defines(run), "-a", model, directory=directory)
        _call(*COMPILE, "-DSAFETY", "-DREACH", "-o", "pan", "pan.c", directory=directory)
        _call("./pan", "-i", f"-m{DEPTH}", directory=directory)
        trails = list(directory.glob("*.trail"))
        if not trails:
            return ""
        command = ("spin", *_defines(run), "-k", str(trails[0]), "-p", "-g", model)
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        return done.stdout


def _is_right(run: Run, found: Found) -> bool:
    return found.errors == 0 if run.holds else found.errors > 0 and found.violated.startswith("assertion violated")


def _line(run: Run, found: Found) -> str:
    verdict = ("holds" if run.holds else "found") if _is_right(run, found) else ("BROKEN" if run.holds else "SURVIVES")
    name = f"{run.model} {run.macros[-1] if not run.holds else ''}".rstrip()
    return f"  {verdict:9} {found.states:>10,} states {found.seconds:6.1f} s {found.megabytes:6.0f} MB  {name}: {run.what}\n"


def _section(title: str, runs: Iterable[Run], pool: ThreadPoolExecutor) -> bool:
    sys.stdout.write(f"{title}\n")
    right = True
    runs = list(runs)
    for run, found in zip(runs, pool.map(check, runs), strict=True):
        sys.stdout.write(_line(run, found))
        if run.holds and found.errors:
            sys.stdout.write(f"            {found.violated}\n")
        sys.stdout.flush()
        right &= _is_right(run, found)
    return right


def main() -> int:
    """Check everything, or show one counterexample."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--trace", metavar="MODEL:MACRO", help="show the counterexample of a mutant, as pair:LATE_CLAIM"
    )
    wanted = parser.parse_args().trace
    missing = missing_tools()
    if missing:
        sys.stderr.write(f"the models need {' and '.join(missing)}: apt-get install {' '.join(missing)}\n")
        return 2
    try:
        if wanted:
            model, _, macro = wanted.partition(":")
            chosen = [run for run in MUTANTS if run.model == model and macro in run.macros]
            if not chosen:
                sys.stderr.write(f"there is no mutant {wanted}\n")
                return 2
            sys.stdout.write(trace(chosen[0]))
            return 0
        with ThreadPoolExecutor(WORKERS) as pool:
            parts = [
                _section("What must hold:", HOLDS, pool),
                _section("Mutants, each of which must be found:", MUTANTS, pool),
            ]
    except (Broken, subprocess.TimeoutExpired) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0 if all(parts) else 1


if __name__ == "__main__":
    sys.exit(main())
