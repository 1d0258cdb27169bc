"""The invariants of ids and pairs: nothing is named twice, no ghosts, single use, one frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bellwire.agent.brain import AgentBrain
from bellwire.protocols.events import Event
from bellwire.protocols.ids import GateId, LinkId, NodeId, PairId, WindowId
from bellwire.protocols.ids import pair_id as pair_id_of
from bellwire.protocols.instructions import BellState
from bellwire.protocols.messages import PairRelease
from bellwire.protocols.pairs import PairState
from bellwire.protocols.readout import Basis, parity
from bellwire.sim.states import bell_vector
from bellwire.sim.virtual import SECOND_NS
from bellwire.virtual.checker import EXACT, Checker
from bellwire.virtual.oracle import Half, WorldPair

UNTOLD_NS: Final = 2 * SECOND_NS
"""After a silence an end is told again within this time of what was given up."""

_STATES: Final = {bell_state: bell_vector(bell_state) for bell_state in BellState}


class FreshId(Checker):
    """No id names two things, whatever restarted in between."""

    name = "fresh-id"

    def watch(self) -> None:
        """Register with the oracle."""
        self._named: set[tuple[NodeId, str]] = set()
        self.oracle.listeners.noted.append(self._noted)

    def _noted(self, node: NodeId, event: Event) -> None:
        if event.name not in ("RequestAdded", "WindowOpened", "GateOpened"):
            return
        key = (node, event.subjects[0])
        if key in self._named:
            self.violate(f"{node} has begun {event.subjects[0]} twice ({event.name})")
        self._named.add(key)


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """How and when a half ended unused, and in which incarnation of its node."""

    how: str
    at_ns: int
    brain: AgentBrain


class GhostPair(Checker):
    """No node uses a pair that its peer has released, has let expire or never had."""

    name = "ghost-pair"

    def watch(self) -> None:
        """Register with the oracle."""
        self._ended: dict[tuple[NodeId, PairId], _End] = {}
        self._lost: dict[tuple[NodeId, str], int] = {}
        self._heralded: set[tuple[NodeId, PairId]] = set()
        self._confirmed: set[tuple[NodeId, PairId]] = set()
        self._told: set[tuple[NodeId, PairId]] = set()
        self._untold: dict[tuple[NodeId, PairId], tuple[WorldPair, _End]] = {}
        self.oracle.listeners.used.append(self._used)
        self.oracle.listeners.gone.append(self._gone)
        self.oracle.listeners.noted.append(self._noted)

    def _gone(self, pair: WorldPair, half: Half) -> None:
        """A half is given back. The other was not used if this node never knew of the pair, and is told if it did."""
        place, other = (half.node, pair.pair_id), pair.other(half.node)
        if self._telling(pair.pair_id, half.node, other.node):
            self._told.add(place)
        if half.uses:
            return
        if place not in self._heralded and other.uses:
            self.violate(f"{other.node} has used {pair.pair_id}, which {half.node} never had")
        ended = self._ended.get(place)
        released = ended is not None and ended.how.startswith(PairState.RELEASED)
        if ended is not None and released and place in self._confirmed and place not in self._told:
            self._untold[place] = (pair, ended)

    def sample(self) -> None:
        """Look for halves that were given up, and nobody tells the other end."""
        bed = self.oracle.bed
        for (node, pair_id), (pair, ended) in list(self._untold.items()):
            other = pair.other(node)
            if self._telling(pair_id, node, other.node):
                self._told.add((node, pair_id))
            held = other.gone_ns is None and not other.lost and not other.uses
            if not held or (node, pair_id) in self._told or not bed.net.is_seated(node, ended.brain.node):
                del self._untold[node, pair_id]
            elif self.now_ns - ended.at_ns > UNTOLD_NS:
                del self._untold[node, pair_id]
                self.violate(f"{node} has given {pair_id} up and does not tell {other.node}, which holds it")

    def _telling(self, pair_id: PairId, node: NodeId, other: NodeId) -> bool:
        """Whether a node is telling another that it has released its half of a pair."""
        asks = self.oracle.bed.agents[node].endpoint.asks
        return any(isinstance(each, PairRelease) and each.pair_id == pair_id for each in asks.requests(other))

    def _noted(self, node: NodeId, event: Event) -> None:
        if event.name == "PairHeralded":
            self._heralded.add((node, PairId(event.subjects[0])))
        elif event.name == "PairConfirmed":
            self._confirm(node, PairId(event.subjects[0]))
        elif event.name == "PairEnded":
            brain = self.oracle.bed.agents[node]
            self._ended[node, PairId(event.subjects[0])] = _End(how=event.detail, at_ns=self.now_ns, brain=brain)
        elif event.name == "PeerLost":
            self._lost[node, event.subjects[0]] = self.now_ns

    def _confirm(self, node: NodeId, pair_id: PairId) -> None:
        self._confirmed.add((node, pair_id))
        pair = self.oracle.pairs.get(pair_id)
        if pair is not None and (pair.other(node).node, pair_id) not in self._heralded:
            self.violate(f"{node} calls {pair_id} confirmed, of which {pair.other(node).node} has not heard yet")

    def _used(self, pair: WorldPair, half: Half) -> None:
        other = pair.other(half.node)
        if half.uses or other.gone_ns is None or other.lost or other.uses:
            return
        ended = self._ended.get((other.node, pair.pair_id))
        if ended is None:
            self.violate(f"{half.node} uses {pair.pair_id}, which {other.node} never held")
        elif not self._excused(pair, half, other, ended):
            since_ns = self.now_ns - ended.at_ns
            self.violate(f"{half.node} uses {pair.pair_id}, which at {other.node} was {ended.how}, {since_ns} ns ago")

    def _excused(self, pair: WorldPair, half: Half, other: Half, ended: _End) -> bool:
        if ended.how.startswith(PairState.EXPIRED):
            known = self.oracle.errors_ns
            self.oracle.read_clock(half.node)
            return self.now_ns - ended.at_ns <= known.get(half.node, 0) + known.get(other.node, 0)
        gone = not self.oracle.bed.net.is_seated(other.node, ended.brain.node)
        if gone or self._telling(pair.pair_id, other.node, half.node):
            return True
        return (other.node, pair.pair_id) in self._told and self._lost.get((other.node, half.node), -1) >= ended.at_ns


class SingleUse(Checker):
    """A pair is consumed once, by one gate or one application at each end; nobody acts on a qubit that it does not hold."""

    name = "single-use"

    def watch(self) -> None:
        """Register with the oracle."""
        self._acting: dict[tuple[NodeId, PairId], GateId] = {}
        listeners = self.oracle.listeners
        listeners.made.append(self._pair_made)
        listeners.used.append(self._used)
        listeners.noted.append(self._noted)
        listeners.refused.append(self._refused)

    @property
    def made(self) -> int:
        """How many pairs the world made."""
        return len(self.oracle.made)

    def _pair_made(self, pair: WorldPair) -> None:
        if pair.pair_id in self.oracle.made:
            self.violate(f"{pair.pair_id} names two pairs")

    def _noted(self, node: NodeId, event: Event) -> None:
        if event.name != "GateActing":
            return
        gate_id, pair_id = GateId(event.subjects[0]), PairId(event.subjects[1])
        pair = self.oracle.pairs.get(pair_id)
        before = self._acting.get((node, pair_id))
        if before is not None or (pair is not None and pair.half(node).uses):
            self.violate(f"{node} uses {pair_id} for gate {gate_id}, after it was used for {before or 'a program'}")
        self._acting[node, pair_id] = gate_id
        if pair is not None:
            other = pair.other(node)
            elsewhere = self._acting.get((other.node, pair_id))
            if elsewhere not in (None, gate_id):
                self.violate(f"{node} uses {pair_id} for gate {gate_id}, {other.node} for {elsewhere}")

    def _used(self, pair: WorldPair, half: Half) -> None:
        gate_id = self._acting.get((half.node, pair.pair_id))
        if gate_id is not None and half.uses:
            self.violate(f"{half.node} uses {pair.pair_id} again, after gate {gate_id} has consumed it")

    def _refused(self, node: NodeId, text: str) -> None:
        self.violate(f"the world refused what {node} asked: {text}")


@dataclass(frozen=True, slots=True)
class _Word:
    """What one end says of a pair that it has confirmed."""

    node: NodeId
    bell_state: BellState
    sequence_number: int
    expires_ns: int


class OneFrame(Checker):
    """Both ends agree which Bell state they hold, and the world's true state agrees with them."""

    name = "one-frame"

    def watch(self) -> None:
        """Register with the oracle."""
        self._words: dict[PairId, _Word] = {}
        self._numbers: dict[LinkId, dict[int, PairId]] = {}
        self.oracle.listeners.noted.append(self._noted)

    def _noted(self, node: NodeId, event: Event) -> None:
        if event.name == "PairHeralded":
            self._heralded(node, PairId(event.subjects[0]), WindowId(event.subjects[1]), event.detail)
        elif event.name == "PairConfirmed":
            self._confirmed(node, PairId(event.subjects[0]))
        elif event.name == "PairCompared" and event.detail != "as expected":
            self.violate(f"{node} finds {event.subjects[0]}, of a test round, {event.detail}")

    def _heralded(self, node: NodeId, pair_id: PairId, window_id: WindowId, bell_state: str) -> None:
        """Hold a herald against what the detectors and the node's own hardware saw."""
        if pair_id not in self.oracle.made:
            self.violate(f"{node} heralds {pair_id}, which the world never made")
        made = self.oracle.pairs.get(pair_id)
        if made is not None and made.bell_state != bell_state:
            self.violate(f"{node} heralds {pair_id} in {bell_state}, the detectors saw {made.bell_state}")
        counted = self.oracle.counted.get((node, window_id))
        if counted is not None and pair_id != pair_id_of(window_id, counted):
            self.violate(f"{node} heralds {pair_id}, its hardware counted {counted} attempts")

    def _confirmed(self, node: NodeId, pair_id: PairId) -> None:
        pair = self.oracle.bed.agents[node].find_pair(pair_id)
        if pair is None:
            self.violate(f"{node} has confirmed {pair_id} and does not hold it")
            return
        word = _Word(node, pair.bell_state, pair.sequence_number, pair.expires_ns)
        first = self._words.pop(pair_id, None)
        if first is None:
            self._words[pair_id] = word
        elif (first.bell_state, first.sequence_number) != (word.bell_state, word.sequence_number):
            self.violate(f"the ends of {pair_id} do not agree: {first}, {word}")
        elif first.expires_ns != word.expires_ns:
            self.violate(f"the ends of {pair_id} do not agree on its lease: {first}, {word}")
        self._compare(pair_id, word)

    def _compare(self, pair_id: PairId, word: _Word) -> None:
        """Hold a word against the world, while neither half was touched."""
        made = self.oracle.pairs.get(pair_id)
        if made is None:
            return
        if any(half.uses or half.moving or half.gone_ns is not None for half in made.halves):
            return
        bed = self.oracle.bed
        state = bed.world.inspect([(half.node, half.qubit) for half in made.halves], bed.net.now_ns)
        ideal = _STATES[word.bell_state]
        fidelity = float((ideal.conj() @ state @ ideal).real)
        if abs(fidelity - 1) > EXACT:
            self.violate(f"{word.node} calls {pair_id} {word.bell_state}, the world calls it {made.bell_state}")

    def correlate(self, pair_id: str, bell_state: BellState, basis: Basis, bits: tuple[int, int]) -> None:
        """Compare what was measured at both ends of a pair in one basis with the frame that applications were told."""
        if bits[0] ^ bits[1] != parity(bell_state, basis):
            self.violate(f"measured in {basis}, {pair_id} in {bell_state} gave {bits}")
