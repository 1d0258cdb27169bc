"""How frames travel in virtual time: ordered rules, each of which may lose, repeat or delay a frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

import msgspec

from bellwire.protocols.ids import NodeId

FOREVER_NS: Final = 2**63 - 1


class _Tag(msgspec.Struct):
    type: str = ""


_TAG = msgspec.msgpack.Decoder(_Tag)


class Frame(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A frame on its way."""

    sender: NodeId
    receiver: NodeId
    data: bytes
    sent_ns: int

    @property
    def type(self) -> str:
        """The type of its message, as `herald.report`; empty when it is no message."""
        try:
            return _TAG.decode(self.data).type
        except msgspec.DecodeError:
            return ""


Matcher = Callable[[Frame], bool]


def _any(_: Frame) -> bool:
    return True


@dataclass(slots=True, kw_only=True)
class Rule:
    """What may happen to the frames that match. Probabilities are drawn anew for each frame; `fired` counts.

    A rule with a `random` of its own draws the same whatever other rules there are. A delay is drawn from
    `least_delay_ns` to `delay_ns`, so that frames overtake each other.
    """

    matches: Matcher = field(default=_any)
    loss_probability: float = 0.0
    repeat_probability: float = 0.0
    delay_probability: float = 0.0
    delay_ns: int = 0
    least_delay_ns: int = 0
    start_ns: int = 0
    end_ns: int = FOREVER_NS
    random: Random | None = None
    on_fired: Callable[[Frame, str], None] | None = None
    fired: int = 0

    def __post_init__(self) -> None:
        for value in (self.loss_probability, self.repeat_probability, self.delay_probability):
            if not 0.0 <= value <= 1.0:
                raise ValueError("a probability must lie in 0..1")
        if not 0 <= self.least_delay_ns <= max(self.delay_ns, 0) or self.delay_ns < 0:
            raise ValueError("delay_ns must not be negative, nor less than least_delay_ns")


class Fabric:
    """Decides when each copy of a frame arrives. Frames between two participants stay in order unless a rule delays one."""

    def __init__(self, random: Random, *, latency_ns: int = 100_000, rules: Sequence[Rule] = ()) -> None:
        self._random = random
        self.latency_ns = latency_ns
        self.rules = list(rules)

    def arrivals(self, frame: Frame) -> list[int]:
        """The times at which copies of the frame arrive: none when it is lost, several when it is repeated."""
        delay_ns, copies, sent_ns = self.latency_ns, 1, frame.sent_ns
        if not self.rules:
            return [sent_ns + delay_ns]
        for rule in self.rules:
            if not rule.start_ns <= sent_ns < rule.end_ns or not rule.matches(frame):
                continue
            random = rule.random or self._random
            if self._happens(rule, rule.loss_probability, random, frame, "lost"):
                return []
            if self._happens(rule, rule.repeat_probability, random, frame, "repeated"):
                copies += 1
            if self._happens(rule, rule.delay_probability, random, frame, "delayed"):
                delay_ns += random.randint(rule.least_delay_ns, rule.delay_ns)
        return [sent_ns + delay_ns + copy * self.latency_ns for copy in range(copies)]

    @staticmethod
    def _happens(rule: Rule, probability: float, random: Random, frame: Frame, what: str) -> bool:
        if probability and random.random() < probability:
            rule.fired += 1
            if rule.on_fired is not None:
                rule.on_fired(frame, what)
            return True
        return False
