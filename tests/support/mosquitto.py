"""A Mosquitto of the test's own, on a free loopback port, that can be killed and started again there."""

from __future__ import annotations

import asyncio
import shutil
import signal
from pathlib import Path
from types import TracebackType

import pytest

from bellwire.shell.ports import reserve_port

PROGRAM = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


class Mosquitto:
    """The process. It keeps nothing, so a new one knows nothing of the one before."""

    def __init__(self, directory: Path) -> None:
        self.port = reserve_port()
        self._file = directory / "mosquitto.conf"
        self._file.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n")
        self._process: asyncio.subprocess.Process | None = None
        self._drain: asyncio.Future[bytes]

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it and wait until it says that it runs."""
        if PROGRAM is None:
            pytest.fail("mosquitto is not installed (Debian: apt-get install mosquitto)", pytrace=False)
        self._process = await asyncio.create_subprocess_exec(
            PROGRAM, "-v", "-c", str(self._file), stderr=asyncio.subprocess.PIPE
        )
        assert self._process.stderr is not None
        async with asyncio.timeout(20):
            while b" running" not in await self._process.stderr.readline():
                assert self._process.returncode is None
        self._drain = asyncio.ensure_future(self._process.stderr.read())

    async def kill(self) -> None:
        """End it as `kill -9` does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        await self._process.wait()
        await self._drain
        self._process = None

    async def __aenter__(self) -> Mosquitto:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            await self.kill()
