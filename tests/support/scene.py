"""Testbeds in virtual time, and what a physicist would ask them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files

from bellwire.protocols.codec import Codec
from bellwire.protocols.ids import LinkId, NodeId
from bellwire.protocols.instructions import Gate
from bellwire.protocols.messages import (
    GateKind,
    GateRequest,
    GateResult,
    GateVariant,
    LinkCreate,
    Message,
    ProgramResult,
    ProgramRun,
    RequestType,
    Step,
)
from bellwire.protocols.messages.program import StepKind
from bellwire.sim.preset import Preset, load_preset
from bellwire.sim.virtual import SECOND_NS, VirtualApplication, VirtualLink, VirtualNode, VirtualTestbed
from bellwire.simnet.clocks import SkewedClock
from bellwire.simnet.fabric import Frame, Rule
from bellwire.virtual.gate_checkers import ideal_choi

ALICE, BOB, HUB = NodeId("alice"), NodeId("bob"), NodeId("hub")
LINK = LinkId("alice-bob")
MS = SECOND_NS // 1_000


def ideal_with(link: str) -> str:
    """The ideal preset, with another link model."""
    text = (files("bellwire.sim") / "presets" / "ideal.toml").read_text()
    return text.partition("[links.ideal]")[0] + "[links.ideal]\n" + link


def initialise(qubit: str, *, reference: bool = False) -> Step:
    return Step(kind=StepKind.INITIALISE, qubits=(qubit,), reference=reference)


def apply(gate: Gate, *qubits: str) -> Step:
    return Step(kind=StepKind.APPLY, qubits=qubits, gate=gate)


def measure(qubit: str) -> Step:
    return Step(kind=StepKind.MEASURE, qubits=(qubit,))


def release(qubit: str) -> Step:
    return Step(kind=StepKind.RELEASE, qubits=(qubit,))


@dataclass
class Tap:
    """A rule that changes nothing and remembers the messages of some types, with their senders."""

    types: tuple[type[Message], ...]
    seen: list[tuple[NodeId, Message]] = field(default_factory=list)
    codec: Codec = field(default_factory=Codec)

    def rule(self) -> Rule:
        return Rule(matches=self._look)

    def _look(self, frame: Frame) -> bool:
        message = self.codec.decode(frame.data)
        if isinstance(message, self.types):
            self.seen.append((frame.sender, message))
        return False


def two_nodes(
    seed: int,
    *,
    rules: Sequence[Rule] = (),
    preset: Preset | None = None,
    scheme: str = "any",
    communication: int = 2,
    goodness: float = 1.0,
    clocks: Mapping[NodeId, SkewedClock] | None = None,
) -> VirtualTestbed:
    node = VirtualNode(communication=communication, storage=4, reference=4)
    return VirtualTestbed(
        preset=preset or load_preset("ideal"),
        nodes={ALICE: node, BOB: node},
        links=[VirtualLink(link_id=LINK, ends=(ALICE, BOB), station=HUB, scheme=scheme, goodness=goodness)],
        seed=seed,
        rules=rules,
        clocks=clocks,
    )


def run(application: VirtualApplication, node: NodeId, *steps: Step) -> ProgramResult:
    result = application.call(node, ProgramRun(steps=steps))
    assert isinstance(result, ProgramResult)
    return result


def prepare_choi(application: VirtualApplication, node: NodeId) -> tuple[str, str]:
    """Entangle the circuit qubit `c` with an ideal reference. Returns the hardware qubits (reference, circuit)."""
    steps = (initialise("r", reference=True), initialise("c"), apply(Gate.H, "r"), apply(Gate.CX, "r", "c"))
    reference, circuit = run(application, node, *steps).qubits
    return reference, circuit


def clear(application: VirtualApplication) -> None:
    for node in (ALICE, BOB):
        run(application, node, release("r"), release("c"))


def request_gate(
    application: VirtualApplication, kind: GateKind, variant: GateVariant, *, max_time_ns: int = 10 * SECOND_NS
) -> GateResult:
    request = GateRequest(kind=kind, variant=variant, qubit="c", peer=BOB, peer_qubit="c", max_time_ns=max_time_ns)
    result = application.call(ALICE, request)
    assert isinstance(result, GateResult)
    return result


def process_fidelity(bed: VirtualTestbed, kind: GateKind, source: tuple[str, str], target: tuple[str, str]) -> float:
    """The fidelity of the world's true state with the Choi state of the ideal gate."""
    qubits = [(ALICE, source[0]), (ALICE, source[1]), (BOB, target[0]), (BOB, target[1])]
    state = bed.world.inspect(qubits, bed.net.now_ns)  # type: ignore[arg-type]
    ideal = ideal_choi(kind)
    return float((ideal.conj() @ state @ ideal).real)


def leaks(bed: VirtualTestbed, nodes: Iterable[NodeId] = (ALICE, BOB)) -> list[str]:
    """Everything that is still held or open when nothing should be."""
    found = []
    for name in nodes:
        brain = bed.agents[name]
        if brain.node.qubits.held or bed.world.held(name):
            found.append(f"{name} holds {set(brain.node.qubits.held)}, the world says {set(bed.world.held(name))}")
        if brain.gates.gates:
            found.append(f"{name} has gates {list(brain.gates.gates)}")
        for link in brain.links.values():
            book = link.book
            if book.requests or book.windows or book.pairs:
                found.append(f"{name}: {list(book.requests)}, {list(book.windows)}, {list(book.pairs)}")
    found += [f"{name} has windows" for name, brain in bed.stations.items() if brain.station.windows]
    return found


def leave(application: VirtualApplication, bed: VirtualTestbed) -> None:
    """Let the application say goodbye, and give every lease time to run out."""
    application.endpoint.begin(bed.net.now_ns)
    application.endpoint.close()
    bed.net.flush()
    bed.net.run_for(30 * SECOND_NS)


def lossy(
    seed: int,
    *,
    communication: int = 2,
    pair_time_ns: int = 0,
    attempts: int = 8,
    test_every: int = 0,
    rules: Sequence[Rule] = (),
) -> VirtualTestbed:
    """Two nodes over a link of which every attempt takes 100 µs and succeeds once in four."""
    node = VirtualNode(communication=communication, storage=2)
    link = VirtualLink(
        link_id=LINK,
        ends=(ALICE, BOB),
        station=HUB,
        model="lossy",
        attempts=attempts,
        pair_time_ns=pair_time_ns,
        test_every=test_every,
    )
    nodes = {ALICE: node, BOB: node}
    return VirtualTestbed(preset=load_preset("ideal"), nodes=nodes, links=[link], seed=seed, rules=rules)


def measuring(number: int = 1, *, priority: int = 0, max_time_ns: int = 100 * SECOND_NS) -> LinkCreate:
    return LinkCreate(
        peer=BOB, number=number, max_time_ns=max_time_ns, priority=priority, request_type=RequestType.MEASURE
    )
