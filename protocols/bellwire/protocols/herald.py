"""Windows of attempts: one machine for an end, one for the station (spec 2 §3). Schemes are strategies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Final

from bellwire.protocols.errors import RequestError
from bellwire.protocols.ids import CreateId, NodeId, QubitName, WindowId
from bellwire.protocols.instructions import BellState
from bellwire.protocols.machine import Machine, Row
from bellwire.protocols.messages import HeraldOpen, HeraldReport, PairConfirm
from bellwire.protocols.timers import Timer


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """How a link heralds: its name on the wire, and the Bell states that its station can report.

    `bright`: the ends choose how much of their qubits' state emits, and so trade rate for fidelity. `midpoint`: a station
    stands between the ends; otherwise the hardware of one end, which receives, is the station.
    """

    name: str
    bell_states: tuple[BellState, ...]
    bright: bool = False
    midpoint: bool = True


_PSI: Final = (BellState.PSI_PLUS, BellState.PSI_MINUS)

DOUBLE_CLICK: Final = Scheme(name="double-click", bell_states=_PSI)
"""A coincidence of two detectors heralds Ψ+ or Ψ−: Simon and Irvine, PRL 91, 110405 (2003)."""

SINGLE_CLICK: Final = Scheme(name="single-click", bell_states=_PSI, bright=True)
"""One click heralds, of emitters that are rarely bright: Cabrillo et al., PRA 59, 1025 (1999)."""

TIME_BIN: Final = Scheme(name="time-bin", bell_states=_PSI)
"""One click in each of two time bins: Barrett and Kok, PRA 71, 060310 (2005)."""

DIRECT: Final = Scheme(name="direct", bell_states=_PSI, midpoint=False)
"""One end sends, the other one detects behind its own qubit: Duan and Kimble, PRL 92, 127902 (2004)."""

ANY_CLICK: Final = Scheme(name="any", bell_states=tuple(BellState))
"""A station that can tell all four Bell states: ideal links, for testing every frame."""

SCHEMES: Final = {scheme.name: scheme for scheme in (DOUBLE_CLICK, SINGLE_CLICK, TIME_BIN, DIRECT, ANY_CLICK)}

FIDELITY_TOLERANCE: Final = 1e-9
"""What the arithmetic of floats may cost a fidelity that was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrightStates:
    """Which fidelity a bright ratio gives, as it was calibrated: points (ratio, fidelity), joined by straight lines.

    Where fidelity falls ever faster with the ratio, as it does in theory, a straight line promises no more than is given.

    Raises:
        ValueError: when there is no point, the ratios do not rise, or a number is out of its range.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        ratios = [ratio for ratio, _ in self.points]
        if not ratios or any(first >= second for first, second in pairwise(ratios)):
            raise ValueError("bright states are points (ratio, fidelity) of rising ratio, at least one")
        if not all(0.0 < ratio < 1.0 and 0.0 <= fidelity <= 1.0 for ratio, fidelity in self.points):
            raise ValueError("a bright ratio lies between 0 and 1, and its fidelity in 0..1")

    @property
    def best_fidelity(self) -> float:
        """The highest fidelity that a bright ratio gives."""
        return max(fidelity for _, fidelity in self.points)

    def ratio_for(self, fidelity: float) -> float | None:
        """The largest ratio, so the fastest, that still gives a fidelity; `None` when no ratio does."""
        last, given = self.points[-1]
        if given >= fidelity:
            return last
        for (low, above), (high, below) in reversed(list(pairwise(self.points))):
            if above >= fidelity > below:
                return low + (high - low) * (above - fidelity) / (above - below)
        return None

    def fidelity_at(self, ratio: float) -> float:
        """The fidelity that a ratio gives; 0 outside of what was calibrated."""
        for (low, first), (high, second) in pairwise(self.points):
            if low <= ratio <= high:
                return first + (second - first) * (ratio - low) / (high - low)
        return self.points[0][1] if ratio == self.points[0][0] else 0.0


class WindowState(StrEnum):
    """States of a window at an end."""

    ARMED = "armed"
    COUNTED = "counted"
    REPORTED = "reported"
    CANCELLING = "cancelling"
    ENDED = "ended"


class WindowInput(StrEnum):
    """Inputs of a window at an end. COUNT is the own hardware's word, HERALD and NONE the station's."""

    COUNT = "count"
    HERALD = "herald"
    NONE = "none"
    FAIL = "fail"
    ABORT = "abort"
    TIMEOUT = "timeout"


NO_HERALD = "no herald"
"""Why most windows end without a pair."""

_S, _I = WindowState, WindowInput


class WindowEnd(Machine[WindowState, WindowInput]):
    """A window as one end sees it. A pair exists only if the station and the end's own hardware name the same attempt."""

    name = "window"
    rule = "2 §3.2"
    initial = WindowState.ARMED
    table = {
        (_S.ARMED, _I.COUNT): Row(_S.COUNTED, "keep_count", "2 §3.3"),
        (_S.ARMED, _I.HERALD): Row(_S.REPORTED, "keep_report", "2 §3.3"),
        (_S.ARMED, _I.NONE): Row(_S.CANCELLING, "cancel", "2 §3.3"),
        (_S.ARMED, _I.FAIL): Row(_S.ENDED, "end_empty", "2 §3.5"),
        (_S.ARMED, _I.ABORT): Row(_S.CANCELLING, "cancel", "2 §3.5"),
        (_S.ARMED, _I.TIMEOUT): Row(_S.CANCELLING, "cancel", "2 §3.5"),
        (_S.COUNTED, _I.HERALD): Row(_S.ENDED, "keep_report_and_compare", "2 §3.3"),
        (_S.COUNTED, _I.NONE): Row(_S.ENDED, "end_empty", "2 §3.3"),
        (_S.COUNTED, _I.ABORT): Row(_S.ENDED, "end_aborted", "2 §3.5"),
        (_S.COUNTED, _I.TIMEOUT): Row(_S.ENDED, "end_aborted", "2 §3.5"),
        (_S.REPORTED, _I.COUNT): Row(_S.ENDED, "keep_count_and_compare", "2 §3.3"),
        (_S.REPORTED, _I.HERALD): Row(_S.REPORTED, None, "2 §3.3"),
        (_S.REPORTED, _I.FAIL): Row(_S.ENDED, "end_empty", "2 §3.5"),
        (_S.REPORTED, _I.ABORT): Row(_S.CANCELLING, "cancel", "2 §3.5"),
        (_S.REPORTED, _I.TIMEOUT): Row(_S.CANCELLING, "cancel", "2 §3.5"),
        (_S.CANCELLING, _I.COUNT): Row(_S.ENDED, "end_empty", "2 §3.5"),
        (_S.CANCELLING, _I.FAIL): Row(_S.ENDED, "end_empty", "2 §3.5"),
        (_S.CANCELLING, _I.HERALD): Row(_S.CANCELLING, None, "2 §3.5"),
        (_S.CANCELLING, _I.NONE): Row(_S.CANCELLING, None, "2 §3.5"),
        (_S.CANCELLING, _I.ABORT): Row(_S.CANCELLING, None, "2 §3.5"),
        (_S.CANCELLING, _I.TIMEOUT): Row(_S.CANCELLING, None, "2 §3.5"),
    }

    def __init__(
        self,
        *,
        window_id: WindowId,
        create_id: CreateId,
        qubit: QubitName,
        cancel: Callable[[WindowEnd], None],
        ended: Callable[[WindowEnd], None],
    ) -> None:
        super().__init__()
        self.window_id = window_id
        self.create_id = create_id
        self.qubit = qubit
        self.counted = 0
        self.attempt = 0
        self.bell_state: BellState | None = None
        self.why = ""
        self.abandoned = False
        self.claim: tuple[int, PairConfirm] | None = None
        """The primary's confirmation, when it came before the window had ended here."""
        self.timer: Timer | None = None
        self._cancel, self._ended = cancel, ended

    def keep_count(self, attempts: int) -> None:
        """The own hardware has stopped after so many attempts."""
        self.counted = attempts

    def keep_report(self, report: HeraldReport) -> None:
        """The station saw a herald."""
        self.attempt, self.bell_state = report.attempt, report.bell_state

    def keep_report_and_compare(self, report: HeraldReport) -> None:
        """The station's word on a window that the hardware had ended."""
        self.keep_report(report)
        self._compare()

    def keep_count_and_compare(self, attempts: int) -> None:
        """The hardware's word on a window that the station had reported."""
        self.keep_count(attempts)
        self._compare()

    def _compare(self) -> None:
        if self.counted != self.attempt:
            why = f"the station reports attempt {self.attempt}, the hardware stopped at {self.counted}"
            self.end_empty(why)
        else:
            self._ended(self)

    def cancel(self, why: object = "") -> None:
        """Ask the hardware to stop."""
        self.why = self.why or (why if isinstance(why, str) else "")
        self.abandoned = self.state is WindowState.CANCELLING and self.why != NO_HERALD
        self._cancel(self)

    def end_aborted(self, why: str) -> None:
        """The window is given up after the hardware has stopped by itself."""
        self.abandoned = why != NO_HERALD
        self.end_empty(why)

    def end_empty(self, why: object = "") -> None:
        """The window ends without a pair."""
        self.bell_state = None
        self.why = self.why or (why if isinstance(why, str) else "")
        self._ended(self)


class StationState(StrEnum):
    """States of a window at the station. WAITING: the detectors are in use by others."""

    WAITING = "waiting"
    ARMED = "armed"
    REPORTING = "reporting"
    ENDED = "ended"


class StationInput(StrEnum):
    """Inputs of a window at the station. ANSWERED: one end has taken the report, or will never."""

    TURN = "turn"
    LATE = "late"
    DETECTED = "detected"
    FAIL = "fail"
    ABORT = "abort"
    ANSWERED_ONE = "answered-one"
    ANSWERED_LAST = "answered-last"


_T, _J = StationState, StationInput


class StationWindow(Machine[StationState, StationInput]):
    """A window as the station sees it: armed in its turn, then reported to both ends until both have taken it."""

    name = "station-window"
    rule = "2 §3.4"
    initial = StationState.WAITING
    table = {
        (_T.WAITING, _J.TURN): Row(_T.ARMED, "arm", "2 §3.6"),
        (_T.WAITING, _J.ABORT): Row(_T.ENDED, "dismiss", "2 §3.6"),
        (_T.WAITING, _J.LATE): Row(_T.ENDED, "dismiss", "2 §3.6"),
        (_T.ARMED, _J.DETECTED): Row(_T.REPORTING, "report", "2 §3.4"),
        (_T.ARMED, _J.FAIL): Row(_T.REPORTING, "report", "2 §3.4"),
        (_T.ARMED, _J.ABORT): Row(_T.ARMED, "cancel", "2 §3.5"),
        (_T.REPORTING, _J.ABORT): Row(_T.REPORTING, None, "2 §3.5"),
        (_T.REPORTING, _J.ANSWERED_ONE): Row(_T.REPORTING, None, "2 §3.4"),
        (_T.REPORTING, _J.ANSWERED_LAST): Row(_T.ENDED, "ended", "2 §3.4"),
    }

    def __init__(
        self,
        *,
        opening: HeraldOpen,
        ends: tuple[NodeId, NodeId],
        deadline_ns: int,
        arm: Callable[[StationWindow, int], None],
        dismiss: Callable[[StationWindow, RequestError], None],
        report: Callable[[StationWindow], None],
        cancel: Callable[[StationWindow], None],
        ended: Callable[[StationWindow], None],
    ) -> None:
        super().__init__()
        self.opening = opening
        self.link_id = opening.link_id
        self.window_id = opening.window_id
        self.ends = ends
        self.deadline_ns = deadline_ns
        self.attempt = 0
        self.bell_state: BellState | None = None
        self.unanswered = len(ends)
        self.timer: Timer | None = None
        self._arm, self._dismiss = arm, dismiss
        self._report, self._cancel, self._ended = report, cancel, ended

    def arm(self, switch_ns: int) -> None:
        """The detectors are this window's, after so much time."""
        self._arm(self, switch_ns)

    def dismiss(self, error: RequestError) -> None:
        """It never had its turn."""
        self._dismiss(self, error)

    def report(self, attempt: int, bell_state: BellState | None) -> None:
        """Tell both ends what the detectors saw."""
        self.attempt, self.bell_state = attempt, bell_state
        self._report(self)

    def cancel(self) -> None:
        """Ask the hardware to stop."""
        self._cancel(self)

    def ended(self) -> None:
        """Both ends have been told, as far as they could be."""
        self._ended(self)
