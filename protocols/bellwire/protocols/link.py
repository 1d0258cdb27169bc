"""One end of a link: the queue of requests, and the windows and pairs that serve it (spec 2).

One end is primary: it opens the windows for the requests of both, so that no two windows contend for a qubit. The other end
and the station follow. Both ends keep the same queue, confirm each pair to each other, and forget nothing that a late
message could still ask about.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from bellwire.protocols.endpoint import Answer
from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.ids import CreateId, NodeId
from bellwire.protocols.limits import MAX_LINK_REQUESTS
from bellwire.protocols.link_book import LinkBook, LinkSettings
from bellwire.protocols.link_pairs import LinkPairs
from bellwire.protocols.link_tests import LinkTests
from bellwire.protocols.link_windows import LinkWindows
from bellwire.protocols.messages import LinkAccept, LinkAdd, Reply, RequestType
from bellwire.protocols.node import Node, QubitKind
from bellwire.protocols.pairs import ENDED, PairEnd, PairInput
from bellwire.protocols.queue import CreateSpec, LinkRequest, RequestInput, RequestState
from bellwire.protocols.session import Loss

TOLD: Final = frozenset(
    {
        ErrorCode.UNSUPP,
        ErrorCode.DENIED,
        ErrorCode.UNSYNCED,
        ErrorCode.NOTIME,
        ErrorCode.NORES,
        ErrorCode.TIMEOUT,
        ErrorCode.REJECTED,
        ErrorCode.PEER_LOST,
        ErrorCode.BACKEND,
    }
)
"""What the other end may refuse an offer with, and the application is told as it is (spec 2 §2.4)."""


def _told(error: RequestError) -> RequestError:
    """What an application is told of a refusal by the other end: OTHER where the code would say nothing to it."""
    if error.code in TOLD:
        return error
    return RequestError(ErrorCode.OTHER, f"the other end refused the request: {error}")


class LinkEnd:
    """The coordinator of one link at one end: its requests, `windows` and `pairs`."""

    def __init__(
        self,
        node: Node,
        settings: LinkSettings,
        on_pair: Callable[[LinkRequest, PairEnd], None],
        *,
        draw: Callable[[], float],
    ) -> None:
        self.node = node
        self.settings = settings
        self.book = LinkBook(node, settings, draw)
        self._on_pair = on_pair
        self.pairs = LinkPairs(self.book, self._pair_ready)
        self.windows = LinkWindows(self.book, self.pairs.heralded)
        self.tests = LinkTests(self.book, self.create)
        self._creates = 0

    def _pair_ready(self, request: LinkRequest, pair: PairEnd) -> None:
        """A pair is handed over: to a test round, or to whoever is above."""
        if request.spec.for_test:
            self.tests.measured(pair)
        else:
            self._on_pair(request, pair)
            self.tests.pair_made()

    def create(self, spec: CreateSpec) -> LinkRequest:
        """Begin a request at this end and offer it to the other.

        Raises:
            RequestError: UNSUPP when the link cannot give the fidelity, NOTIME when the deadline is past, NORES when the
                queue is full, UNSYNCED when the network's time is not known well enough.
        """
        endpoint = self.node.endpoint
        self._admit(spec)
        self._creates += 1
        create_id = CreateId(f"{endpoint.node}-{endpoint.epoch:x}-{self.settings.link_id}-{self._creates}")
        request = self._add(create_id, spec, originator=True)
        offer = LinkAdd(
            link_id=self.settings.link_id,
            create_id=create_id,
            deadline_ns=spec.deadline_ns,
            application=spec.application,
            **spec.wanted(),
        )

        def offered(answer: Answer) -> None:
            if request.state is not RequestState.OFFERED:
                return
            if isinstance(answer, RequestError):
                request.step(RequestInput.REFUSED, _told(answer))
            else:
                request.step(RequestInput.ACCEPTED)

        endpoint.ask(self.settings.peer, offer, endpoint.local_time_ns(spec.deadline_ns), offered)
        return request

    def add(self, peer: NodeId, message: LinkAdd) -> Reply:
        """The peer offers a request of its own."""
        self.book.only(peer, self.settings.peer)
        if message.create_id not in self.book.requests:
            spec = CreateSpec.of(message, message.deadline_ns, message.application)
            self._admit(spec)
            request = self._add(message.create_id, spec, originator=False)
            request.step(RequestInput.ACCEPTED)
        return LinkAccept()

    def fail_request(self, request: LinkRequest, error: RequestError) -> None:
        """End a request early, for instance because its application is gone."""
        if request.create_id in self.book.requests:
            request.step(RequestInput.FAIL, error)

    def _admit(self, spec: CreateSpec) -> None:
        self.node.check_time(self.settings.guard_ns)
        best = self.book.best_fidelity
        if spec.min_fidelity > best:
            text = f"{self.settings.link_id} gives fidelity {best:g}, {spec.min_fidelity:g} was asked"
            raise RequestError(ErrorCode.UNSUPP, text)
        mistake = spec.local.mistake() or spec.remote.mistake()
        if mistake:
            raise RequestError(ErrorCode.UNSUPP, mistake)
        if spec.atomic and spec.request_type is RequestType.MEASURE:
            raise RequestError(ErrorCode.UNSUPP, "type M keeps no pairs that could be there at the same time")
        qubits = self.node.qubits.total_of(QubitKind.COMMUNICATION)
        if spec.atomic and self.node.backend_up and spec.number > qubits:
            text = f"{self.node.endpoint.node} can hold {qubits} pairs at the same time, {spec.number} were asked"
            raise RequestError(ErrorCode.UNSUPP, text)
        time_left_ns = spec.deadline_ns - self.node.endpoint.network_time_ns()
        if time_left_ns <= 0:
            raise RequestError(ErrorCode.NOTIME, "the deadline is past")
        expected_ns = self.settings.expected_time_ns(spec.min_fidelity) * -(-spec.number // max(qubits, 1))
        if time_left_ns < expected_ns:
            text = f"{spec.number} pairs take {expected_ns / 1e9:g} s on average, {time_left_ns / 1e9:g} s are left"
            raise RequestError(ErrorCode.NOTIME, text)
        if len(self.book.requests) >= MAX_LINK_REQUESTS:
            raise RequestError(
                ErrorCode.NORES, f"{self.settings.link_id} has {MAX_LINK_REQUESTS} requests in its queue"
            )
        if not self.node.backend_up:
            raise RequestError(ErrorCode.BACKEND, f"the backend of {self.node.endpoint.node} is not connected")

    def _add(self, create_id: CreateId, spec: CreateSpec, *, originator: bool) -> LinkRequest:
        request = LinkRequest(
            create_id=create_id,
            spec=spec,
            originator=originator,
            queued=self._queued,
            ended=self._request_ended,
        )
        self.book.requests[create_id] = request
        endpoint = self.node.endpoint
        request.timer = endpoint.at_network(
            spec.deadline_ns,
            lambda: request.step(RequestInput.FAIL, RequestError(ErrorCode.TIMEOUT, request.late)),
        )
        self.node.note("RequestAdded", create_id, self.settings.link_id)
        return request

    def _queued(self, request: LinkRequest) -> None:
        self.node.note("RequestQueued", request.create_id)
        self.windows.schedule()

    def _request_ended(self, request: LinkRequest, error: RequestError | None) -> None:
        del self.book.requests[request.create_id]
        if request.timer is not None:
            request.timer.cancel()
        self.node.note("RequestEnded", request.create_id, detail=str(error or "done"))
        if error is not None:
            self.windows.abort(str(error), create_id=request.create_id)
            self.pairs.take_back(request, str(error))
        over = error or RequestError(ErrorCode.UNKNOWN_ID, f"{request.create_id} is done")
        self.windows.drop_deferred(request.create_id, over)
        self.node.wake()

    def peer_lost(self, peer: NodeId, loss: Loss, why: str) -> None:
        """The other end or the station is lost: requests fail, windows abort, halves whose other half is gone end."""
        if peer == self.settings.peer:
            self.tests.peer_lost(why)
            for request in list(self.book.requests.values()):
                self.fail_request(request, RequestError(ErrorCode.PEER_LOST, why))
            if loss is not Loss.SILENT:
                for pair in list(self.book.pairs.values()):
                    if pair.allows(PairInput.FORSAKEN):
                        pair.step(PairInput.FORSAKEN, why)
        if peer in (self.settings.peer, self.settings.station):
            self.windows.abort(why)

    def backend_lost(self, why: str) -> None:
        """Every qubit of this node is gone."""
        error = RequestError(ErrorCode.BACKEND, why)
        for request in list(self.book.requests.values()):
            self.fail_request(request, error)
        self.windows.abort(why)
        for pair in list(self.book.pairs.values()):
            if pair.state in ENDED:
                self.pairs.forget(pair)
            else:
                self.pairs.release(pair, why)
