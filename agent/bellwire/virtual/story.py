"""The story of a failing seed: what was broken, the fewest faults that it takes, and how to see it happen."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from bellwire.protocols.ids import BROKER
from bellwire.simnet.faults import (
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
)
from bellwire.virtual.build import commit
from bellwire.virtual.run import CHECKERS, START_NS, WARM_UP_NS, Report, plan_of
from bellwire.virtual.scenario import Scenario
from bellwire.virtual.shrink import shrink

TOLD_VIOLATIONS: Final = 3
"""What was broken first; the rest mostly follows from it."""

INVARIANTS: Final = {checker.name: (checker.__doc__ or "").partition("\n")[0] for checker in CHECKERS} | {
    "no-crash": "No protocol code ends with an exception.",
}
"""What each checker holds to be true."""

_HAPPENS: Final = {
    FrameFaultKind.LOSE: "is lost",
    FrameFaultKind.REPEAT: "arrives twice",
    FrameFaultKind.DELAY: "is delayed",
    FrameFaultKind.REORDER: "is delayed, so that others overtake it,",
}


_ENDS: Final = {
    CrashManner.KILLED: "is dead, and then starts again",
    CrashManner.POLITE: "is gone, having said goodbye, and then starts again",
    CrashManner.SET_BACK: "is dead, starts again with an earlier epoch than its last one, and then once more as it should",
}

_STRIKES: Final = {
    AmbushKind.LOSE: "it and every {family} message that follows it that way within {time} are lost",
    AmbushKind.CUT: "nothing else passes between the two for {time}",
    AmbushKind.COPY: "it passes",
    AmbushKind.CRASH_UNSENT: "its sender dies before it has sent it, and starts again {time} later",
    AmbushKind.CRASH_SENDER: "its sender dies, and starts again {time} later",
    AmbushKind.CRASH_RECEIVER: "its receiver dies when it has dealt with it, and starts again {time} later",
    AmbushKind.STALL_RECEIVER: "its receiver does nothing more for {time}, and then all of it at once",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What a person needs to know of a failing seed. `plan` is what of the drawn faults it takes, where that was looked for."""

    scenario: str
    seed: int
    commit: str
    drawn: int
    shrunk: bool
    plan: Plan
    violations: list[dict[str, str | int]]

    @property
    def replay(self) -> str:
        """The command that lets it happen again, and writes down every event."""
        numbers = ",".join(str(fault.number) for fault in self.plan) or "none"
        faults = f" --faults {numbers}" if len(self.plan) < self.drawn else ""
        return f"bellwire simnet {shlex.quote(self.scenario)} --seed {self.seed}{faults} --trace trace.jsonl"

    def as_dict(self) -> dict[str, Any]:
        """The story as plain data, for `--json`."""
        return {
            "scenario": self.scenario,
            "seed": self.seed,
            "commit": self.commit,
            "faults_drawn": self.drawn,
            "shrunk": self.shrunk,
            "faults": msgspec.to_builtins(self.plan),
            "violations": self.violations,
            "replay": self.replay,
        }

    def lines(self) -> list[str]:
        """The story in words. Times count from when faults begin; `at_ns` is the time that the trace has."""
        at = f" at commit {self.commit}" if self.commit else ""
        told = [f"seed {self.seed} of {self.scenario} failed{at}", "  what was broken:"]
        invariant = ""
        for violation in self.violations[:TOLD_VIOLATIONS]:
            checker, at_ns = str(violation["checker"]), int(violation["at_ns"])
            if checker != invariant:
                told.append(f"    {checker}: {INVARIANTS.get(checker, '')}".rstrip())
                invariant = checker
            told.append(f"      after {_seconds(at_ns - START_NS - WARM_UP_NS)} (at_ns {at_ns}): {violation['text']}")
        more = len(self.violations) - TOLD_VIOLATIONS
        if more > 0:
            told.append(f"    and {more} more")
        told.append(f"  {self._needed()}")
        told += [f"    {fault.number}. {in_words(fault)}" for fault in self.plan]
        return [*told, "  see it happen, event by event:", f"    {self.replay}"]

    def _needed(self) -> str:
        if not self.plan:
            return f"what it takes: none of the {self.drawn} faults that the seed draws"
        if not self.shrunk:
            return (
                f"what went wrong by then, whether it matters or not: {len(self.plan)} of the {self.drawn} faults drawn"
            )
        return f"what it takes: {len(self.plan)} of the {self.drawn} faults that the seed draws"


def tell(scenario: Scenario, name: str, report: Report, *, plan: Plan | None = None, shrinks: bool) -> Story:
    """Find out what a failing seed has to tell. `plan` is what it was run with, when that is not what it draws."""
    drawn = plan_of(scenario, report.seed)
    kept, violations = drawn if plan is None else plan, report.violations
    shrinks = shrinks and plan is None
    if shrinks:
        kept, shrunk = shrink(scenario, report.seed, report.checkers)
        violations = shrunk.violations or violations
    return Story(
        scenario=name,
        seed=report.seed,
        commit=commit(),
        drawn=len(drawn),
        shrunk=shrinks,
        plan=kept,
        violations=violations,
    )


def in_words(fault: AnyFault) -> str:
    """One fault, as a person would tell it."""
    span = f"from {_seconds(fault.start_ns)} to {_seconds(fault.end_ns)},"
    if isinstance(fault, FrameFault):
        return f"{span} {_frames(fault)}"
    if isinstance(fault, Cut):
        first, second = (_all(names) for names in (fault.senders, fault.receivers))
        return f"{span} nothing passes " + (
            f"between {first} and {second}" if fault.both_ways else f"from {first} to {second}"
        )
    if isinstance(fault, Stall):
        return f"{span} {_who(fault.node)} does nothing, and then all of it at once"
    if isinstance(fault, Skew):
        way = "ahead" if fault.offset_ns >= 0 else "behind"
        drift = f"and drifts by {fault.drift_ppb / 1e3:g} ppm"
        return f"all the time, the clock of {_who(fault.node)} is {_seconds(abs(fault.offset_ns))} {way} {drift}"
    if isinstance(fault, ClockStep | ClockDrift | Detour):
        return _clocks(fault)
    if isinstance(fault, Slow):
        return f"{span} the hardware of {_who(fault.node)} takes up to {fault.delay_ns / 1e6:g} ms longer each way"
    if isinstance(fault, Crash):
        return f"{span} {_who(fault.node)} {_ENDS[fault.manner]}"
    if isinstance(fault, Miscount):
        wrong = f"counts one attempt too many in {fault.permille / 10:g} % of its windows"
        return f"{span} the hardware of {_who(fault.node)} {wrong}"
    if isinstance(fault, Ambush):
        return _ambush(fault)
    return f"{span} the simulated world is gone with every qubit; nodes notice within {_seconds(fault.notice_ns)}"


def _clocks(fault: ClockStep | ClockDrift | Detour) -> str:
    since = f"from {_seconds(fault.start_ns)}"
    if isinstance(fault, ClockStep):
        return (
            f"at {_seconds(fault.start_ns)}, the clock of {_who(fault.node)} jumps ahead by {_seconds(fault.offset_ns)}"
        )
    if isinstance(fault, ClockDrift):
        return f"{since} on, the clock of {_who(fault.node)} drifts by {fault.drift_ppb / 1e3:g} ppm"
    way = f"from {_who(fault.sender)} to {_who(fault.receiver)}"
    return f"{since} to {_seconds(fault.end_ns)}, every message {way} takes {_seconds(fault.delay_ns)} longer"


def _ambush(fault: Ambush) -> str:
    nth = "first" if fault.nth == 1 else f"{fault.nth}."
    copy = f"; a copy of it comes {_seconds(fault.copy_after_ns)} later" if fault.copy_after_ns else ""
    does = _STRIKES[fault.kind].format(family=fault.message.partition(".")[0], time=_seconds(fault.duration_ns))
    return f"at the {nth} {fault.message} after {_seconds(fault.start_ns)}, {does}{copy}"


def _frames(fault: FrameFault) -> str:
    way = (f" from {_who(fault.sender)}" if fault.sender else "") + (
        f" to {_who(fault.receiver)}" if fault.receiver else ""
    )
    delay = f" by up to {fault.delay_ns / 1e6:g} ms" if fault.delay_ns else ""
    spared = ", applications' frames apart," if fault.spared else ""
    kind = f"{fault.family} message" if fault.family else "message"
    return f"{fault.permille / 10:g} % of the time a {kind}{way}{spared} {_HAPPENS[fault.kind]}{delay}"


def _all(names: Sequence[str]) -> str:
    *most, last = map(_who, names)
    return f"{', '.join(most)} and {last}" if most else last


def _who(name: str) -> str:
    kinds = {"n": "node", "s": "station", "a": "application"}
    return f"the {name}" if name == BROKER else f"{kinds.get(name[:1], '')} {name}".lstrip()


def _seconds(duration_ns: int) -> str:
    return f"{duration_ns / 1e9:.6f}".rstrip("0").rstrip(".") + " s"
