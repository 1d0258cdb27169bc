"""What every machine of a node shares: the endpoint, the hardware's queue, the qubits and the journal. Sans I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum

import msgspec

from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.events import Event, Journal
from bellwire.protocols.hardware_clock import ClockClaim
from bellwire.protocols.ids import NodeId, QubitName
from bellwire.protocols.instructions import AnyCompletion, AnyInstruction, Discard, Failed

CompletionHandler = Callable[[tuple[AnyCompletion, ...]], None]


class QubitKind(StrEnum):
    """What a qubit is for: talking to photons, holding data, or finding exact fidelities in a simulation."""

    COMMUNICATION = "communication"
    STORAGE = "storage"
    REFERENCE = "reference"


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Instructions for the backend, to be answered once, as a whole."""

    number: int
    instructions: tuple[AnyInstruction, ...]


class Qubits:
    """Which of the hardware's qubits are free. What holds one is for its holder to remember."""

    def __init__(self) -> None:
        self._kinds: dict[QubitName, QubitKind] = {}
        self._free: dict[QubitKind, list[QubitName]] = {kind: [] for kind in QubitKind}
        self._held: set[QubitName] = set()

    def reset(self, qubits: Iterable[tuple[QubitName, QubitKind]]) -> None:
        """Begin again with the qubits that a backend has, all of them free."""
        self._kinds = dict(qubits)
        self._held = set()
        self._free = {kind: [] for kind in QubitKind}
        for qubit, kind in self._kinds.items():
            self._free[kind].append(qubit)

    def take(self, kind: QubitKind) -> QubitName | None:
        """Take a free qubit of a kind, or `None` when there is none."""
        free = self._free[kind]
        if not free:
            return None
        qubit = free.pop(0)
        self._held.add(qubit)
        return qubit

    def give(self, qubit: QubitName) -> bool:
        """Give a qubit back. Returns whether it was held."""
        if qubit not in self._held:
            return False
        self._held.discard(qubit)
        self._free[self._kinds[qubit]].append(qubit)
        return True

    def free(self, kind: QubitKind) -> int:
        """How many qubits of a kind are free."""
        return len(self._free[kind])

    def total_of(self, kind: QubitKind) -> int:
        """How many qubits of a kind the hardware has."""
        return sum(each is kind for each in self._kinds.values())

    @property
    def total(self) -> int:
        """How many qubits the hardware has."""
        return len(self._kinds)

    @property
    def held(self) -> frozenset[QubitName]:
        """The qubits that somebody holds."""
        return frozenset(self._held)


class Node:
    """The common ground of a node's machines."""

    def __init__(self, endpoint: Endpoint, journal: Journal | None = None) -> None:
        self.endpoint = endpoint
        self.journal = journal or Journal()
        self.qubits = Qubits()
        self.backend_up = False
        self.pair_storage = 0
        """How many storage qubits may hold halves of pairs, moved there to free communication qubits (spec 2 §4.5)."""
        self.stored: set[QubitName] = set()
        self.on_backend_lost: list[Callable[[str], None]] = []
        self.on_free: list[Callable[[], None]] = []
        self.on_claim: list[Callable[[ClockClaim], None]] = []
        """Told what a backend's own clock says."""
        self._freed = False
        self._batches: list[Batch] = []
        self._waiting: dict[int, tuple[CompletionHandler, int]] = {}
        self._numbers = 0

    def note(self, name: str, *subjects: str, detail: str = "") -> None:
        """Write an event into the journal."""
        endpoint = self.endpoint
        self.journal.note(
            Event(name=name, at_ns=endpoint.now_ns, cause_id=endpoint.cause_id, subjects=subjects, detail=detail)
        )

    def execute(self, instructions: Sequence[AnyInstruction], handler: CompletionHandler) -> None:
        """Have the backend execute a batch; `handler` is called exactly once, with a completion for each instruction.

        When the backend is lost, every completion is `Failed`: whether the instruction was carried out is not known.
        """
        batch = tuple(instructions)
        if not self.backend_up:
            handler(tuple(Failed(text="the backend is not connected") for _ in batch))
            return
        self._numbers += 1
        self._waiting[self._numbers] = (handler, len(batch))
        self._batches.append(Batch(number=self._numbers, instructions=batch))

    @property
    def waiting(self) -> int:
        """How many batches await their completions."""
        return len(self._waiting)

    # What a driver calls.

    def receive(self, peer: NodeId, data: bytes, now_ns: int) -> None:
        """Take one message frame that came from `peer`."""
        self.endpoint.receive(peer, data, now_ns)
        self._settle()

    def next_deadline_ns(self) -> int | None:
        """When `handle_deadline` wants to be called next."""
        return self.endpoint.next_deadline_ns()

    def handle_deadline(self, now_ns: int) -> None:
        """Do what has come due."""
        self.endpoint.handle_deadline(now_ns)
        self._settle()

    def take_frames(self) -> list[tuple[NodeId, bytes]]:
        """Take the frames to be sent, in order, each with the participant that it is for."""
        return self.endpoint.take_frames()

    def take_batches(self) -> list[Batch]:
        """Take the batches that are to be handed to the backend, in order."""
        batches, self._batches = self._batches, []
        return batches

    def complete(self, number: int, completions: tuple[AnyCompletion, ...], now_ns: int) -> None:
        """A batch was answered. An answer to a batch that nobody waits for is dropped: it is from before a reset."""
        self.endpoint.catch_up(now_ns)
        self.endpoint.begin(now_ns, f"{self.endpoint.node}:batch-{number}")
        waiting = self._waiting.pop(number, None)
        if waiting is not None:
            waiting[0](completions)
        self._settle()

    def backend_connected(self, qubits: Iterable[tuple[QubitName, QubitKind]], now_ns: int) -> None:
        """The backend is there, with these qubits, all free: also after it was lost and came back."""
        self.endpoint.begin(now_ns)
        if self.backend_up:
            self._lose_backend("the backend began anew")
        self.qubits.reset(qubits)
        self.stored.clear()
        self.backend_up = True
        self._freed = True
        self.note("BackendConnected")
        self._settle()

    def backend_lost(self, why: str, now_ns: int) -> None:
        """The backend is gone, and every qubit with it."""
        self.endpoint.begin(now_ns)
        if self.backend_up:
            self._lose_backend(why)
        self._settle()

    def claimed(self, claim: ClockClaim, now_ns: int) -> None:
        """The backend's own clock says what the network's time is."""
        self.endpoint.catch_up(now_ns)
        self.endpoint.begin(now_ns, f"{self.endpoint.node}:clock")
        for listener in self.on_claim:
            listener(claim)
        self._settle()

    def close(self, now_ns: int) -> None:
        """Say goodbye to everybody and give every qubit back."""
        self.endpoint.begin(now_ns)
        self.endpoint.close()
        self.discard(*sorted(self.qubits.held))

    def _lose_backend(self, why: str) -> None:
        self.backend_up = False
        self._batches.clear()
        waiting, self._waiting = self._waiting, {}
        self.note("BackendLost", detail=why)
        for handler, instructions in waiting.values():
            handler((Failed(text=why),) * instructions)
        for listener in self.on_backend_lost:
            listener(why)

    def _settle(self) -> None:
        """At the end of a stimulus: let those go on who wait for a free qubit."""
        while self._freed:
            self._freed = False
            for listener in self.on_free:
                listener()

    # What the machines call.

    def check_time(self, guard_ns: int) -> None:
        """Check that this node may take part in a window whose guard band is `guard_ns` (spec 4 §3.4).

        Raises:
            RequestError: UNSYNCED, which names the node and how far off it may be.
        """
        endpoint = self.endpoint
        uncertainty_ns = endpoint.clock.uncertainty_ns(endpoint.now_ns)
        if not endpoint.has_time or uncertainty_ns is None:
            known = "it has not heard it" if uncertainty_ns is None else f"it is off by up to {uncertainty_ns} ns"
            raise RequestError(ErrorCode.UNSYNCED, f"{endpoint.node} is not locked to the network's time: {known}")
        if uncertainty_ns > guard_ns:
            text = f"{endpoint.node} is off the network's time by up to {uncertainty_ns} ns, the guard band is {guard_ns} ns"
            raise RequestError(ErrorCode.UNSYNCED, text)

    def discard(self, *qubits: QubitName) -> None:
        """Give qubits back. They are free at once: the backend executes in order what it is given in order."""
        if qubits and self.backend_up:
            self.execute([Discard(qubit=qubit) for qubit in qubits], lambda _: None)
        self.freed(*qubits)

    def wake(self) -> None:
        """At the end of this stimulus, let those go on who wait for their turn."""
        self._freed = True

    def freed(self, *qubits: QubitName) -> None:
        """Note that qubits are free, when a batch of their holder's has discarded them."""
        self.stored.difference_update(qubits)
        for qubit in qubits:
            self._freed |= self.qubits.give(qubit)


def failure(completions: Sequence[AnyCompletion]) -> str | None:
    """What went wrong in a batch, or `None` when all of it was carried out."""
    for completion in completions:
        if isinstance(completion, Failed):
            return completion.text
    return None


def backend_error(text: str) -> RequestError:
    """The error with which a request ends when the hardware failed it."""
    return RequestError(ErrorCode.BACKEND, text)
