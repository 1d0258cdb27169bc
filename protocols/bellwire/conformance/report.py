"""What the kit has to show: a table for people, JSON and JUnit XML for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final
from xml.etree import ElementTree

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bellwire.conformance import spec
from bellwire.conformance.catalogue import Case, Result, Verdict

COLOURS: Final = {
    Verdict.PASS: "green",
    Verdict.FAIL: "bold red",
    Verdict.SKIP: "yellow",
    Verdict.INFORMATIONAL: "cyan",
}


def line(result: Result) -> str:
    """One result for a terminal, in rich's markup."""
    colour = COLOURS[result.verdict]
    text = f"\n    {escape(result.text)}" if result.text else ""
    return f"[{colour}]{result.verdict:<13}[/] {result.case.id}  {escape(result.case.title)}{text}"


def counts(results: Sequence[Result]) -> dict[str, int]:
    """How many cases came to each verdict."""
    found = Counter(result.verdict for result in results)
    return {str(verdict): found[verdict] for verdict in Verdict}


def summary(results: Sequence[Result]) -> str:
    """All results in one line."""
    seconds = sum(result.seconds for result in results)
    return ", ".join(f"{number} {name}" for name, number in counts(results).items()) + f" in {seconds:.1f} s"


def as_json(profile: str, results: Sequence[Result]) -> dict[str, Any]:
    """All results for programs."""
    return {
        "profile": profile,
        "counts": counts(results),
        "cases": [
            {
                "id": result.case.id,
                "level": str(result.case.level),
                "rule": result.case.rule,
                "requirement": spec.plain(result.case.requirement),
                "verdict": str(result.verdict),
                "text": result.text,
                "seconds": round(result.seconds, 3),
            }
            for result in results
        ],
    }


def junit(profile: str, results: Sequence[Result]) -> str:
    """All results as JUnit XML, a suite for the profile. What is informational counts as passed, and says what was found."""
    found = counts(results)
    seconds = f"{sum(result.seconds for result in results):.3f}"
    numbers = {"tests": str(len(results)), "failures": str(found["fail"]), "skipped": str(found["skip"]), "errors": "0"}
    suite = ElementTree.Element("testsuite", {"name": f"bellwire conformance {profile}", "time": seconds} | numbers)
    for result in results:
        names = {"classname": f"{profile}.{result.case.rule}", "name": f"{result.case.id} {result.case.title}"}
        case = ElementTree.SubElement(suite, "testcase", names | {"time": f"{result.seconds:.3f}"})
        if result.verdict is Verdict.FAIL:
            failure = ElementTree.SubElement(case, "failure", {"message": _xml(result.text)})
            failure.text = _xml(f"{result.case.rule}: {spec.plain(result.case.requirement)}\n{result.text}")
        elif result.verdict is Verdict.SKIP:
            ElementTree.SubElement(case, "skipped", {"message": _xml(result.text)})
        elif result.verdict is Verdict.INFORMATIONAL:
            ElementTree.SubElement(case, "system-out").text = _xml(result.text)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _xml(text: str) -> str:
    """A text without the characters that XML cannot hold: a target may have sent any."""
    return "".join(each if each >= " " or each in "\t\n" else "�" for each in text)


def show_cases(cases: Sequence[Case]) -> None:
    """Print cases for people to read."""
    table = Table("id", "level", "profiles", "what is checked", "requirement")
    for case in cases:
        roles = " ".join(sorted(map(str, case.roles)))
        table.add_row(case.id, case.level, roles, escape(case.title), escape(spec.plain(case.requirement)))
    Console(highlight=False).print(table)


def coverage(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Every obligation of the specification, with the cases that cite it, or why none can."""
    reasons = spec.untestable()
    return [
        {
            "rule": obligation.rule,
            "text": obligation.text,
            "cases": spec.cited(obligation, cases),
            "untestable": reasons.get(obligation.text, ""),
        }
        for obligation in spec.obligations()
    ]


def show_coverage(rows: Sequence[dict[str, Any]]) -> None:
    """Print the coverage for people to read."""
    console = Console(highlight=False)
    table = Table("rule", "sentence", "cases")
    for row in rows:
        by = " ".join(row["cases"]) or (f"not testable: {row['untestable']}" if row["untestable"] else "NONE")
        table.add_row(row["rule"], escape(row["text"]), escape(by))
    console.print(table)
    console.print(coverage_line(rows), soft_wrap=True)


def coverage_line(rows: Sequence[dict[str, Any]]) -> str:
    """The coverage in one line."""
    cited = sum(bool(row["cases"]) for row in rows)
    excused = sum(bool(row["untestable"]) and not row["cases"] for row in rows)
    bare = len(rows) - cited - excused
    return (
        f"{len(rows)} sentences with MUST: {cited} cited by cases, {excused} not testable from outside, {bare} missing"
    )
