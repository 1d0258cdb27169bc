"""The check that every backend must pass (spec 2 §7), for the tests of whoever writes one.

    async def test_my_backend_keeps_the_contract() -> None:
        await check_backend(lambda: MyBackend(...), link_id=LinkId("link-1"))

It drives a backend from outside as an agent would. A backend of an end needs a communication qubit, or two to see two-qubit
gates; the backend of a station has no qubits, and is checked for what stations do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from bellwire.backends.check import BackendCheck, ContractViolation, RuleSkipped
from bellwire.backends.interface import NodeBackend
from bellwire.protocols.ids import LinkId, QubitName, WindowId
from bellwire.protocols.instructions import (
    AnyInstruction,
    Apply,
    Cancel,
    Discard,
    Done,
    Failed,
    Gate,
    Initialise,
    Measure,
    Measured,
    WindowEnded,
)
from bellwire.protocols.messages import ClockState
from bellwire.protocols.node import QubitKind, failure
from bellwire.protocols.time_servo import ClockSpec, Servo

NO_QUBIT: Final = QubitName("no-such-qubit")
ARM_TIMEOUT_NS: Final = 50_000_000
CLOCK_RATIO: Final = 0.9
"""A backend's clock may run so fast: a window's time over the wall's."""
CLAIMS: Final = 4
"""Claims of a clock that are looked at."""

LONG_TIMEOUT_NS: Final = 3_600_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractReport:
    """The rules that were seen to hold, and those that could not be checked, with the reason."""

    held: tuple[str, ...]
    skipped: dict[str, str]


# The rules. Each leaves every qubit free.


async def _initialise_gives_0(check: BackendCheck) -> None:
    rule, qubit = "initialise-gives-0", check.qubit()
    shot = (Initialise(qubit=qubit), Measure(qubit=qubit))
    bits = await check.bits(rule, *(shot * check.shots), Discard(qubit=qubit))
    check.mostly(rule, bits, 0, "measured after initialise")


async def _x_gives_1(check: BackendCheck) -> None:
    rule, qubit = "x-gives-1", check.qubit()
    shot = (Initialise(qubit=qubit), Apply(gate=Gate.X, qubits=(qubit,)), Measure(qubit=qubit))
    bits = await check.bits(rule, *(shot * check.shots), Discard(qubit=qubit))
    check.mostly(rule, bits, 1, "measured after initialise and X")


async def _measuring_repeats(check: BackendCheck) -> None:
    rule, qubit = "measuring-twice-gives-the-same", check.qubit()
    half = (Initialise(qubit=qubit), Apply(gate=Gate.H, qubits=(qubit,)), Measure(qubit=qubit), Measure(qubit=qubit))
    bits = await check.bits(rule, *(half * check.shots), Discard(qubit=qubit))
    check.mostly(
        rule, [one ^ two for one, two in zip(bits[::2], bits[1::2], strict=True)], 0, "two measurements differ"
    )


async def _h_gives_both(check: BackendCheck) -> None:
    rule, qubit = "h-gives-either", check.qubit()
    shot = (Initialise(qubit=qubit), Apply(gate=Gate.H, qubits=(qubit,)), Measure(qubit=qubit))
    bits = await check.bits(rule, *(shot * check.shots), Discard(qubit=qubit))
    if not 0.15 <= sum(bits) / len(bits) <= 0.85:
        raise ContractViolation(rule, f"{sum(bits)} of {len(bits)} measurements after H gave 1")
    twice = (Initialise(qubit=qubit), *(2 * (Apply(gate=Gate.H, qubits=(qubit,)),)), Measure(qubit=qubit))
    bits = await check.bits(rule, *(twice * check.shots), Discard(qubit=qubit))
    check.mostly(rule, bits, 0, "measured after H twice")


async def _rotations_take_radians(check: BackendCheck) -> None:
    rule, qubit = "rotations-in-radians", check.qubit()
    turn = Apply(gate=Gate.RX, qubits=(qubit,), angle=3.141592653589793)
    bits = await check.bits(
        rule, *((Initialise(qubit=qubit), turn, Measure(qubit=qubit)) * check.shots), Discard(qubit=qubit)
    )
    check.mostly(rule, bits, 1, "measured after rx(pi)")


async def _cx_correlates(check: BackendCheck) -> None:
    rule, (one, two) = "cx-makes-equal-bits", check.two()
    shot = (
        Initialise(qubit=one),
        Initialise(qubit=two),
        Apply(gate=Gate.H, qubits=(one,)),
        Apply(gate=Gate.CX, qubits=(one, two)),
        Measure(qubit=one),
        Measure(qubit=two),
    )
    bits = await check.bits(rule, *(shot * check.shots), Discard(qubit=one), Discard(qubit=two))
    check.mostly(rule, [first ^ second for first, second in zip(bits[::2], bits[1::2], strict=True)], 0, "bits differ")


async def _cz_turns_phase(check: BackendCheck) -> None:
    rule, (one, two) = "cz-turns-a-phase", check.two()
    shot = (
        Initialise(qubit=one),
        Initialise(qubit=two),
        Apply(gate=Gate.X, qubits=(one,)),
        Apply(gate=Gate.H, qubits=(two,)),
        Apply(gate=Gate.CZ, qubits=(one, two)),
        Apply(gate=Gate.H, qubits=(two,)),
        Measure(qubit=two),
    )
    bits = await check.bits(rule, *(shot * check.shots), Discard(qubit=one), Discard(qubit=two))
    check.mostly(rule, bits, 1, "measured X-basis phase after CZ")


async def _failure_ends_batch(check: BackendCheck) -> None:
    rule = "failure-ends-the-batch"
    unknown = Measure(qubit=NO_QUBIT)
    if not check.qubits:
        completions = await check.run(rule, unknown, unknown)
        if not all(isinstance(completion, Failed) for completion in completions):
            raise ContractViolation(rule, "an unknown qubit was measured")
        return
    qubit = check.qubit()
    flip = Apply(gate=Gate.X, qubits=(qubit,))
    wrong = 0
    for _ in range(5):
        completions = await check.run(rule, Initialise(qubit=qubit), flip, unknown, flip)
        if not isinstance(completions[0], Done) or not isinstance(completions[1], Done):
            raise ContractViolation(rule, "what came before the failing instruction was not carried out")
        if not isinstance(completions[2], Failed):
            raise ContractViolation(rule, "an unknown qubit was measured")
        if not isinstance(completions[3], Failed):
            raise ContractViolation(rule, "what came after the failing instruction was not answered with Failed")
        wrong += 1 - (await check.bits(rule, Measure(qubit=qubit)))[0]
    await check.bits(rule, Discard(qubit=qubit))
    if wrong > 2:
        raise ContractViolation(rule, "what came after the failing instruction was carried out nevertheless")


async def _discard_is_idempotent(check: BackendCheck) -> None:
    rule, qubit = "discard-is-idempotent", check.qubit()
    await check.bits(rule, Initialise(qubit=qubit), Discard(qubit=qubit), Discard(qubit=qubit))
    await check.bits(rule, Discard(qubit=qubit))


async def _discarded_are_free(check: BackendCheck) -> None:
    rule = "discarded-qubits-are-free"
    for _ in range(3):
        await check.bits(rule, *(Initialise(qubit=name) for name, _ in check.qubits))
        await check.bits(rule, *(Discard(qubit=name) for name, _ in check.qubits))
    for name, _ in check.qubits:
        (completion,) = await check.run(rule, Measure(qubit=name))
        if not isinstance(completion, Failed):
            raise ContractViolation(rule, f"{name} is held after it was discarded")


async def _free_qubit_is_refused(check: BackendCheck) -> None:
    rule, qubit = "a-free-qubit-is-refused", check.qubit()
    await check.bits(rule, Initialise(qubit=qubit), Discard(qubit=qubit))
    for instruction in (Measure(qubit=qubit), Apply(gate=Gate.X, qubits=(qubit,))):
        (completion,) = await check.run(rule, instruction)
        if not isinstance(completion, Failed):
            raise ContractViolation(rule, f"{type(instruction).__name__} on a qubit that nobody holds was carried out")


async def _batches_in_order(check: BackendCheck) -> None:
    rule, qubit = "batches-in-order", check.qubit()
    flip, measure, reset = Apply(gate=Gate.X, qubits=(qubit,)), Measure(qubit=qubit), Initialise(qubit=qubit)
    batches: list[tuple[AnyInstruction, ...]] = []
    for _ in range(check.shots):
        batches += [(reset, flip), (measure,), (reset,), (measure,)]
    answers = [check.submit(*batch) for batch in batches]
    bits: list[int] = []
    for batch, answer in zip(batches, answers, strict=True):
        completions = await check.answered(rule, answer, len(batch))
        if failure(completions) is not None:
            raise ContractViolation(rule, f"a batch failed: {failure(completions)}")
        bits += [completion.bit for completion in completions if isinstance(completion, Measured)]
    await check.bits(rule, Discard(qubit=qubit))
    wrong = [bit ^ (1 - place % 2) for place, bit in enumerate(bits)]
    check.mostly(rule, wrong, 0, "batches submitted together gave bits of another order")


async def _arm_times_out(check: BackendCheck) -> None:
    rule = "arm-times-out"
    arm = check.arm("alone", ARM_TIMEOUT_NS)
    (completion,) = await check.run(rule, arm)
    if not isinstance(completion, WindowEnded) or completion.window_id != arm.window_id:
        raise ContractViolation(rule, f"a window that nobody else armed for was answered with {completion}")
    if completion.attempts != 0 or completion.bell_state is not None:
        text = f"a window that nobody else armed for had {completion.attempts} attempts, {completion.bell_state}"
        raise ContractViolation(rule, text)
    if arm.qubit is not None:
        await check.bits("armed-qubit-stays-held", Initialise(qubit=arm.qubit), Discard(qubit=arm.qubit))


async def _windows_last_their_time(check: BackendCheck) -> None:
    rule = "windows-last-their-time"
    arm = check.arm("timed", ARM_TIMEOUT_NS)
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await check.run(rule, arm)
    lasted_ns = (loop.time() - began_s) * 1e9
    if arm.qubit is not None:
        await check.bits(rule, Discard(qubit=arm.qubit))
    if lasted_ns < ARM_TIMEOUT_NS * CLOCK_RATIO:
        text = (
            f"a window of {ARM_TIMEOUT_NS / 1e6:g} ms that nobody else armed for ended after {lasted_ns / 1e6:.1f} ms"
        )
        raise ContractViolation(rule, text)


async def _arm_comes_last(check: BackendCheck) -> None:
    rule = "arm-comes-last"
    arm = check.arm("not-last", ARM_TIMEOUT_NS)
    completions = await check.run(rule, arm, Cancel(window_id=arm.window_id))
    if not all(isinstance(completion, Failed) for completion in completions):
        raise ContractViolation(rule, "a batch was accepted in which something follows Arm")


async def _cancel_ends_window(check: BackendCheck) -> None:
    rule = "cancel-ends-a-window"
    arm = check.arm("cancelled", LONG_TIMEOUT_NS)
    window = check.submit(arm)
    (completion,) = await check.run(rule, Cancel(window_id=arm.window_id))
    check.done(rule, completion)
    (ended,) = await check.answered(rule, window, 1)
    if not isinstance(ended, WindowEnded) or ended.attempts != 0:
        raise ContractViolation(rule, f"a window cancelled before it began was answered with {ended}")
    if arm.qubit is not None:
        await check.bits(rule, Discard(qubit=arm.qubit))


async def _cancel_of_unknown(check: BackendCheck) -> None:
    rule = "cancel-of-an-unknown-window-is-done"
    (completion,) = await check.run(rule, Cancel(window_id=WindowId("contract-never-armed")))
    check.done(rule, completion)


async def _clock_claims_hold(check: BackendCheck) -> None:
    """What a clock says of itself is of the past, in order, and can be true together with what it said before."""
    servo, last = Servo(ClockSpec()), None
    for number in range(CLAIMS):
        try:
            async with asyncio.timeout(check.timeout_s):
                claim, at_ns = await check.sink.claims.get()
        except TimeoutError:
            if number == 0 and check.has_clock is None:
                raise RuleSkipped("has no clock that disciplines itself: no claim came") from None
            raise ContractViolation("clock-claims", f"no claim came within {check.timeout_s:g} s") from None
        if claim.state is not ClockState.LOCKED:
            continue
        if claim.local_ns > at_ns:
            text = f"a claim of the local time {claim.local_ns} came at {at_ns}"
            raise ContractViolation("clock-claims-are-of-the-past", text)
        if last is not None and claim.local_ns <= last.local_ns:
            text = f"a claim of the local time {claim.local_ns} came after one of {last.local_ns}"
            raise ContractViolation("clock-claims-are-in-order", text)
        if not servo.agrees(claim.sample()):
            text = f"{claim} contradicts the claims before it"
            raise ContractViolation("clock-claims-agree", text)
        servo.take(claim.sample())
        last = claim
    if last is None:
        raise ContractViolation("clock-claims", f"none of {CLAIMS} claims is of a clock that is locked")


Rule = Callable[[BackendCheck], Awaitable[None]]

RULES_OF_ALL: tuple[tuple[str, Rule], ...] = (
    ("failure-ends-the-batch", _failure_ends_batch),
    ("cancel-of-an-unknown-window-is-done", _cancel_of_unknown),
    ("arm-comes-last", _arm_comes_last),
    ("arm-times-out", _arm_times_out),
    ("windows-last-their-time", _windows_last_their_time),
    ("cancel-ends-a-window", _cancel_ends_window),
)
RULES_OF_CLOCKS: tuple[tuple[str, Rule], ...] = (("clock-claims", _clock_claims_hold),)
RULES_OF_ENDS: tuple[tuple[str, Rule], ...] = (
    ("a-free-qubit-is-refused", _free_qubit_is_refused),
    ("initialise-gives-0", _initialise_gives_0),
    ("x-gives-1", _x_gives_1),
    ("measuring-twice-gives-the-same", _measuring_repeats),
    ("h-gives-either", _h_gives_both),
    ("rotations-in-radians", _rotations_take_radians),
    ("cx-makes-equal-bits", _cx_correlates),
    ("cz-turns-a-phase", _cz_turns_phase),
    ("discard-is-idempotent", _discard_is_idempotent),
    ("batches-in-order", _batches_in_order),
    ("discarded-qubits-are-free", _discarded_are_free),
)


async def check_backend(
    factory: Callable[[], NodeBackend],
    *,
    link_id: LinkId | None = None,
    timeout_s: float = 5.0,
    shots: int = 50,
    error_ratio: float = 0.1,
    has_clock: bool = False,
) -> ContractReport:
    """Check a backend against the contract. Nobody else may use its qubits or its link meanwhile.

    Args:
        factory: makes a backend for the same node, each time anew.
        link_id: a link that the node is attached to, to check windows on; the other parties must not arm.
        timeout_s: how long connecting, closing and each batch may take.
        shots: repetitions of what is checked by its statistics; at most 80.
        error_ratio: how many of the shots may come out wrong, for real devices err.
        has_clock: whether it has a clock that disciplines itself, which must say what the time is within `timeout_s` each time.

    Raises:
        ContractViolation: with the rule that does not hold.
    """
    check = BackendCheck(factory(), link_id, timeout_s, shots, error_ratio, has_clock=has_clock)
    held: list[str] = []
    skipped: dict[str, str] = {}
    async with check:
        await check.start()
        held.append("connects")
        check_names(check)
        rules = (*(RULES_OF_ENDS if check.qubits else ()), *RULES_OF_ALL, *(RULES_OF_CLOCKS if has_clock else ()))
        for rule, run in rules:
            try:
                await run(check)
                held.append(rule)
            except RuleSkipped as reason:
                skipped[rule] = str(reason)
            if check.sink.violation is not None:
                raise check.sink.violation
        if check.qubits:
            await check.bits("close-frees", Initialise(qubit=check.qubit()))
    held.append("closes")
    if check.qubits:
        await close_frees(
            BackendCheck(factory(), link_id, timeout_s, shots, error_ratio, has_clock=has_clock), check.qubits
        )
        held.append("close-frees")
    if check.sink.violation is not None:
        raise check.sink.violation
    held += ["answered-once", "close-is-silent"]
    return ContractReport(held=tuple(held), skipped=skipped)


def check_names(check: BackendCheck) -> None:
    """Check that no two qubits have one name."""
    names = [name for name, _ in check.qubits]
    if len(set(names)) != len(names):
        raise ContractViolation("qubits-are-named-once", f"the qubits are {', '.join(names)}")


async def close_frees(check: BackendCheck, before: tuple[tuple[QubitName, QubitKind], ...]) -> None:
    """Check that a backend made anew has the same qubits, and that the one that was held before `close` is free."""
    async with check:
        await check.start()
        if set(check.qubits) != set(before):
            raise ContractViolation("close-frees", "a backend made anew has other qubits")
        (completion,) = await check.run("close-frees", Measure(qubit=before[0][0]))
        if not isinstance(completion, Failed):
            raise ContractViolation("close-frees", "a qubit held at close is still held by the next backend")
