"""Options that commands have in common, and how they show what they have to show."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bellwire.protocols.errors import ConfigError
from bellwire.shell import log
from bellwire.shell.daemon import Supervision

DAEMONS = "Daemons"
TESTBEDS = "Testbeds"
NETWORK = "Use a network"
KEYS = "Keys"

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="The daemon's configuration file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
LogLevel = Annotated[str, typer.Option("--log-level", help=f"One of {', '.join(log.LEVELS)}.")]
HealthFile = Annotated[
    Path | None, typer.Option("--health-file", help="A file that exists for as long as the daemon is ready.")
]
UntilEof = Annotated[bool, typer.Option("--until-eof", hidden=True, help="End with the standard input.")]


def begin_daemon(log_level: str, health_file: Path | None, until_eof: bool) -> Supervision:
    """What every daemon's command does first.

    Raises:
        ConfigError: when there is no such log level.
    """
    if log_level not in log.LEVELS:
        raise ConfigError(f"--log-level {log_level!r} is not one of {', '.join(log.LEVELS)}")
    log.configure(log_level)
    return Supervision(health_file=health_file, until_eof=until_eof)


def error_console() -> Console:
    """Where progress and remarks go: standard error, so that standard output holds results alone."""
    return Console(stderr=True, highlight=False)


def show_json(content: Any) -> None:
    """Print a result for programs to read."""
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a result for people to read."""
    console = Console(highlight=False)
    console.print(title, markup=False, soft_wrap=True)
    console.print(table_of(columns, rows))


def table_of(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """Lay a result out for people to read."""
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(value) for value in row))
    return table
