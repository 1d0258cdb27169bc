"""A heralding station: it arms its detectors for windows, and reports what they saw to both ends (spec 2 §3.4)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bellwire.protocols.endpoint import Answer
from bellwire.protocols.errors import ErrorCode, RemoteProtocolError, RequestError
from bellwire.protocols.herald import StationInput, StationState, StationWindow
from bellwire.protocols.ids import LinkId, NodeId, WindowId
from bellwire.protocols.instructions import AnyCompletion, Arm, Cancel, WindowEnded
from bellwire.protocols.limits import MAX_LINK_WINDOWS, MAX_STATION_WINDOWS
from bellwire.protocols.messages import HeraldClose, HeraldOpen, HeraldReady, HeraldReport, Reply, SessionAck
from bellwire.protocols.node import Node, failure


@dataclass(frozen=True, slots=True, kw_only=True)
class StationLink:
    """A link that the station serves: its primary end, its other end, how long it tries to report to them, its guard band."""

    link_id: LinkId
    primary: NodeId
    secondary: NodeId
    report_timeout_ns: int = 500_000_000
    guard_ns: int = 10_000_000


class Station:
    """The coordinator of a station's windows."""

    def __init__(self, node: Node, links: Iterable[StationLink]) -> None:
        self._node = node
        self._links = {link.link_id: link for link in links}
        self.windows: dict[WindowId, StationWindow] = {}
        endpoint = node.endpoint
        endpoint.handle(HeraldOpen, self.open)
        endpoint.handle(HeraldClose, self.close)

    def _link(self, peer: NodeId, link_id: LinkId) -> StationLink:
        link = self._links.get(link_id)
        if link is None:
            raise RequestError(ErrorCode.UNKNOWN_ID, f"{self._node.endpoint.node} does not serve {link_id}")
        if peer != link.primary:
            raise RemoteProtocolError(f"{peer} is not the primary end of {link_id}", "2 §3.1", ErrorCode.DENIED)
        return link

    def open(self, peer: NodeId, message: HeraldOpen) -> Reply:
        """The primary opens a window: arm the detectors."""
        link = self._link(peer, message.link_id)
        node, endpoint = self._node, self._node.endpoint
        if message.window_id in self.windows:
            raise RemoteProtocolError(f"{message.window_id} is open already", "2 §3.1")
        if len(self.windows) >= MAX_STATION_WINDOWS:
            raise RequestError(ErrorCode.NORES, f"{MAX_STATION_WINDOWS} windows are open")
        if sum(window.link_id == link.link_id for window in self.windows.values()) >= MAX_LINK_WINDOWS:
            raise RequestError(ErrorCode.NORES, f"{MAX_LINK_WINDOWS} windows of {link.link_id} are open")
        node.check_time(link.guard_ns)
        if not node.backend_up:
            raise RequestError(ErrorCode.BACKEND, f"the detectors of {endpoint.node} are not connected")
        window = StationWindow(
            link_id=message.link_id,
            window_id=message.window_id,
            ends=(link.primary, link.secondary),
            deadline_ns=endpoint.now_ns + message.timeout_ns + link.report_timeout_ns,
            report=self._report,
            cancel=self._cancel,
            ended=self._ended,
        )
        self.windows[message.window_id] = window
        node.note("WindowOpened", message.window_id, message.create_id)
        arm = Arm(
            window_id=message.window_id,
            link_id=message.link_id,
            start_in_ns=max(0, endpoint.local_time_ns(message.start_ns) - endpoint.now_ns),
            attempts=message.attempts,
            timeout_ns=message.timeout_ns,
        )

        def seen(completions: tuple[AnyCompletion, ...]) -> None:
            last = completions[-1]
            if window.state is not StationState.ARMED:
                return
            if isinstance(last, WindowEnded) and last.bell_state is not None:
                window.step(StationInput.DETECTED, last.attempts, last.bell_state)
            elif isinstance(last, WindowEnded):
                window.step(StationInput.DETECTED, 0, None)
            else:
                node.note("WindowFailed", window.window_id, detail=failure(completions) or "")
                window.step(StationInput.FAIL, 0, None)

        window.timer = endpoint.timers.at(window.deadline_ns, lambda: self._overdue(window))
        node.execute([arm], seen)
        return HeraldReady()

    def _overdue(self, window: StationWindow) -> None:
        """The detectors never answered: nobody waits for this window any more."""
        self._node.note("WindowFailed", window.window_id, detail="the detectors did not answer")
        window.step(StationInput.FAIL, 0, None)

    def close(self, peer: NodeId, message: HeraldClose) -> Reply:
        """The primary has given a window up."""
        self._link(peer, message.link_id)
        window = self.windows.get(message.window_id)
        if window is not None and window.link_id == message.link_id:
            window.step(StationInput.ABORT)
        return SessionAck()

    def _cancel(self, window: StationWindow) -> None:
        self._node.execute([Cancel(window_id=window.window_id)], lambda _: None)

    def _report(self, window: StationWindow) -> None:
        if window.timer is not None:
            window.timer.cancel()
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
