"""Every state of every machine against every input, and what the machines of windows must never do."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bellwire.protocols import machine as machine_module
from bellwire.protocols.describe import MACHINES, entries
from bellwire.protocols.errors import RemoteProtocolError
from bellwire.protocols.herald import WindowEnd, WindowInput, WindowState
from bellwire.protocols.ids import CreateId, LinkId, QubitName, WindowId
from bellwire.protocols.instructions import BellState
from bellwire.protocols.machine import Machine
from bellwire.protocols.messages import HeraldReport

AnyMachine = Machine[Any, Any]
CODE = "".join(path.read_text(encoding="utf-8") for path in sorted(Path(machine_module.__file__).parent.glob("*.py")))


def states(machine: type[AnyMachine]) -> list[Any]:
    kind: Any = type(machine.initial)
    return list(kind)


def inputs(machine: type[AnyMachine]) -> list[Any]:
    kind: Any = type(next(iter(machine.table))[1])
    return list(kind)


CASES = [
    pytest.param(machine, state, given_input, id=f"{machine.name}-{state}-{given_input}")
    for machine in MACHINES
    for state, given_input in product(states(machine), inputs(machine))
]


def standing(machine: type[AnyMachine], state: Any) -> tuple[AnyMachine, list[tuple[str, Any]]]:
    """A machine that stands in a state and writes down its actions instead of carrying them out."""
    instance = machine.__new__(machine)
    instance.state = state
    done: list[tuple[str, Any]] = []
    for row in machine.table.values():
        if row.action is not None:
            setattr(instance, row.action, lambda *arguments, name=row.action: done.append((name, instance.state)))
    return instance, done


@pytest.mark.parametrize(("machine", "state", "given_input"), CASES)
def test_machine_in_any_state_given_any_input_takes_its_row_or_names_rule_and_state(
    machine: type[AnyMachine], state: Any, given_input: Any
) -> None:
    instance, done = standing(machine, state)
    row = machine.table.get((state, given_input))
    assert instance.allows(given_input) is (row is not None)
    if row is not None:
        instance.step(given_input)
        assert instance.state is row.next
        assert done == ([(row.action, row.next)] if row.action else [])
        return
    with pytest.raises(RemoteProtocolError) as caught:
        instance.step(given_input)
    assert str(caught.value) == f"{machine.name}: {given_input} not allowed in {state.upper()} (spec {machine.rule})"
    assert instance.state is state
    assert done == []


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_machine_has_no_dead_state_no_unused_input_and_no_missing_action(machine: type[AnyMachine]) -> None:
    reached = {state for state in states(machine) if state in entries(machine)}
    while more := {row.next for (state, _), row in machine.table.items() if state in reached} - reached:
        reached |= more
    assert reached == set(states(machine))
    assert {given_input for _, given_input in machine.table} == set(inputs(machine))
    for row in machine.table.values():
        assert row.action is None or callable(getattr(machine, row.action))


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_every_input_of_a_machine_is_given_by_the_code(machine: type[AnyMachine]) -> None:
    """Tables name their inputs by a short alias: what has its full name is given."""
    given_inputs = {f"{type(given_input).__name__}.{given_input.name}" for given_input in inputs(machine)}
    assert {name for name in given_inputs if not re.search(rf"\b{name}\b", CODE)} == set()


def test_every_machine_of_the_code_is_in_the_list_of_machines() -> None:
    assert set(Machine.__subclasses__()) == set(MACHINES)
    assert len({machine.name for machine in MACHINES}) == len(MACHINES)


def test_machine_observed_reports_every_row_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str, str]] = []
    monkeypatch.setattr(Machine, "observe", staticmethod(lambda *step: seen.append(step)))
    instance, _ = standing(WindowEnd, WindowState.ARMED)
    instance.step(WindowInput.COUNT)
    with pytest.raises(RemoteProtocolError):
        instance.step(WindowInput.COUNT)
    assert seen == [("window", "armed", "count")]


# Windows: a pair exists only if the station and the own hardware name the same attempt (2 §3.3).

moves = st.lists(
    st.one_of(
        st.tuples(st.just(WindowInput.COUNT), st.integers(1, 2)),
        st.tuples(st.just(WindowInput.HERALD), st.integers(1, 2)),
        st.tuples(
            st.sampled_from([WindowInput.NONE, WindowInput.FAIL, WindowInput.ABORT, WindowInput.TIMEOUT]),
            st.just("why"),
        ),
    ),
    max_size=8,
)


@given(moves)
def test_window_of_any_history_ends_once_and_heralds_only_what_both_said(
    history: list[tuple[WindowInput, Any]],
) -> None:
    ended: list[WindowEnd] = []
    window = WindowEnd(
        window_id=WindowId("w"),
        create_id=CreateId("c"),
        qubit=QubitName("q"),
        cancel=lambda _: None,
        ended=ended.append,
    )
    taken: list[tuple[WindowInput, Any]] = []
    for given_input, value in history:
        report = HeraldReport(
            link_id=LinkId("l"), window_id=WindowId("w"), attempt=value if isinstance(value, int) else 0,
            bell_state=BellState.PSI_PLUS,
        )  # fmt: skip
        before = window.state
        try:
            window.step(given_input, report if given_input is WindowInput.HERALD else value)
        except RemoteProtocolError:
            assert window.state is before
        else:
            taken.append((given_input, value))
    assert len(ended) == (window.state is WindowState.ENDED)
    if window.state is WindowState.ENDED and window.bell_state is not None:
        attempts = {value for given_input, value in taken if given_input in (WindowInput.COUNT, WindowInput.HERALD)}
        kinds = {given_input for given_input, _ in taken}
        assert kinds == {WindowInput.COUNT, WindowInput.HERALD}
        assert window.attempt in attempts
        assert window.counted == window.attempt


@pytest.mark.parametrize(
    ("last", "why", "told"), [("abort", "refused", True), ("timeout", "late", True), ("none", "no herald", False)]
)
def test_window_given_up_after_its_count_is_told_to_the_others(last: str, why: str, told: bool) -> None:
    """Spec 2 §3.5: for any other reason than a report of no herald."""
    window = WindowEnd(
        window_id=WindowId("w"),
        create_id=CreateId("c"),
        qubit=QubitName("q"),
        cancel=lambda _: None,
        ended=lambda _: None,
    )
    window.step(WindowInput.COUNT, 3)
    window.step(WindowInput(last), why)
    assert window.abandoned is told
