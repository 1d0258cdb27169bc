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

_CASES: Final = (
    ("01", "connects", "The backend tells the node when it is connected, with its qubits, all of them free"),
    ("02", "answered-once", "answers each batch once, as a whole, with one completion for each instruction"),
    (
        "03",
        "batches-in-order",
        "The backend MUST carry out the batches of a node in the order in which they were given",
    ),
    ("04", "failure-ends-the-batch", "what follows is not carried out and is answered with `failed` too"),
    ("05", "arm-comes-last", "`arm` may only come last in its batch, which is answered when the window has ended"),
    ("06", "a-free-qubit-is-refused", "`apply` and `measure` on a qubit that is not held fail."),
    ("07", "initialise-gives-0", "Take a free qubit and put it into |0⟩; one that is held is reset to |0⟩."),
    ("08", "x-gives-1", "By the names of OpenQASM 3's standard library."),
    ("09", "h-gives-either", "Apply a unitary."),
    ("10", "rotations-in-radians", "For `rx`, `ry` and `rz`; ignored by the others."),
    ("11", "cx-makes-equal-bits", "`cx`, `cz` and `swap` take two qubits, the control first; the others one."),
    ("12", "cz-turns-a-phase", "`cx`, `cz` and `swap` take two qubits"),
    ("13", "measuring-twice-gives-the-same", "the qubit stays held, in what was measured"),
    ("14", "discard-is-idempotent", "Discarding a free one is no error."),
    ("15", "discarded-qubits-are-free", "Give a qubit back, whatever its state."),
    ("16", "arm-times-out", "Attempts made, as this party's own hardware counted them; 0 when the window never began."),
    ("17", "windows-last-their-time", "or `timeout_ns` after arming"),
    ("18", "cancel-ends-a-window", "Ask for a window to end early."),
    ("19", "cancel-of-an-unknown-window-is-done", "Answered with `done`, also when there is no such window"),
    ("20", "close-frees", "A qubit is **held** from when it is initialised or armed until it is discarded."),
)
_CLAIMS: Final = "The same promise is asked of it as of an exchange: the claim MUST hold the true error."


def _case(case_id: str, name: str, requirement: str) -> Case:
    title = name.replace("-", " ").capitalize()
    return Case(id=case_id, level=Level.MUST, requirement=requirement, roles=BACKEND, title=title, run=_RULES[name])


class BackendRunner:
    """Runs the cases of spec 2 §7 and 4 §3.6 over an installed backend."""

    cases: tuple[Case, ...] = (
        *(_case(f"HARD-7-{number}", name, requirement) for number, name, requirement in _CASES),
        _case("TIME-3.6-01", "clock-claims", _CLAIMS),
    )

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
        try:
            await _check(factory, link, case, timeout_s)
        except ContractViolation as violation:
            verdict, text = failed(case.level, strict), str(violation)
        except RuleSkipped as reason:
            verdict, text = Verdict.SKIP, str(reason)
        result = Result(case=case, verdict=verdict, text=text, seconds=time.monotonic() - began_s)
        told(result)
        results.append(result)
    return results


async def _check(factory: Callable[[], NodeBackend], link: LinkId | None, case: Case, timeout_s: float) -> None:
    def check() -> BackendCheck:
        return BackendCheck(factory(), link, timeout_s, SHOTS, ERROR_RATIO, has_clock=None)

    rule = next(name for name, run in _RULES.items() if run is case.run)
    first = check()
    try:
        await first.start()
        if rule in _ENDS_ONLY and not first.qubits:
            raise RuleSkipped("a station has no qubits")
        await case.run(first)
    finally:
        await first.stop()
    if rule == "close-frees":
        await close_frees(check(), first.qubits)
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
