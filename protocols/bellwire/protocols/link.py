"""One end of a link: the requests, windows and pairs of two neighbours (spec 2).

One end is primary: it opens the windows for the requests of both, so that no two windows contend for a qubit. The other end
and the station follow. Both ends keep the same queue, confirm each pair to each other, and forget nothing that a late
message could still ask about.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from bellwire.protocols.endpoint import Answer
from bellwire.protocols.errors import ErrorCode, RemoteProtocolError, RequestError
from bellwire.protocols.herald import NO_HERALD, SCHEMES, WindowEnd, WindowInput
from bellwire.protocols.ids import CreateId, LinkId, NetworkTimeNs, NodeId, PairId, QubitName, WindowId, pair_id
from bellwire.protocols.instructions import AnyCompletion, Arm, BellState, Cancel, WindowEnded
from bellwire.protocols.limits import MAX_LINK_REQUESTS, MAX_NAME_CHARS, MAX_TEXT_CHARS, MAX_TOMBSTONES
from bellwire.protocols.messages import (
    HeraldClose,
    HeraldOpen,
    HeraldReady,
    HeraldReport,
    LinkAccept,
    LinkAdd,
    PairConfirm,
    PairConfirmed,
    PairRelease,
    Reply,
    SessionAck,
)
from bellwire.protocols.node import Node, QubitKind, failure
from bellwire.protocols.pairs import ENDED, PairEnd, PairInput, PairState
from bellwire.protocols.queue import CreateSpec, LinkRequest, RequestInput, RequestState
from bellwire.protocols.session import Loss


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """What an end is told of its link. Durations in nanoseconds on the network's clock.

    `goodness` is the fidelity that the link's pairs are expected to have, with its source in the configuration.
    """

    link_id: LinkId
    peer: NodeId
    station: NodeId
    primary: bool
    scheme: str = "double-click"
    attempts: int = 1
    window_timeout_ns: int = 2_000_000_000
    report_timeout_ns: int = 500_000_000
    pair_lifetime_ns: int = 5_000_000_000
    backoff_ns: int = 2_000_000
    goodness: float = 1.0

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise ValueError(f"scheme {self.scheme!r} is not one of {', '.join(SCHEMES)}")
        if not 1 <= len(self.link_id) <= MAX_NAME_CHARS:
            raise ValueError(f"a link's name has 1 to {MAX_NAME_CHARS} characters: ids are made from it")
        if not 0.0 <= self.goodness <= 1.0:
            raise ValueError("goodness must lie in 0..1")


class LinkEnd:
    """The coordinator of one link at one end."""

    def __init__(self, node: Node, settings: LinkSettings, on_pair: Callable[[LinkRequest, PairEnd], None]) -> None:
        self.node = node
        self.settings = settings
        self.requests: OrderedDict[CreateId, LinkRequest] = OrderedDict()
        self.windows: dict[WindowId, WindowEnd] = {}
        self.pairs: dict[PairId, PairEnd] = {}
        self.on_pair_ended: Callable[[PairEnd, str], None] | None = None
        self._on_pair = on_pair
        self._ended: OrderedDict[str, str] = OrderedDict()
        self._deferred: OrderedDict[WindowId, tuple[int, HeraldOpen]] = OrderedDict()
        self._creates = 0
        self._opened = 0
        self._sequence = 0
        self._backing_off = False
        node.on_free.append(self.schedule)

    # Requests.

    def create(self, spec: CreateSpec) -> LinkRequest:
        """Begin a request at this end and offer it to the other.

        Raises:
            RequestError: UNSUPP when the link cannot give the fidelity, NOTIME when the deadline is past, NORES when the
                queue is full.
        """
        endpoint = self.node.endpoint
        self._admit(spec)
        self._creates += 1
        create_id = CreateId(f"{endpoint.node}-{endpoint.epoch:x}-{self.settings.link_id}-{self._creates}")
        request = self._add(create_id, spec, originator=True)
        offer = LinkAdd(
            link_id=self.settings.link_id,
            create_id=create_id,
            number=spec.number,
            min_fidelity=spec.min_fidelity,
            deadline_ns=spec.deadline_ns,
            purpose_id=spec.purpose_id,
            priority=spec.priority,
            request_type=spec.request_type,
            application=spec.application,
        )

        def offered(answer: Answer) -> None:
            if request.state is not RequestState.OFFERED:
                return
            if isinstance(answer, RequestError):
                request.step(RequestInput.REFUSED, answer)
            else:
                request.step(RequestInput.ACCEPTED)

        endpoint.ask(self.settings.peer, offer, endpoint.local_time_ns(spec.deadline_ns), offered)
        return request

    def add(self, peer: NodeId, message: LinkAdd) -> Reply:
        """The peer offers a request of its own."""
        self._only(peer, self.settings.peer)
        spec = CreateSpec(
            number=message.number,
            min_fidelity=message.min_fidelity,
            deadline_ns=message.deadline_ns,
            purpose_id=message.purpose_id,
            priority=message.priority,
            request_type=message.request_type,
            application=message.application,
        )
        self._admit(spec)
        if message.create_id not in self.requests:
            request = self._add(message.create_id, spec, originator=False)
            request.step(RequestInput.ACCEPTED)
        return LinkAccept()

    def fail_request(self, request: LinkRequest, error: RequestError) -> None:
        """End a request early, for instance because its application is gone."""
        if request.create_id in self.requests:
            request.step(RequestInput.FAIL, error)

    def _admit(self, spec: CreateSpec) -> None:
        if spec.min_fidelity > self.settings.goodness:
            text = f"{self.settings.link_id} gives fidelity {self.settings.goodness:g}, {spec.min_fidelity:g} was asked"
            raise RequestError(ErrorCode.UNSUPP, text)
        if spec.deadline_ns <= self.node.endpoint.network_time_ns():
            raise RequestError(ErrorCode.NOTIME, "the deadline is past")
        if len(self.requests) >= MAX_LINK_REQUESTS:
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
        self.requests[create_id] = request
        endpoint = self.node.endpoint
        request.timer = endpoint.timers.at(
            endpoint.local_time_ns(spec.deadline_ns),
            lambda: request.step(RequestInput.FAIL, RequestError(ErrorCode.TIMEOUT, "the deadline came first")),
        )
        self.node.note("RequestAdded", create_id, self.settings.link_id)
        return request

    def _queued(self, request: LinkRequest) -> None:
        self.node.note("RequestQueued", request.create_id)
        self.schedule()

    def _request_ended(self, request: LinkRequest, error: RequestError | None) -> None:
        del self.requests[request.create_id]
        if request.timer is not None:
            request.timer.cancel()
        self.node.note("RequestEnded", request.create_id, detail=str(error or "done"))
        for window in list(self.windows.values()) if error is not None else ():
            if window.create_id == request.create_id and window.window_id in self.windows:
                window.step(WindowInput.ABORT, str(error))
        over = error or RequestError(ErrorCode.UNKNOWN_ID, f"{request.create_id} is done")
        for window_id, (number, message) in list(self._deferred.items()):
            if message.create_id == request.create_id:
                del self._deferred[window_id]
                self.node.endpoint.fail(self.settings.peer, number, over)

    # Windows.

    def schedule(self) -> None:
        """Open windows, at the primary; take deferred ones, at the secondary, while communication qubits are free."""
        while self._deferred and self.node.qubits.free(QubitKind.COMMUNICATION):
            _, (number, message) = self._deferred.popitem(last=False)
            self._follow(message)
            self.node.endpoint.reply(self.settings.peer, number, HeraldReady())
        if not self.settings.primary or self._backing_off or not self.node.backend_up:
            return
        for request in sorted(self.requests.values(), key=lambda request: -request.spec.priority):
            while request.state is RequestState.QUEUED and request.missing > 0:
                qubit = self.node.qubits.take(QubitKind.COMMUNICATION)
                if qubit is None:
                    return
                self._lead(request, qubit)

    def _lead(self, request: LinkRequest, qubit: QubitName) -> None:
        endpoint, settings = self.node.endpoint, self.settings
        self._opened += 1
        window_id = WindowId(f"{settings.link_id}-{endpoint.epoch:x}-{self._opened}")
        message = HeraldOpen(
            link_id=settings.link_id,
            window_id=window_id,
            create_id=request.create_id,
            scheme=settings.scheme,
            start_ns=endpoint.network_time_ns(),
            attempts=settings.attempts,
            timeout_ns=settings.window_timeout_ns,
        )
        request.under_way += 1
        self._open(message, qubit)
        deadline_ns = endpoint.now_ns + settings.window_timeout_ns

        def opened(answer: Answer) -> None:
            window = self.windows.get(window_id)
            if isinstance(answer, RequestError) and window is not None:
                window.step(WindowInput.ABORT, str(answer))
                if answer.code is ErrorCode.UNKNOWN_ID and request.create_id in self.requests:
                    request.step(RequestInput.FAIL, RequestError(ErrorCode.REJECTED, answer.text))

        for party in (settings.peer, settings.station):
            endpoint.ask(party, message, deadline_ns, opened)

    def open(self, peer: NodeId, message: HeraldOpen, number: int) -> Reply | None:
        """The primary opens a window. Without a free qubit the answer waits for one (spec 2 §3.2)."""
        self._only(peer, self.settings.peer)
        if self.settings.primary:
            raise RemoteProtocolError("only the primary end opens windows", "2 §3.1", ErrorCode.DENIED)
        if message.create_id not in self.requests:
            raise RequestError(ErrorCode.UNKNOWN_ID, f"{message.create_id} is not in the queue")
        request = self.requests[message.create_id]
        if request.state is RequestState.OFFERED:
            # The primary has the request in its queue; its answer that says so is still on the way (spec 2 §2.2).
            request.step(RequestInput.ACCEPTED)
        if message.window_id in self.windows or message.window_id in self._ended:
            raise RemoteProtocolError(f"{message.window_id} was opened before", "2 §3.1")
        if message.scheme != self.settings.scheme:
            raise RequestError(ErrorCode.UNSUPP, f"this link heralds by {self.settings.scheme}")
        if self.node.qubits.free(QubitKind.COMMUNICATION) and not self._deferred:
            self._follow(message)
            return HeraldReady()
        if len(self._deferred) >= MAX_LINK_REQUESTS:
            raise RequestError(ErrorCode.NORES, "no communication qubit is free")
        self._deferred[message.window_id] = (number, message)
        endpoint = self.node.endpoint
        endpoint.timers.at(endpoint.now_ns + message.timeout_ns, lambda: self._deferral_over(message.window_id))
        return None

    def _deferral_over(self, window_id: WindowId) -> None:
        deferred = self._deferred.pop(window_id, None)
        if deferred is not None:
            error = RequestError(ErrorCode.NORES, "no communication qubit came free in time")
            self.node.endpoint.fail(self.settings.peer, deferred[0], error)

    def _follow(self, message: HeraldOpen) -> None:
        qubit = self.node.qubits.take(QubitKind.COMMUNICATION)
        if qubit is None:
            raise RequestError(ErrorCode.NORES, "no communication qubit is free")
        self.requests[message.create_id].under_way += 1
        self._open(message, qubit)

    def _open(self, message: HeraldOpen, qubit: QubitName) -> None:
        """Arm the own hardware for a window and wait for its count and for the station's report."""
        node, endpoint = self.node, self.node.endpoint
        window = WindowEnd(
            window_id=message.window_id,
            create_id=message.create_id,
            qubit=qubit,
            cancel=self._cancel_window,
            ended=self._window_ended,
        )
        self.windows[message.window_id] = window
        window.timer = endpoint.timers.at(
            endpoint.now_ns + message.timeout_ns + self.settings.report_timeout_ns,
            lambda: window.step(WindowInput.TIMEOUT, "the station did not report in time"),
        )
        node.note("WindowOpened", message.window_id, message.create_id)
        start_in_ns = endpoint.local_time_ns(message.start_ns) - endpoint.now_ns
        arm = Arm(
            window_id=message.window_id,
            link_id=message.link_id,
            qubit=qubit,
            start_in_ns=max(0, start_in_ns),
            attempts=message.attempts,
            timeout_ns=message.timeout_ns,
        )

        def counted(completions: tuple[AnyCompletion, ...]) -> None:
            last = completions[-1]
            if isinstance(last, WindowEnded):
                window.step(WindowInput.COUNT, last.attempts)
            else:
                window.step(WindowInput.FAIL, failure(completions) or "the hardware gave no count")

        node.execute([arm], counted)

    def report(self, peer: NodeId, message: HeraldReport) -> Reply:
        """The station's word on a window. A report on a window that is over changes nothing."""
        self._only(peer, self.settings.station)
        window = self.windows.get(message.window_id)
        if window is None:
            return SessionAck()
        if message.attempt == 0 or message.bell_state is None:
            window.step(WindowInput.NONE, NO_HERALD)
        elif message.bell_state not in SCHEMES[self.settings.scheme].bell_states:
            window.step(WindowInput.ABORT, f"{self.settings.scheme} cannot herald {message.bell_state}")
        else:
            window.step(WindowInput.HERALD, message)
        return SessionAck()

    def _cancel_window(self, window: WindowEnd) -> None:
        self.node.execute([Cancel(window_id=window.window_id)], lambda _: None)

    def _window_ended(self, window: WindowEnd) -> None:
        del self.windows[window.window_id]
        if window.timer is not None:
            window.timer.cancel()
        if window.bell_state is not None:
            self._heralded(window, window.bell_state)
            return
        why = window.why or NO_HERALD
        self.node.note("WindowClosed", window.window_id, window.create_id, detail=why)
        self._bury(window.window_id, why)
        request = self.requests.get(window.create_id)
        if request is not None:
            request.under_way -= 1
        if window.claim is not None:
            number, claim = window.claim
            error = RequestError(ErrorCode.UNKNOWN_ID, f"{claim.pair_id} is not held here: {why}")
            self.node.endpoint.fail(self.settings.peer, number, error)
        if window.abandoned and self.settings.primary:
            self._close_elsewhere(window, why)
        if why != NO_HERALD:
            self._back_off()
        self.node.discard(window.qubit)

    def _close_elsewhere(self, window: WindowEnd, why: str) -> None:
        """Tell the other parties of a window that the primary gave it up."""
        endpoint = self.node.endpoint
        message = HeraldClose(link_id=self.settings.link_id, window_id=window.window_id, reason=why[:MAX_TEXT_CHARS])
        for party in (self.settings.peer, self.settings.station):
            endpoint.ask(party, message, endpoint.now_ns + self.settings.window_timeout_ns, lambda _: None)

    def close(self, peer: NodeId, message: HeraldClose) -> Reply:
        """The primary has given a window up."""
        self._only(peer, self.settings.peer)
        if message.window_id in self._deferred:
            number, _ = self._deferred.pop(message.window_id)
            self.node.endpoint.fail(self.settings.peer, number, RequestError(ErrorCode.EXPIRE, message.reason))
        window = self.windows.get(message.window_id)
        if window is not None:
            window.step(WindowInput.ABORT, f"{peer} closed it: {message.reason}")
        return SessionAck()

    def _back_off(self) -> None:
        """After a window that failed, wait a little before the next."""
        if not self._backing_off:
            self._backing_off = True
            self.node.endpoint.timers.at(self.node.endpoint.now_ns + self.settings.backoff_ns, self._resume)

    def _resume(self) -> None:
        self._backing_off = False
        self.schedule()

    # Pairs.

    def _heralded(self, window: WindowEnd, bell_state: BellState) -> None:
        endpoint, settings = self.node.endpoint, self.settings
        self._bury(window.window_id, "heralded")
        pair = PairEnd(
            pair_id=pair_id(window.window_id, window.attempt),
            create_id=window.create_id,
            peer=settings.peer,
            owner=NodeId(""),
            qubit=window.qubit,
            bell_state=bell_state,
            expires_ns=NetworkTimeNs(endpoint.network_time_ns() + settings.pair_lifetime_ns),
            confirmed=self._pair_confirmed,
            ended=self._pair_ended,
        )
        pair.heralded_ns = endpoint.now_ns
        self.pairs[pair.pair_id] = pair
        self._expire_at(pair, pair.expires_ns)
        self.node.note("PairHeralded", pair.pair_id, window.window_id, window.create_id, detail=pair.bell_state)
        if settings.primary:
            self._offer(pair)
        elif window.claim is not None:
            number, claim = window.claim
            self._settle(pair, number, claim)

    def _expire_at(self, pair: PairEnd, network_ns: int) -> None:
        if pair.timer is not None:
            pair.timer.cancel()
        endpoint = self.node.endpoint
        pair.timer = endpoint.timers.at(
            endpoint.local_time_ns(network_ns), lambda: pair.step(PairInput.EXPIRE, "its lifetime is over")
        )

    def _offer(self, pair: PairEnd) -> None:
        """The primary numbers its half and has the secondary confirm that it holds the other one."""
        self._sequence += 1
        pair.sequence_number = self._sequence
        endpoint = self.node.endpoint
        message = PairConfirm(
            link_id=self.settings.link_id,
            pair_id=pair.pair_id,
            create_id=pair.create_id,
            sequence_number=pair.sequence_number,
            bell_state=pair.bell_state,
            expires_ns=pair.expires_ns,
        )

        def confirmed(answer: Answer) -> None:
            if pair.state is not PairState.HERALDED:
                return
            if not isinstance(answer, RequestError):
                pair.step(PairInput.CONFIRM)
            elif answer.code not in (ErrorCode.PEER_LOST, ErrorCode.TIMEOUT):
                pair.step(PairInput.REFUSED, str(answer))

        endpoint.ask(self.settings.peer, message, endpoint.local_time_ns(pair.expires_ns), confirmed)

    def confirm(self, peer: NodeId, message: PairConfirm, number: int) -> Reply | None:
        """The primary holds its half. The answer waits while this end's own window is not over (spec 2 §4.1)."""
        self._only(peer, self.settings.peer)
        if self.settings.primary:
            raise RemoteProtocolError("only the primary end confirms first", "2 §4.1", ErrorCode.DENIED)
        pair = self.pairs.get(message.pair_id)
        if pair is not None and pair.state is PairState.HERALDED:
            self._settle(pair, number, message)
            return None
        window = self.windows.get(WindowId(message.pair_id.rpartition("/")[0]))
        if pair is None and window is not None:
            window.claim = (number, message)
            return None
        why = self._ended.get(message.pair_id) or (f"it is {pair.state}" if pair is not None else "it never was")
        raise RequestError(ErrorCode.UNKNOWN_ID, f"{message.pair_id} is not held here: {why}")

    def used_by_peer(self, pair: PairEnd) -> None:
        """The peer uses a pair, so it has confirmed it, even where its answer is still on the way (spec 2 §4.1)."""
        if self.settings.primary and pair.state is PairState.HERALDED:
            pair.step(PairInput.CONFIRM)

    def _settle(self, pair: PairEnd, number: int, claim: PairConfirm) -> None:
        """The secondary compares the primary's word with its own half."""
        endpoint = self.node.endpoint
        if claim.pair_id != pair.pair_id or claim.bell_state is not pair.bell_state:
            text = (
                f"{pair.pair_id} in {pair.bell_state} is held here, {claim.pair_id} in {claim.bell_state} was claimed"
            )
            endpoint.fail(self.settings.peer, number, RequestError(ErrorCode.REJECTED, text))
            pair.step(PairInput.REFUSED, text)
            return
        pair.sequence_number = claim.sequence_number
        pair.expires_ns = claim.expires_ns
        self._expire_at(pair, claim.expires_ns)
        endpoint.reply(self.settings.peer, number, PairConfirmed())
        pair.step(PairInput.CONFIRM)

    def _pair_confirmed(self, pair: PairEnd) -> None:
        self.node.note("PairConfirmed", pair.pair_id, pair.create_id)
        request = self.requests.get(pair.create_id)
        if request is None:
            self.release(pair, "its request has ended")
            return
        self._settled(pair)
        pair.owner = request.spec.application
        request.pair()
        self._on_pair(request, pair)

    def release(self, pair: PairEnd, why: str) -> None:
        """Give an unused pair up, and tell the peer so until it knows."""
        if pair.state in ENDED:
            return
        pair.step(PairInput.RELEASE, why)
        endpoint = self.node.endpoint
        message = PairRelease(link_id=self.settings.link_id, pair_id=pair.pair_id, reason=why[:MAX_TEXT_CHARS])
        endpoint.ask(self.settings.peer, message, endpoint.local_time_ns(pair.expires_ns), lambda _: None)

    def released(self, peer: NodeId, message: PairRelease) -> Reply:
        """The peer has given a pair up."""
        self._only(peer, self.settings.peer)
        pair = self.pairs.get(message.pair_id)
        if pair is not None:
            pair.step(PairInput.FORSAKEN, f"{peer} gave it up: {message.reason}")
        return SessionAck()

    def forget(self, pair: PairEnd) -> None:
        """Drop a consumed pair from the table: its qubit is back with the hardware, or the user's own."""
        self.pairs.pop(pair.pair_id, None)
        self._bury(pair.pair_id, "it was consumed")

    def _pair_ended(self, pair: PairEnd, why: str) -> None:
        self.pairs.pop(pair.pair_id, None)
        self._bury(pair.pair_id, why)
        self.node.note("PairEnded", pair.pair_id, pair.create_id, detail=f"{pair.state}: {why}")
        self._settled(pair)
        self.node.discard(pair.qubit)
        if pair.announced and self.on_pair_ended is not None:
            self.on_pair_ended(pair, why)

    def _settled(self, pair: PairEnd) -> None:
        """A heralded pair is confirmed or gone: it is no longer under way for its request."""
        request = self.requests.get(pair.create_id)
        if pair.under_way and request is not None:
            request.under_way -= 1
        pair.under_way = False

    # What happens to the neighbours.

    def peer_lost(self, peer: NodeId, loss: Loss, why: str) -> None:
        """The other end or the station is lost: requests fail, windows abort, halves whose other half is gone end."""
        if peer == self.settings.peer:
            for request in list(self.requests.values()):
                self.fail_request(request, RequestError(ErrorCode.PEER_LOST, why))
            if loss is not Loss.SILENT:
                for pair in list(self.pairs.values()):
                    if pair.allows(PairInput.FORSAKEN):
                        pair.step(PairInput.FORSAKEN, why)
        if peer in (self.settings.peer, self.settings.station):
            self._abort_windows(why)

    def backend_lost(self, why: str) -> None:
        """Every qubit of this node is gone."""
        error = RequestError(ErrorCode.BACKEND, why)
        for request in list(self.requests.values()):
            self.fail_request(request, error)
        self._abort_windows(why)
        for pair in list(self.pairs.values()):
            if pair.state in ENDED:
                self.forget(pair)
            else:
                self.release(pair, why)

    def _abort_windows(self, why: str) -> None:
        for window in list(self.windows.values()):
            if window.window_id in self.windows:
                window.step(WindowInput.ABORT, why)

    def _bury(self, subject: str, why: str) -> None:
        self._ended[subject] = why
        if len(self._ended) > MAX_TOMBSTONES:
            self._ended.popitem(last=False)

    def _only(self, peer: NodeId, allowed: NodeId) -> None:
        if peer != allowed:
            raise RemoteProtocolError(
                f"{peer} has no part in this on {self.settings.link_id}", "2 §5", ErrorCode.DENIED
            )
