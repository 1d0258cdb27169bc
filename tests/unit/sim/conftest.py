"""A laboratory to try worlds in: builds presets and instructions, and keeps the clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from bellwire.protocols.ids import LinkId, NodeId, QubitName, WindowId
from bellwire.protocols.instructions import (
    AnyCompletion,
    AnyInstruction,
    Apply,
    Arm,
    Cancel,
    Discard,
    Gate,
    Initialise,
    Measure,
    Measured,
    WindowEnded,
)
from bellwire.protocols.node import QubitKind
from bellwire.sim.engine import DensityMatrixEngine
from bellwire.sim.preset import parse_preset
from bellwire.sim.topology import WorldLink, WorldNode
from bellwire.sim.world import BatchCompleted, World

ALICE, BOB, STATION = NodeId("alice"), NodeId("bob"), NodeId("station")
LINK = LinkId("link")

QUBITS = {
    QubitName("c"): QubitKind.COMMUNICATION,
    QubitName("c2"): QubitKind.COMMUNICATION,
    QubitName("s"): QubitKind.STORAGE,
    QubitName("s2"): QubitKind.STORAGE,
    QubitName("r"): QubitKind.REFERENCE,
    QubitName("r2"): QubitKind.REFERENCE,
}

IDEAL_QUBIT = {
    "t1": (math.inf, "s"),
    "t2": (math.inf, "s"),
    "initialise_error": (0.0, "1"),
    "readout_error": (0.0, "1"),
    "one_qubit_gate_fidelity": (1.0, "1"),
    "two_qubit_gate_fidelity": (1.0, "1"),
}


def quantity(value: float, unit: str) -> str:
    return f'{{ value = {float(value)!r}, unit = "{unit}", tag = "assumed", source = "a test" }}'


def preset_text(
    *,
    communication: dict[str, tuple[float, str]] | None = None,
    storage: dict[str, tuple[float, str]] | None = None,
    crosstalk: float = 0.0,
    heralds: Sequence[str] = ("psi+", "psi-"),
    period_ns: float = 0.0,
    probability: float = 1.0,
    werner: float | None = 1.0,
    link: str = "",
) -> str:
    """Write a preset with one node model and one link model, both called `model`. `link` is added to the link model."""
    lines = ['name = "test"', 'paper = "none"', "[nodes.model]", f"measurement_crosstalk = {quantity(crosstalk, '1')}"]
    for kind, changes in (("communication", communication), ("storage", storage)):
        lines.append(f"[nodes.model.{kind}]")
        lines += [f"{key} = {quantity(*value)}" for key, value in {**IDEAL_QUBIT, **(changes or {})}.items()]
    lines += ["[links.model]", f"heralds = {list(heralds)!r}", f"attempt_period = {quantity(period_ns, 'ns')}"]
    lines.append(f"success_probability = {quantity(probability, '1')}")
    if werner is not None:
        lines.append(f"werner_fidelity = {quantity(werner, '1')}")
    return "\n".join([*lines, link])


class Lab:
    """Alice and Bob with a station between them, and the clock of the world's caller."""

    def __init__(self, text: str, seed: int, time_scale: float, start_ns: int, group_qubits: int) -> None:
        self.engine = DensityMatrixEngine(group_qubits=group_qubits)
        self.world = World(
            preset=parse_preset(text, "test.toml"),
            nodes=[WorldNode(node=node, model="model", qubits=QUBITS) for node in (ALICE, BOB)],
            links=[WorldLink(link_id=LINK, ends=(ALICE, BOB), station=STATION, model="model")],
            seed=seed,
            start_ns=start_ns,
            time_scale=time_scale,
            engine=self.engine,
        )
        self.now_ns = start_ns
        self.batches = 0
        self.windows = 0

    def submit(self, node: str, *instructions: AnyInstruction) -> list[BatchCompleted]:
        """Submit a batch, and give what the world completed by then."""
        self.batches += 1
        self.world.submit(NodeId(node), self.batches, instructions, self.now_ns)
        return self.world.take_completions()

    def run(self, node: str, *instructions: AnyInstruction) -> tuple[AnyCompletion, ...]:
        """Submit a batch that is answered at once, and give its completions."""
        (completed,) = self.submit(node, *instructions)
        assert (completed.node, completed.batch_id) == (node, self.batches)
        assert len(completed.completions) == len(instructions)
        return completed.completions

    def wait(self, elapsed_ns: int) -> list[BatchCompleted]:
        """Let time pass, and give what was completed."""
        self.now_ns += elapsed_ns
        self.world.handle_deadline(self.now_ns)
        return self.world.take_completions()

    def bit(self, node: str, qubit: str) -> int:
        (measured,) = self.run(node, self.measure(qubit))
        assert isinstance(measured, Measured)
        return measured.bit

    def gate(self, gate: Gate, *qubits: str, angle: float = 0.0) -> Apply:
        return Apply(gate=gate, qubits=tuple(QubitName(qubit) for qubit in qubits), angle=angle)

    def initialise(self, qubit: str) -> Initialise:
        return Initialise(qubit=QubitName(qubit))

    def measure(self, qubit: str) -> Measure:
        return Measure(qubit=QubitName(qubit))

    def discard(self, qubit: str) -> Discard:
        return Discard(qubit=QubitName(qubit))

    def cancel(self, window: str) -> Cancel:
        return Cancel(window_id=WindowId(window))

    def arm(
        self,
        window: str,
        qubit: str | None,
        *,
        attempts: int = 1,
        start_in_ns: int = 0,
        timeout_ns: int = 10**9,
        link: str = LINK,
        bright_ratio: float | None = None,
    ) -> Arm:
        return Arm(
            window_id=WindowId(window),
            link_id=LinkId(link),
            qubit=None if qubit is None else QubitName(qubit),
            attempts=attempts,
            start_in_ns=start_in_ns,
            timeout_ns=timeout_ns,
            bright_ratio=bright_ratio,
        )

    def arm_all(self, window: str, *, attempts: int = 1, timeout_ns: int = 10**9) -> dict[str, WindowEnded]:
        """Arm all three parties now, and give each one's end of the window if it is over at once."""
        completed = self.submit("alice", self.arm(window, "c", attempts=attempts, timeout_ns=timeout_ns))
        completed += self.submit("bob", self.arm(window, "c", attempts=attempts, timeout_ns=timeout_ns))
        completed += self.submit("station", self.arm(window, None, attempts=attempts, timeout_ns=timeout_ns))
        return self.ends(completed)

    def ends(self, completed: Sequence[BatchCompleted]) -> dict[str, WindowEnded]:
        """Give each party's end of a window out of completed batches."""
        ended = {batch.node: batch.completions[-1] for batch in completed}
        assert len(ended) == len(completed)
        return {str(node): end for node, end in ended.items() if isinstance(end, WindowEnded)}

    def inspect(self, *qubits: tuple[str, str]) -> NDArray[np.complex128]:
        return self.world.inspect([(NodeId(node), QubitName(name)) for node, name in qubits], self.now_ns)

    def held(self, node: str) -> set[str]:
        return {str(name) for name in self.world.held(NodeId(node))}


LabFactory = Callable[..., Lab]


@pytest.fixture
def lab() -> LabFactory:
    """Make a lab; takes the arguments of `preset_text`, or a whole `text`."""

    def make(
        *,
        text: str | None = None,
        seed: int = 1,
        time_scale: float = 1.0,
        start_ns: int = 1_000,
        group_qubits: int = 10,
        **changes: object,
    ) -> Lab:
        written = text if text is not None else preset_text(**changes)  # type: ignore[arg-type]
        return Lab(written, seed, time_scale, start_ns, group_qubits)

    return make


@pytest.fixture
def write_preset() -> Callable[..., str]:
    """Give the function that writes a preset's text."""
    return preset_text
