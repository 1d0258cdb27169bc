"""The way to one peer: relayed, or over a direct connection (spec 1 §4.8)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from bellwire.protocols.arrival import RELAY, Arrival
from bellwire.protocols.errors import ConfigError
from bellwire.protocols.ids import Epoch, NodeId, is_endpoint
from bellwire.protocols.limits import MAX_HELD_BYTES, MAX_HELD_MESSAGES
from bellwire.protocols.machine import Machine, Row
from bellwire.protocols.messages import FencePart, SessionIntroduction
from bellwire.protocols.session import NANOSECOND
from bellwire.protocols.timers import Timer

if TYPE_CHECKING:
    from bellwire.protocols.paths import Paths


@dataclass(frozen=True, slots=True, kw_only=True)
class PathSettings:
    """Times of direct connections in nanoseconds (spec 1 §4.8).

    An attempt to connect may take `dial_ns`; the next one comes after `redial_ns`, after twice that, up to `redial_limit_ns`.
    Who should be connected to by its peer waits `patience_ns` before it tries itself.
    """

    dial_ns: int = 2 * NANOSECOND
    redial_ns: int = NANOSECOND // 10
    redial_limit_ns: int = 2 * NANOSECOND
    patience_ns: int = 2 * NANOSECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectSettings:
    """Where a participant listens for others (nowhere when empty), and what it tells them instead, if anything.

    Port 0 is any free one; in `advertise` it stands for the port that is listened on.

    Raises:
        ConfigError: when an endpoint is none.
    """

    listen: str = ""
    advertise: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, endpoint in (("listen", self.listen), *(("advertise", each) for each in self.advertise)):
            if endpoint and not is_endpoint(endpoint):
                raise ConfigError(f"{name}: {endpoint!r} is no endpoint: expected tcp://HOST:PORT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dial:
    """Connect to `endpoint`, where `peer` listens with `public_key` (32 bytes); the connection is the path of that number."""

    path: int
    peer: NodeId
    endpoint: str
    public_key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class HangUp:
    """End the direct connection of that number, which this side made."""

    path: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatch:
    """A frame that goes to `peer` on the path of that number, before anything else does."""

    path: int
    peer: NodeId
    data: bytes


class PathState(StrEnum):
    """States of the way to a peer."""

    RELAYED = "relayed"
    DIALLING = "dialling"
    DIRECT = "direct"


class PathInput(StrEnum):
    """Inputs: a time that has come, and what becomes of direct connections."""

    DUE = "due"
    STANDS = "stands"
    BROKEN = "broken"


_S, _I = PathState, PathInput


class Path(Machine[PathState, PathInput]):
    """The way to one peer, and what comes from it. `path` is the one that messages take."""

    name = "path"
    rule = "1 §4.8"
    initial = PathState.RELAYED
    table = {
        (_S.RELAYED, _I.DUE): Row(_S.DIALLING, "dial", "1 §4.8"),
        (_S.RELAYED, _I.STANDS): Row(_S.DIRECT, "cross", "1 §4.8"),
        (_S.DIALLING, _I.DUE): Row(_S.RELAYED, "give_up", "1 §4.8"),
        (_S.DIALLING, _I.STANDS): Row(_S.DIRECT, "cross", "1 §4.8"),
        (_S.DIALLING, _I.BROKEN): Row(_S.RELAYED, "wait", "1 §4.8"),
        (_S.DIRECT, _I.STANDS): Row(_S.DIRECT, "spare", "1 §4.8"),
        (_S.DIRECT, _I.BROKEN): Row(_S.RELAYED, "fall_back", "1 §4.8"),
    }

    def __init__(self, owner: Paths, introduction: SessionIntroduction) -> None:
        super().__init__()
        self.peer = introduction.node
        self.introduction = introduction
        self.path = RELAY
        self.dialled = RELAY
        self.number = 0
        self.attempts = 0
        self.timer: Timer | None = None
        self.repeat: Timer | None = None
        self.patience: Timer | None = None
        self.unfenced: Dispatch | None = None
        """The last beginning that the peer has not said to have come."""
        self.queue: list[bytes] = []
        """What waits until the peer has said so, when the way goes back to the broker."""
        self.queued_octets = 0
        self.dormant = False
        """The peer is lost: nothing is repeated or tried until there is something to send to it."""
        self._owner = owner
        self.arrival = self.listen_anew(introduction.incarnation)

    def listen_anew(self, epoch: Epoch) -> Arrival:
        """Take what comes as from a new incarnation of the peer."""
        if self.patience is not None:
            self.patience.cancel()
        owner = self._owner
        self.arrival = Arrival(epoch, lambda data: owner.hand_on(self.peer, data), self._be_patient, owner.counters)
        return self.arrival

    def _be_patient(self, arrival: Arrival) -> None:
        if self.patience is not None:
            self.patience.cancel()
        self.patience = self._owner.after(self._owner.hold_ns, arrival.due)

    # Actions.

    def dial(self, _path: int) -> None:
        """Try the peer's next endpoint."""
        endpoints = self.introduction.endpoints
        self.dialled = self._owner.new_path(self)
        endpoint = endpoints[self.attempts % len(endpoints)]
        self._owner.instruct(
            Dial(path=self.dialled, peer=self.peer, endpoint=endpoint, public_key=self.introduction.public_key)
        )
        self._owner.set_due(self, self._owner.settings.dial_ns)

    def give_up(self, _path: int) -> None:
        """The attempt takes too long."""
        self.hang_up()
        self.wait(RELAY)

    def hang_up(self) -> None:
        """End the connection that this side made, or tries to make."""
        if self.dialled != RELAY:
            self._owner.drop(self.dialled)
            self._owner.instruct(HangUp(path=self.dialled))
            self.dialled = RELAY

    def wait(self, _path: int) -> None:
        """Try again later."""
        settings = self._owner.settings
        delay_ns = min(settings.redial_ns << min(self.attempts, 16), settings.redial_limit_ns)
        self.attempts += 1
        self._owner.set_due(self, delay_ns)

    def cross(self, path: int) -> None:
        """Leave the relay for a direct connection."""
        if self.dialled != path:
            self.hang_up()
        if self.timer is not None:
            self.timer.cancel()
        self.attempts = 0
        self.path = path
        self.number = self._owner.new_stretch()
        if self._owner.relays:
            self._owner.put_fence(self, RELAY, FencePart.END)
            self._begin(FencePart.BEGIN)
        else:
            self._begin(FencePart.BREAK)
        self.release()

    def spare(self, path: int) -> None:
        """There is one already: a second connection of this side's making is not needed."""
        if path == self.dialled and path != self.path:
            self.hang_up()

    def fall_back(self, _path: int) -> None:
        """The direct connection is gone, and what was under way on it: go on by way of the relay."""
        self.resume()
        self._owner.approach(self)

    def resume(self) -> None:
        """Begin a stretch by way of the broker that has nothing to do with what was sent before."""
        self.path = RELAY
        self.number = self._owner.new_stretch()
        self._begin(FencePart.BREAK)

    def keep(self, data: bytes) -> bool:
        """Have a frame wait until the peer has said that the last beginning came. Returns whether there was room for it.

        A relay may lose a fence and not what follows it, which would then be taken for a part of the stretch before.
        """
        if len(self.queue) >= MAX_HELD_MESSAGES or self.queued_octets + len(data) > MAX_HELD_BYTES:
            return False
        self.queue.append(data)
        self.queued_octets += len(data)
        return True

    def release(self) -> None:
        """Send what has waited."""
        for data in self.queue:
            self._owner.put(self.path, self.peer, data)
        self.forget_queue()

    def forget_queue(self) -> None:
        """Nothing waits any more."""
        self.queue.clear()
        self.queued_octets = 0

    def _begin(self, part: FencePart) -> None:
        self.unfenced = self._owner.put_fence(self, self.path, part)
        self._owner.repeat_later(self)
