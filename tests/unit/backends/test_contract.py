"""The contract check finds what is wrong with a backend. A sound one is checked over sockets in the e2e tests."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable

import pytest

from bellwire.backends.check import ContractViolation
from bellwire.backends.conformance import RUNNER, check_cases
from bellwire.backends.contract import check_backend
from bellwire.backends.interface import BackendSinkCapable
from bellwire.backends.mock import MockBackend
from bellwire.conformance.catalogue import Result, Verdict
from bellwire.protocols.hardware_clock import ClockClaim
from bellwire.protocols.ids import LinkId, NodeId, QubitName
from bellwire.protocols.instructions import (
    AnyCompletion,
    AnyInstruction,
    Apply,
    Cancel,
    Discard,
    Done,
    Failed,
    Gate,
    Initialise,
    Measured,
    WindowEnded,
)
from bellwire.protocols.messages import ClockState
from bellwire.protocols.node import Batch, QubitKind
from bellwire.sim.preset import load_preset
from bellwire.sim.topology import WorldLink, WorldNode
from bellwire.sim.world import World
from bellwire.transport.clock import local_time_ns

ALICE, BOB, STATION, LINK = NodeId("alice"), NodeId("bob"), NodeId("station"), LinkId("link")
QUBITS = {"c0": "communication", "s0": "storage"}


class IdealBackend(MockBackend):
    """A sound backend in the test's own process: a mock that asks an ideal world. Subclasses spoil one thing each."""

    node = ALICE

    def __init__(self) -> None:
        super().__init__(QUBITS)
        kinds = {QubitName(name): QubitKind(kind) for name, kind in QUBITS.items()}
        self.world = World(
            preset=load_preset("ideal"),
            nodes=[WorldNode(node=node, model="ideal", qubits=kinds) for node in (ALICE, BOB)],
            links=[WorldLink(link_id=LINK, ends=(ALICE, BOB), station=STATION, model="ideal")],
            seed=1,
            start_ns=local_time_ns(),
        )
        self.qubits = tuple((qubit.name, qubit.kind) for qubit in self.world.qubits(self.node))

    def submit(self, batch: Batch) -> None:
        # Windows here never gather all parties: they end by their time.
        self.world.submit(self.node, batch.number, batch.instructions, local_time_ns())
        self.tell()

    def tell(self) -> None:
        deadline_ns = self.world.next_deadline_ns()
        if deadline_ns is not None:
            delay_s = max(0.0, (deadline_ns - local_time_ns()) / 1e9)
            asyncio.get_running_loop().call_later(delay_s, self.pass_time, deadline_ns)
        for done in self.world.take_completions():
            self.answer(done.batch_id, done.completions)

    def pass_time(self, deadline_ns: int) -> None:
        if self._sink is not None:
            self.world.handle_deadline(max(deadline_ns, local_time_ns()))
            self.tell()

    def answer(self, number: int, completions: tuple[AnyCompletion, ...]) -> None:
        if self._sink is not None:
            self._sink.completed(number, completions)


class ClockBackend(IdealBackend):
    """Has a clock too: with the first batch it says four times what the time is. Subclasses spoil what it says."""

    def submit(self, batch: Batch) -> None:
        if batch.number == 1:
            self.claim_all()
        super().submit(batch)

    def claim_all(self) -> None:
        now_ns = local_time_ns()
        for number in range(4):
            self.claim(self.made(now_ns - 4_000_000 + number * 1_000_000, number))

    def made(self, local_ns: int, number: int) -> ClockClaim:
        return ClockClaim(state=ClockState.LOCKED, local_ns=local_ns, offset_ns=7, uncertainty_ps=900, reading_ns=5)


class ClockAtOnce(ClockBackend):
    """Makes its claims as soon as it is connected."""

    async def connect(self, sink: BackendSinkCapable) -> None:
        await super().connect(sink)
        self.claim_all()


class ClaimsTheFuture(ClockBackend):
    def made(self, local_ns: int, number: int) -> ClockClaim:
        return super().made(local_ns + 3_600_000_000_000, number)


class ClaimsBackwards(ClockBackend):
    def made(self, local_ns: int, number: int) -> ClockClaim:
        return super().made(local_ns - 2 * number * 1_000_000, number)


class ClaimsTooMuch(ClockBackend):
    """Is sure to a few nanoseconds, and off by a thousand more each time."""

    def made(self, local_ns: int, number: int) -> ClockClaim:
        claim = super().made(local_ns, number)
        return dataclasses.replace(claim, offset_ns=claim.offset_ns + 1_000 * number)


class LiesAtOnce(ClaimsTooMuch, ClockAtOnce):
    """Does so as soon as it is connected."""


class NeverLocks(ClockBackend):
    def made(self, local_ns: int, number: int) -> ClockClaim:
        return dataclasses.replace(super().made(local_ns, number), state=ClockState.ACQUIRING)


class StationBackend(IdealBackend):
    node = STATION


class NeverConnects(IdealBackend):
    async def connect(self, sink: BackendSinkCapable) -> None:
        self._sink = sink


class AnswersTwice(IdealBackend):
    def answer(self, number: int, completions: tuple[AnyCompletion, ...]) -> None:
        super().answer(number, completions)
        super().answer(number, completions)


class AnswersShort(IdealBackend):
    def answer(self, number: int, completions: tuple[AnyCompletion, ...]) -> None:
        super().answer(number, completions[:1])


class CarriesOn(IdealBackend):
    """Executes what comes after a failure."""

    def submit(self, batch: Batch) -> None:
        done: list[AnyCompletion] = []
        for instruction in batch.instructions:
            self.world.submit(self.node, batch.number, (instruction,), local_time_ns())
            done += [completion for one in self.world.take_completions() for completion in one.completions]
        failed = next((place for place, one in enumerate(done) if isinstance(one, Failed)), len(done))
        self.answer(batch.number, tuple(done[:failed]) + (Failed(text="no"),) * (len(done) - failed))


class ForgetsDiscards(IdealBackend):
    def submit(self, batch: Batch) -> None:
        kept = tuple(Initialise(qubit=one.qubit) if isinstance(one, Discard) else one for one in batch.instructions)
        super().submit(Batch(number=batch.number, instructions=kept))


class RefusesFreeDiscards(IdealBackend):
    def submit(self, batch: Batch) -> None:
        first = batch.instructions[0]
        if isinstance(first, Discard) and first.qubit not in self.world.held(self.node):
            self.answer(batch.number, (Failed(text="it is free already"),) * len(batch.instructions))
        else:
            super().submit(batch)


class FlipsPhases(IdealBackend):
    """Takes Z for X."""

    def submit(self, batch: Batch) -> None:
        turned = tuple(
            Apply(gate=Gate.Z, qubits=one.qubits) if isinstance(one, Apply) and one.gate is Gate.X else one
            for one in batch.instructions
        )
        super().submit(Batch(number=batch.number, instructions=turned))


class GivesZero(MockBackend):
    """Nothing but a mock: every measurement gives 0, and a qubit that is not there is measured too."""

    def execute(self, instruction: AnyInstruction) -> AnyCompletion:
        qubit = getattr(instruction, "qubit", None)
        if qubit is not None and qubit not in dict(self.qubits):
            return Failed(text="there is no such qubit")
        return super().execute(instruction)


class TimesOutLoudly(IdealBackend):
    def answer(self, number: int, completions: tuple[AnyCompletion, ...]) -> None:
        loud = tuple(Failed(text="nobody came") if isinstance(one, WindowEnded) else one for one in completions)
        super().answer(number, loud)


class FastClock(IdealBackend):
    """Lies about its clock: no time passes for its windows."""

    def tell(self) -> None:
        deadline_ns = self.world.next_deadline_ns()
        if deadline_ns is not None and deadline_ns < local_time_ns() + 10**9:
            self.world.handle_deadline(deadline_ns)
        super().tell()


class MeasuresBeforeAsked(IdealBackend):
    """Reports a measurement that nobody has asked for yet."""

    def submit(self, batch: Batch) -> None:
        self.answer(batch.number + 1, (Measured(bit=0),))
        super().submit(batch)


class IgnoresCancel(IdealBackend):
    def submit(self, batch: Batch) -> None:
        if isinstance(batch.instructions[0], Cancel):
            self.answer(batch.number, (Done(),) * len(batch.instructions))
        else:
            super().submit(batch)


class LeaksQubits(IdealBackend):
    """Answers a discard, and keeps every second qubit."""

    def submit(self, batch: Batch) -> None:
        left = tuple(
            Initialise(qubit=one.qubit) if isinstance(one, Discard) and one.qubit == "s0" else one
            for one in batch.instructions
        )
        super().submit(Batch(number=batch.number, instructions=left))


class TwoOfOneName(IdealBackend):
    def __init__(self) -> None:
        super().__init__()
        self.qubits = (*self.qubits, self.qubits[0])


TIMELESS = [case for case in RUNNER.cases if not case.id.startswith("TIME-")]
CLOCKS = [case for case in RUNNER.cases if case.id.startswith("TIME-")]


class RaisesOnConnect(IdealBackend):
    async def connect(self, sink: BackendSinkCapable) -> None:
        raise OSError("no laboratory")

    async def close(self) -> None:
        raise AttributeError("never connected")


class RaisesOnSubmit(IdealBackend):
    def submit(self, batch: Batch) -> None:
        raise KeyError("laser")


class RaisesOnClose(IdealBackend):
    async def close(self) -> None:
        await super().close()
        raise OSError("stuck")


class AnswersNonsense(IdealBackend):
    def answer(self, number: int, completions: tuple[AnyCompletion, ...]) -> None:
        super().answer(number, 7)  # type: ignore[arg-type]


SPOILT: list[tuple[Callable[[], MockBackend], str]] = [
    (NeverConnects, "connects"),
    (AnswersTwice, "answered-once"),
    (AnswersShort, "one-completion-each"),
    (CarriesOn, "failure-ends-the-batch"),
    (ForgetsDiscards, "a-free-qubit-is-refused"),
    (RefusesFreeDiscards, "discard-is-idempotent"),
    (FlipsPhases, "x-gives-1"),
    (TimesOutLoudly, "arm-times-out"),
    (FastClock, "windows-last-their-time"),
    (MeasuresBeforeAsked, "answered-once"),
    (IgnoresCancel, "cancel-ends-a-window"),
    (LeaksQubits, "discarded-qubits-are-free"),
    (TwoOfOneName, "qubits-are-named-once"),
    (RaisesOnConnect, "connects"),
    (RaisesOnSubmit, "takes-batches"),
    (RaisesOnClose, "closes"),
]


async def test_check_backend_of_sound_end_holds_every_rule() -> None:
    report = await check_backend(IdealBackend, link_id=LINK)
    assert not report.skipped
    assert {"x-gives-1", "cz-turns-a-phase", "arm-times-out", "cancel-ends-a-window", "close-frees"} <= set(report.held)


async def test_check_backend_of_sound_station_checks_windows_alone() -> None:
    report = await check_backend(StationBackend, link_id=LINK)
    assert not report.skipped
    assert "arm-times-out" in report.held
    assert "x-gives-1" not in report.held


async def test_check_backend_without_a_link_skips_windows() -> None:
    report = await check_backend(IdealBackend)
    windows = {"arm-comes-last", "arm-times-out", "cancel-ends-a-window", "windows-last-their-time"}
    assert set(report.skipped) == windows
    assert set(report.skipped.values()) == {"needs a link_id"}


@pytest.mark.parametrize(("factory", "rule"), SPOILT, ids=[factory.__name__ for factory, _ in SPOILT])
async def test_check_backend_of_spoilt_backend_names_the_rule(factory: Callable[[], MockBackend], rule: str) -> None:
    with pytest.raises(ContractViolation) as violation:
        await check_backend(factory, link_id=LINK, timeout_s=0.2)
    assert violation.value.rule == rule
    assert str(violation.value).startswith(f"{rule}: ")


async def test_check_backend_with_a_clock_looks_at_what_it_claims() -> None:
    report = await check_backend(ClockBackend, link_id=LINK, has_clock=True)
    assert "clock-claims" in report.held


@pytest.mark.parametrize(
    ("factory", "rule"),
    [
        (IdealBackend, "clock-claims"),
        (NeverLocks, "clock-claims"),
        (ClaimsTheFuture, "clock-claims-are-of-the-past"),
        (ClaimsBackwards, "clock-claims-are-in-order"),
        (ClaimsTooMuch, "clock-claims-agree"),
    ],
)
async def test_check_backend_with_a_spoilt_clock_names_the_rule(factory: Callable[[], MockBackend], rule: str) -> None:
    with pytest.raises(ContractViolation) as violation:
        await check_backend(factory, link_id=LINK, timeout_s=0.2, has_clock=True)
    assert violation.value.rule == rule


async def test_check_backend_of_mere_mock_finds_no_physics() -> None:
    with pytest.raises(ContractViolation) as violation:
        await check_backend(lambda: GivesZero(QUBITS))
    assert violation.value.rule in {"failure-ends-the-batch", "a-free-qubit-is-refused"}


async def test_cases_of_the_kit_over_a_sound_backend_all_pass() -> None:
    results = await check_cases(IdealBackend, LINK, TIMELESS)
    assert {result.case.id: result.text for result in results if result.verdict is not Verdict.PASS} == {}


async def test_cases_of_the_kit_over_a_station_skip_what_needs_qubits() -> None:
    verdicts = {result.verdict for result in await check_cases(StationBackend, LINK, TIMELESS)}
    assert verdicts == {Verdict.PASS, Verdict.SKIP}


@pytest.mark.parametrize(("factory", "rule"), SPOILT, ids=[factory.__name__ for factory, _ in SPOILT])
async def test_cases_of_the_kit_over_a_spoilt_backend_name_the_rule(
    factory: Callable[[], MockBackend], rule: str
) -> None:
    told: list[Result] = []
    results = await check_cases(factory, LINK, TIMELESS, False, told.append, timeout_s=0.2)
    assert any(result.verdict is Verdict.FAIL and result.text.startswith(f"{rule}: ") for result in results)
    assert told == results


async def test_case_over_a_backend_that_raises_fails_with_what_it_raised() -> None:
    results = await check_cases(RaisesOnConnect, LINK, TIMELESS)
    assert {(result.verdict, result.text) for result in results} == {
        (Verdict.FAIL, "connects: connect raised OSError: no laboratory")
    }
    nonsense = await check_cases(AnswersNonsense, LINK, [case for case in TIMELESS if case.id == "HARD-7-07"])
    assert [(result.verdict, result.text) for result in nonsense] == [
        (Verdict.FAIL, "TypeError: object of type 'int' has no len()")
    ]


@pytest.mark.parametrize(
    ("factory", "verdict", "text"),
    [
        (ClockAtOnce, Verdict.PASS, ""),
        (IdealBackend, Verdict.SKIP, "has no clock that disciplines itself"),
        (LiesAtOnce, Verdict.FAIL, "clock-claims-agree: "),
    ],
)
async def test_case_of_clocks_judges_a_backend_that_has_one(
    factory: Callable[[], MockBackend], verdict: Verdict, text: str
) -> None:
    [result] = await check_cases(factory, LINK, CLOCKS, timeout_s=0.2)
    assert result.verdict is verdict
    assert result.text.startswith(text)
