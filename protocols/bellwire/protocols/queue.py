"""The queue of requests that the two ends of a link agree on (spec 2 §2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any, Final

import msgspec

from bellwire.protocols.errors import RequestError
from bellwire.protocols.ids import CreateId, NetworkTimeNs, NodeId, WindowId
from bellwire.protocols.limits import MAX_LINK_REQUESTS
from bellwire.protocols.machine import Machine, Row
from bellwire.protocols.messages import Request, RequestType, Wanted
from bellwire.protocols.pairs import PairEnd
from bellwire.protocols.readout import IN_Z, Readout
from bellwire.protocols.timers import Timer

TEST_PURPOSE: Final = 2
"""The purpose of the pairs that the agents make for test rounds."""

WANTED: Final = tuple(sorted(set(Wanted.__struct_fields__) - set(Request.__struct_fields__)))


class CreateSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a CREATE asks for. `deadline_ns` is on the network's clock; `application` is empty for the agents' own pairs."""

    number: int = 1
    min_fidelity: float = 0.0
    deadline_ns: NetworkTimeNs
    purpose_id: int = 0
    priority: int = 0
    request_type: RequestType = RequestType.KEEP
    atomic: bool = False
    consecutive: bool = False
    local: Readout = IN_Z
    remote: Readout = IN_Z
    application: NodeId = NodeId("")

    @classmethod
    def of(cls, message: Wanted, deadline_ns: NetworkTimeNs, application: NodeId) -> CreateSpec:
        """What a CREATE, or the offer of one, asks for."""
        wanted = {name: getattr(message, name) for name in WANTED}
        return cls(deadline_ns=deadline_ns, application=application, **wanted)

    def wanted(self) -> dict[str, Any]:
        """The fields that CREATE and the offer to the other end have in common, by name."""
        return {name: getattr(self, name) for name in WANTED}

    @property
    def exclusive(self) -> bool:
        """Whether no other request is served from its first window to its last pair."""
        return self.atomic or self.consecutive

    @property
    def for_test(self) -> bool:
        """Whether it is for a test round: only agents ask in nobody's name."""
        return self.purpose_id == TEST_PURPOSE and not self.application


class RequestState(StrEnum):
    """States of a request at one end."""

    OFFERED = "offered"
    QUEUED = "queued"
    DONE = "done"
    FAILED = "failed"


class RequestInput(StrEnum):
    """Inputs of a request at one end."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    PAIR = "pair"
    LAST_PAIR = "last-pair"
    PAIR_GONE = "pair-gone"
    FAIL = "fail"


_S, _I = RequestState, RequestInput


class LinkRequest(Machine[RequestState, RequestInput]):
    """One CREATE as one end sees it, until all of its pairs are confirmed or it has failed."""

    name = "request"
    rule = "2 §2.2"
    initial = RequestState.OFFERED
    table = {
        (_S.OFFERED, _I.ACCEPTED): Row(_S.QUEUED, "accepted", "2 §2.2"),
        (_S.OFFERED, _I.REFUSED): Row(_S.FAILED, "failed", "2 §2.2"),
        (_S.OFFERED, _I.FAIL): Row(_S.FAILED, "failed", "2 §2.4"),
        (_S.QUEUED, _I.PAIR): Row(_S.QUEUED, "counted", "2 §2.3"),
        (_S.QUEUED, _I.LAST_PAIR): Row(_S.DONE, "counted", "2 §2.3"),
        (_S.QUEUED, _I.PAIR_GONE): Row(_S.QUEUED, "uncounted", "2 §2.3"),
        (_S.QUEUED, _I.FAIL): Row(_S.FAILED, "failed", "2 §2.4"),
    }

    def __init__(
        self,
        *,
        create_id: CreateId,
        spec: CreateSpec,
        originator: bool,
        queued: Callable[[LinkRequest], None],
        ended: Callable[[LinkRequest, RequestError | None], None],
    ) -> None:
        super().__init__()
        self.create_id = create_id
        self.spec = spec
        self.originator = originator
        self.confirmed = 0
        self.under_way = 0
        """Windows and unconfirmed pairs that may still bring a pair."""
        self.begun = False
        """At the primary: whether a window was ever opened for it, whatever became of that."""
        self.kept: list[PairEnd] = []
        """Confirmed pairs of an atomic request, until all of them are."""
        self.timer: Timer | None = None
        self.hindrance = ""
        """What kept its windows from being opened last."""
        self.on_pair: Callable[[PairEnd], None] | None = None
        self.on_failed: Callable[[RequestError], None] | None = None
        self._queued, self._ended = queued, ended

    @property
    def late(self) -> str:
        """What is said when the deadline comes first."""
        return f"the deadline came first: {self.hindrance}" if self.hindrance else "the deadline came first"

    @property
    def missing(self) -> int:
        """Pairs that are neither confirmed nor under way."""
        return self.spec.number - self.confirmed - self.under_way

    def accepted(self) -> None:
        """Both ends have it."""
        self._queued(self)

    def counted(self) -> None:
        """One more pair is confirmed."""
        self.confirmed += 1
        if self.state is RequestState.DONE:
            self._ended(self, None)

    def uncounted(self, pair: PairEnd) -> None:
        """A pair of an atomic request was confirmed and is gone before all were there."""
        self.kept.remove(pair)
        self.confirmed -= 1

    def failed(self, error: RequestError) -> None:
        """It ends with an error."""
        self._ended(self, error)
        if self.on_failed is not None:
            self.on_failed(error)

    def pair(self, pair: PairEnd) -> list[PairEnd]:
        """Count a confirmed pair. Returns the pairs that are handed over now: those of an atomic request all at once."""
        last = self.confirmed + 1 == self.spec.number
        self.kept.append(pair)
        self.step(RequestInput.LAST_PAIR if last else RequestInput.PAIR)
        if self.spec.atomic and not last:
            return []
        pairs, self.kept = self.kept, []
        return pairs


Turn = tuple[int, NodeId]
"""Whose turn it can be: an application within a priority."""


class FairQueue:
    """Whose turn it is on a link: priorities strictly, and applications of one priority by turns (spec 2 §3.1).

    Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996) with a pair as the unit of service: every application has a
    tag, the number of pairs that it has been given or may still be; whoever has the least is next, and who was away cannot
    save up.
    """

    def __init__(self) -> None:
        self._tags: dict[Turn, int] = {}
        self._least: dict[int, int] = {}
        """The least tag of those who waited last, by priority: where who joins them begins."""
        self._charged: dict[WindowId, Turn] = {}
        """Who was charged for the windows, and the pairs of them, that may still bring something."""
        self._cut: dict[Turn, int] = {}
        """How many windows that were cut off were given back since the last pair, of those who have a tag."""
        self._present: frozenset[Turn] = frozenset()

    def next(self, requests: Iterable[LinkRequest]) -> LinkRequest | None:
        """The request that the next window is for, or `None` when there is none now. Requests come in order of arrival.

        One that is begun and exclusive comes before all others.
        """
        waiting = [request for request in requests if request.state is RequestState.QUEUED]
        for request in waiting:
            if request.spec.exclusive and request.begun:
                return request if request.missing > 0 else None
        self._meet(frozenset(map(_turn, waiting)))
        wanting = [request for request in waiting if request.missing > 0]
        return min(wanting, key=lambda request: (-request.spec.priority, self._tags[_turn(request)]), default=None)

    def _meet(self, present: frozenset[Turn]) -> None:
        """Note who waits now. Who was not there before begins with no less than those who were."""
        if present == self._present:
            return
        lows: dict[int, int] = {}
        for turn in self._present:
            lows[turn[0]] = min(lows.get(turn[0], self._tags[turn]), self._tags[turn])
        for priority, low in lows.items():
            self._least[priority] = max(self._least.get(priority, 0), low)
        for turn in sorted(present - self._present):
            self._tags[turn] = max(self._tags.pop(turn, 0), self._least.get(turn[0], 0))
        away = [turn for turn in self._tags if turn not in present]
        for turn in away[: max(0, len(self._tags) - MAX_LINK_REQUESTS)]:
            del self._tags[turn]
            self._cut.pop(turn, None)
        self._present = present

    @property
    def outstanding(self) -> int:
        """How many windows, or pairs of them, are charged for and may still bring something."""
        return len(self._charged)

    def charge(self, request: LinkRequest, window_id: WindowId) -> None:
        """A window is opened for a request, and may bring it a pair."""
        self._tags[_turn(request)] = self._tags.get(_turn(request), 0) + 1
        self._charged[window_id] = _turn(request)

    def settle(self, window_id: WindowId) -> None:
        """The window's pair is handed over: what was charged for it stays."""
        turn = self._charged.pop(window_id, None)
        if turn is not None:
            self._cut.pop(turn, None)

    def refund(self, window_id: WindowId, *, at_most: int | None = None) -> None:
        """The window has brought nothing, nor has its pair, if there was one.

        `at_most`, of a window that was cut off by the end of its request: how many of those are given back between two pairs.
        Somebody whose requests all end too early would else be next for ever, and the link would do nothing else.
        """
        turn = self._charged.pop(window_id, None)
        if turn is None or turn not in self._tags:
            return
        if at_most is not None:
            if self._cut.get(turn, 0) >= at_most:
                return
            self._cut[turn] = self._cut.get(turn, 0) + 1
        self._tags[turn] -= 1


def _turn(request: LinkRequest) -> Turn:
    return request.spec.priority, request.spec.application
