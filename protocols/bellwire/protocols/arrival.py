"""One peer's messages put back into the order in which they were sent, whatever path each of them took (spec 1 §4.8)."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Final

from bellwire.protocols.counters import Counters
from bellwire.protocols.ids import Epoch
from bellwire.protocols.limits import MAX_HELD_BYTES, MAX_HELD_MESSAGES
from bellwire.protocols.machine import Machine, Row
from bellwire.protocols.messages import FencePart

RELAY: Final = 0
"""The number of the path by way of the broker. Direct connections have greater ones, never used twice."""


class ArrivalState(StrEnum):
    """States of what comes from a peer."""

    FLOWING = "flowing"
    HOLDING = "holding"


class ArrivalInput(StrEnum):
    """Inputs: fences, and the end of patience."""

    END = "end"
    BEGIN = "begin"
    BREAK = "break"
    DUE = "due"
    FULL = "full"


_S, _I = ArrivalState, ArrivalInput


class Arrival(Machine[ArrivalState, ArrivalInput]):
    """What comes from one incarnation of a peer, stretch by stretch.

    A stretch is what was sent on one path between two changes. `stretch` is the one whose messages are handed on; those of
    later ones are held until it has ended, and those of earlier ones are too late: they are dropped and counted.
    """

    name = "arrival"
    rule = "1 §4.8"
    initial = ArrivalState.FLOWING
    table = {
        (_S.FLOWING, _I.END): Row(_S.FLOWING, "advance", "1 §4.8"),
        (_S.FLOWING, _I.BEGIN): Row(_S.HOLDING, "hold", "1 §4.8"),
        (_S.FLOWING, _I.BREAK): Row(_S.FLOWING, "advance", "1 §4.8"),
        (_S.HOLDING, _I.END): Row(_S.FLOWING, "advance", "1 §4.8"),
        (_S.HOLDING, _I.BEGIN): Row(_S.HOLDING, None, "1 §4.8"),
        (_S.HOLDING, _I.BREAK): Row(_S.FLOWING, "advance", "1 §4.8"),
        (_S.HOLDING, _I.DUE): Row(_S.FLOWING, "advance", "1 §4.8"),
        (_S.HOLDING, _I.FULL): Row(_S.FLOWING, "advance", "1 §4.8"),
    }

    def __init__(
        self,
        epoch: Epoch,
        deliver: Callable[[bytes], None],
        patience: Callable[[Arrival], None],
        counters: Counters,
    ) -> None:
        """`deliver` takes messages that were held; `patience` is called when some begin to be, and calls `due` later."""
        super().__init__()
        self.epoch = epoch
        self.stretch = 0
        self.newest = 0
        """The last stretch that is known to have begun."""
        self._counters = counters
        self._deliver = deliver
        self._patience = patience
        self._streams: dict[int, int] = {RELAY: 0}
        self._held: dict[int, list[bytes]] = {}
        self._ends: dict[int, int] = {}
        self._count = 0
        self._octets = 0
        self._waited = 0
        """The last stretch that is gone on with when the present patience ends."""

    def take(self, path: int, data: bytes) -> bool:
        """Take a message that came on a path. Returns whether its turn is now; otherwise it is held, or dropped as too late."""
        stretch = self._streams.get(path, -1)
        if stretch == self.stretch:
            return True
        if stretch < self.stretch:
            self._counters.late += 1
        else:
            self._held[stretch].append(data)
            self._note_held(len(data))
        return False

    def fence(self, path: int, part: FencePart, number: int) -> None:
        """Take a fence that came on a path. The same one may come again, and an earlier one says nothing."""
        here = self._streams.get(path, -1)
        if part is FencePart.END:
            if here > self.stretch:
                self._ends[here] = number
            elif here == self.stretch and number > here:
                self.step(ArrivalInput.END, number)
            return
        if number <= here:
            return
        self._streams[path] = number
        self.newest = max(self.newest, number)
        if number <= self.stretch:
            return
        self._held[number] = []
        if part is FencePart.BREAK:
            self.step(ArrivalInput.BREAK, number)
        else:
            self.step(ArrivalInput.BEGIN)
        self._note_held()

    def close(self, path: int) -> None:
        """A direct connection is no more: its number does not come again."""
        self._streams.pop(path, None)

    def due(self) -> None:
        """What was waited for has not come in time: go on without it."""
        if self.state is ArrivalState.HOLDING:
            self.step(ArrivalInput.DUE, self._waited)

    def _note_held(self, octets: int = 0) -> None:
        """Hold no more than the limits: of messages and stretches together, and of octets."""
        self._count += 1
        self._octets += octets
        full = self._count >= MAX_HELD_MESSAGES or self._octets >= MAX_HELD_BYTES
        if full and self.state is ArrivalState.HOLDING:
            self.step(ArrivalInput.FULL, self._first_to_spare())

    def _first_to_spare(self) -> int:
        """The earliest stretch without which, and without those before it, what is held is within the limits."""
        octets = self._octets
        for stretch in sorted(self._held):
            octets -= sum(map(len, self._held[stretch]))
            if octets < MAX_HELD_BYTES:
                break
        return stretch

    # Actions.

    def hold(self) -> None:
        """Hold what comes, for a while."""
        self._waited = self.newest
        self._patience(self)

    def advance(self, number: int) -> None:
        """Hand on all that is held up to the stretch of that number, and go on from there."""
        while True:
            self.stretch = number
            for stretch in sorted(each for each in self._held if each <= number):
                for data in self._held.pop(stretch):
                    self._octets -= len(data)
                    self._deliver(data)
            following = self._ends.pop(number, None)
            if following is None:
                break
            number = following
        self._ends = {each: end for each, end in self._ends.items() if each > number}
        self._count = sum(1 + len(messages) for messages in self._held.values())
        if self._held:
            self.step(ArrivalInput.BEGIN)
