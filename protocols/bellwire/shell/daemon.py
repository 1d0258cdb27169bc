"""The life of a daemon: started, ready, asked to stop, gone within a second."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import structlog

from bellwire.protocols.errors import BellwireError
from bellwire.shell.tallies import TallyLog

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

CLOSE_TIMEOUT_S = 0.8
"""How long closing may take. A process that was asked to stop is gone within a second."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class DaemonCapable(Protocol):
    """What can be run as a process of its own."""

    @property
    def tallies(self) -> Mapping[str, DataclassInstance]:
        """What it counts once started: dataclasses, by what they belong to. They are logged when they change."""

    async def start(self) -> None:
        """Begin.

        Raises:
            BellwireError: when it cannot, for instance for a port in use.
        """

    async def run(self) -> None:
        """Serve until closed, or raise what broke it."""

    async def close(self) -> None:
        """Stop, and give everything back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervision:
    """How a daemon's surroundings watch it.

    `health_file` exists as long as the daemon is ready; `until_eof` ends it with its standard input, so that no daemon
    outlives whoever started it.
    """

    health_file: Path | None = None
    until_eof: bool = False


class Readiness:
    """Tells when a daemon is ready, and when it is not any more.

    The first time, one JSON line goes to standard output: `{"ready": name, "endpoint": …, "pid": …}`.
    """

    def __init__(self, name: str, health_file: Path | None = None) -> None:
        self._name = name
        self._file = health_file
        self._announced = False
        self._ready = False
        if health_file is not None:
            health_file.unlink(missing_ok=True)

    def set(self, ready: bool, endpoint: str = "") -> None:
        """Note whether the daemon is ready now. Saying the same twice does nothing."""
        if ready == self._ready:
            return
        self._ready = ready
        log = structlog.get_logger()
        log.info("ready" if ready else "not ready", name=self._name, **({"endpoint": endpoint} if endpoint else {}))
        if self._file is not None:
            if ready:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                self._file.write_text(f"{os.getpid()}\n", encoding="ascii")
            else:
                self._file.unlink(missing_ok=True)
        if ready and not self._announced:
            self._announced = True
            line = json.dumps({"ready": self._name, "endpoint": endpoint, "pid": os.getpid()})
            sys.stdout.write(line + "\n")
            sys.stdout.flush()


def serve(
    name: str, make: Callable[[Readiness], Awaitable[DaemonCapable]], supervision: Supervision | None = None
) -> None:
    """Run a daemon until it is asked to stop. `make` builds it on the running loop, and is given what to call when ready.

    Raises:
        BellwireError: whatever kept it from running.
    """
    with asyncio.Runner(loop_factory=quickest_loop()) as runner:
        runner.run(serve_async(name, make, supervision or Supervision()))


def quickest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes event loops of uvloop, where that is installed (`bellwire[fast]`), or `None` for asyncio's own."""
    if importlib.util.find_spec("uvloop") is None:
        return None
    import uvloop

    return uvloop.new_event_loop


def keep_heap() -> None:
    """Have collections leave alone what was made until now: walking it each time would hold up messages by milliseconds."""
    gc.collect()
    gc.freeze()


async def serve_async(
    name: str, make: Callable[[Readiness], Awaitable[DaemonCapable]], supervision: Supervision
) -> None:
    """As `serve`, on the running loop."""
    log = structlog.get_logger()
    stop = asyncio.Event()
    readiness = Readiness(name, supervision.health_file)
    with _signals(stop), _end_of_input(stop, supervision.until_eof):
        daemon = await make(readiness)
        running: asyncio.Task[None] | None = None
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await daemon.start()
            keep_heap()
            log.info("started", name=name, pid=os.getpid())
            with TallyLog(name, daemon.tallies):
                running = asyncio.ensure_future(daemon.run())
                await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            readiness.set(False)
            await _close(daemon, name)
            if running is not None:
                await _finish(running)
        log.info("stopped", name=name)


async def _close(daemon: DaemonCapable, name: str) -> None:
    try:
        await asyncio.wait_for(daemon.close(), CLOSE_TIMEOUT_S)
    except TimeoutError:
        structlog.get_logger().warning("closing took too long, giving up on it", name=name)


async def _finish(running: asyncio.Task[None]) -> None:
    """Wait for what a closed daemon still does, and raise what broke it."""
    done, _ = await asyncio.wait({running}, timeout=0.1)
    if not done:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        return
    error = running.exception() if not running.cancelled() else None
    if isinstance(error, BellwireError):
        raise error
    if error is not None:
        raise RuntimeError(f"a mistake in bellwire: {type(error).__name__}: {error}") from error


class _signals:  # noqa: N801
    """While it lasts, the signals that ask a process to stop set an event; a second one kills as if there were none."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> None:
        for number in SIGNALS:
            self._loop.add_signal_handler(number, self._asked, number)

    def __exit__(self, *_: object) -> None:
        for number in SIGNALS:
            self._loop.remove_signal_handler(number)

    def _asked(self, number: int) -> None:
        if self._stop.is_set():
            os._exit(128 + number)
        self._stop.set()


class _end_of_input:  # noqa: N801
    """While it lasts, the end of standard input sets an event."""

    def __init__(self, stop: asyncio.Event, wanted: bool) -> None:
        self._stop = stop
        self._wanted = wanted
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> None:
        if self._wanted:
            self._loop.add_reader(0, self._readable)

    def __exit__(self, *_: object) -> None:
        if self._wanted:
            self._loop.remove_reader(0)

    def _readable(self) -> None:
        if not os.read(0, 4_096):
            self._loop.remove_reader(0)
            self._stop.set()
