"""Lets the faults of a plan happen to participants in virtual time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Final, Protocol

from bellwire.protocols.ids import NodeId
from bellwire.simnet.clocks import TRUE_CLOCK, SkewedClock
from bellwire.simnet.fabric import Frame, Rule
from bellwire.simnet.faults import (
    AMBUSH_NS,
    Ambush,
    AmbushKind,
    AnyFault,
    ClockDrift,
    ClockStep,
    Crash,
    CrashManner,
    Cut,
    Detour,
    FrameFault,
    FrameFaultKind,
    Miscount,
    Plan,
    Skew,
    Slow,
    Stall,
    WorldCrash,
)
from bellwire.simnet.loop import Simnet

_NOTICE_STEPS: Final = 8


class OperatorCapable(Protocol):
    """Whoever can do to the participants what a fault does."""

    def crash(self, name: NodeId) -> None:
        """End a participant without a word."""

    def quit(self, name: NodeId) -> None:
        """End a participant when it has said goodbye to everybody."""

    def restart(self, name: NodeId, *, set_back: bool = False) -> None:
        """Start its next incarnation, with an epoch that is earlier than its last one if its clock was `set_back`."""

    def lose_world(self) -> None:
        """Let the world lose every qubit."""

    def notice_loss(self, name: NodeId) -> None:
        """Let a node notice that."""

    def regain_world(self, name: NodeId) -> None:
        """Let a node find the world again."""

    def slow(self, name: NodeId, start_ns: int, end_ns: int, delay: Callable[[], int]) -> None:
        """Let a node's backend be slow between two times."""

    def miscount(self, name: NodeId, start_ns: int, end_ns: int, wrong: Callable[[], bool]) -> None:
        """Let an agent's hardware count one attempt too many between two times, whenever `wrong()`."""

    def backends(self) -> Sequence[NodeId]:
        """The nodes that have a backend."""


class _Trap:
    """An ambush that waits for its frame, strikes once, and holds what it has caught until it is over."""

    def __init__(
        self, fault: Ambush, net: Simnet, operator: OperatorCapable, count: Callable[[AnyFault, str], None]
    ) -> None:
        self._fault = fault
        self._net = net
        self._operator = operator
        self._count = count
        self._seen = 0
        self._caught: Frame | None = None
        self._until_ns = 0

    def rule(self, began_ns: int) -> Rule:
        """The fabric's rule that shows it every frame from its start on; those that match are lost."""
        fault = self._fault
        start_ns = began_ns + fault.start_ns
        self._until_ns = start_ns + AMBUSH_NS
        return Rule(
            matches=self._matches,
            loss_probability=1.0,
            start_ns=start_ns,
            end_ns=began_ns + fault.end_ns,
            random=Random(0),
        )

    def _matches(self, frame: Frame) -> bool:
        if frame.sent_ns >= self._until_ns:
            return False
        if self._caught is not None:
            return self._holds(self._caught, frame)
        if frame.type != self._fault.message:
            return False
        self._seen += 1
        if self._seen < self._fault.nth:
            return False
        self._strike(frame)
        return self._fault.kind in (AmbushKind.LOSE, AmbushKind.CRASH_UNSENT)

    def _holds(self, caught: Frame, frame: Frame) -> bool:
        if self._fault.kind is AmbushKind.CRASH_UNSENT:
            return (frame.sender, frame.sent_ns) == (caught.sender, caught.sent_ns)
        same = (frame.sender, frame.receiver) == (caught.sender, caught.receiver)
        if self._fault.kind is AmbushKind.LOSE:
            return same and frame.type.partition(".")[0] == caught.type.partition(".")[0]
        reverse = (frame.receiver, frame.sender) == (caught.sender, caught.receiver)
        return self._fault.kind is AmbushKind.CUT and (same or reverse)

    def _strike(self, frame: Frame) -> None:
        fault, net = self._fault, self._net
        self._caught = frame
        self._until_ns = net.now_ns + fault.duration_ns
        self._count(fault, frame.sender)
        dealt_ns = net.now_ns + net.fabric.latency_ns + 1
        if fault.kind is AmbushKind.STALL_RECEIVER:
            net.at(dealt_ns, lambda: net.stall(frame.receiver, fault.duration_ns))
        elif fault.kind in (AmbushKind.CRASH_SENDER, AmbushKind.CRASH_UNSENT):
            self._crash(frame.sender, net.now_ns)
        elif fault.kind is AmbushKind.CRASH_RECEIVER:
            self._crash(frame.receiver, dealt_ns)
        if fault.copy_after_ns:
            net.carry(frame, net.now_ns + fault.copy_after_ns)

    def _crash(self, name: NodeId, at_ns: int) -> None:
        self._net.at(at_ns, lambda: self._operator.crash(name))
        self._net.at(at_ns + self._fault.duration_ns, lambda: self._operator.restart(name))


class Injector:
    """Lets the faults of a plan happen, and counts how often each did."""

    def __init__(self, plan: Plan, net: Simnet, operator: OperatorCapable, seed: int) -> None:
        self.plan = plan
        self.fired: Counter[str] = Counter()
        self.fired_by_number: Counter[int] = Counter()
        self._net = net
        self._operator = operator
        self._seed = seed
        self._began_ns = net.now_ns
        for fault in plan:
            self._inject(fault)

    @staticmethod
    def clocks(plan: Plan, began_ns: int) -> dict[NodeId, SkewedClock]:
        """The clocks that a plan gives to participants, before there is a net that needs them."""
        return {
            NodeId(fault.node): SkewedClock(offset_ns=fault.offset_ns, drift_ppb=fault.drift_ppb, since_ns=began_ns)
            for fault in plan
            if isinstance(fault, Skew)
        }

    def _inject(self, fault: AnyFault) -> None:
        random = Random(f"{self._seed}/{fault.number}")
        if isinstance(fault, FrameFault):
            self._net.fabric.rules.append(self._frame_rule(fault, random))
        elif isinstance(fault, Cut):
            self._net.fabric.rules.append(self._cut_rule(fault))
        elif isinstance(fault, Stall):
            self._at(fault, fault.start_ns, lambda: self._net.stall(NodeId(fault.node), fault.duration_ns))
        elif isinstance(fault, Skew):
            self._count(fault, fault.node)
        elif isinstance(fault, ClockStep | ClockDrift):
            self._at(fault, fault.start_ns, lambda: self._change_clock(fault))
        elif isinstance(fault, Detour):
            self._net.fabric.rules.append(self._detour_rule(fault))
        elif isinstance(fault, Slow):
            self._slow(fault, random)
        elif isinstance(fault, Crash):
            self._crash(fault)
        elif isinstance(fault, Miscount):
            self._miscount(fault, random)
        elif isinstance(fault, Ambush):
            self._net.fabric.rules.append(_Trap(fault, self._net, self._operator, self._count).rule(self._began_ns))
        else:
            self._lose_world(fault, random)

    def _count(self, fault: AnyFault, actor: str) -> None:
        self.fired[fault.label] += 1
        self.fired_by_number[fault.number] += 1
        if self._net.trace is not None:
            self._net.trace.event(self._net.now_ns, "fault", actor, f"fault-{fault.number}", what=fault.label)

    def _at(self, fault: AnyFault, at_ns: int, call: Callable[[], None], actor: str = "") -> None:
        def happen() -> None:
            self._count(fault, actor or getattr(fault, "node", ""))
            call()

        self._net.at(self._began_ns + at_ns, happen)

    def _frame_rule(self, fault: FrameFault, random: Random) -> Rule:
        sender, receiver, spared = fault.sender, fault.receiver, frozenset(fault.spared)
        family = fault.family + "." if fault.family else ""

        def matches(frame: Frame) -> bool:
            if (sender and frame.sender != sender) or (receiver and frame.receiver != receiver):
                return False
            if frame.sender in spared or frame.receiver in spared:
                return False
            return not family or frame.type.startswith(family)

        probability, kind = fault.permille / 1000, fault.kind
        return Rule(
            matches=matches,
            loss_probability=probability if kind is FrameFaultKind.LOSE else 0.0,
            repeat_probability=probability if kind is FrameFaultKind.REPEAT else 0.0,
            delay_probability=probability if kind in (FrameFaultKind.DELAY, FrameFaultKind.REORDER) else 0.0,
            delay_ns=fault.delay_ns,
            start_ns=self._began_ns + fault.start_ns,
            end_ns=self._began_ns + fault.end_ns,
            random=random,
            on_fired=lambda frame, _: self._count(fault, frame.sender),
        )

    def _cut_rule(self, fault: Cut) -> Rule:
        senders, receivers = frozenset(fault.senders), frozenset(fault.receivers)

        def matches(frame: Frame) -> bool:
            if frame.sender in senders and frame.receiver in receivers:
                return True
            return fault.both_ways and frame.sender in receivers and frame.receiver in senders

        return Rule(
            matches=matches,
            loss_probability=1.0,
            start_ns=self._began_ns + fault.start_ns,
            end_ns=self._began_ns + fault.end_ns,
            random=Random(0),
            on_fired=lambda frame, _: self._count(fault, frame.sender),
        )

    def _change_clock(self, fault: ClockStep | ClockDrift) -> None:
        """Let the clock show something else from now on, or run at another rate."""
        net, name = self._net, NodeId(fault.node)
        before = net.clocks.get(name, TRUE_CLOCK)
        offset_ns = before.local_ns(net.now_ns) - net.now_ns
        if isinstance(fault, ClockStep):
            clock = replace(before, offset_ns=offset_ns + fault.offset_ns, since_ns=net.now_ns)
        else:
            clock = replace(before, offset_ns=offset_ns, drift_ppb=fault.drift_ppb, since_ns=net.now_ns)
        net.set_clock(name, clock)

    def _detour_rule(self, fault: Detour) -> Rule:
        return Rule(
            matches=lambda frame: (frame.sender, frame.receiver) == (fault.sender, fault.receiver),
            delay_probability=1.0,
            delay_ns=fault.delay_ns,
            least_delay_ns=fault.delay_ns,
            start_ns=self._began_ns + fault.start_ns,
            end_ns=self._began_ns + fault.end_ns,
            random=Random(0),
            on_fired=lambda frame, _: self._count(fault, frame.sender),
        )

    def _slow(self, fault: Slow, random: Random) -> None:
        def delay() -> int:
            self._count(fault, fault.node)
            return random.randint(0, fault.delay_ns)

        began_ns = self._began_ns
        self._operator.slow(NodeId(fault.node), began_ns + fault.start_ns, began_ns + fault.end_ns, delay)

    def _miscount(self, fault: Miscount, random: Random) -> None:
        def wrong() -> bool:
            happens = random.randrange(1_000) < fault.permille
            if happens:
                self._count(fault, fault.node)
            return happens

        began_ns = self._began_ns
        self._operator.miscount(NodeId(fault.node), began_ns + fault.start_ns, began_ns + fault.end_ns, wrong)

    def _crash(self, fault: Crash) -> None:
        name, operator = NodeId(fault.node), self._operator
        end = operator.quit if fault.manner is CrashManner.POLITE else operator.crash
        self._at(fault, fault.start_ns, lambda: end(name))
        if fault.manner is CrashManner.SET_BACK:
            back_ns = self._began_ns + fault.start_ns + fault.duration_ns
            self._net.at(back_ns, lambda: operator.restart(name, set_back=True))
            self._net.at(self._began_ns + fault.end_ns, lambda: operator.crash(name))
        self._net.at(self._began_ns + fault.end_ns, lambda: operator.restart(name))

    def _lose_world(self, fault: WorldCrash, random: Random) -> None:
        self._at(fault, fault.start_ns, self._operator.lose_world, "world")
        step_ns = fault.notice_ns // _NOTICE_STEPS
        for name in self._operator.backends():
            at_ns = self._began_ns + fault.start_ns + step_ns * random.randint(0, _NOTICE_STEPS)
            back_ns = max(at_ns, self._began_ns + fault.end_ns) + step_ns * random.randint(0, _NOTICE_STEPS)
            self._net.at(at_ns, lambda name=name: self._operator.notice_loss(name))  # type: ignore[misc]
            self._net.at(back_ns, lambda name=name: self._operator.regain_world(name))  # type: ignore[misc]
