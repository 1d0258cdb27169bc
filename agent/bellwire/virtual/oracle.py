"""What is true in a run, whatever the protocols believe: which pairs the world made, and what became of each half."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from bellwire.protocols.events import Event
from bellwire.protocols.ids import NodeId, PairId, QubitName, WindowId, pair_id
from bellwire.protocols.instructions import (
    Apply,
    Arm,
    BellState,
    Discard,
    Failed,
    Gate,
    Initialise,
    Measure,
    WindowEnded,
)
from bellwire.protocols.node import Batch
from bellwire.sim.virtual import VirtualTestbed
from bellwire.sim.world import BatchCompleted


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """An invariant was broken. `checker` is the invariant's name; the text says how, with the ids that it is about."""

    checker: str
    at_ns: int
    text: str


@dataclass(eq=False, slots=True)
class Half:
    """One half of a pair that the world made. Times are those at which its node decided; `lost` by a crash."""

    node: NodeId
    qubit: QubitName
    uses: int = 0
    moving: bool = False
    """Whether the world has yet to move it to `qubit`."""
    gone_ns: int | None = None
    lost: bool = False


@dataclass(eq=False, slots=True)
class WorldPair:
    """A pair that the world made."""

    pair_id: PairId
    bell_state: BellState
    halves: tuple[Half, Half]

    def half(self, node: NodeId) -> Half:
        """The half of a node."""
        return self.halves[0] if self.halves[0].node == node else self.halves[1]

    def other(self, node: NodeId) -> Half:
        """The half of the other node."""
        return self.halves[1] if self.halves[0].node == node else self.halves[0]


EXPECTED_REFUSALS: Final = ("will not begin", "has ended")
"""What the world says to who arms too late. All else that it refuses, nobody should have asked."""


@dataclass(slots=True)
class Listeners:
    """Checkers that want to know."""

    made: list[Callable[[WorldPair], None]] = field(default_factory=list)
    used: list[Callable[[WorldPair, Half], None]] = field(default_factory=list)
    gone: list[Callable[[WorldPair, Half], None]] = field(default_factory=list)
    armed: list[Callable[[NodeId, Arm], None]] = field(default_factory=list)
    refused: list[Callable[[NodeId, str], None]] = field(default_factory=list)
    noted: list[Callable[[NodeId, Event], None]] = field(default_factory=list)


class Oracle:
    """Follows instructions and completions, and tells the checkers what they mean."""

    def __init__(self) -> None:
        self.bed: VirtualTestbed
        self.listeners = Listeners()
        self.violations: list[Violation] = []
        self.began_ns = 0
        self.pairs: dict[PairId, WorldPair] = {}
        self.made: set[PairId] = set()
        self.counted: dict[tuple[NodeId, WindowId], int] = {}
        """What each end's hardware told its node of a window: after so many attempts it was over."""
        self.armed: dict[tuple[NodeId, QubitName], WindowId] = {}
        self.errors_ns: dict[NodeId, int] = {}
        """By how much each node's idea of the network's time was wrong at most."""
        self._halves: dict[tuple[NodeId, QubitName], tuple[WorldPair, Half]] = {}
        self._arms: dict[WindowId, dict[NodeId, QubitName]] = {}
        self._arming: dict[tuple[NodeId, int], Arm] = {}
        self._moves: dict[tuple[NodeId, int], Half] = {}

    def violate(self, checker: str, text: str) -> None:
        """Report a broken invariant."""
        self.violations.append(Violation(checker=checker, at_ns=self.bed.net.now_ns, text=text))

    def read_clock(self, name: NodeId) -> int:
        """By how much a node's idea of the network's time is wrong now."""
        endpoint = self.bed.brain(name).endpoint
        error_ns = endpoint.network_time_ns(self.bed.net.local_ns(name)) - self.bed.net.now_ns
        self.errors_ns[name] = max(self.errors_ns.get(name, 0), abs(error_ns))
        return error_ns

    def half_at(self, name: NodeId, qubit: QubitName) -> WorldPair | None:
        """The pair of which a node's qubit is a half."""
        found = self._halves.get((name, qubit))
        return found[0] if found is not None else None

    # What the testbed tells (`WatcherCapable`).

    def attached(self, bed: VirtualTestbed) -> None:
        """It is this testbed."""
        self.bed = bed
        self.began_ns = bed.net.now_ns

    def submitted(self, name: NodeId, batch: Batch) -> None:
        """A node has decided on a batch."""
        if self._moved(name, batch):
            return
        used: dict[QubitName, None] = {}
        for instruction in batch.instructions:
            if isinstance(instruction, Apply):
                used |= dict.fromkeys(instruction.qubits)
            elif isinstance(instruction, Measure):
                used[instruction.qubit] = None
            elif isinstance(instruction, Discard | Initialise):
                self._use(name, used)
                used = {}
                self._let_go(name, instruction.qubit)
            elif isinstance(instruction, Arm):
                for listener in self.listeners.armed:
                    listener(name, instruction)
                if instruction.qubit is not None:
                    self._let_go(name, instruction.qubit)
                    self.armed[name, instruction.qubit] = instruction.window_id
                    self._arming[name, batch.number] = instruction
                    self._arms.setdefault(instruction.window_id, {})[name] = instruction.qubit
        self._use(name, used)

    def _moved(self, name: NodeId, batch: Batch) -> bool:
        """Whether a batch does nothing but move a half from one qubit into another."""
        if len(batch.instructions) != 3:
            return False
        into, swap, out = batch.instructions
        if not (isinstance(into, Initialise) and isinstance(swap, Apply) and isinstance(out, Discard)):
            return False
        if swap.gate is not Gate.SWAP or swap.qubits != (out.qubit, into.qubit):
            return False
        found = self._halves.pop((name, out.qubit), None)
        if found is None:
            return False
        found[1].qubit, found[1].moving = into.qubit, True
        self._halves[name, into.qubit] = found
        self._moves[name, batch.number] = found[1]
        return True

    def _use(self, name: NodeId, qubits: Iterable[QubitName]) -> None:
        for qubit in qubits:
            found = self._halves.get((name, qubit))
            if found is not None:
                for listener in self.listeners.used:
                    listener(*found)
                found[1].uses += 1

    def _let_go(self, name: NodeId, qubit: QubitName) -> None:
        found = self._halves.pop((name, qubit), None)
        if found is not None:
            found[1].gone_ns = self.bed.net.now_ns
            for listener in self.listeners.gone:
                listener(*found)
            self._forget(found[0])

    def _forget(self, pair: WorldPair) -> None:
        """Keep no pair that can't be used any more."""
        if all(half.gone_ns is not None for half in pair.halves):
            self.pairs.pop(pair.pair_id, None)

    def completed(self, name: NodeId, batch: BatchCompleted) -> None:
        """The world has answered a batch."""
        move = self._moves.pop((name, batch.batch_id), None)
        if move is not None:
            move.moving = False
        arm = self._arming.pop((name, batch.batch_id), None)
        if arm is not None and arm.qubit is not None:
            self.armed.pop((name, arm.qubit), None)
        for completion in batch.completions:
            if isinstance(completion, Failed):
                if not any(text in completion.text for text in EXPECTED_REFUSALS):
                    for listener in self.listeners.refused:
                        listener(name, completion.text)
                break
            if isinstance(completion, WindowEnded):
                if arm is not None:
                    self.counted[name, completion.window_id] = completion.attempts
                if arm is None or self.bed.station_of(arm.link_id) == name:
                    self._seen(completion)

    def _seen(self, ended: WindowEnded) -> None:
        """The station's hardware, which may be that of an end, has ended a window."""
        arms = self._arms.pop(ended.window_id, {})
        if ended.bell_state is None or len(arms) != 2:
            return
        first, second = (Half(node, qubit) for node, qubit in arms.items())
        pair = WorldPair(pair_id(ended.window_id, ended.attempts), ended.bell_state, (first, second))
        for half in pair.halves:
            self._halves[half.node, half.qubit] = (pair, half)
        for listener in self.listeners.made:
            listener(pair)
        self.made.add(pair.pair_id)
        self.pairs[pair.pair_id] = pair

    def released(self, name: NodeId) -> None:
        """All that a node held was freed."""
        for place in [place for place in self.armed if place[0] == name]:
            del self.armed[place]
        for arming in [arming for arming in self._arming if arming[0] == name]:
            del self._arming[arming]
        for moving in [moving for moving in self._moves if moving[0] == name]:
            del self._moves[moving]
        for place in [place for place in self._halves if place[0] == name]:
            pair, half = self._halves.pop(place)
            half.gone_ns, half.lost = self.bed.net.now_ns, True
            self._forget(pair)

    def noted(self, name: NodeId, event: Event) -> None:
        """A node has written into its journal."""
        if event.name in ("PairConfirmed", "PairEnded"):
            self.read_clock(name)
        for listener in self.listeners.noted:
            listener(name, event)
