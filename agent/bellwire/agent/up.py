"""Run a prepared testbed as processes of this machine, and end every one of them."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from bellwire.agent.testbed import Part, Prepared
from bellwire.protocols.errors import BellwireError, ConfigError

CLIENT_VARIABLE: Final = "BELLWIRE_CLIENT"
READY_TIMEOUT_S: Final = 30.0
NODES_CLOSE_S: Final = 0.45
"""How long agents and stations may take to say goodbye before the broker and the world are asked to stop too."""
CLOSE_S: Final = 0.95
COMMAND_CLOSE_S: Final = 2.0
LAST_LINES: Final = 20
_ERROR_PREFIX: Final = "bellwire: "


@dataclass(slots=True)
class _Child:
    part: Part
    process: asyncio.subprocess.Process
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    endpoint: str = ""
    last: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_LINES))
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def is_server(self) -> bool:
        return self.part.command in ("broker", "world")


class RunningTestbed:
    """The processes of a testbed. `say` is told, in one line each, what a person may want to know."""

    def __init__(self, prepared: Prepared, say: Callable[[str], None], log_level: str = "warning") -> None:
        self.prepared = prepared
        self._say = say
        self._log_level = log_level
        self._children: list[_Child] = []
        self._closing = False

    @property
    def pids(self) -> dict[str, int]:
        """The processes by name."""
        return {child.part.name: child.process.pid for child in self._children}

    async def start(self, on_ready: Callable[[str], None] | None = None) -> None:
        """Start everything and wait until all of it is ready. `on_ready` is told of each part.

        Raises:
            BellwireError: when a part ends before it is ready, with what it said; or when it takes too long.
        """
        for part in self.prepared.parts:
            self._children.append(await self._spawn(part))
        waiting = [asyncio.ensure_future(self._wait_ready(child, on_ready)) for child in self._children]
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                await asyncio.gather(*waiting)
        except TimeoutError:
            late = ", ".join(child.part.name for child in self._children if not child.ready.is_set())
            raise BellwireError(f"not ready within {READY_TIMEOUT_S:g} s: {late}") from None
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def close(self) -> None:
        """End every process within a second: nodes first, so that they can say goodbye; whatever is left is killed."""
        self._closing = True
        nodes = [child for child in self._children if not child.is_server]
        servers = [child for child in self._children if child.is_server]
        await _terminate(nodes, NODES_CLOSE_S)
        await _terminate(servers, CLOSE_S - NODES_CLOSE_S)
        for child in self._children:
            if child.process.returncode is None:
                self._say(f"{child.part.name} did not stop when asked, and is killed")
                child.process.kill()
            await child.process.wait()
        for child in self._children:
            await asyncio.gather(*child.tasks, return_exceptions=True)

    async def _spawn(self, part: Part) -> _Child:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "bellwire.shell",
            part.command,
            str(part.config),
            "--until-eof",
            "--log-level",
            self._log_level,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        child = _Child(part, process)
        child.tasks = [
            asyncio.ensure_future(self._read_stdout(child)),
            asyncio.ensure_future(self._read_stderr(child)),
            asyncio.ensure_future(self._watch(child)),
        ]
        return child

    async def _read_stdout(self, child: _Child) -> None:
        assert child.process.stdout is not None
        async for line in child.process.stdout:
            try:
                told = json.loads(line)
            except ValueError:
                self._say(f"{child.part.name} | {line.decode(errors='replace').rstrip()}")
                continue
            child.endpoint = str(told.get("endpoint", ""))
            child.ready.set()

    async def _read_stderr(self, child: _Child) -> None:
        assert child.process.stderr is not None
        async for line in child.process.stderr:
            text = line.decode(errors="replace").rstrip()
            child.last.append(text)
            if child.ready.is_set() or not text.startswith(_ERROR_PREFIX):
                self._say(f"{child.part.name} | {text}")

    async def _watch(self, child: _Child) -> None:
        code = await child.process.wait()
        if child.ready.is_set() and not self._closing:
            again = f"bellwire {child.part.command} {child.part.config}"
            self._say(f"{child.part.name} has ended ({_describe(code)}); the others go on. Start it again: {again}")

    async def _wait_ready(self, child: _Child, on_ready: Callable[[str], None] | None) -> None:
        ready = asyncio.ensure_future(child.ready.wait())
        ended = asyncio.ensure_future(asyncio.wait(child.tasks))
        try:
            await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
            ended.cancel()
            await asyncio.gather(ready, ended, return_exceptions=True)
        if not child.ready.is_set():
            reason = next((line for line in reversed(child.last) if line), _describe(child.process.returncode))
            raise BellwireError(f"{child.part.name} did not start: {reason.removeprefix(_ERROR_PREFIX)}")
        if on_ready is not None:
            on_ready(f"{child.part.name} {child.endpoint}".rstrip())


async def _terminate(children: Sequence[_Child], timeout_s: float) -> None:
    running = [child for child in children if child.process.returncode is None]
    for child in running:
        with contextlib.suppress(ProcessLookupError):
            child.process.terminate()
    waiting = [asyncio.ensure_future(child.process.wait()) for child in running]
    if waiting:
        _, late = await asyncio.wait(waiting, timeout=timeout_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


def _describe(code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep a testbed's folder to oneself.

    Raises:
        ConfigError: when another process has it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / "lock").open("w", encoding="ascii")
    except OSError as error:
        raise ConfigError(f"{directory}: cannot be written: {error.strerror or error}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"{directory}: a testbed is running there already (use --state for another)") from None
        yield


async def run_testbed(
    testbed: RunningTestbed,
    *,
    command: Sequence[str],
    ready_file: Path | None,
    on_ready: Callable[[str], None] | None,
    on_all_ready: Callable[[], None],
) -> int:
    """Run a testbed until a signal comes or `command` ends. Returns the command's exit code, or 0.

    Raises:
        BellwireError: when the testbed does not come up.
        ConfigError: when the command cannot be run.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    stopping = asyncio.ensure_future(stop.wait())
    starting = asyncio.ensure_future(testbed.start(on_ready))
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            return 0
        starting.result()
        if ready_file is not None:
            _write_whole(ready_file, testbed)
        on_all_ready()
        if not command:
            await stopping
            return 0
        return await _run_command(command, testbed.prepared.client_path, stopping)
    finally:
        for task in (starting, stopping):
            task.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)
        await testbed.close()
        for number in signals:
            loop.remove_signal_handler(number)
        _remove(ready_file)


def _remove(path: Path | None) -> None:
    if path is not None:
        path.unlink(missing_ok=True)


def _write_whole(path: Path, testbed: RunningTestbed) -> None:
    """Write the ready file, so that nobody sees half of it."""
    content = {
        "name": testbed.prepared.name,
        "client": testbed.prepared.client_path,
        "state": str(testbed.prepared.directory.absolute()),
        "pids": testbed.pids,
    }
    beside = path.with_name(f"{path.name}.part")
    try:
        beside.write_text(json.dumps(content) + "\n", encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from None


async def _run_command(command: Sequence[str], client: str, stopping: asyncio.Task[Literal[True]]) -> int:
    """Run a person's command beside the testbed. It has the terminal, and Ctrl-C reaches it by itself."""
    environment = {**os.environ, CLIENT_VARIABLE: client}
    try:
        process = await asyncio.create_subprocess_exec(*command, env=environment)
    except OSError as error:
        raise ConfigError(f"cannot run {command[0]!r}: {error.strerror or error}") from None
    ended = asyncio.ensure_future(process.wait())
    waited: tuple[asyncio.Task[Any], ...] = (ended, stopping)
    await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
    if not ended.done():
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        done, _ = await asyncio.wait({ended}, timeout=COMMAND_CLOSE_S)
        if not done:
            process.kill()
    code = await ended
    return code if code >= 0 else 128 - code
