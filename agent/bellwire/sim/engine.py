"""State engines: what a world keeps its qubits in.

`DensityMatrixEngine` is exact. It keeps qubits in groups that are known to be independent of each other; a group is a
real array of 4ⁿ Pauli expectation values (`states`), which holds what a density matrix holds at half its memory and
lets every channel act as a real matrix. Groups merge when an operation joins them and split when a qubit is measured
or discarded.

The order of the qubits within a group is free: an operation brings the qubits it acts on to the front and leaves them
there, so that each is one transposed copy and one matrix product.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final, Protocol

import numpy as np

from bellwire.protocols.errors import BackendError
from bellwire.sim.channels import Channel, idle_transfer
from bellwire.sim.states import ComplexArray, FloatArray, to_density_matrix, to_pauli_vector

DEFAULT_GROUP_QUBITS: Final = 10
LARGEST_GROUP_QUBITS: Final = 13
"""4¹³ doubles are half a gigabyte."""


class StateEngineCapable(Protocol):
    """What a world asks of a state engine. Qubits are named by any hashable key.

    Every method raises BackendError for a qubit that is not there, one named twice, a channel of another width, or a
    state that this engine cannot hold.
    """

    def __contains__(self, qubit: Hashable) -> bool:
        """Tell whether the qubit exists."""
        ...

    def create(self, qubits: Sequence[Hashable], density_matrix: ComplexArray) -> None:
        """Put 1 or 2 fresh qubits into a state, shape (2, 2) or (4, 4). A qubit that exists is discarded first."""
        ...

    def discard(self, qubit: Hashable) -> None:
        """Forget a qubit: trace it out."""
        ...

    def apply(self, channel: Channel, qubits: Sequence[Hashable]) -> None:
        """Apply a channel to 1 or 2 qubits, in the channel's order."""
        ...

    def idle(self, qubit: Hashable, elapsed_ns: float, t1_ns: float, t2_ns: float) -> None:
        """Let a qubit relax and dephase for a time (`channels.idle`), unchecked: the times were checked when loaded."""
        ...

    def measure(self, qubit: Hashable, rng: np.random.Generator) -> int:
        """Measure in the computational basis with one draw of `rng`; the qubit stays, in the state found. 0 or 1."""
        ...

    def density_matrix(self, qubits: Sequence[Hashable]) -> ComplexArray:
        """Give the reduced state of the qubits, in that order. Shape (2ⁿ, 2ⁿ), first qubit slowest."""
        ...


class _Group:
    """Qubits that may be correlated, and their Pauli vector of shape (4ⁿ,), first qubit slowest."""

    __slots__ = ("qubits", "vector")

    def __init__(self, qubits: list[Hashable], vector: FloatArray) -> None:
        self.qubits = qubits
        self.vector = vector


_FOUND: Final[tuple[FloatArray, FloatArray]] = (np.array([1.0, 0, 0, 1]), np.array([1.0, 0, 0, -1]))


class DensityMatrixEngine:
    """Exact engine for groups of few qubits. See `StateEngineCapable` for what the methods promise.

    Args:
        group_qubits: the most qubits that may become correlated with each other; a group of n takes 8 * 4ⁿ bytes.

    Raises:
        BackendError: when `group_qubits` is outside [2, 13].
    """

    def __init__(self, *, group_qubits: int = DEFAULT_GROUP_QUBITS) -> None:
        if not 2 <= group_qubits <= LARGEST_GROUP_QUBITS:
            raise BackendError(f"expected groups of 2 to {LARGEST_GROUP_QUBITS} qubits, got {group_qubits}")
        self._group_qubits = group_qubits
        self._groups: dict[Hashable, _Group] = {}

    def __contains__(self, qubit: Hashable) -> bool:
        """Tell whether the qubit exists."""
        return qubit in self._groups

    def __len__(self) -> int:
        """Count the qubits."""
        return len(self._groups)

    def group(self, qubit: Hashable) -> tuple[Hashable, ...]:
        """Give the qubits that may be correlated with this one, itself included, in no particular order."""
        return tuple(self._group(qubit).qubits)

    def create(self, qubits: Sequence[Hashable], density_matrix: ComplexArray) -> None:
        """Put 1 or 2 fresh qubits into a state, shape (2, 2) or (4, 4). A qubit that exists is discarded first."""
        vector = to_pauli_vector(density_matrix)
        if 4 ** len(qubits) != len(vector):
            raise BackendError(f"a state of shape {density_matrix.shape} does not fit {len(qubits)} qubits")
        if len(qubits) == 2 and qubits[0] == qubits[1]:
            raise BackendError(f"qubit {qubits[0]!r} is named twice")
        if not abs(vector[0] - 1) <= 1e-9:
            raise BackendError(f"expected a state of trace 1, got {vector[0]:.6g}")
        vector[0] = 1.0
        for qubit in qubits:
            if qubit in self._groups:
                self.discard(qubit)
        group = _Group(list(qubits), vector)
        for qubit in qubits:
            self._groups[qubit] = group

    def discard(self, qubit: Hashable) -> None:
        """Forget a qubit: trace it out."""
        group = self._group(qubit)
        del self._groups[qubit]
        if len(group.qubits) > 1:
            at = group.qubits.index(qubit)
            group.vector = group.vector.reshape(4**at, 4, -1)[:, 0].reshape(-1)
            group.qubits.pop(at)

    def apply(self, channel: Channel, qubits: Sequence[Hashable]) -> None:
        """Apply a channel to 1 or 2 qubits, in the channel's order."""
        if len(qubits) != channel.qubits:
            raise BackendError(f"a channel on {channel.qubits} qubits cannot act on {len(qubits)}")
        if channel.qubits == 1:
            self._apply_single(channel.transfer, qubits[0])
        else:
            self._apply_pair(channel.transfer, qubits[0], qubits[1])

    def idle(self, qubit: Hashable, elapsed_ns: float, t1_ns: float, t2_ns: float) -> None:
        """Let a qubit relax and dephase for a time (`channels.idle`), unchecked: the times were checked when loaded."""
        self._apply_single(idle_transfer(elapsed_ns, t1_ns, t2_ns), qubit)

    def _apply_single(self, transfer: FloatArray, qubit: Hashable) -> None:
        group = self._group(qubit)
        members = group.qubits
        if len(members) == 1:
            group.vector = np.dot(transfer, group.vector)
            return
        at = members.index(qubit)
        if at:
            front = group.vector.reshape(4**at, 4, -1).swapaxes(0, 1).reshape(4, -1)
            members.insert(0, members.pop(at))
        else:
            front = group.vector.reshape(4, -1)
        group.vector = np.dot(transfer, front).reshape(-1)

    def _apply_pair(self, transfer: FloatArray, first: Hashable, second: Hashable) -> None:
        if first == second:
            raise BackendError(f"qubit {first!r} is named twice")
        group, other = self._group(first), self._group(second)
        if group is not other:
            group = self._merge(group, other)
        members = group.qubits
        if members[0] == first and members[1] == second:
            front = group.vector
        else:
            one, two = members.index(first), members.index(second)
            rest = [at for at in range(len(members)) if at not in (one, two)]
            front = group.vector.reshape((4,) * len(members)).transpose([one, two, *rest])
            group.qubits = [first, second, *(members[at] for at in rest)]
        group.vector = np.dot(transfer, front.reshape(16, -1)).reshape(-1)

    def measure(self, qubit: Hashable, rng: np.random.Generator) -> int:
        """Measure in the computational basis with one draw of `rng`; the qubit stays, in the state found. 0 or 1."""
        group = self._group(qubit)
        members = group.qubits
        at = members.index(qubit)
        tensor = group.vector.reshape(4**at, 4, -1)
        expectation = min(1.0, max(-1.0, float(tensor[0, 3, 0])))
        bit = 1 if rng.random() < (1 - expectation) / 2 else 0
        if len(members) == 1:
            group.vector = _FOUND[bit]
            return bit
        rest = tensor[:, 0] - tensor[:, 3] if bit else tensor[:, 0] + tensor[:, 3]
        group.vector = rest.reshape(-1)
        group.vector /= group.vector[0]
        members.pop(at)
        self._groups[qubit] = _Group([qubit], _FOUND[bit])
        return bit

    def density_matrix(self, qubits: Sequence[Hashable]) -> ComplexArray:
        """Give the reduced state of the qubits, in that order. Shape (2ⁿ, 2ⁿ), first qubit slowest.

        Raises:
            BackendError: for no qubits, more than a group may have, one that is not there, or one named twice.
        """
        if not 1 <= len(qubits) <= self._group_qubits:
            raise BackendError(f"expected 1 to {self._group_qubits} qubits to look at, got {len(qubits)}")
        if len(set(qubits)) != len(qubits):
            raise BackendError("a qubit is named twice")
        groups = {id(group): group for group in map(self._group, qubits)}
        order: list[Hashable] = []
        product = np.ones(1)
        for group in groups.values():
            seen = [member in qubits for member in group.qubits]
            part = group.vector.reshape((4,) * len(seen))[tuple(slice(None) if see else 0 for see in seen)]
            product = np.multiply.outer(product, part.reshape(-1)).reshape(-1)
            order += [member for member, see in zip(group.qubits, seen, strict=True) if see]
        axes = [order.index(qubit) for qubit in qubits]
        return to_density_matrix(product.reshape((4,) * len(axes)).transpose(axes).reshape(-1), len(axes))

    def _group(self, qubit: Hashable) -> _Group:
        try:
            return self._groups[qubit]
        except KeyError:
            raise BackendError(f"there is no qubit {qubit!r}") from None

    def _merge(self, first: _Group, second: _Group) -> _Group:
        members = first.qubits + second.qubits
        if len(members) > self._group_qubits:
            raise BackendError(f"{len(members)} qubits would become entangled, {self._group_qubits} are allowed")
        merged = _Group(members, np.multiply.outer(first.vector, second.vector).reshape(-1))
        for qubit in members:
            self._groups[qubit] = merged
        return merged
