"""The requests that peers make of one endpoint: each handled once, and answered as often as it is asked (spec 1 §4.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from bellwire.protocols.errors import ErrorCode, RemoteProtocolError, RequestError
from bellwire.protocols.ids import Epoch, NodeId
from bellwire.protocols.limits import MAX_TEXT_CHARS
from bellwire.protocols.messages import Message, Reply, Request, SessionError
from bellwire.protocols.session import Session, SessionState

if TYPE_CHECKING:
    from bellwire.protocols.endpoint import Endpoint

Handler = Callable[[NodeId, Any], Reply | None]


class _Owed(msgspec.Struct, frozen=True):
    """To whom an answer is owed: a request id means nothing without the incarnation that gave it."""

    peer: NodeId
    epoch: Epoch
    request_id: int


class Duties:
    """Hands requests to their handlers, once, and keeps the answers for when they are repeated."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._handlers: dict[type[Request], Handler] = {}
        self._listeners: dict[type[Message], Callable[[NodeId, Any], None]] = {}
        self._owed: dict[int, _Owed] = {}
        self._taken = 0

    def __len__(self) -> int:
        return len(self._owed)

    def clear(self) -> None:
        """Handle nothing any more."""
        self._handlers.clear()
        self._listeners.clear()

    def handle(self, message: type[Request], handler: Handler) -> None:
        """Register what answers requests of a type."""
        self._handlers[message] = handler

    def hear(self, message: type[Message], listener: Callable[[NodeId, Any], None]) -> None:
        """Register what takes messages of a type that nobody answers."""
        self._listeners[message] = listener

    def listen(self, peer: NodeId, message: Message) -> None:
        """Hand on a message that nobody answers. One that nobody takes, such as a heartbeat, has done its work by coming."""
        listener = self._listeners.get(type(message))
        if listener is not None:
            listener(peer, message)

    def take(self, session: Session, message: Request) -> None:
        """Deal with a request: a new one is handled, a repeated one is answered again if it has its answer.

        Raises:
            RemoteProtocolError: when nobody handles it, it was answered too long ago, or there is no room for it.
        """
        endpoint, request_id = self._endpoint, message.request_id
        if request_id in session.owed:
            endpoint.counters.repeated += 1
            return
        given = session.answered.get(request_id)
        if given is not None:
            endpoint.counters.repeated += 1
            endpoint.put(session, given)
            return
        if request_id <= session.forgotten:
            raise RemoteProtocolError("this request was answered too long ago", "1 §4.4", ErrorCode.EXPIRE)
        handler = self._handlers.get(type(message))
        if handler is None:
            text = f"a {endpoint.role} does not take {message.__struct_config__.tag}"
            raise RemoteProtocolError(text, "1 §3.5", ErrorCode.UNKNOWN_TYPE)
        self._taken += 1
        number = self._taken
        if not session.take(request_id, number):
            raise RemoteProtocolError("too many requests await an answer", "1 §3.4", ErrorCode.LIMIT)
        self._owed[number] = _Owed(session.peer, session.epoch, request_id)
        reply = self._try(handler, session.peer, msgspec.structs.replace(message, request_id=number))
        if reply is not None:
            self.reply(session.peer, number, reply)

    def _try(self, handler: Handler, peer: NodeId, message: Request) -> Reply | None:
        try:
            return handler(peer, message)
        except RequestError as error:
            return SessionError(code=error.code, text=error.text[:MAX_TEXT_CHARS])
        except RemoteProtocolError as error:
            self._endpoint.counters.unexpected += 1
            return SessionError(code=error.code, text=error.text[:MAX_TEXT_CHARS], rule=error.rule)

    def reply(self, peer: NodeId, number: int, reply: Reply) -> None:
        """Answer the request that was handled under `number`, unless it was answered or its asker has restarted."""
        owed = self._owed.get(number)
        if owed is None or owed.peer != peer:
            return
        del self._owed[number]
        session = self._endpoint.sessions.get(peer)
        if session is None or session.epoch != owed.epoch:
            return
        data = self._endpoint.encode(session, msgspec.structs.replace(reply, request_id=owed.request_id))
        del session.owed[owed.request_id]
        session.answered[owed.request_id] = data
        if session.state is SessionState.UP:
            self._endpoint.put(session, data)

    def forget(self, session: Session) -> None:
        """Owe nothing any more to the present incarnation of a peer."""
        for number in session.owed.values():
            self._owed.pop(number, None)
