"""The windows of one end of a link: opened by the primary, followed by the other end (spec 2 §3)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import msgspec

from bellwire.protocols.endpoint import Answer
from bellwire.protocols.errors import ConfigError, ErrorCode, RemoteProtocolError, RequestError
from bellwire.protocols.herald import FIDELITY_TOLERANCE, NO_HERALD, SCHEMES, WindowEnd, WindowInput, WindowState
from bellwire.protocols.ids import CreateId, NetworkTimeNs, NodeId, QubitName, WindowId
from bellwire.protocols.instructions import AnyCompletion, Arm, BellState, Cancel, WindowEnded
from bellwire.protocols.limits import MAX_LINK_REQUESTS, MAX_TEXT_CHARS
from bellwire.protocols.link_book import LinkBook
from bellwire.protocols.messages import (
    HeraldClose,
    HeraldOpen,
    HeraldReady,
    HeraldReport,
    HeraldWait,
    Reply,
    SessionAck,
)
from bellwire.protocols.node import QubitKind, failure
from bellwire.protocols.queue import LinkRequest, RequestInput, RequestState
from bellwire.protocols.timers import Timer

HOPELESS: Final = (ErrorCode.UNKNOWN_ID, ErrorCode.UNSUPP)
"""Refusals of a window that the next one would get too."""


class _Deferred(msgspec.Struct, frozen=True):
    """A window that waits for a free qubit, and the number of the request that opened it."""

    number: int
    message: HeraldOpen
    timer: Timer


class LinkWindows:
    """Opens windows, arms the hardware for them, and makes a herald of what the hardware and the station say."""

    def __init__(self, book: LinkBook, on_herald: Callable[[WindowEnd, BellState], None]) -> None:
        self._book = book
        self._node = book.node
        self._settings = book.settings
        self._on_herald = on_herald
        self._deferred: OrderedDict[WindowId, _Deferred] = OrderedDict()
        self._opened = 0
        self._backing_off = False
        own, settings = book.node.endpoint.node, book.settings
        if settings.rule.midpoint is (settings.station in (own, settings.peer)):
            expected = "a station between the ends" if settings.rule.midpoint else "one of its ends as the station"
            raise ConfigError(f"{settings.link_id}: scheme {settings.scheme} needs {expected}, not {settings.station}")
        self._receives = settings.station == own
        self._others = tuple(dict.fromkeys(party for party in (settings.peer, settings.station) if party != own))
        book.node.on_free.append(self.schedule)

    @property
    def deferred(self) -> int:
        """How many windows wait for a free qubit."""
        return len(self._deferred)

    def schedule(self) -> None:
        """Open windows, at the primary; take deferred ones, at the secondary, while communication qubits are free."""
        while self._deferred and self._node.qubits.free(QubitKind.COMMUNICATION):
            deferred = self._take_deferred(next(iter(self._deferred)))
            try:
                self._follow(deferred.message)
            except RequestError as error:
                self._node.endpoint.fail(self._settings.peer, deferred.number, error)
            else:
                self._node.endpoint.reply(self._settings.peer, deferred.number, HeraldReady())
        if not self._settings.primary or self._backing_off or not self._node.backend_up or not self._book.requests:
            return
        try:
            self._node.check_time(self._settings.guard_ns)
        except RequestError as error:
            self._hinder(error)
            return
        while (request := self._book.turns.next(self._book.requests.values())) is not None and self._has_room(request):
            qubit = self._node.qubits.take(QubitKind.COMMUNICATION)
            if qubit is None:
                return
            self._lead(request, qubit)

    def _has_room(self, request: LinkRequest) -> bool:
        """An exclusive request waits until no window of another is open, and an atomic one for all of its qubits at once."""
        spec = request.spec
        if spec.exclusive and any(window.create_id != request.create_id for window in self._book.windows.values()):
            return False
        return not spec.atomic or request.missing <= self._node.qubits.free(QubitKind.COMMUNICATION)

    def _hinder(self, error: RequestError) -> None:
        """A party of the link's windows is not sure enough of the time: try again when it may have heard more."""
        for request in self._book.requests.values():
            request.hindrance = error.text
        self._back_off(self._node.endpoint.settings.retry_ns)

    def _lead(self, request: LinkRequest, qubit: QubitName) -> None:
        endpoint, settings = self._node.endpoint, self._settings
        self._opened += 1
        window_id = WindowId(f"{settings.link_id}-{endpoint.epoch:x}-{self._opened}")
        message = HeraldOpen(
            link_id=settings.link_id,
            window_id=window_id,
            create_id=request.create_id,
            scheme=settings.scheme,
            start_ns=NetworkTimeNs(endpoint.network_time_ns() + settings.lead_ns),
            attempts=settings.attempts,
            timeout_ns=settings.window_timeout_ns,
            bright_ratio=settings.bright_ratio(request.spec.min_fidelity),
        )
        request.begun = True
        request.under_way += 1
        self._book.turns.charge(request, window_id)
        self._open(message, qubit)
        deadline_ns = endpoint.now_ns + settings.window_timeout_ns

        def opened(answer: Answer) -> None:
            window = self._book.windows.get(window_id)
            if isinstance(answer, HeraldReady) and answer.start_ns is not None:
                self._node.note("WindowStarts", window_id, detail=f"at {answer.start_ns} ns")
            if isinstance(answer, RequestError) and window is not None:
                if answer.code is ErrorCode.UNSYNCED:
                    self._hinder(answer)
                elif answer.code is ErrorCode.NOTIME:
                    request.hindrance = answer.text
                window.step(WindowInput.ABORT, str(answer))
                if answer.code in HOPELESS and request.create_id in self._book.requests:
                    request.step(RequestInput.FAIL, RequestError(ErrorCode.REJECTED, answer.text))

        def followed(answer: Answer) -> None:
            opened(answer)
            window = self._book.windows.get(window_id)
            if window is not None and window.state is WindowState.ARMED:
                endpoint.ask(settings.station, message, deadline_ns, opened)

        if settings.shared_detectors:
            endpoint.ask(settings.peer, message, deadline_ns, followed)
        else:
            for party in self._others:
                endpoint.ask(party, message, deadline_ns, opened)

    def wait(self, peer: NodeId, message: HeraldWait) -> Reply:
        """The station's detectors are in use: `herald.ready` will say when they are this window's (spec 2 §3.6)."""
        self._book.only(peer, self._settings.station)
        self._node.note("WindowWaits", message.window_id, detail=f"{message.ahead} before it")
        return SessionAck()

    def open(self, peer: NodeId, message: HeraldOpen, number: int) -> Reply | None:
        """The primary opens a window. Without a free qubit the answer waits for one (spec 2 §3.2)."""
        self._book.only(peer, self._settings.peer)
        if self._settings.primary:
            raise RemoteProtocolError("only the primary end opens windows", "2 §3.1", ErrorCode.DENIED)
        if message.create_id not in self._book.requests:
            raise RequestError(ErrorCode.UNKNOWN_ID, f"{message.create_id} is not in the queue")
        self._node.check_time(self._settings.guard_ns)
        request = self._book.requests[message.create_id]
        if request.state is RequestState.OFFERED:
            # The primary has the request in its queue; its answer that says so is still on the way (spec 2 §2.2).
            request.step(RequestInput.ACCEPTED)
        if any(message.window_id in known for known in (self._book.windows, self._book.ended, self._deferred)):
            raise RemoteProtocolError(f"{message.window_id} was opened before", "2 §3.1")
        self._agree(message, request)
        if self._node.qubits.free(QubitKind.COMMUNICATION) and not self._deferred:
            self._follow(message)
            return HeraldReady()
        if len(self._deferred) >= MAX_LINK_REQUESTS:
            raise RequestError(ErrorCode.NORES, "no communication qubit is free")
        endpoint, late = self._node.endpoint, RequestError(ErrorCode.NORES, "no communication qubit came free in time")
        timer = endpoint.timers.at(
            endpoint.now_ns + message.timeout_ns, lambda: self._refuse_deferred(message.window_id, late)
        )
        self._deferred[message.window_id] = _Deferred(number, message, timer)
        return None

    def _agree(self, message: HeraldOpen, request: LinkRequest) -> None:
        """Check that a window heralds as this end would, and well enough (spec 2 §3.2)."""
        settings = self._settings
        if message.scheme != settings.scheme:
            raise RequestError(ErrorCode.UNSUPP, f"this link heralds by {settings.scheme}")
        if (message.bright_ratio is None) is not (settings.bright_states is None):
            raise RequestError(
                ErrorCode.UNSUPP, f"{settings.scheme} and bright ratio {message.bright_ratio} do not fit"
            )
        if message.bright_ratio is not None and settings.bright_states is not None:
            given, asked = settings.bright_states.fidelity_at(message.bright_ratio), request.spec.min_fidelity
            if given < asked - FIDELITY_TOLERANCE:
                text = f"bright ratio {message.bright_ratio:g} gives fidelity {given:g}, {asked:g} was asked"
                raise RequestError(ErrorCode.UNSUPP, text)

    def _take_deferred(self, window_id: WindowId) -> _Deferred:
        deferred = self._deferred.pop(window_id)
        deferred.timer.cancel()
        return deferred

    def _refuse_deferred(self, window_id: WindowId, error: RequestError) -> None:
        self._node.endpoint.fail(self._settings.peer, self._take_deferred(window_id).number, error)

    def _follow(self, message: HeraldOpen) -> None:
        self._node.check_time(self._settings.guard_ns)  # the window may have waited, and the clock may have been lost
        late_ns = self._node.endpoint.network_time_ns() - message.start_ns
        if self._settings.lead_ns and late_ns > 0:
            raise RequestError(ErrorCode.NOTIME, f"the window began {late_ns} ns ago: the link needs a longer lead")
        qubit = self._node.qubits.take(QubitKind.COMMUNICATION)
        if qubit is None:
            raise RequestError(ErrorCode.NORES, "no communication qubit is free")
        self._book.requests[message.create_id].under_way += 1
        self._open(message, qubit)

    def _open(self, message: HeraldOpen, qubit: QubitName) -> None:
        """Arm the own hardware for a window and wait for its count and for the station's report."""
        node, endpoint = self._node, self._node.endpoint
        window = WindowEnd(
            window_id=message.window_id,
            create_id=message.create_id,
            qubit=qubit,
            cancel=self._cancel_window,
            ended=self._window_ended,
        )
        self._book.windows[message.window_id] = window
        deadline_ns = endpoint.now_ns + message.timeout_ns + self._settings.report_timeout_ns
        window.timer = endpoint.timers.at(
            deadline_ns, lambda: window.step(WindowInput.TIMEOUT, "the station did not report in time")
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
            bright_ratio=message.bright_ratio,
        )

        def counted(completions: tuple[AnyCompletion, ...]) -> None:
            last = completions[-1]
            seen = self._tell(window, last, deadline_ns) if self._receives else None
            if isinstance(last, WindowEnded):
                window.step(WindowInput.COUNT, last.attempts)
            else:
                window.step(WindowInput.FAIL, failure(completions) or "the hardware gave no count")
            if seen is not None and window.state is not WindowState.ENDED:
                self._take_report(window, seen)

        node.execute([arm], counted)

    def report(self, peer: NodeId, message: HeraldReport) -> Reply:
        """The station's word on a window. A report on a window that is over changes nothing."""
        self._book.only(peer, self._settings.station)
        window = self._book.windows.get(message.window_id)
        if window is not None:
            self._take_report(window, message)
        return SessionAck()

    def _take_report(self, window: WindowEnd, message: HeraldReport) -> None:
        if message.attempt == 0 or message.bell_state is None:
            window.step(WindowInput.NONE, NO_HERALD)
        elif message.bell_state not in SCHEMES[self._settings.scheme].bell_states:
            window.step(WindowInput.ABORT, f"{self._settings.scheme} cannot herald {message.bell_state}")
        else:
            window.step(WindowInput.HERALD, message)

    def _tell(self, window: WindowEnd, last: AnyCompletion, deadline_ns: int) -> HeraldReport:
        """This end's hardware is the station: tell the sender what it saw, until it has taken it (spec 2 §3.4)."""
        attempt, bell_state = 0, None
        if isinstance(last, WindowEnded) and last.bell_state is not None and window.state is WindowState.ARMED:
            attempt, bell_state = last.attempts, last.bell_state
        report = HeraldReport(
            link_id=self._settings.link_id, window_id=window.window_id, attempt=attempt, bell_state=bell_state
        )
        self._node.note("WindowReported", window.window_id, detail=f"attempt {attempt}, {bell_state}")
        self._node.endpoint.ask(self._settings.peer, report, deadline_ns, lambda _: None)
        return report

    def _cancel_window(self, window: WindowEnd) -> None:
        self._node.execute([Cancel(window_id=window.window_id)], lambda _: None)

    def _window_ended(self, window: WindowEnd) -> None:
        del self._book.windows[window.window_id]
        if window.timer is not None:
            window.timer.cancel()
        if window.bell_state is not None:
            self._on_herald(window, window.bell_state)
            self._node.wake()
            return
        why = window.why or NO_HERALD
        self._node.note("WindowClosed", window.window_id, window.create_id, detail=why)
        self._book.bury(window.window_id, why)
        request = self._book.requests.get(window.create_id)
        if request is not None:
            request.under_way -= 1
        self._book.refund(window.window_id, window.create_id)
        if window.claim is not None:
            number, claim = window.claim
            error = RequestError(ErrorCode.UNKNOWN_ID, f"{claim.pair_id} is not held here: {why}")
            self._node.endpoint.fail(self._settings.peer, number, error)
        if window.abandoned and self._settings.primary:
            self._close_elsewhere(window, why)
        if why != NO_HERALD:
            self._back_off(self._settings.backoff_ns)
        self._node.discard(window.qubit)

    def _close_elsewhere(self, window: WindowEnd, why: str) -> None:
        """Tell the other parties of a window that the primary gave it up."""
        endpoint = self._node.endpoint
        message = HeraldClose(link_id=self._settings.link_id, window_id=window.window_id, reason=why[:MAX_TEXT_CHARS])
        for party in self._others:
            endpoint.ask(party, message, endpoint.now_ns + self._settings.window_timeout_ns, lambda _: None)

    def close(self, peer: NodeId, message: HeraldClose) -> Reply:
        """The primary has given a window up."""
        self._book.only(peer, self._settings.peer)
        if message.window_id in self._deferred:
            self._refuse_deferred(message.window_id, RequestError(ErrorCode.EXPIRE, message.reason))
        window = self._book.windows.get(message.window_id)
        if window is not None:
            window.step(WindowInput.ABORT, f"{peer} closed it: {message.reason}")
        return SessionAck()

    def _back_off(self, delay_ns: int) -> None:
        """After a window that failed, wait a little before the next."""
        if not self._backing_off:
            self._backing_off = True
            self._node.endpoint.timers.at(self._node.endpoint.now_ns + delay_ns, self._resume)

    def _resume(self) -> None:
        self._backing_off = False
        self.schedule()

    def abort(self, why: str, *, create_id: CreateId | None = None) -> None:
        """Give up every open window, or those of one request."""
        for window in list(self._book.windows.values()):
            if create_id in (None, window.create_id) and window.window_id in self._book.windows:
                window.step(WindowInput.ABORT, why)

    def drop_deferred(self, create_id: CreateId, error: RequestError) -> None:
        """Refuse the windows of a request that still wait for a qubit."""
        for window_id, deferred in list(self._deferred.items()):
            if deferred.message.create_id == create_id:
                self._refuse_deferred(window_id, error)
