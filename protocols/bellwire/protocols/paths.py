"""Which way messages to a peer go: relayed by the broker, or over a direct connection (spec 1 §4.8). Sans I/O.

The paths lie between an endpoint and the transport. The transport tells which direct connections stand and which broke, and
does what `take_instructions` and `take_outbox` say; sessions do not notice when a path changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from bellwire.protocols.access import EVERYBODY, NODES
from bellwire.protocols.arrival import RELAY
from bellwire.protocols.codec import CODEC, Undecodable
from bellwire.protocols.driven import DrivenCapable
from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.ids import BROKER, Epoch, NodeId
from bellwire.protocols.limits import MAX_REPORTED_PEERS
from bellwire.protocols.messages import (
    FencePart,
    Message,
    Role,
    SessionFence,
    SessionFenced,
    SessionIntroduction,
    SessionReport,
    SessionStatus,
)
from bellwire.protocols.path import Dial, Dispatch, HangUp, Path, PathInput, PathSettings, PathState
from bellwire.protocols.session import Loss, SessionState
from bellwire.protocols.timers import Timer, TimerQueue

HELD: Final = -1
"""The path of a frame that is kept for now."""

DROPPED: Final = -2
"""The path of a frame for which there was no room."""

_FENCE: Final = b"session.fence"
_TYPE_AT: Final = 7
"""Where the type of a fence stands in its bytes: behind the header of the map, the key `type` and the text's own header."""


class Paths:
    """The paths to all peers of one participant. Drives what it is given as a driver would, with frames in order.

    A participant that has not said where it listens (`Endpoint.endpoints`) connects to others all the same. One that `connects`
    to nobody takes fences and sends none.
    """

    def __init__(
        self, driven: DrivenCapable, endpoint: Endpoint, settings: PathSettings | None = None, *, connects: bool = True
    ) -> None:
        self.connects = connects
        self.settings = settings or PathSettings()
        self.hold_ns = endpoint.settings.liveness_ns // 3
        self.timers = TimerQueue()
        self.outbox: list[Dispatch] = []
        """What is to be sent before anything else (`take_outbox`)."""
        self.on_changed: list[Callable[[NodeId, bool], None]] = []
        """Told of a peer whether its messages go directly from now on."""
        self.on_dropped: list[Callable[[NodeId, int], None]] = []
        """Told of a peer, and of the number of a direct connection to it that is a path no more."""
        self.counters = endpoint.counters
        self._driven = driven
        self._endpoint = endpoint
        self._paths: dict[NodeId, Path] = {}
        self._by_number: dict[int, Path] = {}
        self._numbers = 0
        self._stretches = 0
        self._has_forgotten = False
        self._instructions: list[Dial | HangUp] = []
        self._now_ns = endpoint.now_ns
        endpoint.is_direct = self.is_direct
        endpoint.introductions.on_introduced.append(self._introduced)
        endpoint.introductions.on_revoked.append(lambda _: self._forget_unknown())
        endpoint.on_peer_up.append(self._peer_up)
        endpoint.on_peer_lost.append(self._peer_lost)

    # What a driver calls.

    def receive(self, peer: NodeId, data: bytes, now_ns: int) -> None:
        """Take one message frame that came by way of the relay."""
        self.arrive(RELAY, peer, data, now_ns)

    def next_deadline_ns(self) -> int | None:
        """When `handle_deadline` wants to be called next."""
        own_ns, driven_ns = self.timers.next_deadline_ns(), self._driven.next_deadline_ns()
        if own_ns is None or driven_ns is None:
            return driven_ns if own_ns is None else own_ns
        return min(own_ns, driven_ns)

    def handle_deadline(self, now_ns: int) -> None:
        """Do what has come due."""
        self._now_ns = now_ns
        self.timers.fire_due(now_ns)
        self._driven.handle_deadline(now_ns)

    def take_frames(self) -> list[tuple[NodeId, bytes]]:
        """Take the frames to be sent, in order: each goes on the path of its peer (`route`)."""
        return self._driven.take_frames()

    # What a transport calls.

    def route(self, peer: NodeId, data: bytes) -> int:
        """The number of the path on which a frame goes to a peer.

        `HELD` when it is kept, and comes with the outbox later; `DROPPED` when it should be, and there was no room for it.
        """
        way = self._paths.get(peer)
        if way is None:
            return RELAY
        if way.dormant:
            self._wake(way)
        if way.unfenced is None or way.path != RELAY:
            return way.path
        if way.keep(data):
            return HELD
        self.counters.unkept += 1
        return DROPPED

    def is_direct(self, peer: NodeId) -> bool:
        """Whether messages to a peer go over a direct connection."""
        way = self._paths.get(peer)
        return way is not None and way.path != RELAY

    def arrive(self, path: int, peer: NodeId, data: bytes, now_ns: int) -> None:
        """Take one message frame that came from `peer` on a path."""
        self._now_ns = now_ns
        if data.startswith(_FENCE, _TYPE_AT):
            self._fence(path, peer, data)
            return
        way = self._paths.get(peer)
        if way is None or way.arrival.take(path, data):
            self._driven.receive(peer, data, now_ns)

    def begins(self, peer: NodeId, data: bytes) -> bool:
        """Whether a frame is the fence with which a peer begins a stretch that it had not begun before."""
        way = self._paths.get(peer)
        if way is None or not data.startswith(_FENCE, _TYPE_AT):
            return False
        try:
            message = CODEC.decode(data)
        except Undecodable:
            return False
        if not isinstance(message, SessionFence) or message.part is FencePart.END:
            return False
        news = message.epoch > way.arrival.epoch or message.number > way.arrival.newest
        return news and message.peer_epoch == self._endpoint.epoch and message.epoch >= way.arrival.epoch

    def accept(self, peer: NodeId, data: bytes, now_ns: int) -> int:
        """A peer has connected and begins to talk, with a frame that `begins`: number the new path."""
        path = self.new_path(self._paths[peer])
        self.arrive(path, peer, data, now_ns)
        self.stands(path, now_ns)
        return path

    def stands(self, path: int, now_ns: int) -> None:
        """A direct connection stands: this side made it, or its first fence has come."""
        self._now_ns = now_ns
        way = self._by_number.get(path)
        if way is not None:
            self._step(way, PathInput.STANDS, path)

    def broken(self, path: int, now_ns: int | None = None) -> None:
        """A direct connection is gone, or an attempt at one has failed."""
        if now_ns is not None:
            self._now_ns = now_ns
        way = self._by_number.get(path)
        if way is None:
            return
        self.drop(path)
        dialled = path == way.dialled
        if dialled:
            way.dialled = RELAY
        if path == way.path or (dialled and way.state is PathState.DIALLING):
            self._step(way, PathInput.BROKEN, path)

    def take_outbox(self) -> list[Dispatch]:
        """Take frames to be sent before any other frame to the same peer, each on the path that it names or not at all."""
        outbox, self.outbox = self.outbox, []
        return outbox

    def take_instructions(self) -> list[Dial | HangUp]:
        """Take what is to be done about connections, in order."""
        instructions, self._instructions = self._instructions, []
        return instructions

    # What happens to peers.

    def _introduced(self, message: SessionIntroduction) -> None:
        self._now_ns = self._endpoint.now_ns
        way = self._paths.get(message.node)
        if way is None:
            way = self._paths[message.node] = Path(self, message)
            self._forget_unknown()
            if self._has_forgotten and self.connects:
                # It may be the very one that was forgotten, and wait for another stretch than the first.
                way.resume()
        else:
            way.introduction = message
            if message.incarnation > way.arrival.epoch:
                self._restarted(way, message.incarnation)
                if way.timer is not None:
                    way.timer.cancel()
        way.attempts = 0
        self._wake(way)

    def _restarted(self, way: Path, epoch: Epoch) -> None:
        """The peer's former incarnation is gone, with its connections."""
        former, direct = way.path, way.path != RELAY
        way.hang_up()
        if way.state is PathState.DIALLING:
            way.step(PathInput.BROKEN, RELAY)
        way.listen_anew(epoch)
        way.unfenced = None
        way.forget_queue()
        if direct:
            self.drop(former)
            self._step(way, PathInput.BROKEN, former)

    def _forget_unknown(self) -> None:
        """Keep no more peers than are known by introductions."""
        introductions = self._endpoint.introductions
        if len(self._paths) <= len(introductions):
            return
        for peer in [peer for peer in self._paths if introductions.get(peer) is None]:
            way = self._paths.pop(peer)
            way.hang_up()
            for timer in (way.timer, way.repeat, way.patience):
                if timer is not None:
                    timer.cancel()
            self._has_forgotten = True
            for path in [path for path, each in self._by_number.items() if each is way]:
                self.drop(path)

    def _peer_up(self, peer: NodeId) -> None:
        way = self._paths.get(peer)
        if way is not None:
            self._now_ns = self._endpoint.now_ns
            self._wake(way)

    def _peer_lost(self, peer: NodeId, loss: Loss, _why: str) -> None:
        """Try and repeat nothing for a peer that nobody talks to."""
        way = self._paths.get(peer)
        if way is None or loss is Loss.RESTARTED:
            return
        self._now_ns = self._endpoint.now_ns
        way.dormant = True
        way.forget_queue()
        if way.state is PathState.DIALLING:
            way.hang_up()
            way.step(PathInput.BROKEN, RELAY)
        for timer in (way.timer, way.repeat):
            if timer is not None:
                timer.cancel()

    def _wake(self, way: Path) -> None:
        dormant, way.dormant = way.dormant, False
        if dormant:
            self._repeat(way)
        self.approach(way)

    def approach(self, way: Path) -> None:
        """See to it that a peer is connected to, by the one of both who should (spec 1 §4.8)."""
        own, theirs = self._endpoint.endpoints, way.introduction.endpoints
        waiting = way.timer is not None and way.timer.call is not None
        if way.state is not PathState.RELAYED or way.dormant or not theirs or waiting or not self.connects:
            return
        first = not own or self._endpoint.node < way.peer
        self.set_due(way, 0 if first and not way.attempts else self.settings.patience_ns)

    # What the peers' machines call.

    @property
    def relays(self) -> bool:
        """Whether the broker is there, as far as is known."""
        return self._endpoint.is_up(BROKER)

    def new_path(self, way: Path) -> int:
        """Number a direct connection to a peer."""
        self._numbers += 1
        self._by_number[self._numbers] = way
        return self._numbers

    def drop(self, path: int) -> None:
        """Forget a direct connection."""
        way = self._by_number.pop(path, None)
        if way is not None:
            way.arrival.close(path)
            for listener in self.on_dropped:
                listener(way.peer, path)

    def new_stretch(self) -> int:
        """Number a stretch. No two have the same, whoever they are for."""
        self._stretches += 1
        return self._stretches

    def instruct(self, instruction: Dial | HangUp) -> None:
        """Have the transport do something about a connection."""
        self._instructions.append(instruction)

    def hand_on(self, peer: NodeId, data: bytes) -> None:
        """Hand a message on, in its turn."""
        self._driven.receive(peer, data, self._now_ns)

    def after(self, delay_ns: int, call: Callable[[], None]) -> Timer:
        """Call `call` after a while."""
        return self.timers.at(self._now_ns + delay_ns, call)

    def set_due(self, way: Path, delay_ns: int) -> None:
        """Look after a connection later."""
        if way.timer is not None:
            way.timer.cancel()
        way.timer = self.after(delay_ns, lambda: self._due(way))

    def put(self, path: int, peer: NodeId, data: bytes) -> Dispatch:
        """Send a frame to a peer on a path."""
        dispatch = Dispatch(path=path, peer=peer, data=data)
        self.outbox.append(dispatch)
        return dispatch

    def put_fence(self, way: Path, path: int, part: FencePart) -> Dispatch:
        """Put a fence on a path to a peer."""
        return self._say(path, way, SessionFence(number=way.number, part=part))

    def repeat_later(self, way: Path) -> None:
        """Repeat the last beginning, as often as a hello, until the peer has said that it came."""
        if way.repeat is not None:
            way.repeat.cancel()
        if not way.dormant:
            way.repeat = self.after(self._endpoint.settings.retry_ns, lambda: self._repeat(way))

    # Within.

    def _say(self, path: int, way: Path, message: Message) -> Dispatch:
        stamped = msgspec.structs.replace(message, epoch=self._endpoint.epoch, peer_epoch=way.arrival.epoch)
        return self.put(path, way.peer, CODEC.encode(stamped))

    def _step(self, way: Path, given: PathInput, path: int) -> None:
        before = way.path
        way.step(given, path)
        if (before == RELAY) != (way.path == RELAY):
            for listener in self.on_changed:
                listener(way.peer, way.path != RELAY)

    def _due(self, way: Path) -> None:
        if way.state is PathState.DIRECT or not way.introduction.endpoints:
            return
        way.step(PathInput.DUE, RELAY)

    def _repeat(self, way: Path) -> None:
        if way.unfenced is not None:
            self.outbox.append(way.unfenced)
            self.repeat_later(way)

    def _fence(self, path: int, peer: NodeId, data: bytes) -> None:
        way = self._paths.get(peer)
        try:
            message = CODEC.decode(data)
        except Undecodable:
            self._driven.receive(peer, data, self._now_ns)  # which refuses it (spec 1 §3.1)
            return
        if way is None or message.peer_epoch != self._endpoint.epoch or message.epoch < way.arrival.epoch:
            self.counters.stale += 1
            return
        if message.epoch > way.arrival.epoch:
            self._restarted(way, message.epoch)
        if isinstance(message, SessionFence):
            way.arrival.fence(path, message.part, message.number)
            if message.part is not FencePart.END:
                self._say(way.path, way, SessionFenced(number=message.number))
        elif isinstance(message, SessionFenced) and message.number == way.number:
            way.unfenced = None
            way.release()


def serve_status(endpoint: Endpoint) -> None:
    """Let an endpoint answer with whom it is in session, and which way. A broker names no applications."""
    named = NODES if endpoint.role is Role.BROKER else EVERYBODY

    def status(_peer: NodeId, _message: SessionStatus) -> SessionReport:
        up = sorted(
            peer
            for peer, session in endpoint.sessions.items()
            if session.state is SessionState.UP and session.role in named
        )
        direct = [peer for peer in up if endpoint.is_direct(peer)]
        relayed = [peer for peer in up if not endpoint.is_direct(peer)]
        shown, others = direct[:MAX_REPORTED_PEERS], relayed[:MAX_REPORTED_PEERS]
        return SessionReport(direct=tuple(shown), relayed=tuple(others), unnamed=len(up) - len(shown) - len(others))

    endpoint.handle(SessionStatus, status)
