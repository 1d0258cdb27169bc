"""Measure the control plane and write `bench/results.json`: flat keys with units, and ratios to yardsticks of the same run."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import agents
import alarms
import clocks
import mqtt
import native
import paths
import pingpong
import relay
import timetags
import virtual
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent

FIRST_LIGHT = {"confirmed_pairs": 92.3, "teleported_cz_symmetric": 98.1, "teleported_cz_sequential": 84.4}
"""What the first version that ran, which relayed all messages, had in 1,000 ping-pongs of its run: medians of 3 or 4 runs
on 4 cores, which were 46 to 108 each. What is shown as `_first_lights` is good to a factor of two."""


def missing() -> list[str]:
    """What this machine lacks, and which figures are missing for it."""
    lacks = []
    if native.program() is None:
        lacks.append(
            "no C compiler or no headers of libzmq (Debian: gcc libc6-dev libzmq3-dev): nothing is compared with C"
        )
    if mqtt.program() is None:
        lacks.append("no mosquitto (Debian: mosquitto): nothing is compared with it")
    return lacks


def in_testbed(scale: float) -> dict[str, float]:
    """Run this script again inside a testbed of real processes, and take the figures it prints."""
    with tempfile.TemporaryDirectory(prefix="bellwire-bench-") as state:
        command = [sys.executable, "-m", "bellwire.shell", "up", str(HERE / "testbed.toml"), "--state", state]
        inner = [sys.executable, str(HERE / "run.py"), "--inside", "--scale", str(scale)]
        result = subprocess.run([*command, "--", *inner], capture_output=True, text=True, timeout=600, check=False)
        if result.returncode != 0:
            sys.stderr.write(result.stderr)
            raise SystemExit(f"the testbed ended with exit code {result.returncode}")
    figures: dict[str, float] = json.loads(result.stdout.strip().splitlines()[-1])
    return figures


def ratios(results: dict[str, float], round_trip_us: float) -> dict[str, float]:
    """Figures as multiples of the ping-pong's round trip: comparable between machines, more or less."""
    latencies = {
        f"{key.removesuffix('_us')}_pingpongs": value / round_trip_us
        for key, value in results.items()
        if key.endswith("_us")
    }
    rates = {
        f"{key.removesuffix('_per_s')}_per_1000_pingpongs": value * round_trip_us / 1e3
        for key, value in results.items()
        if key.endswith("_per_s")
    }
    return latencies | rates


def show(results: dict[str, float], console: Console) -> None:
    """Print the figures as a table."""
    table = Table(
        title="Bellwire benchmarks",
        caption="Ratios are to a bare blocking pyzmq ping-pong of this run; or to what they are named after: a ping-pong and a "
        "router in C, Mosquitto with aiomqtt at QoS 1. Those of virtual time are to a bare heap of events, "
        "those of time tags to NumPy passes over the same tags. Rates include the Python time of the application that "
        "asks; those of virtual time are per second of one core.",
    )
    table.add_column("figure")
    table.add_column("value", justify="right")
    for key, value in results.items():
        table.add_row(key, f"{value:,.4g}" if value < 1000 else f"{value:,.0f}")
    console.print(table)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=HERE / "results.json", help="where the results go")
    parser.add_argument("--scale", type=float, default=1.0, help="how much to measure, 1 for a comparable run")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    number = max(80, int(4_000 * arguments.scale))
    if arguments.inside:
        figures = asyncio.run(agents.measure(Path(os.environ["BELLWIRE_CLIENT"]), number))
        print(json.dumps(figures))  # noqa: T201
        return
    try:
        new = not arguments.json.exists()
        with arguments.json.open("a", encoding="utf-8"):
            pass
        if new:
            arguments.json.unlink()
    except OSError as error:
        sys.stderr.write(f"bench: --json {arguments.json}: {error.strerror or error}\n")
        raise SystemExit(2) from None
    console = Console()
    for each in missing():
        sys.stderr.write(f"bench: {each}\n")
    with console.status("ping-pong"):
        results = pingpong.measure() | native.ping_pong()
    with console.status("requests, relayed and direct"):
        results |= paths.measure(arguments.scale, results)
    with console.status("alarms"):
        results |= alarms.measure(arguments.scale)
    with console.status("the relay under load"):
        results |= relay.measure(arguments.scale)
    with console.status("a flood at the broker"):
        results |= relay.flood(arguments.scale)
    with console.status("a crowd at the broker"):
        results |= relay.crowd(arguments.scale)
    with console.status("Mosquitto beside the relay"):
        results |= mqtt.measure(arguments.scale)
    with console.status("two agents over an always-succeeding link"):
        gates = in_testbed(arguments.scale)
        results |= gates | ratios(gates, results["pingpong_p50_us"])
        results |= {
            f"{key}_first_lights": results[f"{key}_per_1000_pingpongs"] / FIRST_LIGHT[key] for key in FIRST_LIGHT
        }
    with console.status("clocks, 50 ms and 50 ppm off"):
        offsets = clocks.measure(arguments.scale)
        results |= offsets | ratios(offsets, results["pingpong_p50_us"])
    with console.status("virtual time, on one core"):
        results |= virtual.measure(arguments.scale)
    with console.status("coincidences in time tags"):
        results |= timetags.measure(arguments.scale)
    show(results, console)
    machine = {"python": platform.python_version(), "cores": os.cpu_count()}
    arguments.json.write_text(json.dumps(machine | results, indent=2) + "\n")
    console.print(f"written to {arguments.json}")


if __name__ == "__main__":
    main()
