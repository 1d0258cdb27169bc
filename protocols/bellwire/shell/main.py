"""The root command. Every room adds its own through the entry points of the group `bellwire.commands`."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer

from bellwire.protocols.errors import BellwireError, ConfigError
from bellwire.protocols.version import SUPPORTED_VERSIONS

GROUP: Final = "bellwire.commands"

OK: Final = 0
FAILED: Final = 1
MISTAKE: Final = 2
INTERRUPTED: Final = 130

_HELP: Final = """The classical control plane of a quantum network.

Start a whole testbed on this machine (a broker, a simulated world, a station and two agents), and use it:

    bellwire up examples/two-nodes/testbed.toml

In another terminal:

    bellwire entangle alice bob --number 5

    bellwire gate cnot alice:c bob:t

    bellwire run examples/two-nodes/bell.toml --shots 100

The same testbed in virtual time, in one process and without daemons:

    bellwire run examples/two-nodes/bell.toml --shots 10000 --virtual examples/two-nodes/testbed.toml

Every table has a --json beside it. Exit codes: 0 done, 1 failed, 2 a mistake in what was asked.
"""


def _version(wanted: bool) -> None:
    if wanted:
        versions = ", ".join(str(version) for version in SUPPORTED_VERSIONS)
        sys.stdout.write(f"bellwire {importlib.metadata.version('bellwire')} (protocol {versions})\n")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    pass


def build_app() -> typer.Typer:
    """The root command with the commands of every installed room.

    Raises:
        BellwireError: when a room's commands cannot be loaded.
    """
    app = typer.Typer(
        name="bellwire", help=_HELP, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown"
    )
    app.callback()(_root)
    for entry in sorted(set(importlib.metadata.entry_points(group=GROUP)), key=lambda entry: entry.name):
        try:
            commands = entry.load()
        except Exception as error:
            raise BellwireError(f"the commands of {entry.value} cannot be loaded: {error}") from error
        app.registered_commands += commands.registered_commands
        app.registered_groups += commands.registered_groups
    return app


def run(arguments: Sequence[str]) -> int:
    """Run one command line. Returns the exit code; whatever a person did wrong is told in one line."""
    try:
        outcome: Any = build_app()(args=list(arguments), prog_name="bellwire", standalone_mode=False)
    except ConfigError as error:
        return _say(str(error), MISTAKE)
    except BellwireError as error:
        return _say(str(error), FAILED)
    except (KeyboardInterrupt, typer.Abort):
        return _say("interrupted", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        return _usage(error)
    if outcome == INTERRUPTED:
        return _say("interrupted", INTERRUPTED)
    return outcome if isinstance(outcome, int) else OK


def _usage(error: Any) -> int:
    """Tell what a command line did wrong and where to read on, or the whole help when there was nothing on it.

    Typer brings a parser of its own in some versions and uses Click in others: their errors are known by what they can do.
    Any other exception is a mistake in Bellwire, and raised again.
    """
    if not hasattr(error, "format_message"):
        raise error
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return MISTAKE
    context = getattr(error, "ctx", None)
    place = f" (see {context.command_path} --help)" if context is not None else ""
    return _say(f"{error.format_message()}{place}", MISTAKE)


def _say(text: str, code: int) -> int:
    if text:
        sys.stderr.write(f"bellwire: {' '.join(text.split())}\n")
    return code


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))
