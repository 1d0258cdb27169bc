"""The queue of requests that the two ends of a link agree on (spec 2 §2)."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import msgspec

from bellwire.protocols.errors import RequestError
from bellwire.protocols.ids import CreateId, NetworkTimeNs, NodeId
from bellwire.protocols.machine import Machine, Row
from bellwire.protocols.messages import RequestType
from bellwire.protocols.pairs import PairEnd
from bellwire.protocols.timers import Timer


class CreateSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a CREATE asks for. `deadline_ns` is on the network's clock; `application` is empty for the agents' own pairs."""

    number: int = 1
    min_fidelity: float = 0.0
    deadline_ns: NetworkTimeNs
    purpose_id: int = 0
    priority: int = 0
    request_type: RequestType = RequestType.KEEP
    application: NodeId = NodeId("")


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
        self.timer: Timer | None = None
        self.on_queued: Callable[[], None] | None = None
        self.on_pair: Callable[[PairEnd], None] | None = None
        self.on_failed: Callable[[RequestError], None] | None = None
        self._queued, self._ended = queued, ended

    @property
    def missing(self) -> int:
        """Pairs that are neither confirmed nor under way."""
        return self.spec.number - self.confirmed - self.under_way

    def accepted(self) -> None:
        """Both ends have it."""
        self._queued(self)
        if self.on_queued is not None:
            self.on_queued()

    def counted(self) -> None:
        """One more pair is confirmed."""
        self.confirmed += 1
        if self.state is RequestState.DONE:
            self._ended(self, None)

    def failed(self, error: RequestError) -> None:
        """It ends with an error."""
        self._ended(self, error)
        if self.on_failed is not None:
            self.on_failed(error)

    def pair(self) -> None:
        """Count a confirmed pair."""
        last = self.confirmed + 1 == self.spec.number
        self.step(RequestInput.LAST_PAIR if last else RequestInput.PAIR)
