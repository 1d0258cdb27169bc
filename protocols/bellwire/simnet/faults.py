"""What goes wrong in a run, as data: a plan of faults, drawn from a seed. Each can be left out without changing the others.

Times are nanoseconds since the run began, probabilities are counted in thousandths: a plan is whole numbers and names alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from random import Random
from typing import ClassVar, Final

import msgspec

from bellwire.protocols.messages import MESSAGES

MILLISECOND_NS: Final = 1_000_000

AMBUSH_NS: Final = 3_000_000_000
"""How long an ambush waits for its frame."""


class FrameFaultKind(StrEnum):
    """What happens to a frame. DELAY puts it off for long, REORDER for so little that others overtake it."""

    LOSE = "lose"
    REPEAT = "repeat"
    DELAY = "delay"
    REORDER = "reorder"


class Fault(msgspec.Struct, frozen=True, kw_only=True, tag_field="fault"):
    """Base of all faults. `number` tells it from the others of its plan, and is the seed of its own chances."""

    name: ClassVar[str]

    number: int
    start_ns: int = 0
    duration_ns: int = 0

    @property
    def end_ns(self) -> int:
        """When it is over."""
        return self.start_ns + self.duration_ns

    @property
    def label(self) -> str:
        """How it is counted."""
        return str(self.__struct_config__.tag)


class FrameFault(Fault, frozen=True, kw_only=True, tag="frames"):
    """Frames of a direction (`sender`, `receiver`) and a message family fare badly for a while. An empty name is anybody.

    Frames of `spared` participants fare well.
    """

    kind: FrameFaultKind
    permille: int
    delay_ns: int = 0
    sender: str = ""
    receiver: str = ""
    family: str = ""
    spared: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """How it is counted."""
        return self.kind.value


class Cut(Fault, frozen=True, kw_only=True, tag="cut"):
    """No frame passes from `senders` to `receivers` for a while: a partition, when it is so both ways."""

    senders: tuple[str, ...]
    receivers: tuple[str, ...]
    both_ways: bool = True


class Stall(Fault, frozen=True, kw_only=True, tag="stall"):
    """A participant receives nothing and does nothing for a while, and then all of it."""

    node: str


class Skew(Fault, frozen=True, kw_only=True, tag="skew"):
    """A participant's clock is wrong from the beginning."""

    node: str
    offset_ns: int
    drift_ppb: int


class ClockStep(Fault, frozen=True, kw_only=True, tag="clock-step"):
    """A participant's clock jumps forwards, as when its machine slept."""

    node: str
    offset_ns: int


class ClockDrift(Fault, frozen=True, kw_only=True, tag="clock-drift"):
    """A participant's clock runs faster or slower from now on."""

    node: str
    drift_ppb: int


class Detour(Fault, frozen=True, kw_only=True, tag="detour"):
    """Frames of one direction take `delay_ns` longer for a while, each as much, so that a path and the way back differ."""

    sender: str
    receiver: str
    delay_ns: int


class Slow(Fault, frozen=True, kw_only=True, tag="slow"):
    """A node's backend takes up to `delay_ns` longer each way for a while."""

    node: str
    delay_ns: int


class CrashManner(StrEnum):
    """How a participant goes and comes back.

    KILLED: without a word. POLITE: it says goodbye to everybody. SET_BACK: without a word, and when it is started again its
    clock has been set back, so that its epoch is earlier than its last one; after another such duration that is put right.
    """

    KILLED = "killed"
    POLITE = "polite"
    SET_BACK = "set-back"


class Crash(Fault, frozen=True, kw_only=True, tag="crash"):
    """A participant ends, and is started again when the duration is over."""

    node: str
    manner: CrashManner = CrashManner.KILLED

    @property
    def end_ns(self) -> int:
        """When it is over."""
        return self.start_ns + self.duration_ns * (2 if self.manner is CrashManner.SET_BACK else 1)

    @property
    def label(self) -> str:
        """How it is counted."""
        return "crash" if self.manner is CrashManner.KILLED else f"crash-{self.manner}"


class WorldCrash(Fault, frozen=True, kw_only=True, tag="world-crash"):
    """The world loses every qubit. Nodes notice one after another within `notice_ns`, and then find it again."""

    notice_ns: int


class Miscount(Fault, frozen=True, kw_only=True, tag="miscount"):
    """An agent's hardware counts one attempt too many in some windows that end in a while."""

    node: str
    permille: int = 300


class AmbushKind(StrEnum):
    """What an ambush does at its moment.

    LOSE: the frame is lost, and so are those of its family that follow it in its direction. CUT: it is the last that passes
    between the two. COPY: it passes, and so does its copy. CRASH and STALL strike a participant when it has sent the frame, or
    has dealt with it; CRASH_UNSENT before anything is sent of what it says in that moment from this frame on.
    """

    LOSE = "lose"
    CUT = "cut"
    COPY = "copy"
    CRASH_UNSENT = "crash-unsent"
    CRASH_SENDER = "crash-sender"
    CRASH_RECEIVER = "crash-receiver"
    STALL_RECEIVER = "stall-receiver"


class Ambush(Fault, frozen=True, kw_only=True, tag="ambush"):
    """Something happens at the very moment when the `nth` message of a type is sent, if that is soon after `start_ns`.

    Its effect lasts for `duration_ns`. With `copy_after_ns`, another copy of the frame arrives so much later. `scene` names the
    scene of a link's life that it is set in, if there is one.
    """

    kind: AmbushKind
    message: str
    nth: int = 1
    copy_after_ns: int = 0
    scene: str = ""

    @property
    def end_ns(self) -> int:
        """When it is over at the latest."""
        return self.start_ns + AMBUSH_NS + self.duration_ns + self.copy_after_ns

    @property
    def label(self) -> str:
        """How it is counted."""
        return self.scene or f"ambush-{self.kind}"


AnyFault = (
    FrameFault | Cut | Stall | Skew | ClockStep | ClockDrift | Detour | Slow | Crash | WorldCrash | Miscount | Ambush
)
Plan = tuple[AnyFault, ...]


class FaultMix(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much goes wrong: each seed draws from none to so many faults of a kind, of up to such a size."""

    frames: int = 0
    """Faults of frames: loss, repetition, delay, reordering."""
    permille: int = 250
    """The largest probability of a fault of frames."""
    delay_ms: int = 1_000
    cuts: int = 0
    cut_ms: int = 4_000
    stalls: int = 0
    stall_ms: int = 2_000
    skewed: int = 0
    offset_ms: int = 60_000
    drift_ppm: int = 20
    slow: int = 0
    slow_us: int = 2_000
    crashes: int = 0
    broker_crashes: int = 0
    """Crashes of the broker, which is the grandmaster, besides those of anybody."""
    down_ms: int = 4_000
    ambushes: int = 0
    link_scenes: int = 0
    """Ambushes between a herald and its confirmation, those of `LINK_SCENES`."""
    miscounts: int = 0
    world_crashes: int = 0
    notice_ms: int = 3_000
    clock_steps: int = 0
    step_ms: int = 50
    clock_drifts: int = 0
    detours: int = 0
    detour_us: int = 2_000
    detour_ms: int = 10_000

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if not 0 <= value <= 1_000_000:
                raise ValueError(f"`{name}` is {value}, expected 0 to 1000000")
        if self.permille > 1_000:
            raise ValueError(f"`permille` is {self.permille}, expected at most 1000")


class Participants(msgspec.Struct, frozen=True, kw_only=True):
    """Who takes part, for drawing faults: `neighbours` are those who talk to each other."""

    agents: tuple[str, ...]
    stations: tuple[str, ...]
    applications: tuple[str, ...]
    broker: str
    standbys: tuple[str, ...] = ()
    """Agents that are sources of time, besides the broker."""
    neighbours: tuple[tuple[str, str], ...]

    @property
    def daemons(self) -> tuple[str, ...]:
        """All but the applications."""
        return (*self.agents, *self.stations, self.broker)


TAGS: Final = tuple(str(message.__struct_config__.tag) for message in MESSAGES)

FAMILIES: Final = ("", "", "", "session", "link", "herald", "pair", "gate")

AMBUSHED: Final = {
    family: tuple(tag for tag in TAGS if tag.startswith(f"{family}."))
    for family in ("link", "herald", "pair", "gate", "program")
}
"""The messages that ambushes wait for, by family: all that are not sent of themselves."""

AMBUSH_DOUBLINGS: Final = 12
"""An ambush lasts for up to two to the power of this milliseconds, and a copy comes after up to half as many."""

LINK_SCENES: Final[dict[str, tuple[tuple[AmbushKind, str], ...]]] = {
    "lost-report": ((AmbushKind.LOSE, "herald.report"),),
    "late-report": ((AmbushKind.LOSE, "herald.report"),),
    "repeated-report": ((AmbushKind.COPY, "herald.report"),),
    "crash-before-report": ((AmbushKind.CRASH_UNSENT, "herald.report"),),
    "crash-before-confirming": ((AmbushKind.CRASH_UNSENT, "pair.confirm"), (AmbushKind.CRASH_UNSENT, "pair.confirmed")),
    "crash-after-confirming": (
        (AmbushKind.CRASH_SENDER, "pair.confirmed"),
        (AmbushKind.CRASH_RECEIVER, "pair.confirmed"),
    ),
}
"""What can go wrong between a herald and its confirmation by both ends, each by any of some ambushes.

A late report comes when its window has closed: the frames that bring it in time are lost, a copy of the first one is not.
"""


def draw_plan(mix: FaultMix, who: Participants, duration_ns: int, seed: int) -> Plan:
    """Draw the faults of one run: all of them are over when the duration is."""
    random = Random(f"plan/{seed}")
    faults: list[AnyFault] = []

    def span(longest_ms: int) -> dict[str, int]:
        length_ns = random.randint(1, max(1, longest_ms)) * MILLISECOND_NS
        length_ns = min(length_ns, duration_ns)
        return {
            "number": len(faults) + 1,
            "start_ns": random.randint(0, duration_ns - length_ns),
            "duration_ns": length_ns,
        }

    everybody = (*who.daemons, *who.applications)
    for _ in range(random.randint(0, mix.frames)):
        faults.append(_draw_frame_fault(mix, who, random, span(duration_ns // MILLISECOND_NS)))
    for _ in range(random.randint(0, mix.cuts)):
        first, second = random.choice(who.neighbours)
        alone = random.random() < 0.3
        rest = tuple(name for name in everybody if name != first)
        one_way = random.random() < 0.3
        cut = Cut(senders=(first,), receivers=rest if alone else (second,), both_ways=not one_way, **span(mix.cut_ms))
        faults.append(cut)
    for _ in range(random.randint(0, mix.stalls)):
        faults.append(Stall(node=random.choice(everybody), **span(mix.stall_ms)))
    for node in random.sample(who.daemons[:-1], min(random.randint(0, mix.skewed), len(who.daemons) - 1)):
        offset_ns = random.randint(-mix.offset_ms, mix.offset_ms) * MILLISECOND_NS
        drift_ppb = random.randint(-mix.drift_ppm, mix.drift_ppm) * 1_000
        skew = Skew(node=node, offset_ns=offset_ns, drift_ppb=drift_ppb, number=len(faults) + 1)
        faults.append(skew)
    for _ in range(random.randint(0, mix.slow)):
        node = random.choice((*who.agents, *who.stations))
        delay_ns = random.randint(1, max(1, mix.slow_us)) * 1_000
        faults.append(Slow(node=node, delay_ns=delay_ns, **span(duration_ns // MILLISECOND_NS)))
    for _ in range(random.randint(0, mix.crashes)):
        faults.append(_draw_crash(random.choice(everybody), random, span(mix.down_ms)))
    for _ in range(random.randint(0, mix.world_crashes)):
        faults.append(WorldCrash(notice_ns=mix.notice_ms * MILLISECOND_NS, **span(mix.down_ms)))
    for _ in range(random.randint(0, mix.miscounts)):
        faults.append(Miscount(node=random.choice(who.agents), **span(duration_ns // MILLISECOND_NS)))
    for _ in range(random.randint(0, mix.ambushes)):
        faults.append(_draw_ambush(random, len(faults) + 1, duration_ns))
    faults.extend(_draw_clock_faults(mix, who, random, span))
    for _ in range(random.randint(0, mix.link_scenes)):
        faults.append(_draw_link_scene(random, len(faults) + 1, duration_ns))
    faults.extend(_draw_broker_crashes(mix, who, random, span))
    return tuple(faults)


def _draw_crash(node: str, random: Random, span: dict[str, int]) -> Crash:
    manner = random.choice((CrashManner.KILLED, *CrashManner))
    if manner is CrashManner.SET_BACK:
        span["duration_ns"] //= 2
    return Crash(node=node, manner=manner, **span)


def _draw_broker_crashes(
    mix: FaultMix, who: Participants, random: Random, span: Callable[[int], dict[str, int]]
) -> Iterator[Crash]:
    for _ in range(random.randint(0, mix.broker_crashes)):
        yield _draw_crash(who.broker, random, span(mix.down_ms))


def _draw_clock_faults(
    mix: FaultMix, who: Participants, random: Random, span: Callable[[int], dict[str, int]]
) -> Iterator[AnyFault]:
    """What goes wrong with clocks in the middle of a run: of all but those whose clock is the network's, or comes to be."""
    sources = (who.broker, *who.standbys)
    clocked = [name for name in who.daemons if name not in sources]
    for _ in range(random.randint(0, mix.clock_steps)):
        offset_ns = random.randint(1, max(1, mix.step_ms)) * MILLISECOND_NS
        yield ClockStep(node=random.choice(clocked), offset_ns=offset_ns, **span(0))
    for _ in range(random.randint(0, mix.clock_drifts)):
        drift_ppb = random.randint(-mix.drift_ppm, mix.drift_ppm) * 1_000
        yield ClockDrift(node=random.choice(clocked), drift_ppb=drift_ppb, **span(0))
    for _ in range(random.randint(0, mix.detours)):
        delay_ns = random.randint(1, max(1, mix.detour_us)) * 1_000
        ends = random.sample((random.choice(clocked), random.choice(sources)), 2)
        yield Detour(sender=ends[0], receiver=ends[1], delay_ns=delay_ns, **span(mix.detour_ms))


def _draw_ambush(random: Random, number: int, duration_ns: int) -> Ambush:
    kind = random.choice(tuple(AmbushKind))
    lasting_ns = MILLISECOND_NS << random.randint(0, AMBUSH_DOUBLINGS)
    if kind in (AmbushKind.LOSE, AmbushKind.CUT):
        lasting_ns = random.choice((lasting_ns, MILLISECOND_NS << AMBUSH_DOUBLINGS))
    copy_after_ns = random.choice((0, MILLISECOND_NS << random.randint(0, AMBUSH_DOUBLINGS - 1)))
    if kind is AmbushKind.COPY:
        copy_after_ns = max(copy_after_ns, MILLISECOND_NS)
    elif kind is AmbushKind.CRASH_UNSENT:
        copy_after_ns = 0
    return Ambush(
        number=number,
        kind=kind,
        message=random.choice(AMBUSHED[random.choice(tuple(AMBUSHED))]),
        nth=random.choice((1, 1, 2)),
        start_ns=random.randint(0, max(0, duration_ns - AMBUSH_NS - lasting_ns - copy_after_ns)),
        duration_ns=lasting_ns,
        copy_after_ns=copy_after_ns,
    )


def _draw_link_scene(random: Random, number: int, duration_ns: int) -> Ambush:
    scene = random.choice(tuple(LINK_SCENES))
    kind, message = random.choice(LINK_SCENES[scene])
    lasting_ns, copy_after_ns = MILLISECOND_NS << random.randint(0, AMBUSH_DOUBLINGS), 0
    if scene == "late-report":
        lasting_ns = copy_after_ns = MILLISECOND_NS << AMBUSH_DOUBLINGS
    elif kind is AmbushKind.COPY:
        lasting_ns, copy_after_ns = 0, MILLISECOND_NS << random.randint(0, AMBUSH_DOUBLINGS - 1)
    return Ambush(
        number=number,
        kind=kind,
        message=message,
        nth=random.choice((1, 1, 2, 3)),
        start_ns=random.randint(0, max(0, duration_ns - AMBUSH_NS - lasting_ns - copy_after_ns)),
        duration_ns=lasting_ns,
        copy_after_ns=copy_after_ns,
        scene=scene,
    )


def _draw_frame_fault(mix: FaultMix, who: Participants, random: Random, span: dict[str, int]) -> FrameFault:
    kind = random.choice(tuple(FrameFaultKind))
    delay_ns = 0
    if kind is FrameFaultKind.DELAY:
        delay_ns = random.randint(1, max(1, mix.delay_ms)) * MILLISECOND_NS
    elif kind is FrameFaultKind.REORDER:
        delay_ns = random.randint(1, 20) * 100_000
    sender, receiver = random.choice(who.neighbours) if random.random() < 0.5 else ("", "")
    if random.random() < 0.5:
        sender, receiver = receiver, sender
    return FrameFault(
        kind=kind,
        permille=random.randint(1, max(1, mix.permille)),
        delay_ns=delay_ns,
        sender=sender,
        receiver=receiver,
        family=random.choice(FAMILIES),
        spared=who.applications if random.random() < 0.7 else (),
        **span,
    )
