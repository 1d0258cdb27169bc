"""One half of a pair, from its herald to its end (spec 2 §4; RFC 9340 §4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from bellwire.protocols.ids import CreateId, NetworkTimeNs, NodeId, PairId, QubitName
from bellwire.protocols.instructions import BellState
from bellwire.protocols.machine import Machine, Row
from bellwire.protocols.readout import Basis
from bellwire.protocols.timers import Timer


class PairState(StrEnum):
    """States of one half."""

    HERALDED = "heralded"
    CONFIRMED = "confirmed"
    RESERVED = "reserved"
    CONSUMED = "consumed"
    RELEASED = "released"
    EXPIRED = "expired"


class PairInput(StrEnum):
    """Inputs of one half. FORSAKEN: the other half is certainly gone."""

    CONFIRM = "confirm"
    REFUSED = "refused"
    RESERVE = "reserve"
    CONSUME = "consume"
    RELEASE = "release"
    FORSAKEN = "forsaken"
    EXPIRE = "expire"


_S, _I = PairState, PairInput

ENDED = (PairState.CONSUMED, PairState.RELEASED, PairState.EXPIRED)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What measuring a half gave."""

    basis: Basis
    bit: int


class PairEnd(Machine[PairState, PairInput]):
    """This node's half of one pair. `owner` is the application that has it, empty for the node itself."""

    name = "pair"
    rule = "2 §4.2"
    initial = PairState.HERALDED
    table = {
        (_S.HERALDED, _I.CONFIRM): Row(_S.CONFIRMED, "confirmed", "2 §4.1"),
        (_S.HERALDED, _I.REFUSED): Row(_S.RELEASED, "ended", "2 §4.1"),
        (_S.HERALDED, _I.FORSAKEN): Row(_S.RELEASED, "ended", "2 §4.3"),
        (_S.HERALDED, _I.RELEASE): Row(_S.RELEASED, "ended", "2 §4.3"),
        (_S.HERALDED, _I.EXPIRE): Row(_S.EXPIRED, "ended", "2 §4.4"),
        (_S.CONFIRMED, _I.RESERVE): Row(_S.RESERVED, None, "2 §4.2"),
        (_S.CONFIRMED, _I.CONSUME): Row(_S.CONSUMED, "consumed", "2 §4.2"),
        (_S.CONFIRMED, _I.RELEASE): Row(_S.RELEASED, "ended", "2 §4.3"),
        (_S.CONFIRMED, _I.FORSAKEN): Row(_S.RELEASED, "ended", "2 §4.3"),
        (_S.CONFIRMED, _I.EXPIRE): Row(_S.EXPIRED, "ended", "2 §4.4"),
        (_S.RESERVED, _I.CONSUME): Row(_S.CONSUMED, "consumed", "2 §4.2"),
        (_S.RESERVED, _I.RELEASE): Row(_S.RELEASED, "ended", "2 §4.3"),
        (_S.RESERVED, _I.FORSAKEN): Row(_S.RELEASED, "ended", "2 §4.3"),
        (_S.RESERVED, _I.EXPIRE): Row(_S.EXPIRED, "ended", "2 §4.4"),
        (_S.CONSUMED, _I.CONSUME): Row(_S.CONSUMED, None, "2 §4.2"),
        (_S.CONSUMED, _I.FORSAKEN): Row(_S.CONSUMED, None, "2 §4.3"),
    }

    def __init__(
        self,
        *,
        pair_id: PairId,
        create_id: CreateId,
        peer: NodeId,
        owner: NodeId,
        qubit: QubitName,
        bell_state: BellState,
        expires_ns: NetworkTimeNs,
        confirmed: Callable[[PairEnd], None],
        ended: Callable[[PairEnd, str], None],
    ) -> None:
        super().__init__()
        self.pair_id = pair_id
        self.create_id = create_id
        self.peer = peer
        self.owner = owner
        self.qubit = qubit
        self.bell_state = bell_state
        self.expires_ns = expires_ns
        self.sequence_number = 0
        self.heralded_ns = 0
        self.confirmed_ns = 0
        self.outcome: Outcome | None = None
        """Of a pair of type M, once it was measured."""
        self.for_test = False
        """Whether it is measured for a test round."""
        self.timer: Timer | None = None
        self.announced = False
        self.under_way = True
        self.on_ended: Callable[[str], None] | None = None
        """Told when the pair ends before it was consumed: whoever has reserved it."""
        self._confirmed, self._ended = confirmed, ended

    def confirmed(self) -> None:
        """Both ends hold their half."""
        self._confirmed(self)

    def consumed(self) -> None:
        """The half is being used: its life as a pair is over, the qubit is the user's."""
        if self.timer is not None:
            self.timer.cancel()
        self.on_ended = None

    def ended(self, why: str) -> None:
        """The half is gone unused."""
        if self.timer is not None:
            self.timer.cancel()
        told, self.on_ended = self.on_ended, None
        self._ended(self, why)
        if told is not None:
            told(why)
