"""One participant on the wire: its sessions, its requests and its timers (spec 1 §4). Sans I/O.

A driver feeds frames and time in (`receive`, `handle_deadline`) and takes frames out (`take_frames`); what is above registers
handlers for the messages that it understands and asks, replies and tells. Everything happens within one stimulus: `now_ns`
and `cause_id` stand still until it has been dealt with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from bellwire.protocols.access import KnownRoles, check_access
from bellwire.protocols.asks import Answer, AnswerHandler, Asks
from bellwire.protocols.codec import CODEC, Codec, Undecodable
from bellwire.protocols.counters import Counters
from bellwire.protocols.departures import Departure, Departures
from bellwire.protocols.duties import Duties
from bellwire.protocols.errors import ErrorCode, RemoteProtocolError, RequestError
from bellwire.protocols.ids import BROKER, CauseId, Epoch, NetworkTimeNs, NodeId
from bellwire.protocols.introductions import Introductions
from bellwire.protocols.limits import MAX_PEERS, MAX_TEXT_CHARS
from bellwire.protocols.messages import (
    Message,
    Reply,
    Request,
    Role,
    SessionError,
    SessionGoodbye,
    SessionHeartbeat,
    SessionHello,
    SessionWelcome,
)
from bellwire.protocols.network_clock import NetworkClock, NetworkTimers
from bellwire.protocols.session import Loss, Session, SessionInput, SessionSettings, SessionState
from bellwire.protocols.timers import Timer, TimerQueue
from bellwire.protocols.version import SUPPORTED_VERSIONS, negotiate

__all__ = ["Answer", "AnswerHandler", "Endpoint"]

M = TypeVar("M", bound=Message)
R = TypeVar("R", bound=Request)


class Endpoint:
    """A participant's sessions and requests."""

    def __init__(
        self,
        node: NodeId,
        role: Role,
        epoch: Epoch,
        *,
        codec: Codec | None = None,
        settings: SessionSettings | None = None,
        capabilities: tuple[str, ...] = (),
        clock: NodeId | None = None,
    ) -> None:
        self.node = node
        self.role = role
        self.epoch = epoch
        self.settings = settings or SessionSettings()
        self.capabilities = capabilities
        self.endpoints: tuple[str, ...] = ()  # where others may connect to: told to the broker (spec 1 §4.7)
        self.codec = codec or CODEC
        self.timers = TimerQueue()
        self.counters = Counters()
        self.is_direct: Callable[[NodeId], bool] = lambda _: role is Role.BROKER  # whether nobody relays to a peer
        self.now_ns = 0
        self.cause_id = CauseId("")
        self.sessions: dict[NodeId, Session] = {}
        self.known_roles = KnownRoles()
        self.on_peer_up: list[Callable[[NodeId], None]] = []
        self.on_peer_lost: list[Callable[[NodeId, Loss, str], None]] = []
        self.clock = NetworkClock(own=clock is None)
        self.network_timers = NetworkTimers(self.clock, self.timers, lambda: self.now_ns)
        self.departures = Departures()
        self._frames: list[tuple[NodeId, bytes]] = []
        self.asks = Asks(self)
        self.duties = Duties(self)
        self.introductions = Introductions(self)
        self._stimuli = 0
        self._woke_ns = 0  # when this participant last came back from a pause in which it heard nobody
        self._persistent: set[NodeId] = set()

    # What a driver calls.

    def begin(self, now_ns: int, cause: str = "") -> None:
        """Begin a stimulus: set the time and a fresh cause for everything that follows from it."""
        self.now_ns = now_ns
        self._stimuli += 1
        self.cause_id = CauseId(cause or f"{self.node}:{self._stimuli}")

    def receive(self, peer: NodeId, data: bytes, now_ns: int) -> None:
        """Take one message frame that came from `peer`, as the transport authenticated it."""
        self.catch_up(now_ns)
        self.begin(now_ns)
        try:
            message = self.codec.decode(data)
        except Undecodable as error:
            self.counters.malformed += 1
            if error.header.type != "session.error":
                self._refuse(peer, error.header.request_id, error, error.header.epoch)
            return
        try:
            self._dispatch(peer, message)
        except RemoteProtocolError as error:
            self.counters.unexpected += 1
            request_id = message.request_id if isinstance(message, Request) else 0
            self._refuse(peer, request_id, error, message.epoch)

    def next_deadline_ns(self) -> int | None:
        """When `handle_deadline` wants to be called next, on this participant's own clock."""
        return self.timers.next_deadline_ns()

    def handle_deadline(self, now_ns: int) -> None:
        """Do what has come due."""
        deadline_ns = self.timers.next_deadline_ns()
        if deadline_ns is not None and now_ns - deadline_ns >= self.settings.heartbeat_ns:
            self._woke_ns = now_ns
        self.begin(now_ns)
        self.timers.fire_due(now_ns)

    def catch_up(self, now_ns: int) -> None:
        """Do first what has come due: on a late loop a deadline counts before what arrives after it."""
        if self.timers.is_due(now_ns):
            self.handle_deadline(now_ns)

    def take_frames(self) -> list[tuple[NodeId, bytes]]:
        """Take the frames to be sent, in order, each with the participant that it is for."""
        frames, self._frames = self._frames, []
        return frames

    # What is above calls.

    def handle(self, message: type[R], handler: Callable[[NodeId, R], Reply | None]) -> None:
        """Register what answers a request. A handler that returns `None` owes the answer and gives it by `reply`.

        The `request_id` that a handler sees is this endpoint's own number for the request, good for `reply` and `fail`. It is
        not the one on the wire, which a later incarnation of the peer may use again.
        """
        self.duties.handle(message, handler)

    def keep_session(self, peer: NodeId) -> None:
        """Open a session with a peer, and open it again whenever it is lost."""
        self._persistent.add(peer)
        self._session(peer).step(SessionInput.WANTED)

    def release_session(self, peer: NodeId) -> None:
        """Say goodbye to a peer."""
        self._persistent.discard(peer)
        session = self.sessions.get(peer)
        if session is not None and session.state is not SessionState.DOWN:
            self._send(session, SessionGoodbye(reason="closing"))
            session.step(SessionInput.GOODBYE, Loss.LEFT, "this side said goodbye")
        elif session is not None:
            self._lose(session, Loss.LEFT, "this side said goodbye")

    def close(self) -> None:
        """Say goodbye to every peer."""
        for peer in list(self.sessions):
            self.release_session(peer)

    def ask(self, peer: NodeId, request: Request, deadline_ns: int, handler: AnswerHandler) -> int:
        """Send a request and repeat it until it is answered. `handler` is called exactly once.

        It is given the reply, or a `RequestError`: TIMEOUT at `deadline_ns` (own clock), PEER_LOST when the peer is lost or
        restarts, or the code of the peer's own refusal. Returns the request's id.
        LIMIT says that too many of this endpoint's own requests await their answer.
        """
        try:
            session = self.want_session(peer)
        except RemoteProtocolError as error:
            return self.asks.refuse(handler, error.text)
        return self.asks.add(session, request, deadline_ns, handler)

    def abandon(self, number: int) -> None:
        """Stop repeating a request; its handler is not called any more."""
        self.asks.abandon(number)

    def tell(self, peer: NodeId, message: Message) -> bool:
        """Send a message that nobody answers, if the session with the peer is up."""
        return self.tell_timed(peer, message) is not None

    def tell_timed(self, peer: NodeId, message: Message) -> Departure | None:
        """As `tell`; the departure says when its frame left. `None` when the session is not up."""
        session = self.sessions.get(peer)
        if session is None or session.state is not SessionState.UP:
            return None
        data = self.encode(session, message)
        self.put(session, data)
        return self.departures.of(data, self.now_ns)

    def hear(self, message: type[M], handler: Callable[[NodeId, M], None]) -> None:
        """Register what takes a message that nobody answers."""
        self.duties.hear(message, handler)

    def reply(self, peer: NodeId, request_id: int, reply: Reply) -> None:
        """Answer a request by the number that its handler was given. The answer is kept, and given again when it is repeated.

        Answering twice does nothing, nor does answering a peer that has restarted since it asked.
        """
        self.duties.reply(peer, request_id, reply)

    def fail(self, peer: NodeId, request_id: int, error: RequestError) -> None:
        """Answer a request with an error."""
        self.reply(peer, request_id, SessionError(code=error.code, text=error.text[:MAX_TEXT_CHARS]))

    def is_up(self, peer: NodeId) -> bool:
        """Whether the session with a peer is up."""
        session = self.sessions.get(peer)
        return session is not None and session.state is SessionState.UP

    def role_of(self, peer: NodeId) -> Role | None:
        """The role of a peer: as authenticated, or by its own word where nobody vouches for one. `None` of a stranger."""
        session = self.sessions.get(peer)
        return self.introductions.role_of(peer) or (None if session is None else session.role)

    @property
    def has_time(self) -> bool:
        """Whether the network's time may be relied on, to within the clock's uncertainty."""
        return self.clock.known

    def network_time_ns(self, local_ns: int | None = None) -> NetworkTimeNs:
        """The network's time at a local time (now, when none is given). The own clock's until a source was heard."""
        return NetworkTimeNs(self.clock.network_ns(self.now_ns if local_ns is None else local_ns))

    def local_time_ns(self, network_ns: int) -> int:
        """The local time of a moment on the network's clock, as things stand: what must be exact is timed by `at_network`."""
        return self.clock.local_ns(network_ns)

    def at_network(self, network_ns: int, call: Callable[[], None]) -> Timer:
        """Call `call` once the network's time has come to `network_ns`, however the clock is steered until then."""
        return self.network_timers.at(network_ns, call)

    # Incoming.

    def _dispatch(self, peer: NodeId, message: Message) -> None:
        session = self.sessions.get(peer)
        if type(message) is SessionHello:
            self._hello(peer, message)
        elif type(message) is SessionError:
            self._error(peer, session, message)
        elif session is None:
            self._stranger(peer, message)
        elif type(message) is SessionWelcome:
            self._welcome(session, message)
        elif self._current(session, message):
            session.heard_ns = self.now_ns
            check_access(self.codec.access, message, session.role, self.role)
            if isinstance(message, Request):
                self.duties.take(session, message)
            elif isinstance(message, Reply):
                self.asks.answer(session, message)
            elif isinstance(message, SessionGoodbye):
                session.step(SessionInput.GOODBYE, Loss.LEFT, f"{peer} said goodbye: {message.reason}")
            else:
                self.duties.listen(peer, message)

    def _current(self, session: Session, message: Message) -> bool:
        """Whether a message belongs to the session as it stands; the peer is told when not (spec 1 §4.3)."""
        ours = message.epoch == session.epoch and message.peer_epoch == self.epoch
        if ours and session.state is SessionState.UP:
            return True
        if message.epoch < session.epoch:
            self.counters.stale += 1
            return False
        if session.state is SessionState.GREETING and ours:
            # The peer is up. Were it told to greet too, each would forever disown what the other had just opened.
            self.counters.strangers += 1
            return False
        if session.state is not SessionState.UP or message.epoch > session.epoch:
            self._stranger(session.peer, message)
            return False
        if message.peer_epoch != self.epoch:
            self.counters.stale += 1
            text = f"meant for incarnation {message.peer_epoch} of {self.node}, this is {self.epoch}"
            self._refuse(session.peer, 0, RemoteProtocolError(text, "1 §4.3", ErrorCode.STALE), message.epoch)
            return False
        return True

    def _stranger(self, peer: NodeId, message: Message) -> None:
        """A message outside of any session: its sender is told to greet first."""
        self.counters.strangers += 1
        if isinstance(message, SessionGoodbye):
            return
        error = RemoteProtocolError(f"{peer} has no session with {self.node}", "1 §4.3", ErrorCode.NO_SESSION)
        self._refuse(peer, 0, error, message.epoch)

    def _hello(self, peer: NodeId, message: SessionHello) -> None:
        if not message.epoch:
            raise RemoteProtocolError("a hello names its sender's epoch", "1 §4.1")
        session = self._session(peer)
        if message.epoch < session.epoch:
            self.counters.stale += 1
            text = f"{peer} has been here in a later incarnation"
            self._refuse(peer, message.request_id, RemoteProtocolError(text, "1 §4.3", ErrorCode.STALE), message.epoch)
            return
        version = negotiate(message.versions)
        if version is None:
            text = f"{self.node} speaks {list(SUPPORTED_VERSIONS)}, {peer} speaks {list(message.versions)}"
            raise RemoteProtocolError(text, "1 §4.1", ErrorCode.VERSION)
        self.known_roles.check(peer, message.role)
        self.introductions.check(peer, message.role)
        session.capabilities, session.endpoints = message.capabilities, message.endpoints
        welcome = SessionWelcome(
            epoch=self.epoch,
            peer_epoch=message.epoch,
            cause_id=self.cause_id,
            request_id=message.request_id,
            version=version,
            role=self.role,
            capabilities=self.capabilities,
            heartbeat_ns=self.settings.heartbeat_ns,
        )
        self.put(session, self.codec.encode(welcome))
        self._meet(session, message.epoch, message.role, version)
        session.step(SessionInput.HELLO)

    def _welcome(self, session: Session, message: SessionWelcome) -> None:
        if message.peer_epoch != self.epoch or message.epoch < max(session.epoch, 1):
            self.counters.stale += 1
            return
        if message.version not in SUPPORTED_VERSIONS:
            raise RemoteProtocolError(f"version {message.version} was never offered", "1 §4.1", ErrorCode.VERSION)
        self.known_roles.check(session.peer, message.role)
        self.introductions.check(session.peer, message.role)
        session.capabilities = message.capabilities
        self._meet(session, message.epoch, message.role, message.version)
        session.step(SessionInput.WELCOME)

    def _meet(self, session: Session, epoch: Epoch, role: Role, version: int) -> None:
        """Note who the peer is now. A later incarnation than the one known is a restart: the former one is lost."""
        if session.epoch and epoch > session.epoch:
            former = session.epoch
            self.duties.forget(session)
            session.forget_answers()
            session.epoch = epoch
            self._lose(session, Loss.RESTARTED, f"{session.peer} restarted", epoch=former)
        session.epoch, session.role, session.version = epoch, role, version
        session.heard_ns = self.now_ns

    def _error(self, peer: NodeId, session: Session | None, message: SessionError) -> None:
        if message.peer_epoch not in (0, self.epoch) or (session is not None and 0 < message.epoch < session.epoch):
            self.counters.stale += 1
            return
        if message.code is ErrorCode.NO_ROUTE:
            unreachable = self.sessions.get(message.peer)
            if session is None or peer != BROKER or unreachable is None or self.is_direct(message.peer):
                return
            unreachable.hint = message.text
            if unreachable.state is SessionState.UP:
                unreachable.step(SessionInput.DISOWNED)
            return
        if session is None:
            return
        if session.state is SessionState.UP and message.epoch == session.epoch:
            session.heard_ns = self.now_ns
        if session.is_refused_by(message):
            session.step(SessionInput.REFUSED, Loss.SILENT, f"{peer} refused the session: {message.text}")
        elif message.code in (ErrorCode.NO_SESSION, ErrorCode.STALE):
            session.step(SessionInput.DISOWNED)
        elif message.request_id:
            self.asks.answer(session, message)
        else:
            self.counters.note_error(peer, message)

    # Sessions.

    def want_session(self, peer: NodeId) -> Session:
        """The session with a peer, opened if it is down."""
        session = self.sessions.get(peer) or self._session(peer)
        if session.state is SessionState.DOWN:
            session.step(SessionInput.WANTED)
        return session

    def _session(self, peer: NodeId) -> Session:
        session = self.sessions.get(peer)
        if session is None:
            if len(self.sessions) >= MAX_PEERS:
                self._evict()
            session = Session(peer, greet=self._greet, opened=self._opened, lost=self._lost)
            self.sessions[peer] = session
        return session

    def _evict(self) -> None:
        for peer, session in self.sessions.items():
            if session.state is SessionState.DOWN and peer not in self._persistent:
                self.duties.forget(session)
                del self.sessions[peer]
                return
        raise RemoteProtocolError(f"{self.node} has {MAX_PEERS} sessions", "1 §3.4", ErrorCode.LIMIT)

    def _greet(self, session: Session) -> None:
        if session.greeted_ns == 0:
            session.heard_ns = self.now_ns
        self._say_hello(session)
        self._watch(session, self.settings.retry_ns)

    def _say_hello(self, session: Session) -> None:
        number = self.asks.number()
        session.hello_sent(number, self.now_ns)
        hello = SessionHello(
            epoch=self.epoch,
            cause_id=self.cause_id,
            request_id=number,
            versions=SUPPORTED_VERSIONS,
            role=self.role,
            capabilities=self.capabilities,
            heartbeat_ns=self.settings.heartbeat_ns,
            endpoints=self.endpoints if session.peer == BROKER else (),
        )
        self.put(session, self.codec.encode(hello))

    def _opened(self, session: Session) -> None:
        session.hint = ""
        session.present = True
        self._watch(session, self.settings.heartbeat_ns)
        self.asks.transmit(session)
        for listener in self.on_peer_up:
            listener(session.peer)

    def _lost(self, session: Session, loss: Loss, why: str) -> None:
        if session.timer is not None:
            session.timer.cancel()
        session.greeted_ns = 0
        self._lose(session, loss, why)
        if session.peer in self._persistent:
            self.timers.at(self.now_ns + self.settings.retry_ns, lambda: self._renew(session))

    def _renew(self, session: Session) -> None:
        if session.peer in self._persistent and session.state is SessionState.DOWN:
            session.step(SessionInput.WANTED)

    def _lose(self, session: Session, loss: Loss, why: str, *, epoch: Epoch | None = None) -> None:
        """Fail what awaits an answer of a lost peer (of one incarnation, where `epoch` is given), and say that it is lost."""
        self.asks.lose(session, why, epoch=epoch, persistent=session.peer in self._persistent)
        if session.present:
            session.present = False
            for listener in self.on_peer_lost:
                listener(session.peer, loss, why)

    def _watch(self, session: Session, delay_ns: int) -> None:
        if session.timer is not None:
            session.timer.cancel()
        session.timer = self.timers.at(self.now_ns + delay_ns, lambda: self._look(session))

    def _look(self, session: Session) -> None:
        """Look after a session: repeat a hello, send a heartbeat, notice silence."""
        silent_ns = self.now_ns - max(session.heard_ns, self._woke_ns)
        if session.state is SessionState.DOWN:
            return
        if silent_ns >= self.settings.liveness_ns and not (
            session.state is SessionState.GREETING and session.epoch == 0 and session.peer in self._persistent
        ):
            why = session.hint or f"{session.peer} was silent for {silent_ns / 1e9:.1f} s"
            session.step(SessionInput.SILENCE, Loss.SILENT, why)
            return
        if session.state is SessionState.GREETING:
            session.step(SessionInput.RETRY)
            return
        idle_ns = self.now_ns - session.spoke_ns
        if idle_ns >= self.settings.heartbeat_ns:
            self._send(session, SessionHeartbeat())
            idle_ns = 0
        self._watch(session, self.settings.heartbeat_ns - idle_ns)

    # Outgoing.

    def encode(self, session: Session, message: Message) -> bytes:
        """Encode a message for a session's peer, with both epochs and the cause."""
        stamped = msgspec.structs.replace(message, epoch=self.epoch, peer_epoch=session.epoch, cause_id=self.cause_id)
        return self.codec.encode(stamped)

    def _send(self, session: Session, message: Message) -> None:
        self.put(session, self.encode(session, message))

    def put(self, session: Session, data: bytes) -> None:
        """Send a frame to a session's peer."""
        session.spoke_ns = self.now_ns
        self._frames.append((session.peer, data))

    def _refuse(self, peer: NodeId, request_id: int, error: RemoteProtocolError, epoch: Epoch) -> None:
        """Answer what broke a rule. `epoch` is the incarnation that the sender gave itself."""
        message = SessionError(
            epoch=self.epoch,
            peer_epoch=epoch,
            cause_id=self.cause_id,
            request_id=request_id,
            code=error.code,
            text=error.text[:MAX_TEXT_CHARS],
            rule=error.rule,
        )
        self._frames.append((peer, self.codec.encode(message)))
