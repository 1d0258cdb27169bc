"""The cases quote the specification, every MUST of it is accounted for, and the faults of tests/conformance fit the code."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import pytest
from scripts import load_script

from bellwire.conformance import spec
from bellwire.conformance.cases import all_cases
from bellwire.conformance.catalogue import Case, Level, Role, select
from bellwire.conformance.report import coverage, coverage_line, uncited
from bellwire.protocols import limits
from bellwire.protocols.errors import ConfigError
from bellwire.transport.members import BROKER_LIMITS

ROOT = Path(__file__).parents[3]
CASES = all_cases()
FAULTS = load_script("conformance/run.py").load()


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.id))
def test_requirement_of_a_case_stands_in_the_section_that_its_id_names(case: Case) -> None:
    assert spec.plain(case.requirement) in spec.section(case.rule)
    assert re.fullmatch(r"\S.* .*\.", case.title), "a sentence"
    assert (case.level is Level.SHOULD) == ("SHOULD" in case.requirement)


def test_ids_are_given_once() -> None:
    ids = [case.id for case in CASES]
    assert len(ids) == len(set(ids)) > 200
    assert {role for case in CASES for role in case.roles} == set(Role)


def test_every_must_is_cited_by_a_case_or_said_not_to_be_testable() -> None:
    rows = coverage(CASES)
    assert [row["text"] for row in rows if not row["cases"] and not row["untestable"]] == []
    assert coverage_line(rows).endswith(", 0 missing")
    assert len(rows) >= 29


def test_nothing_is_called_untestable_that_is_cited_or_does_not_stand_in_the_specification() -> None:
    rows = {row["text"]: row["cases"] for row in coverage(CASES)}
    assert {text: rows.get(text) for text in spec.untestable()} == {text: [] for text in spec.untestable()}


def test_obligation_is_not_cited_by_a_quote_without_its_must() -> None:
    [refusing] = [each for each in spec.obligations() if "`MALFORMED`" in each.text]
    assert [case.requirement for case in CASES if case.id == "CORE-3.1-09"] == ["out of its bounds"]
    assert spec.cited(refusing, CASES) == ["CORE-3.1-05", "CORE-3.1-12"]


def test_what_no_case_cites_is_told_by_section_message_and_row() -> None:
    left = uncited(CASES)
    assert "1 §4.2 The session machine" in left["sections"]
    assert "session UP welcome (1 §4.2)" in left["machine_rows"]
    assert "time.grant" in left["messages"]
    assert "2 §7.1 Instructions" not in left["sections"]
    assert "herald.open" not in left["messages"]
    without = uncited([case for case in CASES if not case.rule.startswith("2 §3")])
    assert "2 §3.1 Opening" in set(without["sections"]) - set(left["sections"])
    assert len(without["machine_rows"]) > len(left["machine_rows"])


def test_every_row_of_a_machine_is_read() -> None:
    assert {row.split()[0] for row in spec.machine_rows()} == {
        "session", "path", "arrival", "request", "window", "station-window", "pair", "gate", "clock"
    }  # fmt: skip
    assert len(spec.machine_rows()) == 120
    assert set(spec.machine_rows().values()) <= set(spec.sections())


def test_limits_are_read_from_the_specification() -> None:
    assert spec.limits() == {name: value for name, value in vars(limits).items() if name.isupper()}


def test_bounds_of_a_broker_are_read_from_the_specification() -> None:
    assert spec.bounds() == {name.replace("_", " "): value for name, value in asdict(BROKER_LIMITS).items()}


def test_names_select_cases_by_id_section_and_family() -> None:
    assert [case.id for case in select(CASES, None, ["SESS-4.1-01"])] == ["SESS-4.1-01"]
    assert {case.rule for case in select(CASES, Role.NODE, ["SESS-4.1"])} == {"1 §4.1"}
    assert {case.id[:4] for case in select(CASES, Role.STATION, ["HRLD", "CORE"])} == {"HRLD", "CORE"}
    assert all(Role.BROKER in case.roles for case in select(CASES, Role.BROKER))


def test_name_that_selects_nothing_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="'PAIR' of the profile station"):
        select(CASES, Role.STATION, ["PAIR"])


def test_cases_about_everything_seen_come_last() -> None:
    lasts = [case.last for case in select(CASES, Role.NODE)]
    assert lasts == sorted(lasts)


def test_case_with_an_odd_id_is_refused() -> None:
    with pytest.raises(ValueError, match="SESS-4-1"):
        Case(id="SESS-4-1", level=Level.MUST, requirement="", roles=frozenset(), title="", run=lambda _: None)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: str(fault.name))
def test_fault_replaces_a_text_that_stands_once_and_names_cases_of_its_target(fault: object) -> None:
    role, cases = Role(fault.role), set(fault.cases)  # type: ignore[attr-defined]
    assert (ROOT / fault.file).read_text(encoding="utf-8").count(fault.old) == 1  # type: ignore[attr-defined]
    assert fault.old != fault.new  # type: ignore[attr-defined]
    assert cases
    assert cases <= {case.id for case in CASES if role in case.roles}


def test_faults_are_many_of_every_target_and_each_has_a_name_of_its_own() -> None:
    names = [fault.name for fault in FAULTS]
    assert len(names) == len(set(names))
    assert len(names) >= 40
    assert {fault.role for fault in FAULTS} == {"node", "station", "broker"}
