"""Distributed programs from TOML files: circuits over the qubits of several nodes, run shot by shot.

    name = "bell"
    qubits = ["alice.c", "bob.t"]
    steps = [["h", "alice.c"], ["cx", "alice.c", "bob.t"], ["measure", "alice.c"], ["measure", "bob.t"]]

A step names a gate of OpenQASM 3's standard library, its qubits and, for rotations, an angle in radians. `cz` and `cx` between
qubits of different nodes are teleported, and so is a state by `teleport`; `reset` puts a qubit back into |0⟩. Every qubit
begins a shot in |0⟩. A shot's result is the bits of its measurements, in the order of the file.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Protocol

from msgspec import Meta

from bellwire.client.steps import gate, initialise, measure, release
from bellwire.protocols.errors import ConfigError
from bellwire.protocols.ids import NodeId, node_id
from bellwire.protocols.instructions import Gate
from bellwire.protocols.messages import GateResult, ProgramResult, Step
from bellwire.shell.config import Table, Text, load_config
from bellwire.shell.operand import qubit_name

MAX_STEPS = 100_000
MAX_QUBITS = 256
STEPS_PER_REQUEST = 256
"""Local steps that go to a node in one message."""


class Teleported(StrEnum):
    """What a step between two nodes comes to."""

    CZ = "cz"
    CNOT = "cx"
    STATE = "teleport"


@dataclass(frozen=True, slots=True)
class Operand:
    """A qubit of a program: the node that it is at, and the program's name for it."""

    node: NodeId
    qubit: str

    def __str__(self) -> str:
        return f"{self.node}.{self.qubit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalStep:
    """A step that one node carries out alone. `bit` is the place in the shot's bits of what it measures."""

    node: NodeId
    step: Step
    bit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteStep:
    """A step between two nodes, over an entangled pair."""

    kind: Teleported
    source: Operand
    target: Operand


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program that was found to be well formed. `measured` names the qubit behind every bit of a shot."""

    name: str
    qubits: tuple[Operand, ...]
    steps: tuple[LocalStep | RemoteStep, ...]
    measured: tuple[Operand, ...]

    @property
    def nodes(self) -> tuple[NodeId, ...]:
        """The nodes that take part, in the order in which they appear."""
        return tuple(dict.fromkeys(qubit.node for qubit in self.qubits))

    @property
    def teleported(self) -> int:
        """How many pairs a shot takes."""
        return sum(isinstance(step, RemoteStep) for step in self.steps)


class ProgramFile(Table, frozen=True, kw_only=True):
    """A program's file as it is written."""

    name: Text
    qubits: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=MAX_QUBITS)]
    steps: Annotated[tuple[tuple[Any, ...], ...], Meta(min_length=1, max_length=MAX_STEPS)]


def load_program(path: Path) -> Program:
    """Read a program.

    Raises:
        ConfigError: one line with the file, the step and what is wrong with it.
    """
    return compile_program(load_config(path, ProgramFile), str(path))


def compile_program(content: ProgramFile, file: str) -> Program:
    """Check a program and sort its steps into local and remote ones. `file` names it in errors.

    Raises:
        ConfigError: one line with the step and what is wrong with it.
    """
    declared: dict[str, Operand] = {}
    for text in content.qubits:
        if text in declared:
            raise ConfigError(f"{file}: qubits: {text!r} is declared twice")
        try:
            declared[text] = _operand(text)
        except ConfigError as error:
            raise ConfigError(f"{file}: qubits: {error}") from None
    steps: list[LocalStep | RemoteStep] = []
    measured: list[Operand] = []
    for place, words in enumerate(content.steps, start=1):
        try:
            steps.append(_step(words, declared, len(measured)))
        except ConfigError as error:
            raise ConfigError(f"{file}: step {place}: {error}") from None
        if words[0] == "measure":
            measured.append(declared[words[1]])
    return Program(name=content.name, qubits=tuple(declared.values()), steps=tuple(steps), measured=tuple(measured))


def _operand(text: str) -> Operand:
    node, dot, qubit = text.rpartition(".")
    if not dot or not node or not qubit:
        raise ConfigError(f"{text[:80]!r} is not of the form node.qubit")
    return Operand(node_id(node), qubit_name(qubit))


_KNOWN = ("measure", "reset", "teleport", *(gate.value for gate in Gate))


def _step(words: tuple[Any, ...], declared: dict[str, Operand], bit: int) -> LocalStep | RemoteStep:
    if not words or not isinstance(words[0], str):
        raise ConfigError(f"expected a gate's name first, got {list(words)!r}")
    name, given = words[0], list(words[1:])
    if name not in _KNOWN:
        raise ConfigError(f"unknown gate {name!r}, known are {', '.join(_KNOWN)}")
    known_gate = Gate(name) if name in set(Gate) else None
    angle = _take_angle(name, given) if known_gate is not None and known_gate.has_angle else 0.0
    arity = 2 if name == "teleport" else known_gate.qubits if known_gate is not None else 1
    if len(given) != arity:
        raise ConfigError(f"{name} takes {arity} qubit{'s' if arity > 1 else ''}, {len(given)} given")
    for text in given:
        if not isinstance(text, str) or text not in declared:
            raise ConfigError(f"{name}: {text!r} is not among the declared qubits {', '.join(declared)}")
    operands = [declared[text] for text in given]
    if len(set(operands)) != len(operands):
        raise ConfigError(f"{name}: the qubits must differ")
    nodes = {operand.node for operand in operands}
    if len(nodes) == 2 or name == "teleport":
        return _remote(name, operands[0], operands[1])
    return _local(name, known_gate, operands, angle, bit)


def _take_angle(name: str, given: list[Any]) -> float:
    if not given or isinstance(given[-1], str | bool) or not isinstance(given[-1], int | float):
        raise ConfigError(f"{name} needs an angle in radians, as its last word")
    angle = float(given.pop())
    if not math.isfinite(angle):
        raise ConfigError(f"{name}: the angle must be finite, got {angle}")
    return angle


def _remote(name: str, source: Operand, target: Operand) -> RemoteStep:
    if source.node == target.node:
        raise ConfigError(f"{name}: both qubits are at {source.node}")
    if name not in set(Teleported):
        raise ConfigError(f"{name} cannot act between {source.node} and {target.node}: only cz, cx and teleport can")
    return RemoteStep(kind=Teleported(name), source=source, target=target)


def _local(name: str, known_gate: Gate | None, operands: list[Operand], angle: float, bit: int) -> LocalStep:
    node, first = operands[0].node, operands[0].qubit
    if name == "measure":
        return LocalStep(node=node, step=measure(first), bit=bit)
    if known_gate is None:
        return LocalStep(node=node, step=initialise(first))
    return LocalStep(node=node, step=gate(known_gate, *(operand.qubit for operand in operands), angle=angle))


class NetworkCapable(Protocol):
    """What a program needs of a network: `bellwire.client.Network`."""

    async def run(self, node: str, steps: list[Step], *, timeout_s: float = ...) -> ProgramResult:
        """Run local steps on one node."""

    async def cz(self, source: str, target: str, *, variant: str = ..., timeout_s: float = ...) -> GateResult:
        """Teleport a CZ."""

    async def cnot(self, source: str, target: str, *, variant: str = ..., timeout_s: float = ...) -> GateResult:
        """Teleport a CNOT."""

    async def teleport(self, source: str, target: str, *, timeout_s: float = ...) -> GateResult:
        """Teleport a state."""


@dataclass(slots=True)
class _Shot:
    """One shot under way: local steps wait until a step between nodes needs them done."""

    network: NetworkCapable
    variant: str
    timeout_s: float
    waiting: dict[NodeId, list[LocalStep]] = field(default_factory=dict)
    bits: dict[int, int] = field(default_factory=dict)

    def add(self, step: LocalStep) -> None:
        self.waiting.setdefault(step.node, []).append(step)

    async def flush(self, *nodes: NodeId) -> None:
        await asyncio.gather(*(self._flush(node, self.waiting.pop(node)) for node in nodes if node in self.waiting))

    async def _flush(self, node: NodeId, steps: list[LocalStep]) -> None:
        for start in range(0, len(steps), STEPS_PER_REQUEST):
            part = steps[start : start + STEPS_PER_REQUEST]
            result = await self.network.run(node, [local.step for local in part], timeout_s=self.timeout_s)
            places = [local.bit for local in part if local.bit is not None]
            self.bits.update(zip(places, result.bits, strict=True))

    async def teleport(self, step: RemoteStep) -> None:
        await self.flush(step.source.node, step.target.node)
        source, target = f"{step.source.node}:{step.source.qubit}", f"{step.target.node}:{step.target.qubit}"
        if step.kind is Teleported.STATE:
            await self.network.teleport(source, target, timeout_s=self.timeout_s)
        elif step.kind is Teleported.CZ:
            await self.network.cz(source, target, variant=self.variant, timeout_s=self.timeout_s)
        else:
            await self.network.cnot(source, target, variant=self.variant, timeout_s=self.timeout_s)


async def run_program(
    network: NetworkCapable,
    program: Program,
    *,
    shots: int = 1,
    variant: str = "symmetric",
    timeout_s: float = 10.0,
    on_shot: Callable[[], None] | None = None,
) -> Counter[str]:
    """Run a program and count the bit strings of its shots. `on_shot` is called after each.

    Its qubits are given back at the end, also when it fails. `timeout_s` is for every single request.

    Raises:
        RequestError: when a node refuses or loses a step.
    """
    counts: Counter[str] = Counter()
    touched = False
    try:
        for _ in range(shots):
            shot = _Shot(network, variant, timeout_s)
            for operand in program.qubits:
                shot.add(LocalStep(node=operand.node, step=initialise(operand.qubit)))
            await shot.flush(*program.nodes)
            touched = True
            for step in program.steps:
                if isinstance(step, LocalStep):
                    shot.add(step)
                else:
                    await shot.teleport(step)
            await shot.flush(*program.nodes)
            counts["".join(str(shot.bits[bit]) for bit in range(len(program.measured)))] += 1
            if on_shot is not None:
                on_shot()
    finally:
        if touched:
            await _give_back(network, program, timeout_s)
    return counts


async def _give_back(network: NetworkCapable, program: Program, timeout_s: float) -> None:
    """Release the qubits, as far as their nodes can still be asked; the others are released when the client leaves."""
    held = {
        node: [release(operand.qubit) for operand in program.qubits if operand.node == node] for node in program.nodes
    }
    asked = (network.run(node, steps, timeout_s=timeout_s) for node, steps in held.items())
    await asyncio.gather(*asked, return_exceptions=True)
