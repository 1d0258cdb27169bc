"""The virtual-time loop: a heap of events, and a clock that jumps to the next one."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Protocol

from bellwire.protocols.errors import BellwireError
from bellwire.protocols.ids import NodeId
from bellwire.simnet.fabric import Fabric, Frame


class TimedCapable(Protocol):
    """Something that acts when its time has come."""

    def next_deadline_ns(self) -> int | None:
        """When `handle_deadline` wants to be called next."""

    def handle_deadline(self, now_ns: int) -> None:
        """Do what has come due."""


class ActorCapable(TimedCapable, Protocol):
    """A participant in virtual time: an endpoint, or a node with an endpoint."""

    def receive(self, peer: NodeId, data: bytes, now_ns: int) -> None:
        """Take one message frame that came from `peer`."""

    def take_frames(self) -> list[tuple[NodeId, bytes]]:
        """Take the frames to be sent."""


class HardwareCapable(TimedCapable, Protocol):
    """Something besides the participants that acts in time, such as a simulated world."""

    def exchange(self, now_ns: int) -> bool:
        """Take instructions from the participants and give completions back. Returns whether there were any."""


class Stuck(BellwireError):
    """Virtual time ran out before what was waited for happened."""


class Simnet:
    """Participants, the fabric between them and the time that they share."""

    def __init__(self, fabric: Fabric, *, start_ns: int = 1_000_000_000) -> None:
        self.now_ns = start_ns
        self.fabric = fabric
        self.actors: dict[NodeId, ActorCapable] = {}
        self.hardware: list[HardwareCapable] = []
        self.events = 0
        self._heap: list[tuple[int, int, Frame]] = []
        self._count = 0

    def add(self, name: NodeId, actor: ActorCapable) -> None:
        """Let a participant in, or another in its place: frames to the name go to it from now on."""
        self.actors[name] = actor
        self.flush()

    def remove(self, name: NodeId) -> None:
        """Take a participant out, as a crash does: frames to it are lost until it is added again."""
        del self.actors[name]

    def flush(self) -> None:
        """Carry what the participants and the hardware have to say to each other, until all is on its way."""
        busy = True
        while busy:
            busy = False
            for hardware in self.hardware:
                busy |= hardware.exchange(self.now_ns)
        for name, actor in list(self.actors.items()):
            for receiver, data in actor.take_frames():
                frame = Frame(sender=name, receiver=receiver, data=data, sent_ns=self.now_ns)
                for at_ns in self.fabric.arrivals(frame):
                    self._count += 1
                    heapq.heappush(self._heap, (at_ns, self._count, frame))

    def step(self) -> bool:
        """Go to the next event and deal with it. Returns `False` when nothing will ever happen again."""
        at_ns = self._next_ns()
        if at_ns is None:
            return False
        self.now_ns = max(self.now_ns, at_ns)
        self.events += 1
        if self._heap and self._heap[0][0] <= self.now_ns:
            frame = heapq.heappop(self._heap)[2]
            actor = self.actors.get(frame.receiver)
            if actor is not None:
                actor.receive(frame.sender, frame.data, self.now_ns)
        else:
            for timed in self._timed():
                deadline_ns = timed.next_deadline_ns()
                if deadline_ns is not None and deadline_ns <= self.now_ns:
                    timed.handle_deadline(self.now_ns)
        self.flush()
        return True

    def run_until(self, done: Callable[[], bool], *, limit_ns: int) -> None:
        """Let time pass until `done()`.

        Raises:
            Stuck: when it is not so within `limit_ns` of virtual time, or nothing more can happen.
        """
        end_ns = self.now_ns + limit_ns
        while not done():
            if self.now_ns > end_ns or not self.step():
                raise Stuck(f"not done after {limit_ns / 1e9:g} s of virtual time")

    def run_for(self, duration_ns: int) -> None:
        """Let a stretch of time pass."""
        end_ns = self.now_ns + duration_ns
        while True:
            at_ns = self._next_ns()
            if at_ns is None or at_ns > end_ns:
                self.now_ns = end_ns
                return
            self.step()

    def _timed(self) -> list[TimedCapable]:
        return [*self.actors.values(), *self.hardware]

    def _next_ns(self) -> int | None:
        times = [self._heap[0][0]] if self._heap else []
        for timed in self._timed():
            deadline_ns = timed.next_deadline_ns()
            if deadline_ns is not None:
                times.append(deadline_ns)
        return min(times) if times else None
