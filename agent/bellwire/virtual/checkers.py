"""What must always hold (ARCHITECTURE), each watched by a checker of its own. They know nothing of faults but their excuses.

An excuse is always narrow: a node that crashed has lost its memory; a peer that is silent cannot be told before the lease is
over; and nobody can obey a message that is still on its way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt

from bellwire.agent.brain import AgentBrain
from bellwire.protocols.events import Event
from bellwire.protocols.ids import GateId, LinkId, NodeId, PairId, QubitName
from bellwire.protocols.instructions import BellState
from bellwire.protocols.messages import GateKind, GateStatus, PairRelease
from bellwire.protocols.pairs import PairState
from bellwire.sim.states import bell_vector
from bellwire.sim.virtual import SECOND_NS
from bellwire.virtual.oracle import Half, Oracle, WorldPair

EXACT: Final = 1e-9
"""How far a noiseless world's state may be from ideal."""

GRACE_NS: Final = 2 * SECOND_NS
"""How much later than its time something may end, on a node that is awake."""

MAX_FRAMES_PER_S: Final = 10
"""Frames that a side of a session sends in a second in which nothing happens: heartbeats, and what is repeated."""

_STATES: Final = {bell_state: bell_vector(bell_state) for bell_state in BellState}


class Checker:
    """Base of all checkers. It registers for what it watches; `sample` is called now and then, `finish` at the end."""

    name: ClassVar[str]

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle
        self.watch()

    def watch(self) -> None:
        """Register with the oracle."""

    def sample(self) -> None:
        """Look at everything, in the middle of a run."""

    def finish(self) -> None:
        """Look at everything, when all has ended."""

    def violate(self, text: str) -> None:
        """Say that the invariant does not hold."""
        self.oracle.violate(self.name, text)

    @property
    def now_ns(self) -> int:
        """True time."""
        return self.oracle.bed.net.now_ns

    def awake(self) -> list[tuple[NodeId, AgentBrain]]:
        """The agents that run and are not stalled."""
        net = self.oracle.bed.net
        return [
            (name, brain)
            for name, brain in self.oracle.bed.agents.items()
            if net.is_seated(name, brain.node) and not net.is_stalled(name)
        ]


class GhostPair(Checker):
    """No node uses a pair that its peer has released, has let expire or never had."""

    name = "ghost-pair"

    def watch(self) -> None:
        """Register with the oracle."""
        self._ended: dict[tuple[NodeId, PairId], tuple[str, int]] = {}
        self._lost: dict[tuple[NodeId, str], int] = {}
        self._heralded: set[tuple[NodeId, PairId]] = set()
        self.oracle.listeners.used.append(self._used)
        self.oracle.listeners.gone.append(self._gone)
        self.oracle.listeners.noted.append(self._noted)

    def _gone(self, pair: WorldPair, half: Half) -> None:
        """A half that is given back unused, by a node that never knew of the pair: the other must not have been used."""
        known = (half.node, pair.pair_id) in self._heralded
        self._heralded.discard((half.node, pair.pair_id))
        other = pair.other(half.node)
        if not known and not half.uses and other.uses:
            self.violate(f"{other.node} has used {pair.pair_id}, which {half.node} never had")

    def _noted(self, node: NodeId, event: Event) -> None:
        if event.name == "PairHeralded":
            self._heralded.add((node, PairId(event.subjects[0])))
        elif event.name == "PairEnded":
            self._ended[node, PairId(event.subjects[0])] = (event.detail, self.now_ns)
        elif event.name == "PeerLost":
            self._lost[node, event.subjects[0]] = self.now_ns

    def _used(self, pair: WorldPair, half: Half) -> None:
        other = pair.other(half.node)
        if half.uses or other.gone_ns is None or other.lost or other.uses:
            return
        why, ended_ns = self._ended.get((other.node, pair.pair_id), ("never held", other.gone_ns))
        if not self._excused(pair, half, other, why, ended_ns):
            since_ns = self.now_ns - ended_ns
            self.violate(f"{half.node} uses {pair.pair_id}, which at {other.node} was {why}, {since_ns} ns ago")

    def _excused(self, pair: WorldPair, half: Half, other: Half, why: str, ended_ns: int) -> bool:
        if why.startswith(PairState.EXPIRED):
            known = self.oracle.errors_ns
            self.oracle.read_clock(half.node)
            return self.now_ns - ended_ns <= known.get(half.node, 0) + known.get(other.node, 0)
        if why == "never held":
            return False
        if self._lost.get((other.node, half.node), -1) >= ended_ns:
            return True
        teller = self.oracle.bed.agents[other.node].endpoint
        telling = (request for request in teller.asks.requests(half.node) if isinstance(request, PairRelease))
        return any(request.pair_id == pair.pair_id for request in telling)


class SingleUse(Checker):
    """A pair is consumed once, by one gate or one application at each end; nobody acts on a qubit that it does not hold."""

    name = "single-use"

    def watch(self) -> None:
        """Register with the oracle."""
        self._made: set[PairId] = set()
        self._acting: dict[tuple[NodeId, PairId], GateId] = {}
        listeners = self.oracle.listeners
        listeners.made.append(self._pair_made)
        listeners.used.append(self._used)
        listeners.noted.append(self._noted)
        listeners.refused.append(self._refused)

    @property
    def made(self) -> int:
        """How many pairs the world made."""
        return len(self._made)

    def _pair_made(self, pair: WorldPair) -> None:
        if pair.pair_id in self._made:
            self.violate(f"{pair.pair_id} names two pairs")
        self._made.add(pair.pair_id)

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
        if event.name != "PairConfirmed":
            return
        pair_id = PairId(event.subjects[0])
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
        if any(half.uses or half.gone_ns is not None for half in made.halves):
            return
        bed = self.oracle.bed
        state = bed.world.inspect([(half.node, half.qubit) for half in made.halves], bed.net.now_ns)
        ideal = _STATES[word.bell_state]
        fidelity = float((ideal.conj() @ state @ ideal).real)
        if abs(fidelity - 1) > EXACT:
            self.violate(f"{word.node} calls {pair_id} {word.bell_state}, the world calls it {made.bell_state}")

    def correlate(self, pair_id: str, bell_state: BellState, basis: str, bits: tuple[int, int]) -> None:
        """Compare what applications measured at both ends of a pair with the frame that they were told."""
        expected = bell_state.z if basis == "x" else bell_state.x
        if bits[0] ^ bits[1] != expected:
            self.violate(f"measured in {basis}, {pair_id} in {bell_state} gave {bits}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Qubits that an application has prepared at one node: an ideal reference, and a circuit qubit entangled with it."""

    application: NodeId
    asked_ns: int
    node: NodeId
    reference: QubitName
    circuit: QubitName
    lease: int


def _choi(kind: GateKind) -> npt.NDArray[np.complex128]:
    """The Choi state of an ideal gate over (reference, circuit) of the source, then of the target."""
    state = np.zeros((2, 2, 2, 2), dtype=np.complex128)
    for control in (0, 1):
        for target in (0, 1):
            if kind is GateKind.CZ:
                state[control, control, target, target] += 0.5 * (-1) ** (control * target)
            else:
                state[control, control, target, control ^ target] += 0.5
    return state.reshape(16)


_CHOI: Final = {kind: _choi(kind) for kind in (GateKind.CZ, GateKind.CNOT)}
_PLUS: Final = bell_vector(BellState.PHI_PLUS)


class ExactCorrection(Checker):
    """A gate that is reported done acted exactly once; one that failed touched nothing."""

    name = "exact-correction"

    def watch(self) -> None:
        """Register with the oracle."""
        self._ended: dict[GateId, tuple[NodeId, str]] = {}
        self._lost: dict[tuple[NodeId, str], int] = {}
        self.oracle.listeners.noted.append(self._noted)
        self.checked = 0

    def _noted(self, node: NodeId, event: Event) -> None:
        if event.name == "PeerLost":
            self._lost[node, event.subjects[0]] = self.now_ns
        if event.name != "GateEnded":
            return
        gate_id, status = GateId(event.subjects[0]), event.detail.partition(" ")[0]
        first = self._ended.pop(gate_id, None)
        if first is None:
            self._ended[gate_id] = (node, status)
        elif {first[1], status} == {GateStatus.DONE, GateStatus.FAILED}:
            self.violate(f"gate {gate_id} is {first[1]} at {first[0]} and {status} at {node}")

    def intact(self, *prepared: Prepared) -> bool:
        """Whether the qubits are those that were prepared: no node has lost the world or the application since."""
        hardware = self.oracle.bed.hardware
        return all(
            each.lease == hardware.lease(each.node)
            and self._lost.get((each.node, each.application), -1) < each.asked_ns
            for each in prepared
        )

    def answered(self, gate_id: str, kind: GateKind, status: GateStatus, source: Prepared, target: Prepared) -> None:
        """An application has its answer, and its qubits are as it left them: look at the world."""
        if status is GateStatus.INDETERMINATE or not self.intact(source, target):
            return
        self.checked += 1
        if status is GateStatus.FAILED:
            for each in (source, target):
                self._expect(gate_id, "failed", [(each.node, each.reference), (each.node, each.circuit)], _PLUS)
        elif kind is GateKind.STATE:
            self._expect(gate_id, "done", [(source.node, source.reference), (target.node, target.circuit)], _PLUS)
        else:
            qubits = [(each.node, qubit) for each in (source, target) for qubit in (each.reference, each.circuit)]
            self._expect(gate_id, "done", qubits, _CHOI[kind])

    def _expect(
        self, gate_id: str, how: str, qubits: list[tuple[NodeId, QubitName]], ideal: npt.NDArray[np.complex128]
    ) -> None:
        bed = self.oracle.bed
        missing = [f"{node}:{qubit}" for node, qubit in qubits if qubit not in bed.world.held(node)]
        if missing:
            self.violate(f"gate {gate_id} is {how}, and {', '.join(missing)} is gone")
            return
        state = bed.world.inspect(qubits, bed.net.now_ns)
        fidelity = float((ideal.conj() @ state @ ideal).real)
        if abs(fidelity - 1) > EXACT:
            self.violate(f"gate {gate_id} is {how}, with a process fidelity of {fidelity:.6f}")


class Termination(Checker):
    """Every request ends in OK or a named error by its deadline."""

    name = "termination"

    def watch(self) -> None:
        """Register with the oracle."""
        self._calm = False
        self._frames = 0
        self._sampled_ns = 0

    def calm_down(self) -> None:
        """From now on nothing goes wrong and nothing is asked: all that is left to say is that one is there."""
        self._calm = True
        self._sampled_ns = 0

    def _quiet(self) -> None:
        """Each side of a session may send a few frames a second, whatever it says; more is an argument without an end."""
        bed = self.oracle.bed
        if not self._calm:
            return
        frames, self._frames = bed.net.frames - self._frames, bed.net.frames
        passed_ns, self._sampled_ns = self.now_ns - self._sampled_ns, self.now_ns
        if passed_ns >= self.now_ns:
            return
        endpoints = [bed.brain(name).endpoint for name in (*bed.agents, *bed.stations)]
        sides = sum(len(endpoint.sessions) for endpoint in (*endpoints, bed.broker))
        if frames * SECOND_NS > MAX_FRAMES_PER_S * 2 * sides * max(passed_ns, SECOND_NS):
            self.violate(f"{frames} frames in {passed_ns / 1e9:g} s, when nothing is asked any more")

    def sample(self) -> None:
        """Look for what should have ended."""
        self._quiet()
        for node, brain in self.awake():
            now_ns = brain.endpoint.network_time_ns(self.oracle.bed.net.local_ns(node))
            for gate in brain.gates.gates.values():
                self._late(node, f"gate {gate.gate_id} in {gate.state.upper()}", now_ns - gate.deadline_ns)
            for link in brain.links.values():
                for request in link.book.requests.values():
                    self._late(node, f"request {request.create_id}", now_ns - request.spec.deadline_ns)
                for pair in link.book.pairs.values():
                    self._late(node, f"pair {pair.pair_id} in {pair.state.upper()}", now_ns - pair.expires_ns)

    def _late(self, node: NodeId, what: str, late_ns: int) -> None:
        if late_ns > GRACE_NS:
            self.violate(f"{node} still has {what}, {late_ns / 1e9:.1f} s after its time")

    def answered(self, what: str, late_ns: int, *, calm: bool) -> None:
        """An application has its answer, so much later than its request might take; `calm`: no fault excuses that."""
        if calm and late_ns > GRACE_NS:
            self.violate(f"{what} was answered {late_ns / 1e9:.1f} s after its deadline")

    def unnamed(self, what: str, answer: str) -> None:
        """A request has ended, and nobody says how."""
        self.violate(f"{what} ended without a name: {answer}")


class NoLeak(Checker):
    """When every request has ended and every application has left, nobody holds anything."""

    name = "no-leak"

    def finish(self) -> None:
        """Look for what is left."""
        bed = self.oracle.bed
        for node, brain in bed.agents.items():
            left: dict[str, object] = {
                "qubits": sorted(brain.node.qubits.held),
                "qubits in the world": sorted(bed.world.held(node)),
                "gates": [*brain.gates.gates],
                "requests of its own": [type(request).__name__ for request in brain.endpoint.asks.requests()],
                "unanswered requests": len(brain.endpoint.duties),
                "instructions": brain.node.waiting,
            }
            left["unanswered gates"] = brain.gates.unanswered
            left |= {f"registers of {name}": held for name, held in brain.registers.left().items()}
            for link_id, link in brain.links.items():
                left[f"requests of {link_id}"] = [*link.book.requests]
                left[f"windows of {link_id}"] = [*link.book.windows]
                left[f"pairs of {link_id}"] = [*link.book.pairs]
                left[f"deferred windows of {link_id}"] = link.windows.deferred
            self._report(node, left)
        for node, station in bed.stations.items():
            self._report(node, {"windows": [*station.station.windows]})
        self._report(NodeId("world"), {"windows": bed.world.open_windows})

    def _report(self, node: NodeId, left: dict[str, object]) -> None:
        for what, value in left.items():
            if value:
                self.violate(f"{node} still has {what}: {value}")
