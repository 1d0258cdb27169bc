"""One backend under check: what the rules of the contract and the cases of the kit drive it with."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from bellwire.backends.interface import NodeBackend
from bellwire.protocols.hardware_clock import ClockClaim
from bellwire.protocols.ids import LinkId, QubitName, WindowId
from bellwire.protocols.instructions import AnyCompletion, AnyInstruction, Arm, Done, Measure, Measured
from bellwire.protocols.node import Batch, QubitKind, failure
from bellwire.transport.clock import local_time_ns, new_epoch


class ContractViolation(AssertionError):
    """A backend breaks the contract. `rule` names which rule of it."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule


class RuleSkipped(Exception):
    """A rule cannot be checked on this backend."""


class _Sink:
    """Takes what a backend reports, and notes calls that should not come."""

    def __init__(self) -> None:
        self.qubits: asyncio.Future[tuple[tuple[QubitName, QubitKind], ...]] = (
            asyncio.get_running_loop().create_future()
        )
        self.answers: dict[int, asyncio.Future[tuple[AnyCompletion, ...]]] = {}
        self.claims: asyncio.Queue[tuple[ClockClaim, int]] = asyncio.Queue()
        """Each with the local time at which it came."""
        self.violation: ContractViolation | None = None
        self.closed = False

    def connected(self, qubits: Iterable[tuple[QubitName, QubitKind]]) -> None:
        self._open("connected")
        if not self.qubits.done():
            self.qubits.set_result(tuple(qubits))

    def completed(self, number: int, completions: tuple[AnyCompletion, ...]) -> None:
        self._open("completed")
        answer = self.answers.get(number)
        if answer is None:
            self._violated("answered-once", f"batch {number} was answered, which was never submitted")
        elif answer.done():
            self._violated("answered-once", f"batch {number} was answered twice")
        else:
            answer.set_result(completions)

    def claimed(self, claim: ClockClaim) -> None:
        self._open("claimed")
        self.claims.put_nowait((claim, local_time_ns()))

    def lost(self, why: str) -> None:
        self._open("lost")
        self._violated("stays-connected", f"the backend was lost during the check: {why}")
        error = self.violation or ContractViolation("stays-connected", why)
        waiting: list[asyncio.Future[Any]] = [self.qubits, *self.answers.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(error)
                future.exception()  # Seen: nobody may be waiting for this one.

    def _open(self, call: str) -> None:
        if self.closed:
            self._violated("close-is-silent", f"the sink's {call} was called after close had returned")

    def _violated(self, rule: str, text: str) -> None:
        self.violation = self.violation or ContractViolation(rule, text)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


class BackendCheck:
    """One backend under check: its sink, its qubits, and the batches that it was given."""

    def __init__(
        self,
        backend: NodeBackend,
        link_id: LinkId | None,
        timeout_s: float,
        shots: int,
        error: float,
        *,
        has_clock: bool | None,
    ) -> None:
        self.backend = backend
        self.sink = _Sink()
        self.link_id = link_id
        self.timeout_s = timeout_s
        self.shots = shots
        self.error = error
        self.has_clock = has_clock
        """Whether it has a clock that disciplines itself; `None` when that has to be found out."""
        self.qubits: tuple[tuple[QubitName, QubitKind], ...] = ()
        self.numbers = 0
        self.mark = new_epoch()
        """In the names of windows: those of checks before are over."""

    async def start(self) -> None:
        """Connect, and learn the qubits."""
        try:
            async with asyncio.timeout(self.timeout_s):
                await self.backend.connect(self.sink)
                self.qubits = await self.sink.qubits
        except TimeoutError:
            text = f"the sink's connected was not called within {self.timeout_s:g} s"
            raise ContractViolation("connects", text) from None
        except ContractViolation:
            raise
        except Exception as error:
            raise ContractViolation("connects", f"connect raised {_said(error)}") from error

    async def stop(self) -> None:
        """Close."""
        try:
            async with asyncio.timeout(self.timeout_s):
                await self.backend.close()
        except TimeoutError:
            raise ContractViolation("closes", f"close did not return within {self.timeout_s:g} s") from None
        except Exception as error:
            raise ContractViolation("closes", f"close raised {_said(error)}") from error
        self.sink.closed = True

    async def __aenter__(self) -> BackendCheck:
        """Be closed at the end, connected (`start`) or not."""
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Close. What was wrong before is told, and not what closing makes of it."""
        try:
            await self.stop()
        except ContractViolation:
            if error is None:
                raise

    def submit(self, *instructions: AnyInstruction) -> asyncio.Future[tuple[AnyCompletion, ...]]:
        """Submit a batch."""
        self.numbers += 1
        answer: asyncio.Future[tuple[AnyCompletion, ...]] = asyncio.get_running_loop().create_future()
        self.sink.answers[self.numbers] = answer
        try:
            self.backend.submit(Batch(number=self.numbers, instructions=instructions))
        except Exception as error:
            raise ContractViolation("takes-batches", f"submit raised {_said(error)}") from error
        return answer

    async def run(self, rule: str, *instructions: AnyInstruction) -> tuple[AnyCompletion, ...]:
        """Submit a batch and wait for its answer, which must have one completion for each instruction."""
        return await self.answered(rule, self.submit(*instructions), len(instructions))

    async def answered(
        self, rule: str, answer: asyncio.Future[tuple[AnyCompletion, ...]], number: int
    ) -> tuple[AnyCompletion, ...]:
        """Wait for a batch's answer, of so many completions."""
        try:
            async with asyncio.timeout(self.timeout_s):
                completions = await answer
        except TimeoutError:
            raise ContractViolation(rule, f"a batch was not answered within {self.timeout_s:g} s") from None
        if len(completions) != number:
            text = f"{len(completions)} completions came for a batch of {number} instructions"
            raise ContractViolation("one-completion-each", text)
        return completions

    async def bits(self, rule: str, *instructions: AnyInstruction) -> tuple[int, ...]:
        """Run a batch that must succeed, and give the bits of its measurements."""
        completions = await self.run(rule, *instructions)
        broken = failure(completions)
        if broken is not None:
            raise ContractViolation(rule, f"a batch failed: {broken}")
        for instruction, completion in zip(instructions, completions, strict=True):
            if isinstance(completion, Measured if isinstance(instruction, Measure) else Done):
                continue
            text = f"{type(instruction).__name__} was answered with {type(completion).__name__}"
            raise ContractViolation("fitting-completion", text)
        return tuple(completion.bit for completion in completions if isinstance(completion, Measured))

    def qubit(self) -> QubitName:
        """A qubit."""
        return self.qubits[0][0]

    def two(self) -> tuple[QubitName, QubitName]:
        """Two qubits. Raises `RuleSkipped` when there are fewer."""
        if len(self.qubits) < 2:
            raise RuleSkipped("needs two qubits")
        return self.qubits[0][0], self.qubits[1][0]

    def arm(self, window: str, timeout_ns: int) -> Arm:
        """Take part in a window. Raises `RuleSkipped` without a link, or a qubit for it."""
        if self.link_id is None:
            raise RuleSkipped("needs a link_id")
        qubit = None
        if self.qubits:
            qubit = next((name for name, kind in self.qubits if kind is QubitKind.COMMUNICATION), None)
            if qubit is None:
                raise RuleSkipped("needs a communication qubit")
        window_id = WindowId(f"contract-{self.mark:x}-{window}")
        return Arm(window_id=window_id, link_id=self.link_id, qubit=qubit, attempts=10, timeout_ns=timeout_ns)

    def done(self, rule: str, completion: AnyCompletion) -> None:
        """Check that a `Cancel` was answered with `Done`."""
        if not isinstance(completion, Done):
            raise ContractViolation(rule, f"Cancel was answered with {completion}, expected Done")

    def mostly(self, rule: str, bits: Sequence[int], expected: int, what: str) -> None:
        """Check that all bits but a few are as expected."""
        wrong = sum(bit != expected for bit in bits)
        if wrong > self.error * len(bits):
            text = f"{what}: {wrong} of {len(bits)} outcomes are not {expected}"
            raise ContractViolation(rule, text)
