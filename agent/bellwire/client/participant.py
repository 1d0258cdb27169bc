"""A participant on the event loop: an endpoint whose requests are awaitables, and the one that has a real socket."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from bellwire.protocols.codec import Codec
from bellwire.protocols.endpoint import Answer, Endpoint
from bellwire.protocols.errors import RequestError, TransportError
from bellwire.protocols.ids import NodeId
from bellwire.protocols.messages import Reply, Request
from bellwire.protocols.path import DirectSettings
from bellwire.protocols.paths import Paths
from bellwire.protocols.session import Loss
from bellwire.transport.clock import local_time_ns, new_epoch
from bellwire.transport.connection import Connection
from bellwire.transport.direct import Direct
from bellwire.transport.driver import Driver
from bellwire.transport.keys import load_public, load_secret
from bellwire.transport.standby import follow_standby

R = TypeVar("R", bound=Reply)
SECOND_NS = 1_000_000_000


class Participant(ABC):
    """An endpoint on the running event loop, in session with one server: a broker or a world."""

    def __init__(self, server: NodeId, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._server = server
        self._waiting: set[asyncio.Future[Answer]] = set()
        self._up = asyncio.Event()
        endpoint.on_peer_up.append(self._peer_up)
        endpoint.on_peer_lost.append(self._peer_lost)

    @abstractmethod
    def _now_ns(self) -> int:
        """What the endpoint's own clock shows."""

    @abstractmethod
    def _flush(self) -> None:
        """Carry what the endpoint has to say."""

    def _peer_up(self, peer: NodeId) -> None:
        if peer == self._server:
            self._up.set()

    def _peer_lost(self, peer: NodeId, loss: Loss, why: str) -> None:  # noqa: ARG002
        if peer == self._server:
            self._up.clear()

    async def _greet(self, timeout_s: float) -> None:
        """Greet the server.

        Raises:
            TimeoutError: when it does not answer in time.
        """
        self.endpoint.begin(self._now_ns())
        self.endpoint.keep_session(self._server)
        self._flush()
        await asyncio.wait_for(self._up.wait(), timeout_s)

    def _part(self) -> None:
        """Say goodbye to everybody."""
        self.endpoint.begin(self._now_ns())
        self.endpoint.close()
        self._flush()

    def _break(self, error: BaseException) -> None:
        """The machine under all requests has failed: so do they."""
        for future in self._waiting:
            if not future.done():
                future.set_exception(error)

    def act(self, action: Callable[[], None]) -> None:
        """Do something at the endpoint, and carry what it then has to say."""
        self.endpoint.begin(self._now_ns())
        action()
        self._flush()

    async def ask(self, peer: NodeId, request: Request, expected: type[R], *, timeout_s: float) -> R:
        """Send a request and wait for its answer.

        Raises:
            RequestError: when it is refused, its peer is lost or `timeout_s` is over.
        """
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def answered(answer: Answer) -> None:
            if not future.done():
                future.set_result(answer)

        now_ns = self._now_ns()
        self.endpoint.begin(now_ns)
        number = self.endpoint.ask(peer, request, now_ns + int(timeout_s * SECOND_NS), answered)
        self._flush()
        self._waiting.add(future)
        try:
            answer = await future
        except asyncio.CancelledError:
            self.endpoint.abandon(number)
            raise
        finally:
            self._waiting.discard(future)
        if isinstance(answer, RequestError):
            raise answer
        if not isinstance(answer, expected):
            raise TypeError(f"{type(answer).__name__} came where {expected.__name__} was expected")
        return answer


class SocketParticipant(Participant):
    """A participant over a real socket: an endpoint, its connection and its driver."""

    def __init__(
        self,
        *,
        server: NodeId,
        endpoint: str | Sequence[str],
        server_key: Path,
        secret_key: Path,
        codec: Codec | None = None,
        insecure: bool = False,
        direct: bool = False,
    ) -> None:
        keys = load_secret(secret_key)
        super().__init__(server, Endpoint(keys.name, keys.role, new_epoch(), codec=codec))
        self._where = endpoint if isinstance(endpoint, str) else " or ".join(endpoint)
        public = load_public(server_key)
        self._refused = ""
        self._connection = Connection(
            endpoint,
            keys,
            None if insecure else public.public,
            self._deliver,
            drained=self._drained,
            report=self._note_refusal,
        )
        self.paths = Paths(self.endpoint, self.endpoint, connects=direct)
        self._direct = Direct(self.paths, self.endpoint, keys, DirectSettings(), self._connection.send)
        self._driver = self._direct.driver = Driver(self.paths, self._direct.send, after=self._direct.carry)
        follow_standby(self._connection, self.endpoint, self._driver, server)
        self._driver.failed.add_done_callback(self._broken)

    def _now_ns(self) -> int:
        return local_time_ns()

    def _flush(self) -> None:
        self._driver.poke()

    def _broken(self, failed: asyncio.Future[None]) -> None:
        error = None if failed.cancelled() else failed.exception()
        if error is not None:
            self._break(error)

    def _deliver(self, peer: NodeId, data: bytes) -> None:
        self._driver.deliver(peer, data)

    def _drained(self) -> None:
        self._driver.poke()

    def _note_refusal(self, why: str) -> None:
        self._refused = why

    async def start(self, timeout_s: float) -> None:
        """Connect and greet the server.

        Raises:
            TransportError: when it does not answer in time.
        """
        self._connection.start()
        try:
            await self._greet(timeout_s)
        except TimeoutError:
            await self.close()
            why = self._refused or (f"is it running, and is the key of {self.endpoint.node} among its authorized keys?")
            raise TransportError(f"no {self._server} answers at {self._where} within {timeout_s:g} s: {why}") from None

    async def close(self) -> None:
        """Say goodbye to everybody and disconnect."""
        self._part()
        self._driver.close()
        await asyncio.gather(self._connection.close(), self._direct.close())
