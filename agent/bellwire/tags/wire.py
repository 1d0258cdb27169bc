"""Tags over TCP (`format`): the reading end, which a tagger's slowness or silence never fools, and the serving end."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Callable
from typing import Final

import numpy as np

from bellwire.protocols.errors import ConfigError, TransportError
from bellwire.tags.format import (
    COUNT,
    FIXED,
    MAX_CHUNK_TAGS,
    RECORD,
    UNKNOWN,
    Header,
    decode_header,
    decode_tags,
    encode_tags,
    header_bytes,
)
from bellwire.tags.sources import TagSource
from bellwire.tags.stream import NO_TAGS, Tags
from bellwire.transport.addresses import TCP, host_and_port

KEEP_ALIVE_S: Final = 0.5
"""How often a server says something at least."""

STUCK_S: Final = 10.0
"""How long a client may take nothing before a server gives it up."""


class SocketSource(TagSource):
    """The tags that a server sends.

    A server that sends no whole chunk for `silence_s` is lost, be it slow, stuck, or gone without a word.

    Raises:
        ConfigError: when the address is none.
    """

    def __init__(self, address: str, silence_s: float) -> None:
        self._host, self._port = host_and_port(address)
        self._address = address
        self._silence_s = silence_s
        self._header = Header()

    @property
    def header(self) -> Header:
        """What the server says of its tags, once the first part has come."""
        return self._header

    @property
    def name(self) -> str:
        """The server's address."""
        return self._address

    async def chunks(self) -> AsyncGenerator[Tags]:
        """Connect, and give what comes.

        Raises:
            TransportError: when the server cannot be reached, is silent, leaves, or sends what is no stream of tags.
        """
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(self._silence_s):
                reader, writer = await asyncio.open_connection(self._host, self._port)
                fixed = await reader.readexactly(FIXED.size)
                rest = await reader.readexactly(header_bytes(fixed, self._address) - FIXED.size)
                self._header = decode_header(fixed + rest, self._address)
            yield NO_TAGS
            while True:
                async with asyncio.timeout(self._silence_s):
                    tags = await self._chunk(reader)
                yield tags
        except TimeoutError:
            raise TransportError(f"{self._address}: sent nothing whole for {self._silence_s:g} s") from None
        except asyncio.IncompleteReadError as error:
            how = "in the middle of a chunk" if error.partial else "its connection"
            raise TransportError(f"{self._address}: ended {how}") from None
        except ConfigError as error:
            raise TransportError(str(error)) from None
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            raise TransportError(f"{self._address}: {why}") from None
        finally:
            if writer is not None:
                writer.transport.abort()

    async def _chunk(self, reader: asyncio.StreamReader) -> Tags:
        (number,) = COUNT.unpack(await reader.readexactly(COUNT.size))
        if number > MAX_CHUNK_TAGS:
            raise TransportError(f"{self._address}: a chunk of {number} tags, at most {MAX_CHUNK_TAGS} are allowed")
        data = await reader.readexactly(number * RECORD.itemsize)
        return decode_tags(np.frombuffer(data, dtype=RECORD), self._address)


class TagServer:
    """Serves a stream of tags to whoever connects, one client after the other, to each from the beginning.

    Args:
        header: what the stream is said to be.
        stream: makes the stream.
        on_end: told when a client has had all of it, or left before.
    """

    def __init__(
        self,
        header: Header,
        stream: Callable[[], AsyncGenerator[Tags]],
        on_end: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._header = header.with_tags(UNKNOWN)
        self._stream = stream
        self._on_end = on_end
        self._turn = asyncio.Lock()
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self, address: str) -> str:
        """Listen. Gives the address, with the port that was chosen where 0 was asked for.

        Raises:
            ConfigError: when the address is none, or cannot be listened at.
        """
        host, port = host_and_port(address)
        try:
            self._server = await asyncio.start_server(self._serve, host, port)
        except OSError as error:
            raise ConfigError(f"{address}: cannot be listened at: {error.strerror or error}") from None
        port = self._server.sockets[0].getsockname()[1]
        return f"{TCP}{f'[{host}]' if ':' in host else host}:{port}"

    async def close(self) -> None:
        """Stop, and leave every client."""
        if self._server is not None:
            self._server.close()
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    async def _serve(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        whole = False
        try:
            async with self._turn:
                with contextlib.suppress(OSError, TimeoutError):  # the client left, or takes nothing
                    await self._send(writer)
                    whole = True
                self._on_end(whole)
        except asyncio.CancelledError:
            return  # the server was closed; a task of the streams' own has nobody to tell
        finally:
            self._clients.discard(task)
            writer.transport.abort() if not whole else writer.close()

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        writer.write(self._header.encode())
        alive = asyncio.ensure_future(_keep_alive(writer))
        try:
            async with contextlib.aclosing(self._stream()) as stream:
                async for tags in stream:
                    for first in range(0, len(tags), MAX_CHUNK_TAGS):
                        part = tags.part(first, first + MAX_CHUNK_TAGS)
                        writer.write(COUNT.pack(len(part)) + encode_tags(part).tobytes())
                        async with asyncio.timeout(STUCK_S):
                            await writer.drain()
        finally:
            alive.cancel()


async def _keep_alive(writer: asyncio.StreamWriter) -> None:
    while not writer.is_closing():
        await asyncio.sleep(KEEP_ALIVE_S)
        writer.write(COUNT.pack(0))
