"""Feeds hostile frames to the decoder, to a network in virtual time and to daemons behind real sockets: `make fuzz`.

Everything but the sockets follows from the seed. Exit code 0 only if nothing raised, every valid request among the inputs was
answered, every table kept its bound, and memory did not grow by more than `--growth-mb` after the first tenth of a target.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

from fuzzed_daemons import fuzz_daemons
from fuzzed_network import FuzzedNetwork, fuzz_decoder

PORTION = 10_000


def rss_mb() -> float:
    """What this process has in memory now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6


def in_portions(number: int, feed: Callable[[int], None]) -> tuple[float, float]:
    """Feed so many inputs. Returns the memory after a tenth of them and after all."""
    done, early_mb = 0, 0.0
    while done < number:
        portion = min(PORTION, number - done)
        feed(portion)
        done += portion
        if not early_mb and done >= number / 10:
            early_mb = rss_mb()
    return early_mb, rss_mb()


def network(number: int, seed: int) -> tuple[int, list[str], float, float]:
    """A broker, two agents and a station in virtual time, at work."""
    subject = FuzzedNetwork(seed)
    early_mb, late_mb = in_portions(number, subject.feed)
    return subject.asked, subject.failures, early_mb, late_mb


def decoder(number: int, seed: int) -> tuple[int, list[str], float, float]:
    """The codec alone."""
    failures: list[str] = []
    valid = 0

    def feed(portion: int) -> None:
        nonlocal seed, valid
        seed += 1
        valid += fuzz_decoder(seed, portion, failures)

    early_mb, late_mb = in_portions(number, feed)
    return valid, failures, early_mb, late_mb


def daemons(number: int, seed: int) -> tuple[int, list[str], float, float]:
    """A broker, two agents, a station and a world behind sockets with CURVE."""
    early: list[float] = []
    with tempfile.TemporaryDirectory() as directory:
        asked, failures = asyncio.run(fuzz_daemons(Path(directory), seed, number, lambda: early.append(rss_mb())))
    return asked, failures, early[0], rss_mb()


TARGETS = {"decoder": decoder, "network": network, "daemons": daemons}


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"which of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="how many for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--growth-mb", type=float, default=64.0, help="how much memory may grow")
    parser.add_argument("--json", action="store_true", help="results as JSON lines")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.targets if name not in TARGETS]
    if unknown:
        parser.error(f"there is no target {unknown[0]!r}; targets are {', '.join(TARGETS)}")
    failed = False
    for name in arguments.targets or TARGETS:
        started_s = time.monotonic()
        try:
            asked, failures, early_mb, late_mb = TARGETS[name](arguments.inputs, arguments.seed)
        except Exception:  # Whatever hostile frames make a target raise is a finding, and the other targets still run.
            traceback.print_exc()
            sys.stderr.write(f"fuzz: {name} raised, with --seed {arguments.seed}\n")
            failed = True
            continue
        growth_mb = late_mb - early_mb
        if growth_mb > arguments.growth_mb:
            failures.append(f"memory grew by {growth_mb:.0f} MB")
        figures = {
            "target": name,
            "inputs": arguments.inputs,
            "seed": arguments.seed,
            "valid requests": asked,
            "failures": len(failures),
            "memory_mb": [round(early_mb, 1), round(late_mb, 1)],
            "seconds": round(time.monotonic() - started_s, 1),
        }
        if arguments.json:
            line = json.dumps(figures)
        else:
            line = (
                f"{name}: {arguments.inputs:,} inputs in {figures['seconds']} s, {asked:,} valid ones answered, "
                f"{len(failures)} failures, {early_mb:.0f} MB after a tenth and {late_mb:.0f} MB at the end"
            )
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        for failure in failures[:10]:
            sys.stderr.write(f"fuzz: {failure}\n")
        failed = failed or bool(failures)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
