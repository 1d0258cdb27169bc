"""What goes wrong in a run, as data: a plan of faults, drawn from a seed. Each can be left out without changing the others.

Times are nanoseconds since the run began, probabilities are counted in thousandths: a plan is whole numbers and names alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum
from random import Random
from typing import ClassVar, Final, Protocol

import msgspec

from bellwire.protocols.ids import NodeId
from bellwire.simnet.clocks import SkewedClock
from bellwire.simnet.fabric import Frame, Rule
from bellwire.simnet.loop import Simnet

MILLISECOND_NS: Final = 1_000_000


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


class Slow(Fault, frozen=True, kw_only=True, tag="slow"):
    """A node's backend takes up to `delay_ns` longer each way for a while."""

    node: str
    delay_ns: int


class Crash(Fault, frozen=True, kw_only=True, tag="crash"):
    """A participant dies without a word, and is started again when the duration is over."""

    node: str


class WorldCrash(Fault, frozen=True, kw_only=True, tag="world-crash"):
    """The world loses every qubit. Nodes notice one after another within `notice_ns`, and then find it again."""

    notice_ns: int


AnyFault = FrameFault | Cut | Stall | Skew | Slow | Crash | WorldCrash
Plan = tuple[AnyFault, ...]

_NOTICE_STEPS: Final = 8


class OperatorCapable(Protocol):
    """Whoever can do to the participants what a fault does."""

    def crash(self, name: NodeId) -> None:
        """End a participant without a word."""

    def restart(self, name: NodeId) -> None:
        """Start its next incarnation."""

    def lose_world(self) -> None:
        """Let the world lose every qubit."""

    def notice_loss(self, name: NodeId) -> None:
        """Let a node notice that."""

    def regain_world(self, name: NodeId) -> None:
        """Let a node find the world again."""

    def slow(self, name: NodeId, start_ns: int, end_ns: int, delay: Callable[[], int]) -> None:
        """Let a node's backend be slow between two times."""

    def backends(self) -> Sequence[NodeId]:
        """The nodes that have a backend."""


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
        elif isinstance(fault, Slow):
            self._slow(fault, random)
        elif isinstance(fault, Crash):
            self._crash(fault)
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

    def _slow(self, fault: Slow, random: Random) -> None:
        def delay() -> int:
            self._count(fault, fault.node)
            return random.randint(0, fault.delay_ns)

        began_ns = self._began_ns
        self._operator.slow(NodeId(fault.node), began_ns + fault.start_ns, began_ns + fault.end_ns, delay)

    def _crash(self, fault: Crash) -> None:
        name = NodeId(fault.node)
        self._at(fault, fault.start_ns, lambda: self._operator.crash(name))
        self._net.at(self._began_ns + fault.end_ns, lambda: self._operator.restart(name))

    def _lose_world(self, fault: WorldCrash, random: Random) -> None:
        self._at(fault, fault.start_ns, self._operator.lose_world, "world")
        step_ns = fault.notice_ns // _NOTICE_STEPS
        for name in self._operator.backends():
            at_ns = self._began_ns + fault.start_ns + step_ns * random.randint(0, _NOTICE_STEPS)
            back_ns = max(at_ns, self._began_ns + fault.end_ns) + step_ns * random.randint(0, _NOTICE_STEPS)
            self._net.at(at_ns, lambda name=name: self._operator.notice_loss(name))  # type: ignore[misc]
            self._net.at(back_ns, lambda name=name: self._operator.regain_world(name))  # type: ignore[misc]


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
    down_ms: int = 4_000
    world_crashes: int = 0
    notice_ms: int = 3_000

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
    neighbours: tuple[tuple[str, str], ...]

    @property
    def daemons(self) -> tuple[str, ...]:
        """All but the applications."""
        return (*self.agents, *self.stations, self.broker)


FAMILIES: Final = ("", "", "", "session", "link", "herald", "pair", "gate")


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
        faults.append(Crash(node=random.choice(everybody), **span(mix.down_ms)))
    for _ in range(random.randint(0, mix.world_crashes)):
        faults.append(WorldCrash(notice_ns=mix.notice_ms * MILLISECOND_NS, **span(mix.down_ms)))
    return tuple(faults)


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
