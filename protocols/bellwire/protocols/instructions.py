"""What a node can ask of its hardware, and what the hardware answers (spec 2 §7).

An instruction is imperative, a completion reports. They go in batches: a backend executes the instructions of a batch in
order and answers the batch once, as a whole, with one completion for each instruction. `Arm` may only come last, and its
batch is answered when the window has ended. The first failure ends a batch: the rest is not executed and is answered with
`Failed` too.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from bellwire.protocols.ids import LinkId, QubitName, WindowId
from bellwire.protocols.limits import INT64_MAX, MAX_ATTEMPTS_PER_WINDOW, MAX_ID_CHARS, MAX_NAME_CHARS, MAX_TEXT_CHARS

Qubit = Annotated[QubitName, Meta(min_length=1, max_length=MAX_NAME_CHARS)]


class Gate(StrEnum):
    """Unitaries that a backend may offer, by the names of OpenQASM 3's standard library."""

    X = "x"
    Y = "y"
    Z = "z"
    H = "h"
    S = "s"
    SDG = "sdg"
    SX = "sx"
    SXDG = "sxdg"
    T = "t"
    TDG = "tdg"
    RX = "rx"
    RY = "ry"
    RZ = "rz"
    CX = "cx"
    CZ = "cz"
    SWAP = "swap"

    qubits: int
    """How many qubits the gate acts on."""
    has_angle: bool
    """Whether the gate takes an angle in radians."""

    def __init__(self, name: str) -> None:
        self.qubits = 2 if name in ("cx", "cz", "swap") else 1
        self.has_angle = name in ("rx", "ry", "rz")


class BellState(StrEnum):
    """The four Bell states. `x` and `z` give the Pauli frame: state = (I ⊗ X^x Z^z)|Φ+⟩."""

    PHI_PLUS = "phi+"
    PHI_MINUS = "phi-"
    PSI_PLUS = "psi+"
    PSI_MINUS = "psi-"

    x: int
    """1 when a bit flip separates the state from Φ+."""
    z: int
    """1 when a phase flip separates the state from Φ+."""

    def __init__(self, name: str) -> None:
        self.x = 1 if name.startswith("psi") else 0
        self.z = 1 if name.endswith("-") else 0


class Instruction(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="type"):
    """Base of all instructions."""


class Initialise(Instruction, frozen=True, kw_only=True, tag="initialise"):
    """Take a free qubit and put it into |0⟩; a qubit already held is reset to |0⟩. Answered with `Done`."""

    qubit: Qubit


class Apply(Instruction, frozen=True, kw_only=True, tag="apply"):
    """Apply a unitary. `angle` in radians, for the gates that take one. Answered with `Done`."""

    gate: Gate
    qubits: Annotated[tuple[Qubit, ...], Meta(min_length=1, max_length=2)]
    angle: float = 0.0


class Measure(Instruction, frozen=True, kw_only=True, tag="measure"):
    """Measure in the computational basis; the qubit stays held. Answered with `Measured`."""

    qubit: Qubit


class Discard(Instruction, frozen=True, kw_only=True, tag="discard"):
    """Give a qubit back, whatever its state. Discarding a free qubit is no error. Answered with `Done`."""

    qubit: Qubit


class Arm(Instruction, frozen=True, kw_only=True, tag="arm"):
    """Take part in a window of attempts on a link, with a communication qubit (`None` at a station).

    A free qubit is taken by arming it; after the window it stays held, until it is discarded or armed again.

    The window begins when all of its parties are armed and `start_in_ns` has passed, and ends at the first heralded attempt,
    after `attempts` attempts, or `timeout_ns` after arming. Attempts stop at both ends by the hardware's own trigger, as in
    the experiments; what the herald was is known from the station alone. Answered with `WindowEnded`.

    An end whose start has yet to come emits on its own clock, so that its error is the photon's; one whose start has passed
    is triggered by the others. `bright_ratio` is the population of the state that emits, for schemes that have one.
    """

    window_id: Annotated[WindowId, Meta(max_length=MAX_ID_CHARS)]
    link_id: Annotated[LinkId, Meta(max_length=MAX_ID_CHARS)]
    qubit: Qubit | None = None
    start_in_ns: Annotated[int, Meta(ge=0, le=INT64_MAX)] = 0
    attempts: Annotated[int, Meta(ge=1, le=MAX_ATTEMPTS_PER_WINDOW)] = 1
    timeout_ns: Annotated[int, Meta(ge=1, le=INT64_MAX)]
    bright_ratio: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None


class Cancel(Instruction, frozen=True, kw_only=True, tag="cancel"):
    """Ask for a window to end early. A request: a photon that has left has left.

    Answered with `Done`, also when the window is not known; the window itself still ends with its `WindowEnded`.
    """

    window_id: Annotated[WindowId, Meta(max_length=MAX_ID_CHARS)]


class Completion(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="type"):
    """Base of all completions."""


class Done(Completion, frozen=True, kw_only=True, tag="done"):
    """The instruction was carried out."""


class Measured(Completion, frozen=True, kw_only=True, tag="measured"):
    """The bit that a measurement gave: 0 or 1."""

    bit: Annotated[int, Meta(ge=0, le=1)]


class WindowEnded(Completion, frozen=True, kw_only=True, tag="window_ended"):
    """A window is over after `attempts` attempts, as this party's own hardware counted them.

    `bell_state` is what the detectors saw, at a station; `None` at an end, and at a station that saw no herald.
    """

    window_id: Annotated[WindowId, Meta(max_length=MAX_ID_CHARS)]
    attempts: Annotated[int, Meta(ge=0, le=MAX_ATTEMPTS_PER_WINDOW)]
    bell_state: BellState | None = None


class Failed(Completion, frozen=True, kw_only=True, tag="failed"):
    """The instruction was not carried out, or it is not known whether it was."""

    text: Annotated[str, Meta(max_length=MAX_TEXT_CHARS)]


AnyInstruction = Initialise | Apply | Measure | Discard | Arm | Cancel
AnyCompletion = Done | Measured | WindowEnded | Failed
