"""The command `bellwire conformance`."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bellwire.protocols.errors import BellwireError, ConfigError
from bellwire.shell.options import Json, error_console, show_json

if TYPE_CHECKING:
    from bellwire.conformance.catalogue import Case, Result, Role

app = typer.Typer()

PANEL = "Check an implementation"


@app.command("conformance", rich_help_panel=PANEL)
def conformance(
    cases: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CASE …]", help="Ids (SESS-4.1-01), sections (SESS-4.1), families (SESS)."),
    ] = None,
    role: Annotated[str, typer.Option("--role", help="What the target is: node, station or broker.")] = "",
    backend: Annotated[str, typer.Option("--backend", metavar="NAME", help="Check an installed backend instead.")] = "",
    target: Annotated[
        str,
        typer.Option(
            "--target",
            metavar="ENDPOINT",
            help="Where the broker is; for others, where they reach the kit, which listens there.",
        ),
    ] = "",
    keys: Annotated[
        Path | None,
        typer.Option("--keys", metavar="DIR", help="Folder of the kit's keys, and of what targets are told."),
    ] = None,
    start: Annotated[
        str,
        typer.Option(
            "--start", metavar="'COMMAND'", help="Start the target so: {dir}, {keys}, {endpoint}, {name} are filled in."
        ),
    ] = "",
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="With --backend: the agent's or station's own file.")
    ] = None,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Only make keys and settings in --keys, and leave.")
    ] = False,
    listing: Annotated[bool, typer.Option("--list", help="List the cases instead of running them.")] = False,
    coverage: Annotated[
        bool,
        typer.Option(
            "--coverage", help="List the sentences with MUST with the cases that cite them, and what none cites."
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which cases would be run, and run none.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="A SHOULD that does not hold fails too.")] = False,
    scale: Annotated[
        float, typer.Option("--scale", min=0.1, max=1000.0, help="So many times longer times, for slow targets.")
    ] = 1.0,
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--without",
            metavar="OPTION",
            help="What the target leaves out, of what the specification leaves to it: applications, paths, schemes.",
        ),
    ] = None,
    repeat: Annotated[
        int,
        typer.Option(
            "--repeat",
            min=1,
            metavar="N",
            help="Run the cases so many times, each over a target that --start starts anew.",
        ),
    ] = 1,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML.")] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page, with diagrams of what failed.")
    ] = None,
    json: Json = False,
) -> None:
    """Check whether an implementation keeps the protocol, by playing everybody around it.

    Nodes and stations connect to the kit, which is their broker; what they have to be told (names, keys, a link, times)
    is in settings.json of the folder, and in the files that Bellwire's own daemons read:

        bellwire conformance --role node --start 'bellwire agent {dir}/node.toml'

        bellwire conformance --role broker --start 'bellwire broker {dir}/broker.toml' SESS

        bellwire conformance --role station --target tcp://192.0.2.7:7300 --keys kit

        bellwire conformance --backend sim --config lab/alice.toml

    Exit code 0 only if nothing failed. A case is run once, and its verdict stands. What is skipped says why: there is no
    --start to restart the target with, for example, or it does --without something that it need not have.
    """
    _need_extra()
    from bellwire.conformance.cases import all_cases
    from bellwire.conformance.catalogue import ON_THE_WIRE, Role, select
    from bellwire.conformance.report import coverage as covered
    from bellwire.conformance.report import show_cases, show_coverage, uncited

    if backend and role:
        raise ConfigError("--backend and --role exclude each other")
    if coverage and (cases or role or backend):
        raise ConfigError("--coverage is of all cases: name none, and no --role nor --backend")
    profile = Role.BACKEND if backend else _role(role, listing or dry_run or coverage)
    if repeat > 1 and profile in ON_THE_WIRE and not start:
        raise ConfigError("--repeat needs --start: each round is over a target started anew")
    chosen = select(all_cases(), profile, cases or ())
    if coverage:
        rows, left = covered(all_cases()), uncited(all_cases())
        show_json({"sentences": rows, "uncited": left}) if json else show_coverage(rows, left)
    elif listing or dry_run:
        show_json([_as_json(case) for case in chosen]) if json else show_cases(chosen, covered(all_cases()))
    elif prepare:
        _prepare(profile, keys, target, scale, _without(without))
    else:
        options = _Options(keys, target, start, scale, _without(without))

        def once() -> list[Result]:
            if profile is Role.BACKEND:
                return _run_backend(backend, config, chosen, strict, json)
            return _run_wire(profile, chosen, options, strict, json)

        results, stopped = _rounds(once, repeat, json)
        _finish(str(profile), results, junit, html, json, stopped)


def _rounds(once: Callable[[], list[Result]], number: int, json: bool) -> tuple[list[Result], str]:
    """Run so many rounds. Gives what came of them, and why it was stopped before the last; empty when it was not.

    Raises:
        BellwireError: when the first round cannot begin.
    """
    results: list[Result] = []
    for each in range(1, number + 1):
        if number > 1 and not json:
            error_console().print(f"round {each} of {number}", highlight=False)
        try:
            found = once()
        except BellwireError as error:
            if each == 1:
                raise
            return results, f"round {each} of {number}: {error}"
        results += [replace(result, round=each) for result in found] if number > 1 else found
    return results, ""


class _Options:
    """How a target on the wire is reached."""

    def __init__(self, keys: Path | None, target: str, start: str, scale: float, without: frozenset[str]) -> None:
        self.keys, self.target, self.start, self.scale, self.without = keys, target, start, scale, without


def _need_extra() -> None:
    try:
        import jsonschema
        import msgpack
    except ImportError as error:
        raise ConfigError(f"the kit needs {error.name}: pip install 'bellwire[conformance]'") from None
    del jsonschema, msgpack


def _role(text: str, optional: bool) -> Any:
    from bellwire.conformance.catalogue import ON_THE_WIRE, Role

    known = ", ".join(sorted(ON_THE_WIRE))
    if not text and optional:
        return None
    if not text:
        raise ConfigError(f"--role says what the target is: {known}; or --backend NAME")
    if text not in Role._value2member_map_ or (not optional and text == Role.BACKEND):
        raise ConfigError(f"--role {text!r} is not one of {known}")
    return Role(text)


def _without(names: Sequence[str] | None) -> frozenset[str]:
    from bellwire.conformance.catalogue import OPTIONS

    for name in names or ():
        if name not in OPTIONS:
            raise ConfigError(f"--without {name!r} is not one of {', '.join(OPTIONS)}: everything else is required")
    return frozenset(names or ())


def _as_json(case: Case) -> dict[str, Any]:
    from bellwire.conformance.spec import plain

    return {
        "id": case.id,
        "level": str(case.level),
        "rule": case.rule,
        "profiles": sorted(map(str, case.roles)),
        "title": case.title,
        "needs": case.needs,
        "requirement": plain(case.requirement),
    }


def _prepare(role: Role, keys: Path | None, target: str, scale: float, without: frozenset[str]) -> None:
    from bellwire.conformance.target import Folder, Times

    if keys is None or not target:
        raise ConfigError("--prepare needs --keys DIR and --target ENDPOINT")
    folder = Folder(keys.absolute(), role, Times().scaled(scale), without)
    folder.make_keys()
    folder.authorize()
    folder.write(target)
    error_console().print(f"{keys}: keys, settings.json and {role}.toml are written", markup=False, soft_wrap=True)


def _run_wire(role: Role, chosen: Sequence[Case], options: _Options, strict: bool, json: bool) -> list[Result]:
    from bellwire.conformance.runner import check_target, open_stage, run_cases

    console = error_console()
    signal.signal(signal.SIGTERM, _interrupt)
    with open_stage(
        role,
        folder=options.keys,
        endpoint=options.target,
        start=options.start,
        scale=options.scale,
        without=options.without,
        say=lambda text: console.print(text, markup=False, soft_wrap=True),
    ) as stage:
        check_target(stage)
        return run_cases(stage, chosen, strict, _teller(json))


def _interrupt(*_: object) -> None:
    """Asked to end, the kit ends the target that it has started, as on Ctrl-C."""
    raise KeyboardInterrupt


def _run_backend(name: str, config: Path | None, chosen: Sequence[Case], strict: bool, json: bool) -> list[Result]:
    from bellwire.conformance.extensions import backend_runner

    return backend_runner()(name, config, chosen, strict, _teller(json))


def _teller(json: bool) -> Any:
    from bellwire.conformance.report import line

    if json:
        return lambda _: None
    console = error_console()
    return lambda result: console.print(line(result), soft_wrap=True)


def _finish(
    profile: str, results: Sequence[Result], junit: Path | None, html: Path | None, json: bool, stopped: str
) -> None:
    from bellwire.conformance import report
    from bellwire.conformance.page import page

    for path, make in ((junit, report.junit), (html, page)):
        if path is None:
            continue
        try:
            path.write_text(make(profile, results), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None
    if json:
        show_json(report.as_json(profile, results))
    else:
        error_console().print(report.summary(results), markup=False)
    number = report.counts(results)["fail"]
    if number or stopped:
        failed = f"{number} of {len(results)} cases failed" if number else ""
        raise BellwireError("; ".join(filter(None, (failed, stopped))))
