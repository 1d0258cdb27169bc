"""Testbeds of real processes that a test can kill and start again, one by one."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from bellwire.agent.testbed import Part, Prepared, prepare


class Processes:
    """The processes of a prepared testbed, by name. Those in `others` are run by a command of their own."""

    def __init__(self, prepared: Prepared, others: Mapping[str, Sequence[str]] | None = None) -> None:
        self.prepared = prepared
        self._others = others or {}
        self._parts = {part.name: part for part in prepared.parts}
        self._running: dict[str, asyncio.subprocess.Process] = {}

    async def start(self, name: str) -> None:
        """Start one process and wait until it says that it is ready."""
        part: Part = self._parts[name]
        ours = (sys.executable, "-m", "bellwire.shell", part.command, str(part.config), "--until-eof")
        process = await asyncio.create_subprocess_exec(
            *self._others.get(name, ours),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        self._running[name] = process
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 30)
        assert json.loads(line)["ready"] in (name, part.command)

    async def kill(self, name: str) -> None:
        """End one process as `kill -9` does."""
        process = self._running.pop(name)
        process.send_signal(signal.SIGKILL)
        await process.wait()

    async def stop(self, name: str) -> int:
        """Ask one process to end and return its exit code."""
        process = self._running.pop(name)
        process.send_signal(signal.SIGTERM)
        return await process.wait()

    async def close(self) -> None:
        """End whatever still runs."""
        for name in list(self._running):
            await self.kill(name)


@asynccontextmanager
async def processes(testbed: Path, directory: Path) -> AsyncIterator[Processes]:
    """All processes of a testbed, ready."""
    async with prepared_processes(prepare(testbed, directory)) as running:
        yield running


@asynccontextmanager
async def prepared_processes(
    prepared: Prepared, others: Mapping[str, Sequence[str]] | None = None
) -> AsyncIterator[Processes]:
    """All processes of a testbed that was prepared already, ready. Those in `others` are run by a command of their own."""
    running = Processes(prepared, others)
    try:
        for part in prepared.parts:
            await running.start(part.name)
        yield running
    finally:
        await running.close()
