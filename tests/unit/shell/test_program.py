"""Distributed programs: what is read of their files, what a bad circuit is told, what the nodes are asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from bellwire.client.program import LocalStep, Program, RemoteStep, Teleported, load_program, run_program
from bellwire.protocols.errors import ConfigError, ErrorCode, RequestError
from bellwire.protocols.ids import GateId
from bellwire.protocols.messages import GateResult, GateStatus, ProgramResult, Step
from bellwire.protocols.messages.program import StepKind

BELL = Path(__file__).parents[3] / "examples" / "two-nodes" / "bell.toml"


def program(tmp_path: Path, steps: str, qubits: str = '["alice.a", "alice.b", "bob.c"]') -> Program:
    path = tmp_path / "p.toml"
    path.write_text(f'name = "p"\nqubits = {qubits}\nsteps = {steps}\n', encoding="utf-8")
    return load_program(path)


def test_example_is_one_teleported_gate_and_two_bits() -> None:
    bell = load_program(BELL)
    assert bell.nodes == ("alice", "bob")
    assert [str(operand) for operand in bell.measured] == ["alice.c", "bob.t"]
    assert [step.kind for step in bell.steps if isinstance(step, RemoteStep)] == [Teleported.CNOT]


def test_gate_within_a_node_stays_local(tmp_path: Path) -> None:
    (step,) = program(tmp_path, '[["cx", "alice.a", "alice.b"]]').steps
    assert isinstance(step, LocalStep)
    assert step.node == "alice"
    assert step.step.qubits == ("a", "b")


def test_angle_comes_last(tmp_path: Path) -> None:
    (step,) = program(tmp_path, '[["rz", "alice.a", 1.5]]').steps
    assert isinstance(step, LocalStep)
    assert step.step.angle == 1.5


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ('[["h", "alice.a"], ["hh", "alice.a"]]', "step 2: unknown gate 'hh', known are measure, reset, teleport, x"),
        ('[["h", "alice.z"]]', "step 1: h: 'alice.z' is not among the declared qubits alice.a, alice.b, bob.c"),
        ('[["cz", "alice.a"]]', "step 1: cz takes 2 qubits, 1 given"),
        ('[["h", "alice.a", "bob.c"]]', "step 1: h takes 1 qubit, 2 given"),
        ('[["cz", "alice.a", "alice.a"]]', "step 1: cz: the qubits must differ"),
        ('[["rz", "alice.a"]]', "step 1: rz needs an angle in radians"),
        ('[["rz", "alice.a", true]]', "step 1: rz needs an angle in radians"),
        ('[["rz", "alice.a", nan]]', "step 1: rz: the angle must be finite"),
        ('[["h", "alice.a", 1.0]]', "step 1: h takes 1 qubit, 2 given"),
        (
            '[["swap", "alice.a", "bob.c"]]',
            "step 1: swap cannot act between alice and bob: only cz, cx and teleport can",
        ),
        ('[["teleport", "alice.a", "alice.b"]]', "step 1: teleport: both qubits are at alice"),
        ("[[1]]", "step 1: expected a gate's name first"),
        ("[[]]", "step 1: expected a gate's name first"),
        ("[]", "steps: expected `array` of length >= 1"),
        ('"h"', "steps: expected `array`, got `str`"),
    ],
)
def test_circuit_bad_is_one_line_with_the_step(tmp_path: Path, steps: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        program(tmp_path, steps)
    assert str(caught.value).startswith(f"{tmp_path / 'p.toml'}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("qubits", "said"),
    [
        ('["alice"]', "qubits: 'alice' is not of the form node.qubit"),
        ('["alice."]', "qubits: 'alice.' is not of the form node.qubit"),
        ('["a b.c"]', "qubits: 'a b' is not a node name"),
        ('["alice.a b"]', "qubits: 'a b' cannot name a qubit"),
        (f'["alice.{"q" * 200}"]', "cannot name a qubit: 1 to 160 characters"),
        ('["alice.a", "alice.a"]', "qubits: 'alice.a' is declared twice"),
        ("[]", "qubits: expected `array` of length >= 1"),
    ],
)
def test_qubits_bad_are_one_line(tmp_path: Path, qubits: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        program(tmp_path, '[["h", "alice.a"]]', qubits)
    assert said in str(caught.value)


class Script:
    """A network that notes what it is asked, and measures what it is told to."""

    def __init__(self, bit: int = 1, fail: str = "") -> None:
        self.asked: list[str] = []
        self._bit = bit
        self._fail = fail

    async def run(self, node: str, steps: list[Step], *, timeout_s: float = 10.0) -> ProgramResult:
        words = [f"{step.gate or step.kind} {' '.join(step.qubits)}" for step in steps]
        self.asked.append(f"{node}: {', '.join(words)}")
        bits = tuple(self._bit for step in steps if step.kind is StepKind.MEASURE)
        return ProgramResult(bits=bits, qubits=())

    async def _gate(self, name: str, source: str, target: str) -> GateResult:
        self.asked.append(f"{name} {source} {target}")
        if name == self._fail:
            raise RequestError(ErrorCode.PEER_LOST, "bob is lost")
        return GateResult(gate_id=GateId("g"), status=GateStatus.DONE)

    async def cz(self, source: str, target: str, *, variant: str = "", timeout_s: float = 10.0) -> GateResult:
        return await self._gate(f"cz-{variant}", source, target)

    async def cnot(self, source: str, target: str, *, variant: str = "", timeout_s: float = 10.0) -> GateResult:
        return await self._gate(f"cnot-{variant}", source, target)

    async def teleport(self, source: str, target: str, *, timeout_s: float = 10.0) -> GateResult:
        return await self._gate("teleport", source, target)


async def test_run_asks_nodes_in_the_order_of_the_program(tmp_path: Path) -> None:
    steps = (
        '[["h", "alice.a"], ["x", "bob.c"], ["cz", "alice.a", "bob.c"], ["measure", "bob.c"], ["measure", "alice.a"]]'
    )
    network = Script()
    shots = []
    counts = await run_program(
        network, program(tmp_path, steps), shots=2, variant="sequential", on_shot=lambda: shots.append(1)
    )
    assert counts == {"11": 2}
    assert len(shots) == 2
    once = [
        "alice: initialise a, initialise b",
        "bob: initialise c",
        "alice: h a",
        "bob: x c",
        "cz-sequential alice:a bob:c",
        "bob: measure c",
        "alice: measure a",
    ]
    end = ["alice: release a, release b", "bob: release c"]
    assert sorted(network.asked) == sorted([*once, *once, *end])
    assert network.asked.index("cz-sequential alice:a bob:c") == 4


async def test_run_gate_fails_gives_the_qubits_back(tmp_path: Path) -> None:
    network = Script(fail="teleport")
    with pytest.raises(RequestError, match="PEER_LOST: bob is lost"):
        await run_program(network, program(tmp_path, '[["teleport", "alice.a", "bob.c"]]'))
    assert network.asked[-2:] == ["alice: release a, release b", "bob: release c"]


async def test_run_long_local_part_goes_in_portions(tmp_path: Path) -> None:
    steps = "[" + ", ".join(['["h", "alice.a"]'] * 300) + "]"
    network = Script()
    await run_program(network, program(tmp_path, steps))
    assert [line.count("h a") for line in network.asked if "h a" in line] == [256, 44]
