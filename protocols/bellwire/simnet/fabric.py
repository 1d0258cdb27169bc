"""How frames travel in virtual time: ordered rules, each of which may lose, repeat or delay a frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from bellwire.protocols.ids import NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A frame on its way."""

    sender: NodeId
    receiver: NodeId
    data: bytes
    sent_ns: int


Matcher = Callable[[Frame], bool]


def _any(_: Frame) -> bool:
    return True


@dataclass(slots=True, kw_only=True)
class Rule:
    """What may happen to the frames that match. Probabilities are drawn anew for each frame; `fired` counts."""

    matches: Matcher = field(default=_any)
    loss_probability: float = 0.0
    repeat_probability: float = 0.0
    delay_probability: float = 0.0
    delay_ns: int = 0
    fired: int = 0

    def __post_init__(self) -> None:
        for value in (self.loss_probability, self.repeat_probability, self.delay_probability):
            if not 0.0 <= value <= 1.0:
                raise ValueError("a probability must lie in 0..1")
        if self.delay_ns < 0:
            raise ValueError("delay_ns must not be negative")


class Fabric:
    """Decides when each copy of a frame arrives. Frames between two participants stay in order unless a rule delays one."""

    def __init__(self, random: Random, *, latency_ns: int = 100_000, rules: Sequence[Rule] = ()) -> None:
        self._random = random
        self.latency_ns = latency_ns
        self.rules = list(rules)

    def arrivals(self, frame: Frame) -> list[int]:
        """The times at which copies of the frame arrive: none when it is lost, several when it is repeated."""
        delay_ns, copies = self.latency_ns, 1
        for rule in self.rules:
            if not rule.matches(frame):
                continue
            if self._happens(rule, rule.loss_probability):
                return []
            if self._happens(rule, rule.repeat_probability):
                copies += 1
            if self._happens(rule, rule.delay_probability):
                delay_ns += self._random.randint(0, rule.delay_ns)
        return [frame.sent_ns + delay_ns + copy * self.latency_ns for copy in range(copies)]

    def _happens(self, rule: Rule, probability: float) -> bool:
        if probability and self._random.random() < probability:
            rule.fired += 1
            return True
        return False
