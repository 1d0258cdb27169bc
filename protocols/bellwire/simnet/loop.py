"""The virtual-time loop: one heap of everything that will happen, and a clock that jumps to the next of it.

An event costs the same however many participants there are: only those that it touched are asked what they have to say and
when they want to be called next.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from heapq import heappop, heappush
from typing import Any, Final, Protocol

from bellwire.protocols.errors import BellwireError
from bellwire.protocols.ids import NodeId
from bellwire.simnet.clocks import SkewedClock
from bellwire.simnet.fabric import Fabric, Frame
from bellwire.simnet.trace import Trace

NEW_OBJECTS: Final = 50_000
"""How many more objects there may be before Python looks for garbage among the new ones."""

NEW_LOOKS: Final = 20
"""How often it looks among the new ones before it looks among the next older."""


@contextmanager
def _few_collections() -> Iterator[None]:
    """Let Python look for garbage in cycles less often for a while.

    What a network has under way lives for many events. By Python's own thresholds it is old by then, and all that is old is
    looked through again and again, for cycles that the protocols do not make.
    """
    new, middle, old = gc.get_threshold()
    if new:
        gc.set_threshold(max(new, NEW_OBJECTS), max(middle, NEW_LOOKS), old)
    try:
        yield
    finally:
        gc.set_threshold(new, middle, old)


class TimedCapable(Protocol):
    """Something that acts when its time has come."""

    def next_deadline_ns(self) -> int | None:
        """When `handle_deadline` wants to be called next."""

    def handle_deadline(self, now_ns: int) -> None:
        """Do what has come due."""


class ActorCapable(TimedCapable, Protocol):
    """A participant in virtual time: an endpoint, or a node with an endpoint. It reads its own clock."""

    def receive(self, peer: NodeId, data: bytes, now_ns: int) -> None:
        """Take one message frame that came from `peer`."""

    def take_frames(self) -> list[tuple[NodeId, bytes]]:
        """Take the frames to be sent."""


class HardwareCapable(TimedCapable, Protocol):
    """Something besides the participants that acts in time, such as a simulated world. It reads true time."""

    def exchange(self, names: Iterable[NodeId]) -> bool:
        """Take instructions from the participants of these names, and `post` what was completed to whom it concerns.

        Returns whether `next_deadline_ns` may say something else than after the last time.
        """


class Stuck(BellwireError):
    """Virtual time ran out before what was waited for happened."""


class _Seat:
    """A participant's place. `armed_ns` is the earliest deadline of it that the heap knows of."""

    __slots__ = ("actor", "armed_ns", "clock", "name", "stalled_ns")

    def __init__(self, name: NodeId, actor: Any, clock: SkewedClock | None) -> None:
        self.name = name
        self.actor = actor
        self.clock = clock
        self.armed_ns: int | None = None
        self.stalled_ns = 0

    def local_ns(self, now_ns: int) -> int:
        return now_ns if self.clock is None else self.clock.local_ns(now_ns)


_Happening = Frame | _Seat | tuple[_Seat, Callable[[int], None]] | Callable[[], None]


class Simnet:
    """Participants, the fabric between them and the time that they share."""

    def __init__(
        self,
        fabric: Fabric,
        *,
        start_ns: int = 1_000_000_000,
        clocks: Mapping[NodeId, SkewedClock] | None = None,
        trace: Trace | None = None,
    ) -> None:
        self.now_ns = start_ns
        self.fabric = fabric
        self.clocks = dict(clocks or {})
        self.trace = trace
        self.events = 0
        self.frames = 0
        self._seats: dict[NodeId, _Seat] = {}
        self._hardware: list[_Seat] = []
        self._heap: list[tuple[int, int, _Happening]] = []
        self._count = 0
        self._touched: dict[NodeId, None] = {}

    # Who takes part.

    @property
    def actors(self) -> dict[NodeId, ActorCapable]:
        """The participants by name."""
        return {name: seat.actor for name, seat in self._seats.items()}

    def add(self, name: NodeId, actor: ActorCapable) -> None:
        """Let a participant in, or another in its place: frames to the name go to it from now on."""
        self._seats[name] = _Seat(name, actor, self.clocks.get(name))
        self.flush(name)

    def remove(self, name: NodeId) -> None:
        """Take a participant out, as a crash does: frames to it are lost until it is added again."""
        del self._seats[name]

    def attach(self, hardware: HardwareCapable) -> None:
        """Let hardware in."""
        self._hardware.append(_Seat(NodeId(""), hardware, None))

    def stall(self, name: NodeId, duration_ns: int) -> None:
        """Let a participant receive nothing and do nothing for a while, and then all of it at once."""
        seat = self._seats.get(name)
        if seat is not None:
            seat.stalled_ns = max(seat.stalled_ns, self.now_ns + duration_ns)

    def is_seated(self, name: NodeId, actor: object) -> bool:
        """Whether this very incarnation of a participant takes part."""
        seat = self._seats.get(name)
        return seat is not None and seat.actor is actor

    def is_stalled(self, name: NodeId) -> bool:
        """Whether a participant does nothing at present."""
        seat = self._seats.get(name)
        return seat is not None and seat.stalled_ns > self.now_ns

    def stalled_ns(self, name: NodeId) -> int:
        """Until when a participant was last stalled, or is; 0 when it never was."""
        seat = self._seats.get(name)
        return 0 if seat is None else seat.stalled_ns

    def local_ns(self, name: NodeId) -> int:
        """What a participant's own clock shows."""
        clock = self.clocks.get(name)
        return self.now_ns if clock is None else clock.local_ns(self.now_ns)

    def set_clock(self, name: NodeId, clock: SkewedClock) -> None:
        """Give a participant, and its incarnations to come, another clock from now on."""
        self.clocks[name] = clock
        seat = self._seats.get(name)
        if seat is not None:
            seat.clock = clock
            self._arm(seat)

    # What happens later.

    def at(self, at_ns: int, call: Callable[[], None]) -> None:
        """Call `call` once the time has come."""
        self._push(at_ns, call)

    def post(self, name: NodeId, at_ns: int, call: Callable[[int], None]) -> None:
        """Hand something to a participant at a time, with what its own clock shows; lost when it is replaced by then."""
        seat = self._seats.get(name)
        if seat is None:
            return
        if at_ns <= self.now_ns and seat.stalled_ns <= self.now_ns:
            self._touched[name] = None
            call(seat.local_ns(self.now_ns))
        else:
            self._push(at_ns, (seat, call))

    def carry(self, frame: Frame, at_ns: int) -> None:
        """Let a copy of a frame arrive at a time, whatever the fabric would say."""
        self._push(at_ns, frame)

    def touch(self, name: NodeId) -> None:
        """Say, within an event, that a participant was spoken to: it is heard when the event is over."""
        self._touched[name] = None

    def flush(self, *names: NodeId) -> None:
        """Carry what participants (all, when none is named) and the hardware have to say, until all is on its way."""
        for name in names or self._seats:
            self._touched[name] = None
        self._settle()

    # Time.

    def step(self) -> bool:
        """Go to the next event and deal with it. Returns `False` when nothing will ever happen again."""
        heap = self._heap
        while heap:
            if self._next(heap):
                return True
        return False

    def run_until(self, done: Callable[[], bool], *, limit_ns: int) -> None:
        """Let time pass until `done()`.

        Raises:
            Stuck: when it is not so within `limit_ns` of virtual time, or nothing more can happen.
        """
        end_ns = self.now_ns + limit_ns
        with _few_collections():
            while not done():
                if self.now_ns > end_ns or not self.step():
                    raise Stuck(f"not done after {limit_ns / 1e9:g} s of virtual time")

    def run_for(self, duration_ns: int) -> None:
        """Let a stretch of time pass."""
        end_ns = self.now_ns + duration_ns
        heap = self._heap
        with _few_collections():
            while heap and heap[0][0] <= end_ns:
                self._next(heap)
        self.now_ns = end_ns

    def _push(self, at_ns: int, happening: _Happening) -> None:
        self._count += 1
        heappush(self._heap, (at_ns, self._count, happening))

    def _next(self, heap: list[tuple[int, int, _Happening]]) -> bool:
        """Take what comes next off the heap and deal with it. Returns whether it was an event: a deadline put off is none."""
        at_ns, _, happening = heappop(heap)
        if at_ns > self.now_ns:
            self.now_ns = at_ns
        if isinstance(happening, Frame):
            happened = self._deliver(happening)
        elif isinstance(happening, _Seat):
            happened = self._due(at_ns, happening)
        elif isinstance(happening, tuple):
            happened = self._hand_over(happening)
        else:
            happening()
            happened = True
        if happened:
            self.events += 1
            self._settle()
        return happened

    def _deliver(self, frame: Frame) -> bool:
        receiver, now_ns = frame.receiver, self.now_ns
        seat = self._seats.get(receiver)
        if seat is None:
            if self.trace is not None:
                self.trace.frame(now_ns, "frame-missed", receiver, frame)
            return False
        if seat.stalled_ns > now_ns:
            self._push(seat.stalled_ns, frame)
            return False
        if self.trace is not None:
            self.trace.frame(now_ns, "frame-delivered", receiver, frame)
        self._touched[receiver] = None
        seat.actor.receive(frame.sender, frame.data, seat.local_ns(now_ns))
        return True

    def _hand_over(self, posted: tuple[_Seat, Callable[[int], None]]) -> bool:
        seat, call = posted
        if self._seats.get(seat.name) is not seat:
            return False
        if seat.stalled_ns > self.now_ns:
            self._push(seat.stalled_ns, posted)
            return False
        self._touched[seat.name] = None
        call(seat.local_ns(self.now_ns))
        return True

    def _due(self, at_ns: int, seat: _Seat) -> bool:
        if seat.armed_ns != at_ns:
            return False
        if seat.name and self._seats.get(seat.name) is not seat:
            return False
        seat.armed_ns = None
        if seat.stalled_ns > self.now_ns:
            seat.armed_ns = seat.stalled_ns
            self._push(seat.stalled_ns, seat)
            return False
        local_ns = seat.local_ns(self.now_ns)
        deadline_ns = seat.actor.next_deadline_ns()
        if deadline_ns is None or deadline_ns > local_ns:
            self._arm(seat)
            return False
        if seat.name:
            self._touched[seat.name] = None
        seat.actor.handle_deadline(local_ns)
        return True

    def _arm(self, seat: _Seat) -> None:
        """See to it that the heap knows a moment no later than the seat's next deadline."""
        deadline_ns = seat.actor.next_deadline_ns()
        if deadline_ns is None:
            return
        at_ns = deadline_ns if seat.clock is None else seat.clock.true_ns(deadline_ns)
        if seat.armed_ns is None or at_ns < seat.armed_ns:
            seat.armed_ns = max(at_ns, self.now_ns)
            self._push(seat.armed_ns, seat)

    def _settle(self) -> None:
        """Let everybody who was touched have their say, in the order in which they were."""
        touched = fresh = self._touched
        stirred = False
        while True:
            self._touched = {}
            for hardware in self._hardware:
                if hardware.actor.exchange(fresh):
                    stirred = True
            fresh = self._touched
            if not fresh:
                break
            touched |= fresh
        if stirred:
            for hardware in self._hardware:
                self._arm(hardware)
        for name in touched:
            seat = self._seats.get(name)
            if seat is not None:
                frames = seat.actor.take_frames()
                if frames:
                    self._send(name, frames)
                self._arm(seat)

    def _send(self, sender: NodeId, frames: list[tuple[NodeId, bytes]]) -> None:
        self.frames += len(frames)
        for receiver, data in frames:
            frame = Frame(sender=sender, receiver=receiver, data=data, sent_ns=self.now_ns)
            arrivals = self.fabric.arrivals(frame)
            if self.trace is not None:
                kind = "frame-sent" if arrivals else "frame-lost"
                delays = [at_ns - self.now_ns for at_ns in arrivals]
                self.trace.frame(self.now_ns, kind, sender, frame, after_ns=delays)
            for at_ns in arrivals:
                self._push(at_ns, frame)
