"""The command `time`: what the participants of a network believe of its time, and how far off that may be."""

from __future__ import annotations

import asyncio
import json as codec
import sys
import time as clock
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bellwire.agent.use import Client, Timeout, find_client
from bellwire.protocols.errors import BellwireError, ConfigError
from bellwire.protocols.ids import NodeId, node_id
from bellwire.protocols.messages import TimeReport
from bellwire.shell.options import NETWORK, Json, show_json, table_of

if TYPE_CHECKING:
    from rich.table import Table

app = typer.Typer()

MAX_PLOTTED_ROWS = 100_000
"""A plot is of so many rows, the last ones: one for each participant and look."""

COLUMNS = ("node", "state", "source", "grandmaster", "offset", "uncertainty", "drift", "path delay")


@app.command("time", rich_help_panel=NETWORK)
def time_command(
    nodes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NODE …]", help="Whom to ask. [default: the broker and all nodes]"),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Ask again and again, until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.1, max=3_600.0, help="Seconds from one look to the next.")] = 1.0,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png|svg", help="Draw what was seen, with the uncertainty as a band.")
    ] = None,
    lasting: Annotated[
        float, typer.Option("--for", min=0.1, max=1e6, help="Seconds to look for what is plotted.")
    ] = 20.0,
    timeout: Timeout = 5.0,
    client: Client = None,
    json: Json = False,
) -> None:
    """Show how well every node knows the network's time: its clock's offset, and how far off that may be.

    The offset is the network's time less the node's own clock. The uncertainty holds the true error, whatever the paths do. The
    source `hardware` is a clock of the node's own backend that disciplines itself, such as one of White Rabbit or PPS.
    With --watch and --json every look is one line. A plot needs matplotlib: pip install 'bellwire[plot]'.

    Example: `bellwire time`, `bellwire time --watch`, `bellwire time alice --plot time.svg --for 60`
    """
    asked = [node_id(name) for name in nodes or ()]
    if plot is not None:
        _check_plot(plot)
    seen = Seen(deque(maxlen=0 if plot is None else MAX_PLOTTED_ROWS))
    try:
        asyncio.run(_look(find_client(client), asked, timeout, every, _patience(watch, plot, lasting), json, seen))
    finally:
        if plot is not None and seen.rows:
            from bellwire.agent.clock_plot import draw

            draw(seen.rows, plot)
    missing = sorted(seen.silent)
    if missing and not watch:
        raise BellwireError(f"no answer of {', '.join(missing)} within {timeout:g} s")


def _patience(watch: bool, plot: Path | None, lasting_s: float) -> float:
    """How long to look, in seconds: for ever, for as long as a plot wants, or once."""
    if watch:
        return float("inf")
    return lasting_s if plot is not None else 0.0


def _check_plot(path: Path) -> None:
    import importlib.util

    if path.suffix not in (".png", ".svg"):
        raise ConfigError(f"--plot {path}: the name ends in .png or .svg")
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("--plot needs matplotlib: pip install 'bellwire[plot]'")


@dataclass(slots=True)
class Seen:
    """What was seen: a row for each participant and look, as many as are kept, and who gave no answer in the last one."""

    rows: deque[dict[str, Any]]
    silent: set[NodeId] = field(default_factory=set)


async def _look(
    path: Path, nodes: Sequence[NodeId], timeout_s: float, every_s: float, lasting_s: float, json: bool, seen: Seen
) -> None:
    from rich.console import Console
    from rich.live import Live

    console, many = Console(highlight=False), lasting_s > 0
    live = Live(console=console, auto_refresh=False) if many and not json and console.is_terminal else nullcontext()
    with live as shown:
        async for rows in _looks(path, nodes, timeout_s, every_s, lasting_s, seen):
            if json and many:
                sys.stdout.write(codec.dumps(rows, ensure_ascii=False) + "\n")
                sys.stdout.flush()
            elif json:
                show_json(rows)
            elif shown is not None:
                shown.update(_table(rows), refresh=True)
            else:
                console.print(_table(rows))


async def _looks(
    path: Path, nodes: Sequence[NodeId], timeout_s: float, every_s: float, lasting_s: float, seen: Seen
) -> AsyncIterator[list[dict[str, Any]]]:
    from bellwire.client.net import connect

    loop = asyncio.get_running_loop()
    began_s = loop.time()
    async with connect(path) as network:
        while True:
            next_s = loop.time() + every_s
            reports = await network.clocks(nodes, timeout_s=timeout_s)
            at_ns = clock.time_ns()
            rows = [_row(node, report, at_ns) for node, report in reports.items()]
            seen.silent = {node for node, report in reports.items() if report is None}
            seen.rows += rows
            yield rows
            if next_s - began_s > lasting_s:
                return
            await asyncio.sleep(max(0.0, next_s - loop.time()))


def _row(node: NodeId, report: TimeReport | None, at_ns: int) -> dict[str, Any]:
    """What is told of one participant; `at_ns` is when, on the wall's clock."""
    row: dict[str, Any] = {"node": node, "at_ns": at_ns, "state": "no answer" if report is None else report.state.value}
    if report is not None:
        row |= {name: getattr(report, name) for name in report.__struct_fields__ if name in SHOWN}
    return row


SHOWN = ("source", "grandmaster", "offset_ns", "uncertainty_ns", "uncertainty_ps", "drift_ppb", "path_delay_ns")


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    return table_of(COLUMNS, [_cells(row) for row in rows])


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    if "source" not in row:
        return (row["node"], row["state"], *[""] * (len(COLUMNS) - 2))
    follows = bool(row["source"])
    return (
        row["node"],
        row["state"],
        row["source"],
        row["grandmaster"],
        duration(row["offset_ns"]) if row["uncertainty_ns"] is not None else "unknown",
        _uncertainty(row),
        f"{row['drift_ppb'] / 1_000:.3f} ppm" if follows else "",
        "" if row["path_delay_ns"] is None else duration(row["path_delay_ns"]),
    )


def _uncertainty(row: dict[str, Any]) -> str:
    """How far off the node's idea of the time may be; and its hardware's own time, where that is what it follows."""
    if row["uncertainty_ns"] is None:
        return "unknown"
    own = f"±{duration(row['uncertainty_ns'])}"
    return own if row["uncertainty_ps"] is None else f"{own} (hardware ±{row['uncertainty_ps']} ps)"


def duration(nanoseconds: int) -> str:
    """A duration as people read it, in the largest unit that leaves something before the point."""
    for unit, scale in (("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)):
        if abs(nanoseconds) >= scale:
            return f"{nanoseconds / scale:.3f} {unit}"
    return f"{nanoseconds} ns"
