"""The commands that use a network: `entangle`, `gate` and `run`."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import AsyncGenerator, Coroutine, Iterator, Mapping
from contextlib import aclosing, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from bellwire.protocols.errors import BellwireError, ConfigError
from bellwire.protocols.ids import node_id
from bellwire.shell.operand import MAX_TIMEOUT_S, check_fidelity, duration_ns, operand
from bellwire.shell.options import NETWORK, Json, error_console, show_json, show_table

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from bellwire.client.creates import HeraldedPair, MeasuredPair, Pair
    from bellwire.client.net import Network
    from bellwire.client.program import Program

app = typer.Typer()

T = TypeVar("T")

CLIENT_VARIABLE = "BELLWIRE_CLIENT"

Client = Annotated[
    Path | None,
    typer.Option(
        "--client",
        envvar=CLIENT_VARIABLE,
        help="The client.toml of the network. [default: that of the only testbed in .bellwire/]",
    ),
]


def _check_timeout(seconds: float) -> float:
    """What a range lets through in some versions of the parser is refused too: nan."""
    duration_ns(seconds)
    return seconds


def _check_latency(microseconds: float | None) -> float | None:
    if microseconds is not None and not math.isfinite(microseconds):
        raise ConfigError(f"--latency-us {microseconds}: expected a number of microseconds")
    return microseconds


Timeout = Annotated[
    float,
    typer.Option(min=0.001, max=MAX_TIMEOUT_S, callback=_check_timeout, help="Seconds that each request may take."),
]
Fidelity = Annotated[
    float, typer.Option(min=0.0, max=1.0, callback=check_fidelity, help="The least fidelity of a pair that will do.")
]


class Variant(StrEnum):
    """How a gate is teleported."""

    SYMMETRIC = "symmetric"
    SEQUENTIAL = "sequential"


class PairType(StrEnum):
    """What becomes of pairs: K, they are kept; M, both ends measure them at once."""

    KEEP = "K"
    MEASURE = "M"


class GateName(StrEnum):
    """What can be teleported."""

    CZ = "cz"
    CNOT = "cnot"
    TELEPORT = "teleport"


def find_client(client: Path | None) -> Path:
    """The `client.toml` that a command works with.

    Raises:
        ConfigError: when none was named and there is not exactly one testbed here.
    """
    if client is not None:
        return client
    found = sorted(Path(".bellwire").glob("*/client.toml"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError(
            "there is no testbed here: name a network with --client FILE, or start one with `bellwire up`"
        )
    raise ConfigError(f"there are several testbeds here: choose with --client, from {', '.join(map(str, found))}")


@contextmanager
def _progress(what: str, total: int) -> Iterator[tuple[Progress, TaskID]]:
    """A progress bar on standard error, when that is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = error_console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield progress, progress.add_task(what, total=total)


def _wait(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


@app.command("entangle", rich_help_panel=NETWORK)
def entangle(
    first: Annotated[str, typer.Argument(metavar="A", help="One node.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Its neighbour.")],
    number: Annotated[int, typer.Option("--number", "-n", min=1, max=1_000_000, help="How many pairs.")] = 1,
    fidelity: Fidelity = 0.0,
    timeout: Timeout = 10.0,
    kind: Annotated[
        PairType, typer.Option("--type", help="K keeps the pairs; M has both ends measure each at once and keeps none.")
    ] = PairType.KEEP,
    basis: Annotated[
        str | None,
        typer.Option(
            metavar="BASIS[,BASIS]",
            help="With --type M: z, x, y, or one drawn for every pair from xz, xyz or chsh. Two: A's and B's. [default: z]",
        ),
    ] = None,
    priority: Annotated[
        int, typer.Option(min=0, max=7, help="The link serves greater ones first, and applications of one by turns.")
    ] = 0,
    atomic: Annotated[
        bool, typer.Option("--atomic", help="With --type K: all pairs are there at the same time, or none comes.")
    ] = False,
    consecutive: Annotated[
        bool, typer.Option("--consecutive", help="The link makes no pair for anybody else between these.")
    ] = False,
    look: Annotated[
        bool, typer.Option("--measure", help="With --type K: measure both halves in Z, to see how they agree.")
    ] = False,
    client: Client = None,
    json: Json = False,
) -> None:
    """Herald entangled pairs between two neighbouring nodes, show them, and give them back.

    Example: `bellwire entangle alice bob --number 10 --fidelity 0.9 --measure`

    Example: `bellwire entangle alice bob --number 1000 --type M --basis xz`, the bits of a BB84 key before sifting

    Example: `bellwire entangle alice bob --number 2 --atomic --priority 5`
    """
    for name in (first, second):
        node_id(name)
    wish = _wish(kind, basis, atomic, look)
    wish |= {
        "number": number,
        "fidelity": fidelity,
        "timeout_s": timeout,
        "priority": priority,
        "consecutive": consecutive,
    }
    path = find_client(client)
    pairs: list[dict[str, Any]] = []
    started = time.perf_counter()
    try:
        _wait(_entangle(path, (first, second), wish, look, pairs))
    except BellwireError:
        if pairs and not json:
            _show_pairs(pairs, time.perf_counter() - started)
        raise
    seconds = time.perf_counter() - started
    if json:
        show_json({"pairs": pairs, "seconds": seconds})
    else:
        _show_pairs(pairs, seconds)


def _wish(kind: PairType, basis: str | None, atomic: bool, look: bool) -> dict[str, Any]:
    """The options that only pairs of one type have.

    Raises:
        ConfigError: when one is given with the other type, or there is no such basis.
    """
    if kind is PairType.KEEP:
        if basis is not None:
            raise ConfigError("--basis needs --type M: with type K measure afterwards, with --measure or a program")
        return {"atomic": atomic}
    if atomic or look:
        option = "--atomic" if atomic else "--measure"
        raise ConfigError(f"{option} needs --type K: with type M both ends measure each pair at once and keep none")
    from bellwire.client.creates import readout

    names = (basis or "z").split(",")
    if len(names) > 2:
        raise ConfigError(f"--basis {basis}: expected one basis for both nodes, or one for each")
    return {"basis": readout(names[0]), "other_basis": readout(names[-1])}


async def _entangle(
    path: Path, nodes: tuple[str, str], wish: dict[str, Any], look: bool, pairs: list[dict[str, Any]]
) -> None:
    from bellwire.client.creates import MeasuredPair
    from bellwire.client.net import connect

    async with connect(path) as network:
        with _progress("heralding pairs", wish["number"]) as (progress, task):
            asked: AsyncGenerator[Pair | MeasuredPair] = (
                network.measured(*nodes, **wish) if "basis" in wish else network.pairs(*nodes, **wish)
            )
            async with aclosing(asked) as made:
                async for pair in made:
                    if isinstance(pair, MeasuredPair):
                        pairs.append(_describe_measured(pair))
                    else:
                        pairs.append(await _use_pair(network, pair, look, wish["timeout_s"]))
                    progress.advance(task)


def _describe(pair: HeraldedPair) -> dict[str, Any]:
    return {
        "sequence_number": pair.sequence_number,
        "pair_id": pair.pair_id,
        "nodes": list(pair.nodes),
        "bell_state": pair.bell_state.value,
        "goodness": pair.goodness,
        "goodness_low": pair.goodness_low,
        "goodness_high": pair.goodness_high,
        "goodness_estimated": pair.goodness_estimated,
    }


def _describe_measured(pair: MeasuredPair) -> dict[str, Any]:
    return _describe(pair) | {
        "bases": [basis.value for basis in pair.bases],
        "bits": "".join(map(str, pair.bits)),
        "as_expected": pair.as_expected,
    }


async def _use_pair(network: Network, pair: Pair, look: bool, timeout_s: float) -> dict[str, Any]:
    """Measure the halves of a pair when asked to, and give them back."""
    from bellwire.client.steps import measure, release

    steps = [*([measure(pair.pair_id)] if look else []), release(pair.pair_id)]
    results = await asyncio.gather(*(network.run(node, steps, timeout_s=timeout_s) for node in pair.nodes))
    shown = _describe(pair) | {"expires_ns": pair.expires_ns}
    if look:
        shown["bits"] = "".join(str(result.bits[0]) for result in results)
    return shown


def _show_pairs(pairs: list[dict[str, Any]], seconds: float) -> None:
    columns = {"sequence_number": "number", "pair_id": "pair", "bell_state": "Bell state", "goodness": "goodness"}
    told = ""
    if pairs and "bases" in pairs[0]:
        columns["bases"] = "bases"
        alike = [pair["as_expected"] for pair in pairs if pair["as_expected"] is not None]
        told = f", {sum(alike)} of {len(alike)} in equal bases as expected"
    if pairs and "bits" in pairs[0]:
        columns["bits"] = "measured"
    rows = [[_cell(pair, key) for key in columns] for pair in pairs]
    many = "1 pair" if len(pairs) == 1 else f"{len(pairs)} pairs"
    show_table(f"{many} in {seconds:.3f} s{told}", list(columns.values()), rows)


def _cell(pair: dict[str, Any], key: str) -> object:
    if key == "goodness" and pair["goodness_estimated"]:
        return f"{pair[key]:.3f}, {pair['goodness_low']:.3f} to {pair['goodness_high']:.3f}"
    return " ".join(pair[key]) if isinstance(pair[key], list) else pair[key]


@app.command("gate", rich_help_panel=NETWORK)
def gate_command(
    kind: Annotated[GateName, typer.Argument(metavar="cz|cnot|teleport", help="What to teleport.")],
    source: Annotated[str, typer.Argument(metavar="A:q", help="Node and a name for the qubit there.")],
    target: Annotated[str, typer.Argument(metavar="B:q", help="Likewise, at the other node.")],
    number: Annotated[int, typer.Option("--number", "-n", min=1, max=1_000_000, help="How many times.")] = 1,
    start: Annotated[int, typer.Option("--source", min=0, max=1, help="What the source qubit begins as.")] = 1,
    variant: Annotated[Variant, typer.Option(help="How it is done.")] = Variant.SYMMETRIC,
    fidelity: Fidelity = 0.0,
    timeout: Timeout = 10.0,
    client: Client = None,
    json: Json = False,
) -> None:
    """Try a teleported gate: the source begins as |1⟩ (or as told), the target as |0⟩; both are measured afterwards.

    A CZ stands between two H on the target here, so that the bits show what it did: it flips the target when the source is 1.

    Example: `bellwire gate cnot alice:c bob:t --number 10`
    """
    for text in (source, target):
        operand(text)
    path = find_client(client)
    work = _gates(path, kind, (source, target), number, start, variant, fidelity, timeout)
    gates = _wait(work)
    right = sum(gate["bits"] == gate["expected"] for gate in gates)
    if json:
        show_json({"gates": gates, "as_expected": right})
        return
    columns = ("pair_id", "status", "milliseconds", "bits", "expected")
    rows = [[gate[column] for column in columns] for gate in gates]
    show_table(f"{kind.value} {source} {target}: {right} of {number} as expected", columns, rows)


async def _gates(
    path: Path,
    kind: GateName,
    operands: tuple[str, str],
    number: int,
    start: int,
    variant: Variant,
    fidelity: float,
    timeout_s: float,
) -> list[dict[str, Any]]:
    from bellwire.client.net import connect
    from bellwire.client.steps import gate, initialise, measure

    (node, qubit), (peer, peer_qubit) = (operand(text) for text in operands)
    turn = [gate("h", peer_qubit)] if kind is GateName.CZ else []
    before = [initialise(qubit), *([gate("x", qubit)] if start else [])]
    after = [*([] if kind is GateName.TELEPORT else [measure(qubit)])]
    expected = f"{start}" if kind is GateName.TELEPORT else f"{start}{start}"
    done = []
    async with connect(path) as network:
        with _progress(f"teleporting {kind.value}", number) as (progress, task):
            for _ in range(number):
                await asyncio.gather(network.run(node, before), network.run(peer, [initialise(peer_qubit), *turn]))
                began = time.perf_counter()
                if kind is GateName.TELEPORT:
                    result = await network.teleport(*operands, fidelity=fidelity, timeout_s=timeout_s)
                else:
                    teleported = network.cz if kind is GateName.CZ else network.cnot
                    result = await teleported(*operands, variant=variant.value, fidelity=fidelity, timeout_s=timeout_s)
                milliseconds = (time.perf_counter() - began) * 1e3
                bits = (await network.run(node, after)).bits if after else ()
                bits += (await network.run(peer, [*turn, measure(peer_qubit)])).bits
                done.append(
                    {
                        "gate_id": result.gate_id,
                        "pair_id": result.pair_id,
                        "status": result.status.value,
                        "milliseconds": round(milliseconds, 3),
                        "bits": "".join(map(str, bits)),
                        "expected": expected,
                    }
                )
                progress.advance(task)
    return done


@app.command("run", rich_help_panel=NETWORK)
def run_command(
    program: Annotated[Path, typer.Argument(metavar="PROGRAM.toml", help="A distributed program.")],
    shots: Annotated[int, typer.Option(min=1, max=10_000_000, help="How many times.")] = 1,
    variant: Annotated[Variant, typer.Option(help="How gates between nodes are teleported.")] = Variant.SYMMETRIC,
    timeout: Timeout = 10.0,
    client: Client = None,
    virtual: Annotated[
        Path | None,
        typer.Option("--virtual", metavar="TESTBED.toml", help="Run on this testbed in virtual time, without daemons."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="With --virtual: of every chance. [default: the testbed's]")
    ] = None,
    jobs: Annotated[int, typer.Option(min=0, help="With --virtual: processes; 0 for as many as there are cores.")] = 0,
    latency_us: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=1e6,
            callback=_check_latency,
            help="With --virtual: microseconds that a message takes. [default: 100]",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Run a distributed program, and count the bits that its shots gave.

    The file names its qubits as node.qubit and lists its steps; cz and cx between nodes are teleported:

        qubits = ["alice.c", "bob.t"]

        steps = [["h", "alice.c"], ["cx", "alice.c", "bob.t"], ["measure", "alice.c"], ["measure", "bob.t"]]

    Example: `bellwire run examples/two-nodes/bell.toml --shots 100`

    With --virtual the same agents run in virtual time instead of as daemons, on the testbed that `bellwire up` would start.
    World time then runs as fast as theirs, whatever the testbed's time_scale. The same seed gives the same counts.

    Example: `bellwire run examples/two-nodes/bell.toml --virtual examples/two-nodes/testbed.toml --shots 10000`
    """
    from bellwire.client.program import load_program

    loaded = load_program(program)
    if virtual is not None:
        told = _run_virtual(loaded, virtual, shots, variant, timeout, seed, jobs, latency_us)
    else:
        for option, value in (("--seed", seed), ("--jobs", jobs or None), ("--latency-us", latency_us)):
            if value is not None:
                raise ConfigError(f"{option} needs --virtual: daemons have it from the testbed's file, or not at all")
        told = _run_daemons(loaded, find_client(client), shots, variant, timeout)
    if json:
        show_json(told)
        return
    rows = [(bits or "(none)", count, f"{count / shots:.4f}") for bits, count in told["counts"].items()]
    passed = f", {told['virtual_seconds']:.3f} s of virtual time" if told["virtual"] else ""
    title = (
        f"{loaded.name}: {shots} shots in {told['seconds']:.3f} s{passed}, {loaded.teleported} teleported gates in each"
    )
    show_table(title, (" ".join(told["bits"]) or "bits", "count", "share"), rows)


def _run_daemons(loaded: Program, path: Path, shots: int, variant: Variant, timeout_s: float) -> dict[str, Any]:
    started = time.perf_counter()

    async def work() -> dict[str, int]:
        from bellwire.client.net import connect
        from bellwire.client.program import run_program

        async with connect(path) as network:
            with _progress(f"running {loaded.name}", shots) as (progress, task):
                return await run_program(
                    network,
                    loaded,
                    shots=shots,
                    variant=variant.value,
                    timeout_s=timeout_s,
                    on_shot=lambda: progress.advance(task),
                )

    counts = _wait(work())
    return {**_ran(loaded, shots, counts, time.perf_counter() - started), "virtual": False}


def _run_virtual(
    loaded: Program,
    testbed: Path,
    shots: int,
    variant: Variant,
    timeout_s: float,
    seed: int | None,
    jobs: int,
    latency_us: float | None,
) -> dict[str, Any]:
    from bellwire.agent.shots import VirtualRun
    from bellwire.agent.testbed import LATENCY_NS

    started = time.perf_counter()
    latency_ns = LATENCY_NS if latency_us is None else round(latency_us * 1e3)
    run = VirtualRun.load(loaded, testbed, seed=seed, latency_ns=latency_ns, variant=variant.value, timeout_s=timeout_s)
    with _progress(f"running {loaded.name}", shots) as (progress, task):
        counts = run.shots(shots, jobs=jobs or os.cpu_count() or 1, on_shots=lambda done: progress.advance(task, done))
    return {
        **_ran(loaded, shots, counts.bits, time.perf_counter() - started),
        "virtual": True,
        "virtual_seconds": counts.virtual_ns / 1e9,
        "seed": run.seed,
        "latency_us": latency_ns / 1e3,
    }


def _ran(loaded: Program, shots: int, counts: Mapping[str, int], seconds: float) -> dict[str, Any]:
    """What is told of a program's shots, wherever they were made."""
    return {
        "program": loaded.name,
        "shots": shots,
        "bits": [str(operand) for operand in loaded.measured],
        "counts": dict(sorted(counts.items())),
        "seconds": seconds,
    }
