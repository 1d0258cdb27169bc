"""A scripted backend: it has no physics, does what a test tells it, and remembers what it was asked.

backend = MockBackend({"c0": "communication"})
backend.script(Measure, Measured(bit=1), Failed(text="the laser is out"))
backend.hold()                      # batches wait until `release`
await backend.submitted(2)          # until two batches have come
backend.release()
backend.claim(ClockClaim(...))      # its clock says what the network's time is
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence

from bellwire.backends.interface import BackendContext, BackendSinkCapable, NodeBackend
from bellwire.protocols.errors import BackendError, ConfigError
from bellwire.protocols.hardware_clock import ClockClaim
from bellwire.protocols.ids import QubitName, WindowId
from bellwire.protocols.instructions import (
    AnyCompletion,
    AnyInstruction,
    Arm,
    BellState,
    Cancel,
    Done,
    Failed,
    Instruction,
    Measure,
    Measured,
    WindowEnded,
)
from bellwire.protocols.node import Batch, QubitKind

NO_HERALD = "none"
NANOSECONDS = 1_000_000_000
DEFAULT_QUBITS: Mapping[str, str] = {"c0": QubitKind.COMMUNICATION, "s0": QubitKind.STORAGE}


class MockBackend(NodeBackend):
    """Answers by script: the next scripted completion of the instruction's type, or else the simplest that fits.

    Without a script everything succeeds at once, measurements give 0 and windows end after no attempt. `batches` holds all
    that was submitted, in order, and `connects` counts how often the sink was told that the hardware is there.

    Links in `windows` are played: their windows begin when they may, and end at once with their last attempt, which a
    station sees herald the state that stands there (`none` for none); or after no attempt, by `timeout_ns` or `Cancel`.
    """

    def __init__(
        self,
        qubits: Mapping[str, str] = DEFAULT_QUBITS,
        *,
        connect_at_once: bool = True,
        windows: Mapping[str, str] | None = None,
    ) -> None:
        self.qubits = tuple((QubitName(name), QubitKind(kind)) for name, kind in qubits.items())
        self.batches: list[Batch] = []
        self.connects = 0
        self.closed = False
        self.connect_error: BackendError | None = None
        """Raised by `connect`, when set."""
        self._connect_at_once = connect_at_once
        self._sink: BackendSinkCapable | None = None
        self._up = False
        self._held = False
        self._unanswered: deque[Batch] = deque()
        self._scripts: dict[type[Instruction], deque[AnyCompletion]] = {}
        self._arrived: list[tuple[int, asyncio.Future[None]]] = []
        self._heralds = {
            link: None if state == NO_HERALD else BellState(state) for link, state in (windows or {}).items()
        }
        self._windows: dict[WindowId, tuple[int, asyncio.TimerHandle]] = {}

    # What the agent calls.

    async def connect(self, sink: BackendSinkCapable) -> None:
        """Begin to work for `sink`; it hears that the hardware is there at once, unless it was made otherwise."""
        if self.connect_error is not None:
            raise self.connect_error
        self._sink = sink
        if self._connect_at_once:
            self.come_up()

    def submit(self, batch: Batch) -> None:
        """Record a batch, and answer it soon unless batches are held."""
        self.batches.append(batch)
        for number, future in self._arrived:
            if len(self.batches) >= number and not future.done():
                future.set_result(None)
        if self._up:
            self._unanswered.append(batch)
            self._soon()

    async def close(self) -> None:
        """Stop: what is unanswered stays so."""
        self.closed = True
        self._up = False
        self._sink = None
        self._unanswered.clear()
        self._forget_windows()

    # What a test calls.

    def script(self, instruction: type[Instruction], *completions: AnyCompletion) -> None:
        """Say what the next instructions of a type are answered with, one after the other."""
        self._scripts.setdefault(instruction, deque()).extend(completions)

    def hold(self) -> None:
        """Answer no batch until `release`."""
        self._held = True

    def release(self, number: int | None = None) -> None:
        """Answer so many of the batches that wait, oldest first, and go on holding; without a number answer all from now on."""
        if number is None:
            self._held = False
            self._soon()
            return
        for _ in range(min(number, len(self._unanswered))):
            self._answer(self._unanswered.popleft())

    def come_up(self) -> None:
        """The hardware is there, with every qubit free."""
        if self._sink is None:
            raise BackendError("the mock has no sink yet: connect comes first")
        self._up = True
        self.connects += 1
        self._sink.connected(self.qubits)

    def lose(self, why: str = "the mock was told to") -> None:
        """The hardware is gone, and batches under way with it. `come_up` brings it back."""
        if self._sink is None:
            raise BackendError("the mock has no sink yet: connect comes first")
        self._up = False
        self._unanswered.clear()
        self._forget_windows()
        self._sink.lost(why)

    def claim(self, claim: ClockClaim) -> None:
        """Its own clock says what the network's time is."""
        if self._sink is None:
            raise BackendError("the mock has no sink yet: connect comes first")
        self._sink.claimed(claim)

    async def submitted(self, number: int) -> None:
        """Wait until so many batches have been submitted, counted from the beginning."""
        if len(self.batches) < number:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._arrived.append((number, future))
            await future

    # Within.

    def _soon(self) -> None:
        asyncio.get_running_loop().call_soon(self._answer_all)

    def _answer_all(self) -> None:
        while self._unanswered and not self._held:
            self._answer(self._unanswered.popleft())

    def _answer(self, batch: Batch) -> None:
        last = batch.instructions[-1] if batch.instructions else None
        if isinstance(last, Arm) and last.link_id in self._heralds and len(batch.instructions) == 1:
            self._play(batch.number, last)
            return
        completions: list[AnyCompletion] = []
        for instruction in batch.instructions:
            if completions and isinstance(completions[-1], Failed):
                completions.append(Failed(text="not executed: an instruction before it failed"))
            else:
                completions.append(self.execute(instruction))
        if self._sink is not None:
            self._sink.completed(batch.number, tuple(completions))

    def _play(self, number: int, arm: Arm) -> None:
        """Begin a window of a link in `windows`."""
        begins = arm.start_in_ns < arm.timeout_ns
        herald = self._heralds[arm.link_id] if begins and arm.qubit is None else None
        ended = WindowEnded(window_id=arm.window_id, attempts=arm.attempts if begins else 0, bell_state=herald)
        delay_s = min(arm.start_in_ns, arm.timeout_ns) / NANOSECONDS
        timer = asyncio.get_running_loop().call_later(delay_s, lambda: self._end_window(ended))
        self._windows[arm.window_id] = (number, timer)

    def _end_window(self, ended: WindowEnded) -> None:
        number, timer = self._windows.pop(ended.window_id)
        timer.cancel()
        if self._sink is not None:
            self._sink.completed(number, (ended,))

    def _forget_windows(self) -> None:
        for _, timer in self._windows.values():
            timer.cancel()
        self._windows.clear()

    def execute(self, instruction: AnyInstruction) -> AnyCompletion:
        """Answer one instruction. Subclasses may know better."""
        if isinstance(instruction, Cancel) and instruction.window_id in self._windows:
            self._end_window(WindowEnded(window_id=instruction.window_id, attempts=0))
        script = self._scripts.get(type(instruction))
        if script:
            return script.popleft()
        if isinstance(instruction, Measure):
            return Measured(bit=0)
        if isinstance(instruction, Arm):
            return WindowEnded(window_id=instruction.window_id, attempts=0)
        return Done()


def create_backend(context: BackendContext) -> NodeBackend:
    """Make a mock. Its options are `qubits`, names with their kinds, and `windows`, links with what their stations herald.

    Raises:
        ConfigError: for another option, or a kind or a state that there is not.
    """
    qubits = context.options.get("qubits", DEFAULT_QUBITS)
    windows = context.options.get("windows", {})
    unknown = sorted(set(context.options) - {"qubits", "windows"})
    if unknown:
        raise ConfigError(f"backend mock of {context.node}: unknown option {unknown[0]!r}, it takes qubits, windows")
    _check(context, "qubits", qubits, "qubit names", [str(kind) for kind in QubitKind])
    _check(context, "windows", windows, "links' names", [*(str(state) for state in BellState), NO_HERALD])
    return MockBackend(qubits, windows=windows)


def _check(context: BackendContext, option: str, table: object, names: str, values: Sequence[str]) -> None:
    if not isinstance(table, Mapping) or not all(value in values for value in table.values()):
        expected = f"a table of {names}, each with one of {', '.join(values)}"
        raise ConfigError(f"backend mock of {context.node}: option {option}: expected {expected}")
