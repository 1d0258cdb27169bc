"""The interpreter of straight-line local programs (spec 3 §4)."""

from __future__ import annotations

import math

from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.ids import NodeId, QubitName
from bellwire.protocols.instructions import (
    AnyCompletion,
    AnyInstruction,
    Apply,
    Discard,
    Initialise,
    Measure,
    Measured,
)
from bellwire.protocols.messages import ProgramResult, ProgramRun, Step
from bellwire.protocols.messages.program import StepKind
from bellwire.protocols.node import Node, QubitKind, backend_error, failure
from bellwire.protocols.registers import Registers


def check_step(step: Step, place: str) -> None:
    """Check that a step is well formed, apart from whether its operands exist.

    Raises:
        RequestError: UNSUPP, with the place and what is wrong.
    """
    expected = 1
    if step.kind is StepKind.APPLY:
        if step.gate is None:
            raise RequestError(ErrorCode.UNSUPP, f"{place}: apply needs a gate")
        expected = step.gate.qubits
        if not math.isfinite(step.angle):
            raise RequestError(ErrorCode.UNSUPP, f"{place}: the angle must be finite")
    if len(step.qubits) != expected:
        name = step.gate or step.kind
        raise RequestError(ErrorCode.UNSUPP, f"{place}: {name} takes {expected} qubit(s), {len(step.qubits)} given")
    if len(set(step.qubits)) != len(step.qubits):
        raise RequestError(ErrorCode.UNSUPP, f"{place}: a gate needs different qubits")


class _Compiler:
    """Turns steps into instructions, and knows how to undo what it took when a later step is refused."""

    def __init__(self, registers: Registers, application: NodeId) -> None:
        self._registers = registers
        self._application = application
        self.instructions: list[AnyInstruction] = []
        self.initialised: list[QubitName] = []
        self.released: list[QubitName] = []

    def add(self, step: Step) -> None:
        if step.kind is StepKind.INITIALISE:
            kind = QubitKind.REFERENCE if step.reference else QubitKind.STORAGE
            qubit = self._registers.allocate(self._application, step.qubits[0], kind, step.gates_with)
            self.initialised.append(qubit)
            self.instructions.append(Initialise(qubit=qubit))
        elif step.kind is StepKind.RELEASE:
            self._release(step.qubits[0])
        else:
            qubits = tuple(self._registers.use(self._application, operand) for operand in step.qubits)
            if step.kind is StepKind.MEASURE:
                self.instructions.append(Measure(qubit=qubits[0]))
            elif step.gate is not None:
                self.instructions.append(Apply(gate=step.gate, qubits=qubits, angle=step.angle))

    def _release(self, operand: str) -> None:
        self._registers.use(self._application, operand)
        qubit = self._registers.release(self._application, operand)
        if qubit is not None:
            self.released.append(qubit)
            self.instructions.append(Discard(qubit=qubit))


def run_program(node: Node, registers: Registers, application: NodeId, message: ProgramRun) -> None:
    """Run a program and answer its request when the backend has.

    Raises:
        RequestError: UNSUPP for a malformed step; NORES, UNKNOWN_ID or LIMIT for an operand. No step was
            executed then; qubits that earlier steps took stay with the application, those they released are given back.
    """
    for place, step in enumerate(message.steps, start=1):
        check_step(step, f"step {place}")
    if not node.backend_up:
        raise backend_error(f"the backend of {node.endpoint.node} is not connected")
    compiler = _Compiler(registers, application)
    try:
        for step in message.steps:
            compiler.add(step)
    except RequestError:
        node.discard(*compiler.released)
        raise
    number = message.request_id

    def executed(completions: tuple[AnyCompletion, ...]) -> None:
        broken = failure(completions)
        if broken is not None:
            node.discard(*compiler.released)
            node.endpoint.fail(application, number, backend_error(broken))
            return
        node.freed(*compiler.released)
        bits = tuple(done.bit for done in completions if isinstance(done, Measured))
        result = ProgramResult(bits=bits, qubits=tuple(compiler.initialised))
        node.endpoint.reply(application, number, result)

    node.execute(compiler.instructions, executed)
