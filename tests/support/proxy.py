"""A TCP proxy between a client and a server, which remembers what the client sent and can fall silent."""

from __future__ import annotations

import asyncio
from types import TracebackType
from urllib.parse import urlsplit

PORTION = 65_536


class Proxy:
    """Carries bytes both ways. While it is `silent` it takes them and carries nothing, and closes nothing.

    Who is `strand`ed stays so; `again` is set when a client has connected after that.
    """

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        self._host, self._port = parts.hostname, parts.port
        self.endpoint = ""
        self.recordings: list[bytearray] = []
        """What each client has sent, in the order of their connections."""
        self.silent = False
        self.again = asyncio.Event()
        self._stranded = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def strand(self) -> None:
        """From now on carry nothing on the connections that there are, and close none of them."""
        self._stranded = len(self.recordings)
        self.again.clear()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.endpoint = f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection(self._host, self._port)
        number, recording = len(self.recordings), bytearray()
        self.recordings.append(recording)
        self.again.set()
        tasks = [
            asyncio.ensure_future(self._carry(number, client, to_server, recording)),
            asyncio.ensure_future(self._carry(number, server, to_client, None)),
        ]
        self._tasks.update(tasks)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            for writer in (to_server, to_client):
                writer.close()

    async def _carry(
        self, number: int, source: asyncio.StreamReader, sink: asyncio.StreamWriter, keep: bytearray | None
    ) -> None:
        while data := await source.read(PORTION):
            if keep is not None:
                keep += data
            if not self.silent and number >= self._stranded:
                sink.write(data)
                await sink.drain()
