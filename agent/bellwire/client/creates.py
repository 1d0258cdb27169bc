"""What an application is told of its CREATEs: pairs, of which both ends have spoken, and errors."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final

from bellwire.protocols.errors import ConfigError, ErrorCode, RequestError
from bellwire.protocols.ids import NodeId, PairId
from bellwire.protocols.instructions import BellState
from bellwire.protocols.messages import Delivered, LinkMeasured, LinkOk
from bellwire.protocols.readout import PAULI_BASES, Basis, Readout, parity

MAX_HALVES = 4_096
"""Pairs of one request of which only one end has spoken."""

MAX_EARLY_ERRORS = 8
"""Errors of a request that came before it was known whose they may be."""

READOUTS: Final = {
    "z": Readout(bases=(Basis.Z,)),
    "x": Readout(bases=(Basis.X,)),
    "y": Readout(bases=(Basis.Y,)),
    "xz": Readout(bases=(Basis.X, Basis.Z)),
    "xyz": Readout(bases=PAULI_BASES),
    "chsh": Readout(bases=(Basis.Z_PLUS, Basis.Z_MINUS)),
}
"""Readouts by name: one basis, or one that each end draws anew for every pair, all of them alike."""


def readout(wanted: str | Readout) -> Readout:
    """A readout, by its name or as it is.

    Raises:
        ConfigError: when nothing has that name.
    """
    if isinstance(wanted, Readout):
        return wanted
    if wanted not in READOUTS:
        raise ConfigError(f"{wanted!r} is no basis: expected one of {', '.join(READOUTS)}")
    return READOUTS[wanted]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeraldedPair:
    """A pair that both of its ends have confirmed.

    `goodness` is its expected fidelity: from `goodness_low` to `goodness_high` where the ends have estimated it from test
    rounds (`goodness_estimated`), as configured otherwise. `confirmation_ns` is how long it took from the herald at the first
    end until that end knew of both.
    """

    pair_id: PairId
    nodes: tuple[NodeId, NodeId]
    bell_state: BellState
    sequence_number: int
    goodness: float
    goodness_low: float
    goodness_high: float
    goodness_estimated: bool
    confirmation_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair(HeraldedPair):
    """A pair that both of its ends hold for this application, until `expires_ns` (the network's clock)."""

    expires_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredPair(HeraldedPair):
    """A pair that both of its ends have measured: in which bases, and the bits, each in the order of `nodes`."""

    bases: tuple[Basis, Basis]
    bits: tuple[int, int]

    @property
    def as_expected(self) -> bool | None:
        """Whether the bits are as a perfect pair gives them; `None` where the bases do not tell."""
        if self.bases[0] is not self.bases[1] or self.bases[0] not in PAULI_BASES:
            return None
        return self.bits[0] ^ self.bits[1] == parity(self.bell_state, self.bases[0])


@dataclass(slots=True)
class Create:
    """What is said of one request. Before its `nodes` are known, anybody may have spoken; afterwards only they are heard."""

    halves: dict[PairId, dict[NodeId, Delivered]] = field(default_factory=dict)
    arrived: asyncio.Queue[HeraldedPair | RequestError] = field(default_factory=asyncio.Queue)
    nodes: tuple[NodeId, NodeId] | None = None
    early_errors: dict[NodeId, RequestError] = field(default_factory=dict)

    def claim(self, nodes: tuple[NodeId, NodeId]) -> None:
        """Say whose request it is: what they have said takes effect, and what others have said is dropped."""
        self.nodes = nodes
        early, self.halves = self.halves, {}
        for pair_id, halves in early.items():
            own = {node: ok for node, ok in halves.items() if node in nodes}
            if own:
                self.halves[pair_id] = own
                self._match(pair_id)
        errors, self.early_errors = self.early_errors, {}
        for node, error in errors.items():
            if node in nodes:
                self.arrived.put_nowait(error)

    def ok(self, peer: NodeId, message: Delivered) -> None:
        """Take one end's word that a pair is confirmed.

        Raises:
            RequestError: DENIED when `peer` is no end of the link, LIMIT when too many pairs await their other half.
        """
        self._check(peer)
        if message.pair_id not in self.halves and len(self.halves) >= MAX_HALVES:
            raise RequestError(ErrorCode.LIMIT, f"more than {MAX_HALVES} pairs await their other half")
        self.halves.setdefault(message.pair_id, {})[peer] = message
        self._match(message.pair_id)

    def err(self, peer: NodeId, error: RequestError) -> None:
        """Take one end's word that the request has failed. Raises as `ok`."""
        self._check(peer)
        if self.nodes is not None:
            self.arrived.put_nowait(error)
        elif peer in self.early_errors or len(self.early_errors) < MAX_EARLY_ERRORS:
            self.early_errors[peer] = error
        else:
            raise RequestError(ErrorCode.LIMIT, f"more than {MAX_EARLY_ERRORS} errors came before their request")

    def expire(self, peer: NodeId, low: int, high: int) -> None:
        """Forget what one end has said of pairs that are no more, by their numbers: `low` to below `high`. Raises as `ok`."""
        self._check(peer)
        for pair_id, halves in list(self.halves.items()):
            if peer in halves and low <= halves[peer].sequence_number < high:
                del halves[peer]
                if not halves:
                    del self.halves[pair_id]

    def _check(self, peer: NodeId) -> None:
        if self.nodes is not None and peer not in self.nodes:
            raise RequestError(ErrorCode.DENIED, f"{peer} is no end of this link")

    def _match(self, pair_id: PairId) -> None:
        """Hand a pair on when both ends have spoken of it."""
        halves = self.halves[pair_id]
        if self.nodes is None or any(node not in halves for node in self.nodes):
            return
        del self.halves[pair_id]
        first, second = (halves[node] for node in self.nodes)
        if first.bell_state is not second.bell_state:
            error = RequestError(ErrorCode.PROTOCOL, f"the ends of {pair_id} disagree on its Bell state")
            self.arrived.put_nowait(error)
            return
        told: dict[str, Any] = {
            "pair_id": pair_id,
            "nodes": self.nodes,
            "bell_state": first.bell_state,
            "sequence_number": first.sequence_number,
            "goodness": min(first.goodness, second.goodness),
            "goodness_low": min(first.goodness_low, second.goodness_low),
            "goodness_high": max(first.goodness_high, second.goodness_high),
            "goodness_estimated": first.goodness_estimated and second.goodness_estimated,
            "confirmation_ns": first.confirmed_ns - first.time_of_goodness_ns,
        }
        if isinstance(first, LinkOk) and isinstance(second, LinkOk):
            self.arrived.put_nowait(Pair(expires_ns=min(first.expires_ns, second.expires_ns), **told))
        elif isinstance(first, LinkMeasured) and isinstance(second, LinkMeasured):
            bases, bits = (first.basis, second.basis), (first.outcome, second.outcome)
            self.arrived.put_nowait(MeasuredPair(bases=bases, bits=bits, **told))
        else:
            self.arrived.put_nowait(RequestError(ErrorCode.PROTOCOL, f"the ends of {pair_id} disagree on its type"))
