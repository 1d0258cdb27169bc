"""The commands `bellwire tags`: look into files of time tags, find coincidences, record, give back, convert and simulate."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, aclosing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bellwire.shell.options import Json, error_console, show_json, show_table

if TYPE_CHECKING:
    from bellwire.tags.backend import TagOptions
    from bellwire.tags.files import Recorder, TagReader
    from bellwire.tags.finder import FinderCounts, Found
    from bellwire.tags.settings import FinderSettings
    from bellwire.tags.simulate import SimulationSettings

app = typer.Typer()
tags = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Heralds from detectors' time tags: files of them, and the double clicks in them.\n\n"
    "Try it without a laboratory:\n\n"
    "    bellwire tags simulate demo.tags --truth truth.jsonl\n\n"
    "    bellwire tags info demo.tags\n\n"
    "    bellwire tags find demo.tags\n\n"
    "Files are of Bellwire's own format or PicoQuant's PTU. A station takes heralds from tags with the backend `tags`.",
)
app.add_typer(tags, name="tags", rich_help_panel="Time tags")

TagFilePath = Annotated[Path, typer.Argument(metavar="FILE", help="Bellwire's own format, or PicoQuant's PTU.")]
OutFile = Annotated[Path, typer.Argument(metavar="OUT", help="The file to write. What exists is never overwritten.")]
Salvage = Annotated[bool, typer.Option("--salvage", help="Take what there is of a truncated file.")]
Speed = Annotated[
    float, typer.Option(min=0.0, max=1e6, help="Times faster than recorded; 0: as fast as possible.", show_default=True)
]
FinderFile = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        metavar="FILE.toml",
        help="What a coincidence is: trigger or period_ps, gates_ps, patterns, delays_ps, dead_time_ps, horizon_ps. "
        "[default: what `simulate` makes by default]",
    ),
]


@tags.command("info")
def info(file: TagFilePath, salvage: Salvage = False, json: Json = False) -> None:
    """Say what is in a file of tags: its header, how many tags each channel has, and how far they are out of order.

    Example: `bellwire tags info run7.ptu`
    """
    from bellwire.tags.files import open_tags
    from bellwire.tags.survey import survey

    reader = open_tags(file, salvage=salvage)
    with _reading(reader) as advance:
        seen = survey(reader, advance)
    if json:
        show_json(seen)
        return
    channels = seen.pop("channels")
    show_table(str(file), ("what", "value"), [(name, _shown(value)) for name, value in seen.items()])
    rows = [(one["channel"], one["name"], one["tags"], f"{one['tags_per_s']:.6g}") for one in channels]
    show_table("Channels", ("channel", "name", "tags", "per second"), rows)


@tags.command("find")
def find(
    file: TagFilePath,
    settings: FinderFile = None,
    limit: Annotated[int, typer.Option(min=0, help="Show so many coincidences; 0 for all.")] = 20,
    salvage: Salvage = False,
    json: Json = False,
) -> None:
    """Find the coincidences in a file of tags: which attempts heralded what, and what became of the other clicks.

    Example: `bellwire tags find run7.ptu --settings finder.toml --limit 100`, with finder.toml such as

        trigger = 0
        gates_ps = [[90_000, 110_000]]
        patterns = [[1, 2, "psi+"], [3, 4, "psi+"], [1, 4, "psi-"], [2, 3, "psi-"]]
        dead_time_ps = 50_000

    With two gates, for time bins, a pattern is the channel of the early click, then of the late one.
    """
    from bellwire.tags.files import open_tags
    from bellwire.tags.finder import Found, Search

    reader = open_tags(file, salvage=salvage)
    search = Search(_finder(settings))
    parts, kept = [], 0
    with _reading(reader) as advance:
        for chunk in reader.chunks():
            found = search.feed(chunk)
            if len(found) and (kept < limit or not limit):
                parts.append(found)
                kept += len(found)
            advance(len(chunk))
    parts.append(search.finish())
    rows = _rows(Found.joined(parts))
    _show_found(file, rows[:limit] if limit else rows, search.counts, json=json)


@tags.command("record")
def record(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="tcp://HOST:PORT, a file of tags, or `simulated`.")],
    out: OutFile,
    seconds: Annotated[float | None, typer.Option(min=0.001, help="Stop after so long.")] = None,
    number: Annotated[int | None, typer.Option("--number", "-n", min=1, help="Stop after so many tags.")] = None,
    speed: Speed = 1.0,
    json: Json = False,
) -> None:
    """Record tags as they come. Ctrl-C ends the recording, and the file is whole; of one that was killed all tags can be read.

    Example: `bellwire tags record tcp://tagger:7300 run8.tags --seconds 60`
    """
    from bellwire.tags.backend import TagOptions

    recorded = [0]
    try:
        asyncio.run(_record(TagOptions(source=source, speed=speed), out, seconds, number, recorded))
    except KeyboardInterrupt:
        if not out.exists():
            raise
    if json:
        show_json({"file": str(out), "tags": recorded[0]})
    else:
        typer.echo(f"{out}: {recorded[0]} tags")


@tags.command("replay")
def replay(
    file: TagFilePath,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where to serve; port 0 for any free one.")],
    speed: Speed = 1.0,
    once: Annotated[bool, typer.Option("--once", help="End when a client has had all of it, or has left.")] = False,
    salvage: Salvage = False,
) -> None:
    """Serve a file of tags over TCP as a tagger would, at its recorded pace, faster, or as fast as possible. Ctrl-C ends it.

    Example: `bellwire tags replay run7.ptu --listen 127.0.0.1:7300 --speed 10`, then `source = "tcp://127.0.0.1:7300"`
    """
    from bellwire.tags.files import open_tags

    try:
        asyncio.run(_serve(open_tags(file, salvage=salvage), listen, speed, once=once))
    except KeyboardInterrupt:
        error_console().print("no longer served", markup=False)


@tags.command("convert")
def convert(file: TagFilePath, out: OutFile, salvage: Salvage = False, json: Json = False) -> None:
    """Convert a file of tags to Bellwire's own format.

    Example: `bellwire tags convert run7.ptu run7.tags`
    """
    from bellwire.tags.files import open_tags

    reader = open_tags(file, salvage=salvage)
    with _writing(out, reader.header) as recorder, _reading(reader) as advance:
        for chunk in reader.chunks():
            recorder.write(chunk)
            advance(len(chunk))
    if json:
        show_json({"file": str(out), "tags": recorder.tags})
    else:
        typer.echo(f"{out}: {recorder.tags} tags")


@tags.command("simulate")
def simulate(
    out: OutFile,
    attempts: Annotated[int, typer.Option("--attempts", "-n", min=1, max=2**40, help="How many attempts.")] = 1_000_000,
    settings: Annotated[
        Path | None,
        typer.Option(
            "--settings",
            metavar="FILE.toml",
            help="What is simulated: encoding, efficiencies, period_ps, photon_ps, gate_ps, bin_ps, dark_hz, jitter_ps, "
            "dead_time_ps.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all chances.")] = 1,
    truth: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write what was heralded in truth, one JSON object a line.")
    ] = None,
    finder: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="Write the settings with which `find` understands the tags."),
    ] = None,
    json: Json = False,
) -> None:
    """Simulate a station's time tagger: two nodes' photons with losses, dark counts, jitter and dead time.

    Example: `bellwire tags simulate demo.tags --attempts 10000000 --truth truth.jsonl --finder finder.toml`
    """
    from bellwire.shell.config import load_config
    from bellwire.tags.simulate import SimulationSettings

    simulation = SimulationSettings() if settings is None else load_config(settings, SimulationSettings)
    if finder is not None:
        _write_finder(finder, simulation.finder())
    written, heralded = _simulate(out, simulation, attempts, seed, truth)
    if json:
        show_json({"file": str(out), "tags": written, "attempts": attempts, "heralded": heralded})
    else:
        typer.echo(f"{out}: {written} tags of {attempts} attempts, {heralded} of them heralded in truth")


# What the commands do.


def _finder(settings: Path | None) -> FinderSettings:
    from bellwire.shell.config import load_config
    from bellwire.tags.settings import FinderSettings
    from bellwire.tags.simulate import SimulationSettings

    return SimulationSettings().finder() if settings is None else load_config(settings, FinderSettings)


def _write_finder(path: Path, finder: FinderSettings) -> None:
    import msgspec

    from bellwire.shell.config import to_toml
    from bellwire.tags.files import unwritable

    try:
        path.write_text(to_toml(msgspec.to_builtins(finder)), encoding="utf-8")
    except OSError as error:
        raise unwritable(path, error) from None


def _simulate(
    out: Path, simulation: SimulationSettings, attempts: int, seed: int, truth: Path | None
) -> tuple[int, int]:
    import json
    from contextlib import ExitStack

    import numpy as np

    from bellwire.tags.files import unwritable
    from bellwire.tags.simulate import SimulatedTagger

    tagger = SimulatedTagger(simulation, np.random.default_rng(seed))
    heralded = 0
    with ExitStack() as stack:
        try:
            told = None if truth is None else stack.enter_context(truth.open("w", encoding="utf-8", newline="\n"))
        except OSError as error:
            raise unwritable(truth or out, error) from None
        recorder = stack.enter_context(_writing(out, simulation.header()))
        advance = stack.enter_context(_progress("attempts", attempts))
        for chunk, true in tagger.window(attempts):
            recorder.write(chunk)
            heralded += len(true.attempts)
            if told is not None:
                lines = (json.dumps({"attempt": number, "bell_state": state}) for number, state in true.rows())
                told.writelines(f"{line}\n" for line in lines)
            advance(min(len(chunk), attempts))
        recorder.write(tagger.quiet(simulation.period_ps))
    return recorder.tags, heralded


async def _record(
    options: TagOptions, out: Path, seconds: float | None, number: int | None, recorded: list[int]
) -> None:
    from bellwire.tags.backend import make_source
    from bellwire.tags.files import Recorder

    source = make_source(options, Path())
    async with aclosing(source.chunks()) as chunks:
        await anext(chunks)
        with Recorder(out, source.header) as recorder, _progress("recording tags", number) as advance:
            console = error_console()
            console.print(f"recording {source.name} to {out}; Ctrl-C ends it", markup=False, soft_wrap=True)
            try:
                async with asyncio.timeout(seconds) as over:
                    async for chunk in chunks:
                        part = chunk if number is None else chunk.part(0, number - recorder.tags)
                        recorder.write(part)
                        recorded[0] = recorder.tags
                        advance(len(part))
                        if recorder.tags == number:
                            return
            except TimeoutError:
                if not over.expired():
                    raise


async def _serve(reader: TagReader, listen: str, speed: float, *, once: bool) -> None:
    from bellwire.tags.sources import paced
    from bellwire.tags.wire import TagServer

    console, done = error_console(), asyncio.Event()

    def ended(whole: bool) -> None:
        console.print("a client has had all tags" if whole else "a client left before the end", markup=False)
        if once:
            done.set()

    server = TagServer(reader.header, lambda: paced(reader.chunks(), speed), ended)
    try:
        address = await server.start(listen)
        console.print(f"serving {reader.path} at {address}; Ctrl-C ends it", markup=False, soft_wrap=True)
        await done.wait()
    finally:
        await server.close()


def _rows(found: Found) -> list[dict[str, Any]]:
    from bellwire.tags.finder import STATES

    return [
        {
            "window": int(found.windows[place]),
            "attempt": int(found.attempts[place]),
            "bell_state": str(STATES[found.states[place]]),
            "attempt_ps": int(found.begins_ps[place]),
            "clicks_ps": found.clicks_ps[place].tolist(),
            "channels": found.channels[place].tolist(),
        }
        for place in range(len(found))
    ]


def _show_found(file: Path, rows: list[dict[str, Any]], counts: FinderCounts, *, json: bool) -> None:
    from dataclasses import asdict

    number = sum(counts.heralds.values())
    plain = {**asdict(counts), "heralds": {str(state): count for state, count in counts.heralds.items()}}
    if json:
        show_json({"file": str(file), "found": number, "coincidences": rows, "counts": plain})
        return
    shown = [
        (
            row["window"],
            row["attempt"],
            row["bell_state"],
            f"{row['attempt_ps'] / 1e12:.9f}",
            " ".join(f"{(click - row['attempt_ps']) / 1e3:.3f}" for click in row["clicks_ps"]),
            " ".join(map(str, row["channels"])),
        )
        for row in rows
    ]
    columns = ("window", "attempt", "Bell state", "attempt began, s", "clicks after, ns", "channels")
    more = f", the first {len(rows)} of them" if len(rows) < number else ""
    show_table(f"{file}: {number} coincidences{more}", columns, shown)
    plain |= plain.pop("heralds")
    show_table("What became of the tags", ("what", "number"), list(plain.items()))


def _shown(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value


# Files and progress.


@contextmanager
def _writing(out: Path, header: Any) -> Iterator[Recorder]:
    """A file that is removed again when it could not be made whole."""
    from bellwire.tags.files import Recorder

    recorder = Recorder(out, header)
    with ExitStack() as undo:
        undo.callback(out.unlink, missing_ok=True)
        with recorder:
            yield recorder
        undo.pop_all()


@contextmanager
def _reading(reader: TagReader) -> Iterator[Callable[[int], None]]:
    with _progress(reader.path.name, reader.tags) as advance:
        yield advance


@contextmanager
def _progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, when that is a terminal."""
    from rich.progress import Progress

    console = error_console()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda number: progress.advance(task, number)
