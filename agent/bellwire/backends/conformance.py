"""Backends as targets of the conformance kit: the rules of the contract as cases, each on a backend made anew."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from bellwire.backends.check import BackendCheck, ContractViolation, RuleSkipped
from bellwire.backends.contract import RULES_OF_ALL, RULES_OF_CLOCKS, RULES_OF_ENDS, Rule, check_names, close_frees
from bellwire.backends.interface import BackendContext, NodeBackend
from bellwire.backends.registry import load_backend
from bellwire.conformance.catalogue import BACKEND, Case, Level, Result, Verdict
from bellwire.conformance.runner import failed
from bellwire.protocols.errors import ConfigError
from bellwire.protocols.ids import LinkId, NodeId, link_id
from bellwire.protocols.instructions import Initialise
from bellwire.protocols.messages import Role
from bellwire.shell.config import read_toml
from bellwire.transport.clock import new_epoch
from bellwire.transport.keys import load_secret

TIMEOUT_S: Final = 5.0
SHOTS: Final = 50
ERROR_RATIO: Final = 0.1


async def _connects(check: BackendCheck) -> None:
    """Connecting is all that there is to it: that was done before any rule."""
    check_names(check)


async def _frees(check: BackendCheck) -> None:
    if not check.qubits:
        raise RuleSkipped("needs a qubit")
    await check.bits("close-frees", Initialise(qubit=check.qubit()))


async def _silent(check: BackendCheck) -> None:
    if check.qubits:
        await check.bits("answered-once", Initialise(qubit=check.qubit()))


_RULES: Final[Mapping[str, Rule]] = {
    "connects": _connects,
    **dict(RULES_OF_ENDS),
    **dict(RULES_OF_ALL),
    "close-frees": _frees,
    "answered-once": _silent,
    **dict(RULES_OF_CLOCKS),
}
_ENDS_ONLY: Final = frozenset(name for name, _ in RULES_OF_ENDS)

_STATE: Final = (
    "The qubits are then in the state that the gate, as OpenQASM 3's standard library defines it, makes of theirs"
)
_CASES: Final = (
    (
        "HARD-7-01",
        "connects",
        "It says when it is connected, and names its qubits, each once.",
        "The backend tells the node when it is connected, with its qubits, all of them free",
    ),
    (
        "HARD-7-02",
        "answered-once",
        "A batch is answered once, and nothing that was not asked.",
        "answers each batch once, as a whole, with one completion for each instruction",
    ),
    (
        "HARD-7-03",
        "batches-in-order",
        "Batches that are given together are carried out in their order.",
        "The backend MUST carry out the batches of a node in the order in which they were given",
    ),
    (
        "HARD-7-04",
        "failure-ends-the-batch",
        "What follows an instruction that fails fails too, and is not carried out.",
        "what follows is not carried out and is answered with `failed` too",
    ),
    (
        "HARD-7-05",
        "arm-comes-last",
        "A batch in which something follows an arm fails.",
        "`arm` may only come last in its batch, which is answered when the window has ended",
    ),
    (
        "HARD-7-06",
        "a-free-qubit-is-refused",
        "A measurement of a free qubit fails, and so does a gate on it.",
        "`apply` and `measure` on a qubit that is not held fail.",
    ),
    (
        "HARD-7-07",
        "initialise-gives-0",
        "A qubit that was initialised measures 0.",
        "Take a free qubit and put it into |0⟩; one that is held is reset to |0⟩.",
    ),
    ("HARD-7-08", "x-gives-1", "After x, |0⟩ measures 1.", _STATE),
    ("HARD-7-09", "h-gives-either", "After h, |0⟩ measures 0 or 1, and after h twice 0.", _STATE),
    (
        "HARD-7-10",
        "rotations-in-radians",
        "After rx by π, |0⟩ measures 1.",
        "| `angle` | float | rad | finite | 0.0 | For `rx`, `ry` and `rz`; ignored by the others. |",
    ),
    (
        "HARD-7-11",
        "cx-makes-equal-bits",
        "After cx, its control in a superposition, both qubits measure the same.",
        "`cx`, `cz` and `swap` take two qubits, the control first; the others one.",
    ),
    ("HARD-7-12", "cz-turns-a-phase", "cz turns the phase of one qubit when the other one is |1⟩.", _STATE),
    (
        "HARD-7-13",
        "measuring-twice-gives-the-same",
        "A qubit that was measured measures the same again.",
        "the qubit stays held, in what was measured",
    ),
    (
        "HARD-7-14",
        "discard-is-idempotent",
        "A free qubit can be discarded.",
        "Discarding a free one is no error.",
    ),
    (
        "HARD-7-15",
        "discarded-qubits-are-free",
        "No qubit that was discarded is held, whatever was done with it.",
        "Give a qubit back, whatever its state.",
    ),
    (
        "HARD-7-16",
        "arm-times-out",
        "A window that nobody else arms for ends after no attempt.",
        "Attempts made, as this party's own hardware counted them; 0 when the window never began.",
    ),
    (
        "HARD-7-17",
        "windows-last-their-time",
        "A window that nobody else arms for does not end before its time.",
        "and ends at the first heralded attempt, after `attempts` attempts, or `timeout_ns` after arming",
    ),
    (
        "HARD-7-18",
        "cancel-ends-a-window",
        "A window that is cancelled before it begins ends, after no attempt.",
        "one that has not begun ends at once, after no attempt",
    ),
    (
        "HARD-7-19",
        "cancel-of-an-unknown-window-is-done",
        "To cancel a window that is not there is no error.",
        "Answered with `done`, also when there is no such window",
    ),
    (
        "HARD-7-20",
        "close-frees",
        "Qubits that were held when the backend was closed are free when it is made anew.",
        "The backend tells the node when it is connected, with its qubits, all of them free",
    ),
    (
        "TIME-3.6-01",
        "clock-claims",
        "What a clock says of itself is of the past, in order, and does not contradict itself.",
        "The same promise is asked of it as of an exchange: the claim MUST hold the true error.",
    ),
)


def _case(case_id: str, name: str, title: str, requirement: str) -> Case:
    return Case(id=case_id, level=Level.MUST, requirement=requirement, roles=BACKEND, title=title, run=_RULES[name])


class BackendRunner:
    """Runs the cases of spec 2 §7 and 4 §3.6 over an installed backend."""

    cases: tuple[Case, ...] = tuple(_case(*each) for each in _CASES)

    def __call__(
        self, name: str, config: Path | None, cases: Sequence[Case], strict: bool, told: Callable[[Result], None]
    ) -> list[Result]:
        """Run cases over the backend `name`, with the options of an agent's or station's file. That agent must not run.

        Raises:
            ConfigError: when there is no such backend, or the file or its options are wrong.
            BackendError: when it cannot be loaded.
        """
        context, link = _context(name, config)

        def made() -> NodeBackend:
            return load_backend(name, replace(context, epoch=new_epoch()))

        return asyncio.run(check_cases(made, link, cases, strict, told))


RUNNER: Final = BackendRunner()


async def check_cases(
    factory: Callable[[], NodeBackend],
    link: LinkId | None,
    cases: Sequence[Case],
    strict: bool = False,
    told: Callable[[Result], None] = lambda _: None,
    *,
    timeout_s: float = TIMEOUT_S,
) -> list[Result]:
    """Run cases, each on a backend that `factory` makes anew; nobody else may arm for windows of `link` meanwhile.

    Raises:
        BackendError: when the backend cannot be made.
    """
    results = []
    for case in cases:
        began_s = time.monotonic()
        verdict, text = Verdict.PASS, ""
        backend = factory()
        try:
            await _check(backend, factory, link, case, timeout_s)
        except ContractViolation as violation:
            verdict, text = failed(case.level, strict), str(violation)
        except RuleSkipped as reason:
            verdict, text = Verdict.SKIP, str(reason)
        except Exception as error:  # Somebody else's driver: what it raises, or hands over, may be anything.
            verdict, text = failed(case.level, strict), f"{type(error).__name__}: {error}"
        result = Result(case=case, verdict=verdict, text=text, seconds=time.monotonic() - began_s)
        told(result)
        results.append(result)
    return results


async def _check(
    backend: NodeBackend, factory: Callable[[], NodeBackend], link: LinkId | None, case: Case, timeout_s: float
) -> None:
    def check(checked: NodeBackend) -> BackendCheck:
        return BackendCheck(checked, link, timeout_s, SHOTS, ERROR_RATIO, has_clock=None)

    rule = next(name for name, run in _RULES.items() if run is case.run)
    async with check(backend) as first:
        await first.start()
        if rule in _ENDS_ONLY and not first.qubits:
            raise RuleSkipped("a station has no qubits")
        await case.run(first)
    if rule == "close-frees":
        await close_frees(check(factory()), first.qubits)
    if first.sink.violation is not None:
        raise first.sink.violation


def _context(name: str, config: Path | None) -> tuple[BackendContext, LinkId | None]:
    """What the backend is told: what the file says, or of a node without a link when there is none."""
    if config is None:
        node, role, secret, options, links, base = NodeId("kit-target"), Role.AGENT, None, {}, [], Path()
    else:
        content: dict[str, Any] = read_toml(config)
        base = config.parent
        try:
            secret = base / content["secret_key"]
            table = content["backend"]
            options, links = table.get("options", {}), list(content.get("links", {}))
        except (KeyError, TypeError, AttributeError):
            raise ConfigError(
                f"{config}: is no agent's nor station's file: it needs secret_key and [backend]"
            ) from None
        if table.get("name") != name:
            raise ConfigError(f"{config}: is of the backend {table.get('name')!r}, expected {name!r}")
        keys = load_secret(secret)
        node, role = keys.name, keys.role
    context = BackendContext(
        node=node, role=role, epoch=new_epoch(), directory=base, secret_key=secret, options=options
    )
    return context, link_id(links[0]) if links else None
