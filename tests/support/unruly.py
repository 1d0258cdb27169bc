"""A network whose frames a state machine delivers one by one, in any order, repeatedly, spoilt or never."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Callable

import msgpack
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, StateMachineMeta, precondition, rule

from bellwire.simnet.fabric import Frame

MAX_FLYING = 400
MAX_SETTLING = 4_000
"""Frames that follow from each other without an end, when nothing is lost and no time passes."""

places = st.integers(0, 30)
"""Which of the frames in flight: the first ones are likely, and there always is one."""


def _flies(machine: UnrulyNetwork) -> bool:
    return bool(machine.flying)


Spoiler = Callable[[bytes], bytes]


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def lengthened(data: bytes) -> bytes:
    return data + b"\x00"


def junk(data: bytes) -> bytes:
    return bytes(len(data))


def mistyped(data: bytes) -> bytes:
    """Give the last field that is not the header's a value that no field has."""
    content = msgpack.unpackb(data)
    own = [name for name in content if name not in ("type", "epoch", "peer_epoch", "request_id")]
    return bytes(msgpack.packb({**content, own[-1]: [{"no": "field"}]}))


def misnamed(data: bytes) -> bytes:
    content = msgpack.unpackb(data)
    return bytes(msgpack.packb({**content, "type": "x." + content["type"]}))


def examples(times: int) -> settings:
    """So many times as many stories as the present profile has examples."""
    return settings(max_examples=times * settings().max_examples)


class _AbstractMachineMeta(StateMachineMeta, ABCMeta):
    """Of a state machine that lacks something: Hypothesis cannot make one of it."""


class UnrulyNetwork(RuleBasedStateMachine, metaclass=_AbstractMachineMeta):
    """The rules of the network. A subclass says what happens when a frame arrives, and appends to `flying` what is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.flying: list[Frame] = []

    @abstractmethod
    def arrive(self, frame: Frame) -> None:
        """Let its receiver take a frame."""

    def send(self, frame: Frame) -> None:
        """Put a frame into flight. A network that is full loses the oldest one."""
        self.flying.append(frame)
        if len(self.flying) > MAX_FLYING:
            del self.flying[0]

    def settle(self) -> None:
        """Deliver everything in order, and what follows from it, until nothing is in flight."""
        for _ in range(MAX_SETTLING):
            if not self.flying:
                return
            self.arrive(self.flying.pop(0))
        raise AssertionError(f"{MAX_SETTLING} frames follow from each other: {[frame.type for frame in self.flying]}")

    @precondition(_flies)
    @rule(place=places)
    def deliver(self, place: int) -> None:
        self.arrive(self.flying.pop(place % len(self.flying)))

    @precondition(_flies)
    @rule(number=st.integers(1, 12))
    def deliver_in_order(self, number: int) -> None:
        for _ in range(min(number, len(self.flying))):
            self.arrive(self.flying.pop(0))

    @precondition(_flies)
    @rule()
    def deliver_all(self) -> None:
        self.settle()

    @precondition(_flies)
    @rule(place=places, number=st.integers(1, 4))
    def lose(self, place: int, number: int) -> None:
        place %= len(self.flying)
        del self.flying[place : place + number]

    @precondition(_flies)
    @rule(place=places)
    def repeat(self, place: int) -> None:
        """Deliver a frame that stays in flight."""
        self.arrive(self.flying[place % len(self.flying)])

    @precondition(_flies)
    @rule(place=places, data=st.data())
    def spoil(self, place: int, data: st.DataObject) -> None:
        """Deliver a frame that is no message any more."""
        frame = self.flying.pop(place % len(self.flying))
        spoiler = data.draw(st.sampled_from(self.spoilers(frame)))
        spoilt = Frame(sender=frame.sender, receiver=frame.receiver, data=spoiler(frame.data), sent_ns=frame.sent_ns)
        self.spoilt(frame, spoiler)
        self.arrive(spoilt)

    def spoilers(self, frame: Frame) -> list[Spoiler]:
        """What may happen to a frame: nothing that is left of it can be read."""
        return [cut, lengthened, junk]

    def spoilt(self, frame: Frame, spoiler: Spoiler) -> None:
        """Told before a spoilt frame arrives."""
