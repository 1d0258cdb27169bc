"""A heralding station: it arms its detectors for windows, and reports what they saw to both ends (spec 2 §3.4, §3.6)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from bellwire.protocols.detectors import Detectors, StationSettings
from bellwire.protocols.endpoint import Answer
from bellwire.protocols.errors import ErrorCode, RemoteProtocolError, RequestError
from bellwire.protocols.herald import StationInput, StationState, StationWindow
from bellwire.protocols.ids import LinkId, NetworkTimeNs, NodeId, WindowId
from bellwire.protocols.instructions import AnyCompletion, Arm, Cancel, WindowEnded
from bellwire.protocols.limits import MAX_LINK_WINDOWS, MAX_STATION_WINDOWS, MAX_TOMBSTONES
from bellwire.protocols.messages import (
    HeraldClose,
    HeraldOpen,
    HeraldReady,
    HeraldReport,
    HeraldWait,
    Reply,
    SessionAck,
)
from bellwire.protocols.node import Node, failure
from bellwire.protocols.session import Loss


@dataclass(frozen=True, slots=True, kw_only=True)
class StationLink:
    """A link that the station serves: its primary end, its other end, how long it tries to report to them, its guard band."""

    link_id: LinkId
    primary: NodeId
    secondary: NodeId
    report_timeout_ns: int = 500_000_000
    guard_ns: int = 10_000_000


class Station:
    """The coordinator of a station's windows, and of whose turn it is at the detectors."""

    def __init__(self, node: Node, links: Iterable[StationLink], settings: StationSettings | None = None) -> None:
        self._node = node
        self._links = {link.link_id: link for link in links}
        self.windows: dict[WindowId, StationWindow] = {}
        self.detectors = Detectors(settings or StationSettings())
        self._taking_turns = False
        self._closed: OrderedDict[WindowId, None] = OrderedDict()
        """Windows that were closed and are not open: a late `herald.open` of one takes the detectors from nobody."""
        endpoint = node.endpoint
        endpoint.handle(HeraldOpen, self.open)
        endpoint.handle(HeraldClose, self.close)
        endpoint.on_peer_lost.append(self._peer_lost)

    def _link(self, peer: NodeId, link_id: LinkId) -> StationLink:
        link = self._links.get(link_id)
        if link is None:
            raise RequestError(ErrorCode.UNKNOWN_ID, f"{self._node.endpoint.node} does not serve {link_id}")
        if peer != link.primary:
            raise RemoteProtocolError(f"{peer} is not the primary end of {link_id}", "2 §3.1", ErrorCode.DENIED)
        return link

    def open(self, peer: NodeId, message: HeraldOpen) -> Reply | None:
        """The primary opens a window: arm the detectors, in its turn. The answer waits for that (spec 2 §3.6)."""
        link = self._link(peer, message.link_id)
        node, endpoint = self._node, self._node.endpoint
        if message.window_id in self.windows:
            raise RemoteProtocolError(f"{message.window_id} is open already", "2 §3.1")
        if message.window_id in self._closed:
            raise RequestError(ErrorCode.EXPIRE, f"{message.window_id} was closed before it was opened")
        if len(self.windows) >= MAX_STATION_WINDOWS:
            raise RequestError(ErrorCode.NORES, f"{MAX_STATION_WINDOWS} windows are open")
        if sum(window.link_id == link.link_id for window in self.windows.values()) >= MAX_LINK_WINDOWS:
            raise RequestError(ErrorCode.NORES, f"{MAX_LINK_WINDOWS} windows of {link.link_id} are open")
        node.check_time(link.guard_ns)
        if not node.backend_up:
            raise RequestError(ErrorCode.BACKEND, f"the detectors of {endpoint.node} are not connected")
        until_ns = endpoint.now_ns + message.timeout_ns
        window = StationWindow(
            opening=message,
            ends=(link.primary, link.secondary),
            deadline_ns=until_ns + link.report_timeout_ns,
            arm=self._arm,
            dismiss=self._dismiss,
            report=self._report,
            cancel=self._cancel,
            ended=self._ended,
        )
        self.windows[message.window_id] = window
        node.note("WindowOpened", message.window_id, message.create_id)
        ahead = self.detectors.queue(message.link_id, message.window_id)
        if ahead:
            window.timer = endpoint.timers.at(until_ns, lambda: self._late(window))
            wait = HeraldWait(link_id=message.link_id, window_id=message.window_id, ahead=ahead)
            endpoint.ask(peer, wait, until_ns, lambda _: None)
        self._take_turns()
        return None

    def _take_turns(self) -> None:
        """Arm for the windows whose turn it is. One that fails at once gives its turn to the next, but not from within."""
        if self._taking_turns:
            return
        self._taking_turns = True
        while turns := self.detectors.take_turns():
            for turn in turns:
                window = self.windows[turn.window_id]
                try:
                    self._node.check_time(self._links[window.link_id].guard_ns)
                except RequestError as error:  # the clock was lost while it waited
                    window.step(StationInput.LATE, error)
                else:
                    window.step(StationInput.TURN, turn.switch_ns)
        self._taking_turns = False

    def _arm(self, window: StationWindow, switch_ns: int) -> None:
        node, endpoint, opening = self._node, self._node.endpoint, window.opening
        start_in_ns = max(switch_ns, endpoint.local_time_ns(opening.start_ns) - endpoint.now_ns)
        arm = Arm(
            window_id=window.window_id,
            link_id=window.link_id,
            start_in_ns=start_in_ns,
            attempts=opening.attempts,
            timeout_ns=max(1, window.deadline_ns - self._links[window.link_id].report_timeout_ns - endpoint.now_ns),
        )

        def seen(completions: tuple[AnyCompletion, ...]) -> None:
            self._saw(window, completions)
            self.detectors.give_back(window.window_id)
            self._take_turns()

        self._stop_timer(window)
        window.timer = endpoint.timers.at(window.deadline_ns, lambda: self._overdue(window))
        node.execute([arm], seen)
        start_ns = NetworkTimeNs(endpoint.network_time_ns() + start_in_ns) if self.detectors.shared else None
        endpoint.reply(window.ends[0], opening.request_id, HeraldReady(start_ns=start_ns))

    def _saw(self, window: StationWindow, completions: tuple[AnyCompletion, ...]) -> None:
        last = completions[-1]
        if window.state is not StationState.ARMED:
            return
        if isinstance(last, WindowEnded) and last.bell_state is not None:
            window.step(StationInput.DETECTED, last.attempts, last.bell_state)
        elif isinstance(last, WindowEnded):
            window.step(StationInput.DETECTED, 0, None)
        else:
            self._node.note("WindowFailed", window.window_id, detail=failure(completions) or "")
            window.step(StationInput.FAIL, 0, None)

    def _overdue(self, window: StationWindow) -> None:
        """The detectors never answered: nobody waits for this window any more."""
        self._node.note("WindowFailed", window.window_id, detail="the detectors did not answer")
        window.step(StationInput.FAIL, 0, None)

    def _late(self, window: StationWindow) -> None:
        window.step(StationInput.LATE, RequestError(ErrorCode.NORES, "the detectors were in use all the time"))

    def _stop_timer(self, window: StationWindow) -> None:
        if window.timer is not None:
            window.timer.cancel()

    def _dismiss(self, window: StationWindow, error: RequestError) -> None:
        """Forget a window that had no turn, and refuse it."""
        self._stop_timer(window)
        self.detectors.leave(window.link_id, window.window_id)
        self._node.endpoint.fail(window.ends[0], window.opening.request_id, error)
        self._ended(window)

    def close(self, peer: NodeId, message: HeraldClose) -> Reply:
        """The primary has given a window up."""
        self._link(peer, message.link_id)
        window = self.windows.get(message.window_id)
        if window is not None and window.link_id == message.link_id:
            self._abort(window, f"{peer} closed it: {message.reason}")
        elif window is None:
            self._closed[message.window_id] = None
            if len(self._closed) > MAX_TOMBSTONES:
                self._closed.popitem(last=False)
        return SessionAck()

    def _abort(self, window: StationWindow, why: str) -> None:
        waits = window.state is StationState.WAITING
        window.step(StationInput.ABORT, *([RequestError(ErrorCode.EXPIRE, why)] if waits else []))

    def _peer_lost(self, peer: NodeId, _: Loss, why: str) -> None:
        """Windows of an end that is lost keep the detectors from nobody."""
        for window in list(self.windows.values()):
            if peer in window.ends and window.state in (StationState.WAITING, StationState.ARMED):
                self._abort(window, why)

    def _cancel(self, window: StationWindow) -> None:
        self._node.execute([Cancel(window_id=window.window_id)], lambda _: None)

    def _report(self, window: StationWindow) -> None:
        self._stop_timer(window)
        self._node.note("WindowReported", window.window_id, detail=f"attempt {window.attempt}, {window.bell_state}")
        message = HeraldReport(
            link_id=window.link_id,
            window_id=window.window_id,
            attempt=window.attempt,
            bell_state=window.bell_state,
        )

        def answered(_: Answer) -> None:
            window.unanswered -= 1
            if window.state is StationState.REPORTING:
                window.step(StationInput.ANSWERED_LAST if window.unanswered == 0 else StationInput.ANSWERED_ONE)

        for end in window.ends:
            self._node.endpoint.ask(end, message, window.deadline_ns, answered)

    def _ended(self, window: StationWindow) -> None:
        self.windows.pop(window.window_id, None)
