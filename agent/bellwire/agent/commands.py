"""The commands of the node's room: the daemons `agent`, `station` and `world`, whole testbeds, and the backends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from bellwire.protocols.errors import ConfigError
from bellwire.shell.daemon import DaemonCapable, Readiness, serve
from bellwire.shell.options import (
    DAEMONS,
    TESTBEDS,
    ConfigFile,
    HealthFile,
    Json,
    LogLevel,
    UntilEof,
    begin_daemon,
    error_console,
    show_json,
    show_table,
)

app = typer.Typer()

STATE = Path(".bellwire")
"""Where testbeds keep their keys and files, unless they are told another place."""


@app.command("agent", rich_help_panel=DAEMONS)
def agent(
    config: ConfigFile,
    health_file: HealthFile = None,
    log_level: LogLevel = "info",
    until_eof: UntilEof = False,
) -> None:
    """Run a node's agent: it drives the node's hardware, and speaks for it.

    The file holds `secret_key`, `[broker]` (endpoint, key), `[backend]` (name, options) and a `[links.NAME]` for each link;
    `[direct]` (enabled, listen, advertise) says where other nodes connect to it, by default at any free port. `applications`
    names who may use the node (everybody, without it); `[time]` (sources, priority, …), `[session]` (heartbeat_ms, …) and
    `[loop]` (timer_spin_us) have defaults.
    """
    from bellwire.agent.daemons import agent_daemon

    _serve(agent_daemon, config, health_file, log_level, until_eof)


@app.command("station", rich_help_panel=DAEMONS)
def station(
    config: ConfigFile,
    health_file: HealthFile = None,
    log_level: LogLevel = "info",
    until_eof: UntilEof = False,
) -> None:
    """Run a heralding station: it tells both ends of a link what its detectors saw.

    The file is as an agent's; a `[links.NAME]` says which end is `primary` and which is `secondary`.
    """
    from bellwire.agent.daemons import station_daemon

    _serve(station_daemon, config, health_file, log_level, until_eof)


@app.command("world", rich_help_panel=DAEMONS)
def world(
    config: ConfigFile,
    health_file: HealthFile = None,
    log_level: LogLevel = "info",
    until_eof: UntilEof = False,
) -> None:
    """Run a simulated world: it owns every qubit of a testbed, and lets each node reach its own.

    The file holds `bind`, `secret_key`, `authorized_keys`, `preset`, `seed`, `time_scale`, `[nodes.NAME]` and `[links.NAME]`.
    """
    from bellwire.agent.daemons import world_daemon

    _serve(world_daemon, config, health_file, log_level, until_eof)


def _serve(
    make: Callable[[Path, Readiness], DaemonCapable],
    config: Path,
    health_file: Path | None,
    log_level: str,
    until_eof: bool,
) -> None:
    supervision = begin_daemon(log_level, health_file, until_eof)

    async def build(readiness: Readiness) -> DaemonCapable:
        return make(config, readiness)

    serve(config.stem, build, supervision)


@app.command("up", rich_help_panel=TESTBEDS)
def up(
    testbed: Annotated[Path, typer.Argument(metavar="TESTBED.toml", help="What to start.")],
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[-- COMMAND …]", help="Run this when all is ready, then stop.")
    ] = None,
    state: Annotated[
        Path | None, typer.Option("--state", help="Folder for keys and files. [default: .bellwire/NAME]")
    ] = None,
    ready_file: Annotated[
        Path | None, typer.Option("--ready-file", help="A JSON file that is written when all is ready.")
    ] = None,
    log_level: LogLevel = "warning",
) -> None:
    """Start a whole testbed on this machine, and end it on Ctrl-C.

    Every part is a process of its own: the broker, the simulated world, the stations, the agents. Applications read
    .bellwire/NAME/client.toml; the commands `entangle`, `gate`, `run`, `peers` and `time` find it by themselves.

    Example: `bellwire up examples/two-nodes/testbed.toml -- bellwire entangle alice bob`
    """
    import asyncio

    from bellwire.agent.testbed import load_testbed, prepare
    from bellwire.agent.up import RunningTestbed, locked, run_testbed
    from bellwire.shell.log import LEVELS

    if log_level not in LEVELS:
        raise typer.BadParameter(f"{log_level!r} is not one of {', '.join(LEVELS)}", param_hint="--log-level")
    console = error_console()
    config, _ = load_testbed(testbed)
    directory = state if state is not None else STATE / config.name

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    with locked(directory):
        prepared = prepare(testbed, directory)
        running = RunningTestbed(prepared, say, log_level)

        def ready() -> None:
            say(f"testbed {config.name} is ready: {', '.join(running.pids)}")
            if not command:
                say("in another terminal: bellwire entangle A B, bellwire gate cnot A:q B:q, bellwire run PROGRAM.toml")
                say(f"applications read {prepared.client}; Ctrl-C ends the testbed")

        with console.status(f"starting {len(prepared.parts)} processes") as status:

            def all_ready() -> None:
                status.stop()
                ready()

            code = asyncio.run(
                run_testbed(
                    running,
                    command=command or (),
                    ready_file=ready_file,
                    on_ready=status.update,
                    on_all_ready=all_ready,
                )
            )
    raise typer.Exit(code)


@app.command("prepare", rich_help_panel=TESTBEDS)
def prepare_command(
    testbed: Annotated[Path, typer.Argument(metavar="TESTBED.toml", help="The testbed.")],
    directory: Annotated[Path, typer.Option("--dir", help="Folder for keys and files.")],
    broker: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where the others reach the broker.")],
    world: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where the others reach the world.")],
    json: Json = False,
) -> None:
    """Write a testbed's keys and configuration files, for daemons on several hosts or in containers. Keys are kept.

    Example: `bellwire prepare testbed.toml --dir lab --broker broker:7100 --world world:7101`
    """
    from bellwire.agent.testbed import Server, prepare

    prepared = prepare(testbed, directory, Server.at(*_host(broker)), Server.at(*_host(world)))
    rows = [(part.name, part.command, str(part.config)) for part in prepared.parts]
    if json:
        show_json([dict(zip(("name", "command", "config"), row, strict=True)) for row in rows])
    else:
        shown = [(name, f"bellwire {command} {path}") for name, command, path in rows]
        show_table(f"Testbed {prepared.name}; applications read {prepared.client}", ("part", "run it with"), shown)


def _host(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ConfigError(f"{text!r} is not of the form host:port")
    return host, int(port)


@app.command("backends", rich_help_panel=TESTBEDS)
def backends(json: Json = False) -> None:
    """List the installed backends: what an agent's `[backend]` can name."""
    import importlib.metadata

    from bellwire.backends.registry import GROUP

    entries = sorted(set(importlib.metadata.entry_points(group=GROUP)), key=lambda entry: entry.name)
    rows = [
        {"name": entry.name, "factory": entry.value, "package": entry.dist.name if entry.dist is not None else ""}
        for entry in entries
    ]
    if json:
        show_json(rows)
    else:
        show_table("Backends", ("name", "factory", "package"), [tuple(row.values()) for row in rows])
