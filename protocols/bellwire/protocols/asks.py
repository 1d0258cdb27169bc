"""The requests of one endpoint that await their answer (spec 1 §4.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from bellwire.protocols.errors import ErrorCode, RemoteProtocolError, RequestError
from bellwire.protocols.ids import CauseId, Epoch, NodeId
from bellwire.protocols.limits import MAX_PENDING_REQUESTS
from bellwire.protocols.messages import Reply, Request, SessionError
from bellwire.protocols.session import Session, SessionState
from bellwire.protocols.timers import Timer

if TYPE_CHECKING:
    from bellwire.protocols.endpoint import Endpoint

Answer = Reply | RequestError
"""What a request comes to: the reply, or the error that ended it."""

UNSURE = (ErrorCode.PEER_LOST, ErrorCode.TIMEOUT, ErrorCode.LIMIT, ErrorCode.EXPIRE)
"""Errors that do not say whether the peer has handled the request: no answer came, or one copy of it was refused unread."""

AnswerHandler = Callable[[Answer], None]


NO_EPOCH = Epoch(0)


class _Ask(msgspec.Struct):
    """A request on its way: repeated until it is answered, its deadline comes or its peer is lost."""

    peer: NodeId
    request: Request
    handler: AnswerHandler
    deadline_ns: int
    interval_ns: int
    cause_id: CauseId
    sent_to: Epoch = NO_EPOCH
    timer: Timer | None = None
    data: bytes = b""


class Asks:
    """Repeats requests, with the same id, until each has come to something."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._pending: dict[int, _Ask] = {}
        self._numbers = 0

    def __len__(self) -> int:
        return len(self._pending)

    def requests(self, peer: NodeId | None = None) -> list[Request]:
        """The requests that await their answer, of one peer or of all."""
        return [ask.request for ask in self._pending.values() if peer in (None, ask.peer)]

    def number(self) -> int:
        """Give the next request id of this incarnation."""
        self._numbers += 1
        return self._numbers

    def add(self, session: Session, request: Request, deadline_ns: int, handler: AnswerHandler) -> int:
        """Send a request now, or as soon as its session is up. With too many under way it ends with LIMIT at once."""
        if len(self._pending) >= MAX_PENDING_REQUESTS:
            return self.refuse(handler, f"{MAX_PENDING_REQUESTS} requests await their answer")
        endpoint, number = self._endpoint, self.number()
        ask = _Ask(session.peer, request, handler, deadline_ns, endpoint.settings.retry_ns, endpoint.cause_id)
        self._pending[number] = ask
        if session.state is SessionState.UP:
            self._transmit(number, ask, session)
        else:
            self._arm(number, ask)
        return number

    def refuse(self, handler: AnswerHandler, text: str) -> int:
        """End a request with LIMIT before it was sent; its handler hears of it right after this stimulus."""
        endpoint = self._endpoint
        endpoint.timers.at(endpoint.now_ns, lambda: handler(RequestError(ErrorCode.LIMIT, text)))
        return self.number()

    def abandon(self, number: int) -> None:
        """Stop repeating a request; its handler is not called any more."""
        ask = self._pending.pop(number, None)
        if ask is not None and ask.timer is not None:
            ask.timer.cancel()

    def transmit(self, session: Session) -> None:
        """A session is up: send everything that waits for it, or may have been lost before."""
        for number, ask in list(self._pending.items()):
            if ask.peer == session.peer:
                self._transmit(number, ask, session)

    def answer(self, session: Session, message: Reply) -> None:
        """Take an answer. One that no request waits for is counted.

        Raises:
            RemoteProtocolError: when it is not of a type that answers the request, which ends with PROTOCOL then.
        """
        ask = self._pending.get(message.request_id)
        if ask is None or ask.peer != session.peer:
            self._endpoint.counters.repeated += 1
            return
        if isinstance(message, SessionError):
            self._conclude(message.request_id, RequestError(message.code, message.text))
        elif isinstance(message, ask.request.answered_by):
            self._conclude(message.request_id, message)
        else:
            text = f"{message.__struct_config__.tag} does not answer {ask.request.__struct_config__.tag}"
            self._conclude(message.request_id, RequestError(ErrorCode.PROTOCOL, text))
            raise RemoteProtocolError(text, "1 §4.4")

    def lose(self, session: Session, why: str, *, epoch: Epoch | None = None, persistent: bool = False) -> None:
        """Fail what awaits an answer of a lost peer, or of one incarnation of it where `epoch` is given.

        What was never sent waits on when the session is `persistent`, and so will be opened again.
        """
        for number, ask in list(self._pending.items()):
            if ask.peer != session.peer:
                continue
            waits = ask.sent_to == 0 and persistent
            if epoch == ask.sent_to or (epoch is None and not waits):
                self._conclude(number, RequestError(ErrorCode.PEER_LOST, why))

    def _transmit(self, number: int, ask: _Ask, session: Session) -> None:
        endpoint = self._endpoint
        request = msgspec.structs.replace(
            ask.request,
            epoch=endpoint.epoch,
            peer_epoch=session.epoch,
            cause_id=ask.cause_id,
            request_id=number,
        )
        ask.data = endpoint.codec.encode(request)
        ask.sent_to = session.epoch
        endpoint.put(session, ask.data)
        self._arm(number, ask)

    def _arm(self, number: int, ask: _Ask) -> None:
        if ask.timer is not None:
            ask.timer.cancel()
        endpoint = self._endpoint
        at_ns = min(endpoint.now_ns + ask.interval_ns, ask.deadline_ns)
        ask.timer = endpoint.timers.at(at_ns, lambda: self._repeat(number))

    def _repeat(self, number: int) -> None:
        ask, endpoint = self._pending[number], self._endpoint
        if endpoint.now_ns >= ask.deadline_ns:
            text = f"{ask.peer} did not answer {ask.request.__struct_config__.tag} in time"
            self._conclude(number, RequestError(ErrorCode.TIMEOUT, text))
            return
        ask.interval_ns = min(2 * ask.interval_ns, endpoint.settings.retry_limit_ns)
        try:
            session = endpoint.want_session(ask.peer)
        except RemoteProtocolError as error:
            self._conclude(number, RequestError(ErrorCode.LIMIT, error.text))
            return
        if session.state is SessionState.UP and ask.data:
            endpoint.counters.retransmitted += 1
            endpoint.put(session, ask.data)
        self._arm(number, ask)

    def _conclude(self, number: int, answer: Answer) -> None:
        ask = self._pending.pop(number, None)
        if ask is None:
            return
        if ask.timer is not None:
            ask.timer.cancel()
        ask.handler(answer)
