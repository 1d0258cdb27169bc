"""The session with one peer: greeting, liveness, restart (spec 1 §4).

The machine knows nothing of frames; its owner, the endpoint, carries its actions out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from bellwire.protocols.errors import ErrorCode
from bellwire.protocols.ids import Epoch, NodeId
from bellwire.protocols.limits import MAX_ANSWERED_BYTES, MAX_ANSWERED_REQUESTS
from bellwire.protocols.machine import Machine, Row
from bellwire.protocols.messages import Role, SessionError
from bellwire.protocols.timers import Timer

NANOSECOND = 1_000_000_000

MAX_HELLOS = 16
"""Hellos of one greeting whose refusal is understood."""

_GREETING_REFUSED = (ErrorCode.VERSION, ErrorCode.STALE, ErrorCode.LIMIT, ErrorCode.DENIED)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """Times of a session in nanoseconds (spec 1 §4.5).

    A peer that was silent for `liveness_ns` is lost. An unanswered request is repeated after `retry_ns`, then after twice
    that, up to `retry_limit_ns`.
    """

    heartbeat_ns: int = 1 * NANOSECOND
    liveness_ns: int = 3 * NANOSECOND
    retry_ns: int = NANOSECOND // 5
    retry_limit_ns: int = 1 * NANOSECOND

    def __post_init__(self) -> None:
        if not 0 < self.heartbeat_ns < self.liveness_ns:
            raise ValueError("heartbeat_ns must be positive and less than liveness_ns")
        if not 0 < self.retry_ns <= self.retry_limit_ns:
            raise ValueError("retry_ns must be positive and at most retry_limit_ns")


class Loss(StrEnum):
    """How a peer was lost: it restarted or left, and holds nothing any more; or it is silent, and nobody knows."""

    RESTARTED = "restarted"
    LEFT = "left"
    SILENT = "silent"


class SessionState(StrEnum):
    """States of a session."""

    DOWN = "down"
    GREETING = "greeting"
    UP = "up"


class SessionInput(StrEnum):
    """Inputs of a session."""

    WANTED = "wanted"
    HELLO = "hello"
    WELCOME = "welcome"
    REFUSED = "refused"
    RETRY = "retry"
    DISOWNED = "disowned"
    SILENCE = "silence"
    GOODBYE = "goodbye"


_S, _I = SessionState, SessionInput


class Session(Machine[SessionState, SessionInput]):
    """What an endpoint knows of one peer.

    `owed` maps the requests of the peer that await their answer to the number under which it will be given; `answered` holds
    the replies given, oldest first, so that a repeat is answered again.
    """

    name = "session"
    rule = "1 §4.2"
    initial = SessionState.DOWN
    table = {
        (_S.DOWN, _I.WANTED): Row(_S.GREETING, "greet", "1 §4.1"),
        (_S.DOWN, _I.HELLO): Row(_S.UP, "opened", "1 §4.1"),
        (_S.DOWN, _I.WELCOME): Row(_S.DOWN, None, "1 §4.2"),
        (_S.DOWN, _I.DISOWNED): Row(_S.DOWN, None, "1 §4.3"),
        (_S.DOWN, _I.GOODBYE): Row(_S.DOWN, None, "1 §4.6"),
        (_S.GREETING, _I.WANTED): Row(_S.GREETING, None, "1 §4.1"),
        (_S.GREETING, _I.HELLO): Row(_S.UP, "opened", "1 §4.1"),
        (_S.GREETING, _I.WELCOME): Row(_S.UP, "opened", "1 §4.1"),
        (_S.GREETING, _I.REFUSED): Row(_S.DOWN, "lost", "1 §4.1"),
        (_S.GREETING, _I.RETRY): Row(_S.GREETING, "greet", "1 §4.1"),
        (_S.GREETING, _I.DISOWNED): Row(_S.GREETING, None, "1 §4.3"),
        (_S.GREETING, _I.SILENCE): Row(_S.DOWN, "lost", "1 §4.5"),
        (_S.GREETING, _I.GOODBYE): Row(_S.DOWN, "lost", "1 §4.6"),
        (_S.UP, _I.WANTED): Row(_S.UP, None, "1 §4.1"),
        (_S.UP, _I.HELLO): Row(_S.UP, "opened", "1 §4.1"),
        (_S.UP, _I.WELCOME): Row(_S.UP, "renewed", "1 §4.2"),
        (_S.UP, _I.DISOWNED): Row(_S.GREETING, "greet", "1 §4.3"),
        (_S.UP, _I.SILENCE): Row(_S.DOWN, "lost", "1 §4.5"),
        (_S.UP, _I.GOODBYE): Row(_S.DOWN, "lost", "1 §4.6"),
    }

    def __init__(
        self,
        peer: NodeId,
        *,
        greet: Callable[[Session], None],
        opened: Callable[[Session], None],
        lost: Callable[[Session, Loss, str], None],
    ) -> None:
        super().__init__()
        self.peer = peer
        self.epoch = Epoch(0)
        self.role: Role | None = None
        self.version = 0
        self.capabilities: tuple[str, ...] = ()
        self.endpoints: tuple[str, ...] = ()
        self.heard_ns = 0
        self.spoke_ns = 0
        self.greeted_ns = 0
        self.greetings = 0
        self.hellos: dict[int, int] = {}
        """When the latest hellos were sent, by request id."""
        self.present = False
        self.hint = ""
        self.timer: Timer | None = None
        self.owed: dict[int, int] = {}
        self.answered: OrderedDict[int, bytes] = OrderedDict()
        self.answered_bytes = 0
        self.forgotten = 0
        self._greet, self._opened, self._lost = greet, opened, lost

    def hello_sent(self, request_id: int, now_ns: int) -> None:
        """Note a hello, whose answer is to be recognised."""
        self.greeted_ns = now_ns
        self.hellos[request_id] = now_ns
        if len(self.hellos) > MAX_HELLOS:
            del self.hellos[next(iter(self.hellos))]

    def is_refused_by(self, error: SessionError) -> bool:
        """Whether an error refuses one of the latest hellos of the present greeting, for good (spec 1 §6.2)."""
        greeting = self.state is SessionState.GREETING and error.request_id in self.hellos
        return greeting and error.code in _GREETING_REFUSED

    def greet(self) -> None:
        """Send a hello."""
        self._greet(self)

    def opened(self) -> None:
        """Both sides know each other's epoch and version."""
        self._opened(self)

    def renewed(self) -> None:
        """A welcome to a session that is up already: news only when it is from an incarnation that was not met before."""
        if not self.present:
            self._opened(self)

    def lost(self, loss: Loss, why: str) -> None:
        """The peer is gone, by its own word or by its silence."""
        self._lost(self, loss, why)

    def drop(self, why: str) -> None:
        """Lose a peer that may not be here any more, without a word to it."""
        if self.state is not SessionState.DOWN:
            self.step(SessionInput.SILENCE, Loss.SILENT, why)

    def forget_answers(self) -> None:
        """Forget what an earlier incarnation of the peer asked."""
        self.owed.clear()
        self.answered.clear()
        self.answered_bytes = 0
        self.forgotten = 0

    def take(self, request_id: int, number: int) -> bool:
        """Note a new request. Returns `False` when there is no room for it: all that is kept still awaits an answer."""
        while len(self.owed) + len(self.answered) >= MAX_ANSWERED_REQUESTS:
            if not self.answered:
                return False
            self._forget_oldest()
        self.owed[request_id] = number
        return True

    def answer(self, request_id: int, data: bytes) -> None:
        """Keep the answer to a request that was owed. The oldest ones go when all of them are too long."""
        del self.owed[request_id]
        self.answered[request_id] = data
        self.answered_bytes += len(data)
        while self.answered_bytes > MAX_ANSWERED_BYTES:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        oldest, data = self.answered.popitem(last=False)
        self.answered_bytes -= len(data)
        self.forgotten = max(self.forgotten, oldest)
