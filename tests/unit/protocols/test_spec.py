"""Holds the written protocol and the code to each other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bellwire.protocols import limits
from bellwire.protocols.describe import (
    COMPLETIONS,
    INSTRUCTIONS,
    MACHINES,
    blocks,
    fields,
    fields_block,
    meanings,
    refresh,
    structs,
)
from bellwire.protocols.errors import ErrorCode
from bellwire.protocols.herald import SCHEMES
from bellwire.protocols.link_book import LinkSettings
from bellwire.protocols.messages import MESSAGES, GateStatus, Role
from bellwire.protocols.session import SessionSettings
from bellwire.protocols.time_sources import TimeSettings
from bellwire.protocols.version import PROTOCOL_VERSION, SUPPORTED_VERSIONS

ROOT = Path(__file__).resolve().parents[3]
SPEC = ROOT / "protocols" / "spec"
CHAPTERS = {path.name[0]: path.read_text(encoding="utf-8") for path in sorted(SPEC.glob("[0-9]-*.md"))}
README = (SPEC / "README.md").read_text(encoding="utf-8")
HEADING = re.compile(r"^#{1,4} (\d+(?:\.\d+)*) (.+)$", re.MULTILINE)
CITATION = re.compile(r"\"(\d) §(\d+(?:\.\d+)*)\"|\bspec (\d)(?: §(\d+(?:\.\d+)*))?", re.IGNORECASE)


def section(chapter: str, number: str) -> str:
    """The text of a section, its subsections included."""
    text = CHAPTERS[chapter]
    starts = {match[1]: match for match in HEADING.finditer(text)}
    begin = starts[number].end()
    after = [
        match.start()
        for match in HEADING.finditer(text, begin)
        if not match[1].startswith(f"{number}.") and match[0].count("#", 0, 5) <= starts[number][0].count("#", 0, 5)
    ]
    return text[begin : min(after, default=len(text))]


def rows(text: str) -> list[list[str]]:
    """The cells of the table rows of a text whose first cell is in backticks."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


def marked() -> list[tuple[str, str]]:
    return [block for text in CHAPTERS.values() for block in blocks(text)]


def citations() -> Iterator[tuple[str, str, str]]:
    for room in ("agent", "broker", "protocols", "tests"):
        for path in sorted((ROOT / room).rglob("*.py")):
            if path == Path(__file__).resolve():
                continue
            for match in CITATION.finditer(path.read_text(encoding="utf-8")):
                yield str(path.relative_to(ROOT)), match[1] or match[3], match[2] or match[4] or ""


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_chapter_regenerated_from_the_code_stays_as_it_is(chapter: str) -> None:
    assert refresh(CHAPTERS[chapter]) == CHAPTERS[chapter], "run python protocols/spec/generate.py"


def test_every_message_instruction_and_machine_has_one_block_and_no_block_is_left_over() -> None:
    named = marked()
    assert len(named) == len(set(named))
    assert {name for kind, name in named if kind == "fields"} == set(structs())
    assert [name for kind, name in named if kind == "access"] == ["messages"]
    assert {name for kind, name in named if kind == "machine"} == {machine.name for machine in MACHINES}
    others = ("common", "step", "readout", "acquaintance")
    assert len(structs()) == len(MESSAGES) + len(INSTRUCTIONS) + len(COMPLETIONS) + len(others)


def test_every_message_has_a_heading_of_its_own_over_its_table() -> None:
    headed = {match[2]: chapter for chapter, text in CHAPTERS.items() for match in HEADING.finditer(text)}
    for message in MESSAGES:
        tag = str(message.__struct_config__.tag)
        number = next(match[1] for match in HEADING.finditer(CHAPTERS[headed[tag]]) if match[2] == tag)
        assert f"<!-- fields {tag} -->" in section(headed[tag], number)


@pytest.mark.parametrize("name", sorted(structs()))
def test_every_field_has_its_row_with_type_and_bounds_and_a_meaning(name: str) -> None:
    text = "".join(CHAPTERS.values())
    block = text.partition(f"<!-- fields {name} -->")[2].partition("<!-- /fields -->")[0]
    given = {row[0]: row[1:5] for row in (line for line in rows(block) if len(line) >= 6)}
    wanted = {row.name: [row.type, row.unit, row.bounds, row.default] for row in fields(structs()[name])}
    assert {field: [cell.replace("`", "") for cell in cells] for field, cells in given.items()} == {
        field: [cell.replace("`", "").strip() for cell in cells] for field, cells in wanted.items()
    }
    assert all(meanings(block).values())


def test_every_error_code_is_in_the_table_of_codes_and_no_other() -> None:
    assert [row[0] for row in rows(section("1", "6.1"))] == [code.value for code in ErrorCode]


def test_every_code_and_limit_that_a_chapter_names_is_one() -> None:
    known = {code.value for code in ErrorCode} | {name for name in vars(limits) if name.isupper()}
    for text in CHAPTERS.values():
        assert set(re.findall(r"`([A-Z][A-Z0-9_]+)`", text)) <= known


def test_every_limit_is_in_the_table_of_limits_with_its_value() -> None:
    written = {row[0]: int(row[1]) for row in rows(section("1", "3.4"))}
    assert written == {name: value for name, value in vars(limits).items() if name.isupper()}


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_every_input_and_action_of_a_machine_is_explained_beside_its_table(machine: type) -> None:
    chapter, text = next((key, text) for key, text in CHAPTERS.items() if f"<!-- machine {machine.name} -->" in text)  # type: ignore[attr-defined]
    beside = text.partition(f"<!-- machine {machine.name} -->")[2].partition("<!-- /machine -->")[2]  # type: ignore[attr-defined]
    beside = re.split(r"^#{2,3} ", beside, maxsplit=1, flags=re.MULTILINE)[0]
    for row in machine.table.values():  # type: ignore[attr-defined]
        assert row.action is None or f"`{row.action}`" in beside, (chapter, row.action)


def test_every_rule_of_a_machine_is_a_section() -> None:
    numbers = {chapter: {match[1] for match in HEADING.finditer(text)} for chapter, text in CHAPTERS.items()}
    for machine in MACHINES:
        for rule in {machine.rule, *(row.rule for row in machine.table.values())}:
            chapter, _, number = rule.partition(" §")
            assert number in numbers[chapter], (machine.name, rule)


def test_every_citation_in_the_code_is_a_section() -> None:
    numbers = {chapter: {match[1] for match in HEADING.finditer(text)} for chapter, text in CHAPTERS.items()}
    planned = set(re.findall(r"^\| (\d) \| .*\(planned\)", README, re.MULTILINE))
    wrong = [
        f"{path}: {chapter} §{number}"
        for path, chapter, number in citations()
        if not (chapter in planned and not number) and (number or "1") not in numbers.get(chapter, set())
    ]
    assert wrong == []


def test_every_reference_within_the_specification_is_a_section() -> None:
    numbers = {chapter: {match[1] for match in HEADING.finditer(text)} for chapter, text in CHAPTERS.items()}
    for chapter, text in CHAPTERS.items():
        for match in re.finditer(r"(?:\b([1-9]) )?§(\d+(?:\.\d+)*)", text):
            if "draft-dahlberg-ll-quantum-03 " in text[max(0, match.start() - 29) : match.start() + 2]:
                continue
            assert match[2] in numbers[match[1] or chapter], (chapter, match[0])


def test_headings_of_a_chapter_count_without_gaps() -> None:
    for text in CHAPTERS.values():
        last = [0, 0]
        for match in HEADING.finditer(text):
            if match[0].startswith("# "):
                continue
            number = [int(part) for part in match[1].split(".")]
            expected = [last[0] + 1] if len(number) == 1 else [last[0], last[1] + 1]
            assert number == expected, match[0]
            last = [number[0], number[1] if len(number) == 2 else 0]


def test_default_times_are_those_of_the_code() -> None:
    units = {"s": 1_000_000_000, "ms": 1_000_000}

    def written(text: str) -> dict[str, int]:
        found = {row[0]: re.fullmatch(r"(\d+) (m?s)", row[1]) for row in rows(text)}
        return {name: int(match[1]) * units[match[2]] for name, match in found.items() if match}

    session = SessionSettings()
    assert written(section("1", "4.5")) == {
        "heartbeat": session.heartbeat_ns,
        "liveness": session.liveness_ns,
        "retry": session.retry_ns,
        "retry_limit": session.retry_limit_ns,
    }
    link = {name: field.default for name, field in LinkSettings.__dataclass_fields__.items()}
    times = written(section("2", "1.2"))
    del times["application_timeout"]
    assert times == {
        "window_timeout": link["window_timeout_ns"],
        "report_timeout": link["report_timeout_ns"],
        "pair_lifetime": link["pair_lifetime_ns"],
        "backoff": link["backoff_ns"],
        "guard": link["guard_ns"],
    }
    time = {name: field.default for name, field in TimeSettings.__dataclass_fields__.items()}
    assert written(section("4", "2.4")) == {
        "interval": time["interval_ns"],
        "silence": time["silence_ns"],
        "lease": time["lease_ns"],
        "hold": time["hold_ns"],
    }


def test_versions_roles_schemes_and_statuses_are_those_of_the_code() -> None:
    assert SUPPORTED_VERSIONS == (PROTOCOL_VERSION,)
    for text in CHAPTERS.values():
        assert f"* Protocol version: {PROTOCOL_VERSION}\n" in text
    assert [row[0] for row in rows(section("1", "2.1"))] == [role.value for role in Role]
    told = {row[0]: (row[1], row[2]) for row in rows(section("2", "3.4")) if len(row) == 4}
    assert told == {
        name: (
            "all four" if len(scheme.bell_states) == 4 else "` `".join(scheme.bell_states),
            "yes" if scheme.bright else "",
        )
        for name, scheme in SCHEMES.items()
    }
    assert [row[0] for row in rows(section("3", "2.4"))] == [status.value for status in GateStatus]


def test_table_of_fields_made_anew_keeps_the_meanings_written_by_hand() -> None:
    block = fields_block("link.created", {"create_id": "Names | the request."})
    assert meanings(block) == {"create_id": "Names | the request."}
    assert "Reply." in block
    text = f"before\n<!-- fields link.created -->\n{block}\n<!-- /fields -->\nafter\n"
    assert refresh(text) == text
    assert refresh(refresh(CHAPTERS["1"])) == refresh(CHAPTERS["1"])


def test_marker_that_names_nothing_is_an_error() -> None:
    with pytest.raises(KeyError):
        refresh("<!-- fields no.such -->\n<!-- /fields -->")
