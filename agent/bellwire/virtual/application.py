"""Applications in virtual time: workers that ask the network for gates and pairs, one after another, and look at what they get.

What a worker does is a generator: it yields what it waits for, and is resumed with what came of it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from bellwire.protocols.endpoint import Answer, Endpoint
from bellwire.protocols.ids import NodeId
from bellwire.protocols.messages import (
    Delivered,
    LinkErr,
    LinkExpire,
    LinkMeasured,
    LinkOk,
    Reply,
    Request,
    Role,
    SessionAck,
)
from bellwire.protocols.session import Loss
from bellwire.sim.virtual import SECOND_NS, VirtualTestbed

PATIENCE_NS: Final = 20 * SECOND_NS
"""How much longer than a request may take its application waits for the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Wait for the answer to a request."""

    peer: NodeId
    request: Request
    limit_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sleep:
    """Let time pass."""

    duration_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Until:
    """Wait for something that the application is told, but no longer than the limit."""

    done: Callable[[], bool]
    limit_ns: int


Wish = Ask | Sleep | Until
Work = Generator[Wish, Any, None]


@dataclass(slots=True)
class Told:
    """What an application was told about one of its CREATEs: the OKs by node, or an error."""

    oks: dict[NodeId, list[Delivered]] = field(default_factory=dict)
    errors: list[tuple[NodeId, LinkErr]] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class _Waiting:
    until: Until
    work: Work
    deadline_ns: int


class Application:
    """One application, through all of its incarnations."""

    def __init__(self, bed: VirtualTestbed, name: NodeId, seed: int) -> None:
        self.bed = bed
        self.name = name
        self.random = Random(f"{name}/{seed}")
        self.endpoint: Endpoint
        self.lost_ns: dict[NodeId, int] = {}
        """When the application last lost a node."""
        self.creates: dict[str, Told] = {}
        self.working = 0
        self._waiting: list[_Waiting] = []
        self._hired: list[Callable[[], Work]] = []
        self._numbers = 0
        self.join()

    def join(self) -> None:
        """Begin an incarnation, and let its workers work."""
        self.endpoint = endpoint = self.bed.endpoint(self.name, Role.APPLICATION)
        self.creates, self._waiting, self.working = {}, [], 0
        endpoint.handle(LinkOk, self._ok)
        endpoint.handle(LinkMeasured, self._ok)
        endpoint.handle(LinkErr, self._err)
        endpoint.handle(LinkExpire, lambda _peer, _message: SessionAck())
        endpoint.on_peer_lost.append(self._peer_lost)
        self.bed.net.add(self.name, endpoint)
        for worker in self._hired:
            self.begin(worker())

    def crash(self) -> None:
        """End this incarnation without a word."""
        self.bed.net.remove(self.name)

    def leave(self) -> None:
        """Say goodbye."""
        self.endpoint.begin(self.bed.net.local_ns(self.name))
        self.endpoint.close()
        self.bed.net.touch(self.name)

    def hire(self, worker: Callable[[], Work]) -> None:
        """Let somebody work, in this incarnation and all that follow."""
        self._hired.append(worker)
        self.begin(worker())

    def begin(self, work: Work) -> None:
        """Let somebody work."""
        self.working += 1
        self.endpoint.begin(self.bed.net.local_ns(self.name))
        self._resume(work, None)
        self.bed.net.touch(self.name)

    def number(self) -> int:
        """Give a number that was not given before, in any incarnation."""
        self._numbers += 1
        return self._numbers

    def delivered(self, create_id: str) -> Told:
        """What was told about a CREATE."""
        return self.creates.setdefault(create_id, Told())

    def _resume(self, work: Work, value: object) -> None:
        endpoint = self.endpoint
        try:
            wish = work.send(value)
        except StopIteration:
            self.working -= 1
            return
        if isinstance(wish, Ask):
            deadline_ns = endpoint.now_ns + wish.limit_ns + PATIENCE_NS
            endpoint.ask(wish.peer, wish.request, deadline_ns, lambda answer: self._answered(work, answer))
        elif isinstance(wish, Sleep):
            endpoint.timers.at(endpoint.now_ns + wish.duration_ns, lambda: self._resume(work, None))
        else:
            waiting = _Waiting(wish, work, endpoint.now_ns + wish.limit_ns)
            self._waiting.append(waiting)
            endpoint.timers.at(waiting.deadline_ns, lambda: self._stop_waiting(waiting))
            self._look()

    def _answered(self, work: Work, answer: Answer) -> None:
        self._resume(work, answer)

    def _stop_waiting(self, waiting: _Waiting) -> None:
        if waiting in self._waiting:
            self._waiting.remove(waiting)
            self._resume(waiting.work, waiting.until.done())

    def _look(self) -> None:
        for waiting in [waiting for waiting in self._waiting if waiting.until.done()]:
            self._stop_waiting(waiting)

    def _ok(self, peer: NodeId, message: Delivered) -> Reply:
        self.delivered(message.create_id).oks.setdefault(peer, []).append(message)
        self._look()
        return SessionAck()

    def _err(self, peer: NodeId, message: LinkErr) -> Reply:
        self.delivered(message.create_id).errors.append((peer, message))
        self._look()
        return SessionAck()

    def _peer_lost(self, peer: NodeId, _loss: Loss, _why: str) -> None:
        self.lost_ns[peer] = self.bed.net.now_ns
        self._look()
