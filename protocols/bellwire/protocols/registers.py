"""What applications hold at a node: named qubits, and their halves of pairs (spec 3 §4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.ids import NodeId, PairId, QubitName
from bellwire.protocols.limits import MAX_PEERS, MAX_QUBITS_PER_APPLICATION
from bellwire.protocols.node import Node, QubitKind
from bellwire.protocols.pairs import PairEnd, PairInput, PairState


@dataclass(slots=True)
class _Held:
    qubit: QubitName
    locked: bool = False
    orphaned: bool = False
    gates_with: frozenset[NodeId] | None = None
    """The nodes that may open gates on it; every neighbour when `None`."""


@dataclass(slots=True)
class _Application:
    held: dict[str, _Held] = field(default_factory=dict)


class Registers:
    """The operands that applications may name, and the qubits behind them. A locked one is in use by a gate or program."""

    def __init__(self, node: Node, find_pair: Callable[[PairId], PairEnd | None]) -> None:
        self._node = node
        self._find_pair = find_pair
        self._applications: dict[NodeId, _Application] = {}
        self.on_pair_used: Callable[[PairEnd], None] | None = None

    def allocate(
        self, application: NodeId, name: str, kind: QubitKind, gates_with: Iterable[NodeId] | None = None
    ) -> QubitName:
        """Give an application's name a qubit; a name that has one keeps it. Gates are opened on it by `gates_with` alone.

        Raises:
            RequestError: NORES when no qubit of the kind is free, LIMIT when the application holds too many.
        """
        if application not in self._applications and len(self._applications) >= MAX_PEERS:
            raise RequestError(ErrorCode.LIMIT, f"more than {MAX_PEERS} applications hold qubits here")
        held = self._applications.get(application, _Application()).held
        peers = None if gates_with is None else frozenset(gates_with)
        if name in held:
            self._usable(held[name], name)
            held[name].gates_with = peers
            return held[name].qubit
        if len(held) >= MAX_QUBITS_PER_APPLICATION:
            raise RequestError(ErrorCode.LIMIT, f"an application can hold {MAX_QUBITS_PER_APPLICATION} qubits")
        qubit = self._node.qubits.take(kind)
        if qubit is None:
            raise RequestError(ErrorCode.NORES, f"{self._node.endpoint.node} has no free {kind} qubit")
        self._applications.setdefault(application, _Application()).held[name] = _Held(qubit, gates_with=peers)
        return qubit

    def use(self, application: NodeId, operand: str) -> QubitName:
        """The qubit behind an operand. Naming a pair consumes this node's half: from then on it is a qubit like others.

        Raises:
            RequestError: UNKNOWN_ID when there is no such operand, NORES when it is in use.
        """
        held = self._applications.get(application, _Application()).held.get(operand)
        if held is not None:
            self._usable(held, operand)
            return held.qubit
        pair = self._find_pair(PairId(operand))
        node = self._node.endpoint.node
        if pair is None or pair.owner != application:
            raise RequestError(ErrorCode.UNKNOWN_ID, f"{application} holds no {operand!r} at {node}")
        if pair.state is not PairState.CONFIRMED:
            raise RequestError(ErrorCode.NORES, f"{operand} is {pair.state} at {node}")
        pair.step(PairInput.CONSUME)
        self._applications.setdefault(application, _Application()).held[operand] = _Held(pair.qubit)
        if self.on_pair_used is not None:
            self.on_pair_used(pair)
        return pair.qubit

    def lock(self, application: NodeId, operand: str) -> QubitName:
        """As `use`, and nobody else can use it until it is unlocked."""
        qubit = self.use(application, operand)
        self._applications[application].held[operand].locked = True
        return qubit

    def lock_for(self, peer: NodeId, application: NodeId, operand: str) -> QubitName:
        """As `lock`, for a gate that `peer` has opened.

        Raises:
            RequestError: DENIED when the application has not allowed it, and as `use`.
        """
        held = self._applications.get(application, _Application()).held.get(operand)
        if held is not None and held.gates_with is not None and peer not in held.gates_with:
            raise RequestError(ErrorCode.DENIED, f"{application} allows {peer} no gates on {operand!r}")
        return self.lock(application, operand)

    def locked(self, application: NodeId, operand: str) -> QubitName:
        """The qubit behind an operand that the caller has locked."""
        return self._applications[application].held[operand].qubit

    def unlock(self, application: NodeId, operand: str) -> None:
        """Let an operand be used again; one whose application has gone is given back."""
        held = self._applications.get(application, _Application()).held.get(operand)
        if held is None:
            return
        held.locked = False
        if held.orphaned:
            self._node.discard(held.qubit)
            self._drop(application, operand)

    def release(self, application: NodeId, operand: str) -> QubitName | None:
        """Forget an operand. Returns the qubit, which the caller has to discard, or `None` when there was none."""
        held = self._applications.get(application, _Application()).held.get(operand)
        if held is None:
            return None
        self._usable(held, operand)
        self._drop(application, operand)
        return held.qubit

    def release_all(self, application: NodeId) -> None:
        """The application is gone: give back what it held, at once or as soon as it is unlocked."""
        for operand, held in list(self._applications.get(application, _Application()).held.items()):
            if held.locked:
                held.orphaned = True
            else:
                self._node.discard(held.qubit)
                self._drop(application, operand)

    def left(self) -> dict[str, list[str]]:
        """What applications hold, by the name of the application."""
        return {name: list(application.held) for name, application in self._applications.items()}

    def clear(self) -> None:
        """Every qubit is gone, with the backend."""
        self._applications.clear()

    def _drop(self, application: NodeId, operand: str) -> None:
        held = self._applications[application].held
        del held[operand]
        if not held:
            del self._applications[application]

    @staticmethod
    def _usable(held: _Held, operand: str) -> None:
        if held.locked:
            raise RequestError(ErrorCode.NORES, f"{operand!r} is in use")
