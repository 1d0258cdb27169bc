"""What the kit has to show: a table for people, JSON and JUnit XML for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
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


def _said(result: Result) -> str:
    """What came of a case, in lines."""
    return "\n".join(filter(None, (result.text, result.doubt)))


def line(result: Result) -> str:
    """One result for a terminal, in rich's markup."""
    colour = COLOURS[result.verdict]
    text = "".join(f"\n    {escape(each)}" for each in _said(result).splitlines())
    return f"[{colour}]{result.verdict:<13}[/] {result.case.id}  {escape(result.case.title)}{text}"


def counts(results: Sequence[Result]) -> dict[str, int]:
    """How many cases came to each verdict."""
    found = Counter(result.verdict for result in results)
    return {str(verdict): found[verdict] for verdict in Verdict}


def summary(results: Sequence[Result]) -> str:
    """All results in one line."""
    return ", ".join(f"{number} {name}" for name, number in counts(results).items()) + f" in {lasted_s(results):.1f} s"


def lasted_s(results: Sequence[Result]) -> float:
    """How long all cases took, in seconds."""
    return sum(result.seconds for result in results)


def as_json(profile: str, results: Sequence[Result]) -> dict[str, Any]:
    """All results for programs."""
    return {
        "profile": profile,
        "counts": counts(results),
        "seconds": round(lasted_s(results), 3),
        "cases": [
            {
                "id": result.case.id,
                "round": result.round,
                "level": str(result.case.level),
                "rule": result.case.rule,
                "requirement": spec.plain(result.case.requirement),
                "verdict": str(result.verdict),
                "text": result.text,
                "seconds": round(result.seconds, 3),
                "late_s": round(result.late_s, 3),
            }
            for result in results
        ],
    }


def junit(profile: str, results: Sequence[Result]) -> str:
    """All results as JUnit XML, a suite for each round.

    What is informational counts as passed, and says what was found.
    """
    root = ElementTree.Element("testsuites", _numbers(results) | {"name": f"bellwire conformance {profile}"})
    for number, group in groupby(results, key=lambda result: result.round):
        found = list(group)
        name = f"bellwire conformance {profile}" + (f", round {number}" if number else "")
        _suite(ElementTree.SubElement(root, "testsuite", {"name": name} | _numbers(found)), profile, found)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _numbers(results: Sequence[Result]) -> dict[str, str]:
    """What a suite counts."""
    found = counts(results)
    numbers = {"tests": str(len(results)), "failures": str(found["fail"]), "skipped": str(found["skip"]), "errors": "0"}
    return numbers | {"time": f"{lasted_s(results):.3f}"}


def _suite(suite: ElementTree.Element, profile: str, results: Sequence[Result]) -> None:
    """Put a case for each result into a suite."""
    for result in results:
        names = {"classname": f"{profile}.{result.case.rule}", "name": f"{result.name}: {result.case.title}"}
        case = ElementTree.SubElement(suite, "testcase", names | {"time": f"{result.seconds:.3f}"})
        if result.verdict is Verdict.FAIL:
            about = {"message": _xml(result.text), "type": str(result.case.level)}
            failure = ElementTree.SubElement(case, "failure", about)
            failure.text = _xml(f"{result.case.rule}: {spec.plain(result.case.requirement)}\n{_said(result)}")
        elif result.verdict is Verdict.SKIP:
            ElementTree.SubElement(case, "skipped", {"message": _xml(result.text)})
        elif result.verdict is Verdict.INFORMATIONAL:
            ElementTree.SubElement(case, "system-out").text = _xml(_said(result))


def _xml(text: str) -> str:
    """A text without the characters that XML cannot hold: a target may have sent any."""
    return "".join(each if each >= " " or each in "\t\n" else "�" for each in text)


def show_cases(cases: Sequence[Case], rows: Sequence[dict[str, Any]]) -> None:
    """Print cases for people to read, and how much of the specification (`coverage`) all cases cover."""
    table = Table("id", "level", "profiles", "what is checked", "requirement")
    for case in cases:
        roles = " ".join(sorted(map(str, case.roles)))
        table.add_row(case.id, case.level, roles, escape(case.title), escape(spec.plain(case.requirement)))
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"{len(cases)} cases. Of the specification, by all cases: {coverage_line(rows)} (--coverage)", soft_wrap=True
    )


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


def uncited(cases: Sequence[Case]) -> dict[str, list[str]]:
    """What no case is about: sections, and rows of machines, with the rule; messages that no case quotes, nor their section."""
    rules = {case.rule for case in cases}
    quotes = " ".join(spec.plain(case.requirement) for case in cases)

    def bare(rule: str) -> bool:
        above = (case for case in cases if rule.startswith(f"{case.rule}."))
        quoted = any(spec.plain(case.requirement) in spec.section(rule) for case in above)
        return not quoted and not any(each == rule or each.startswith(f"{rule}.") for each in rules)

    left = {rule: title for rule, title in spec.sections().items() if bare(rule)}
    titles = {title: rule for rule, title in spec.sections().items()}
    return {
        "sections": [f"{rule} {title}" for rule, title in left.items()],
        "messages": [
            kind for kind in spec.schemas() if titles.get(kind, "") in ("", *left) and f"`{kind}`" not in quotes
        ],
        "machine_rows": [f"{row} ({rule})" for row, rule in spec.machine_rows().items() if bare(rule)],
    }


def show_coverage(rows: Sequence[dict[str, Any]], left: dict[str, list[str]]) -> None:
    """Print the coverage for people to read, with what is `uncited`."""
    console = Console(highlight=False)
    table = Table("rule", "sentence", "cases")
    for row in rows:
        by = " ".join(row["cases"]) or (f"not testable: {row['untestable']}" if row["untestable"] else "NONE")
        table.add_row(row["rule"], escape(row["text"]), escape(by))
    console.print(table)
    console.print(coverage_line(rows), soft_wrap=True)
    for what, names in left.items():
        console.print(f"{what.replace('_', ' ')} that no case cites: {', '.join(names) or 'none'}", soft_wrap=True)


def coverage_line(rows: Sequence[dict[str, Any]]) -> str:
    """The coverage in one line."""
    cited = sum(bool(row["cases"]) for row in rows)
    excused = sum(bool(row["untestable"]) and not row["cases"] for row in rows)
    bare = len(rows) - cited - excused
    return (
        f"{len(rows)} sentences with MUST: {cited} cited by cases, {excused} not testable from outside, {bare} missing"
    )
