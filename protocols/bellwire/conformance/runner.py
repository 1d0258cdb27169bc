"""Runs cases over a target, one after the other, and says what came of each."""

from __future__ import annotations

import contextlib
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import zmq

from bellwire.conformance.catalogue import OPTIONS, SHOWN, Case, Failed, Level, Result, Role, Skipped, Verdict
from bellwire.conformance.lanes import ClientLane, HubLane, Lane
from bellwire.conformance.stage import Stage
from bellwire.conformance.target import Folder, Process, Times
from bellwire.protocols.errors import BellwireError, ConfigError
from bellwire.shell.ports import reserve_port

PATIENCE_S: Final = 2.0
"""How long the kit waits for what has to come, on a target of ordinary speed."""

_ODD: Final = (ArithmeticError, AttributeError, IndexError, OSError, TypeError, ValueError, struct.error, zmq.ZMQError)
"""What comes of using a field of a message that holds something else than belongs there, or an address that is none."""


def run_cases(
    stage: Stage, cases: Sequence[Case], strict: bool, told: Callable[[Result], None] = lambda _: None
) -> list[Result]:
    """Run cases in order; `told` hears of each result at once.

    A target that ends fails the case in which it does. It is started anew if the kit has started it; when it does not come
    back, the cases that are left are skipped.
    """
    results, gone = [], ""
    for case in cases:
        if gone:
            result = Result(case=case, verdict=Verdict.SKIP, text=f"not run: the target is gone: {gone}")
        else:
            result = _run(stage, case, strict)
        told(result)
        results.append(result)
        if not gone and result.verdict in SHOWN:
            gone = _lost(stage)
    return results


def _run(stage: Stage, case: Case, strict: bool) -> Result:
    began_s = time.monotonic()
    if case.needs in stage.folder.without:
        return Result(
            case=case, verdict=Verdict.SKIP, text=f"left out by --without {case.needs}: {OPTIONS[case.needs]}"
        )
    with contextlib.ExitStack() as closing:
        closing.callback(stage.end)  # Also when somebody interrupts the kit.

        def play() -> None:
            stage.begin()
            case.run(stage)

        verdict, text = _verdict(case, strict, play)
        ended = stage.process.ended() if stage.process is not None else ""
        if ended:
            verdict, text = Verdict.FAIL, text if ended in text else "; ".join(filter(None, (ended, text)))
        if verdict in SHOWN:
            stage.judged(text)
        trace = tuple(stage.trace)  # What the kit says to clean up is no part of it.
        after = _verdict(case, strict, closing.close)
    verdict, text = after if verdict is Verdict.PASS else (verdict, text)
    return Result(
        case=case,
        verdict=verdict,
        text=text,
        seconds=time.monotonic() - began_s,
        late_s=stage.late_s,
        trace=trace,
    )


def _verdict(case: Case, strict: bool, play: Callable[[], None]) -> tuple[Verdict, str]:
    """What comes of a part of a case, and why."""
    try:
        with _reading():
            play()
    except Failed as failure:
        return failed(case.level, strict), str(failure)
    except BellwireError as trouble:
        return Verdict.FAIL, str(trouble)
    except Skipped as reason:
        return Verdict.SKIP, str(reason)
    return Verdict.PASS, ""


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """What the kit stumbles over in a message is the target's fault, whatever a case is about, and raises `BellwireError`."""
    try:
        yield
    except KeyError as missing:
        raise BellwireError(f"a message came without the field {missing}") from None
    except _ODD as odd:
        what = f"{type(odd).__name__}: {odd}"
        raise BellwireError(f"a message came with something else in a field than belongs there ({what})") from odd


def _lost(stage: Stage) -> str:
    """After a case that failed: why there is no target for the next one; empty when there is one, started anew or not."""
    try:
        if stage.process is not None:
            if stage.process.runs:
                return ""
            stage.restart()
        check_target(stage)
    except BellwireError as error:
        return str(error)
    return ""


def failed(level: Level, strict: bool) -> Verdict:
    """What it means that a requirement of some level does not hold."""
    return Verdict.FAIL if strict or level is Level.MUST else Verdict.INFORMATIONAL


@contextlib.contextmanager
def open_stage(
    role: Role,
    *,
    folder: Path | None = None,
    endpoint: str = "",
    start: str = "",
    scale: float = 1.0,
    without: frozenset[str] = frozenset(),
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Stage]:
    """A stage for a target: the kit listens (nodes, stations) or connects (brokers), and starts the target if told how.

    `folder` holds the keys; without one, they are made for this run and thrown away. `scale` makes all times longer.
    `without` names the OPTIONS that the target leaves out.

    Raises:
        ConfigError: when the options do not fit together, or a key is missing.
        BellwireError: when an endpoint cannot be used, or the target does not start.
    """
    if role is Role.BROKER and not (endpoint or start):
        raise ConfigError("a broker is reached with --target ENDPOINT and --keys DIR, or started with --start")
    if not start and folder is None:
        raise ConfigError("the target and the kit need each other's keys: --keys DIR, or --start for both to be made")
    with contextlib.ExitStack() as closing:
        path = folder or Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="bellwire-conformance-")))
        place = Folder(path.absolute(), role, Times().scaled(scale), without)
        place.make_keys()
        lane: Lane
        if role is Role.BROKER:
            lane = ClientLane(endpoint or f"tcp://127.0.0.1:{reserve_port()}", place.keys)
        else:
            lane = HubLane(endpoint or "tcp://127.0.0.1:*", place.keys, place.target)
        closing.callback(lane.close)
        place.write(lane.endpoint)
        process = None
        if start:
            place.authorize()
            process = Process(start, place, lane.endpoint)
            closing.callback(process.end)
            process.start()
        elif isinstance(lane, HubLane):
            say(f"listening on {lane.endpoint}: start the target now, as {path / 'settings.json'} says")
        yield Stage(lane, place, process, PATIENCE_S * scale)


def check_target(stage: Stage) -> None:
    """See that the target is there, before the first case.

    Raises:
        BellwireError: when it is not, with what its process said last.
    """
    try:
        with _reading():
            try:
                stage.begin()
                if isinstance(stage.lane, ClientLane):
                    _greet_broker(stage)
            finally:
                stage.end()
    except Failed as failure:
        raise BellwireError(str(failure)) from None


def _greet_broker(stage: Stage) -> None:
    """A broker that was only just started takes a while to listen."""
    application = stage.application
    for _ in range(10):
        if stage.process is not None:
            stage.process.check()
        hello = application.hello()
        if application.maybe("session.welcome", within_s=stage.patience_s / 2, request_id=hello["request_id"]):
            return
    raise Failed(f"the broker at {stage.lane.endpoint} does not answer: does it have the keys in {stage.folder.path}?")
