"""The specification as the kit reads it: sentences, obligations, schemas. It lies beside the kit or in its repository."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bellwire.conformance.catalogue import Case, Level
from bellwire.conformance.wire import Message, decode

_HEADING = re.compile(r"^#{2,4} (\d+(?:\.\d+)*) (.+)$", re.MULTILINE)
_MACHINE = re.compile(r"<!-- machine (\S+) -->\n(.*?)<!-- /machine -->", re.DOTALL)
_ROW = re.compile(r"^\| ([A-Z_]+) \| ([^|]+) \| [^|]+ \| [^|]* \| (\d §[\d.]+) \|$", re.MULTILINE)
_OBLIGED = re.compile(r"\b(?:MUST|REQUIRED|SHALL)\b")
_SENTENCE_END = re.compile(r"(?<=[.:])(?:\*\*)?\s+(?=(?:\*\*|\*)?[A-Z`*])")


@dataclass(frozen=True, kw_only=True)
class Obligation:
    """A sentence, or a row of a table, with a MUST in it."""

    rule: str
    text: str


def folder() -> Path:
    """Where the specification is: beside this module in an installed package, in its own folder of the repository otherwise."""
    packaged = Path(__file__).parent / "spec"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "spec"


@cache
def chapters() -> dict[str, str]:
    """The text of every chapter, by number."""
    return {path.name[0]: path.read_text(encoding="utf-8") for path in sorted(folder().glob("[0-9]-*.md"))}


def plain(text: str) -> str:
    """A text without emphasis and line breaks, to compare sentences by."""
    return " ".join(text.replace("**", "").replace("*", "").split())


@cache
def section(rule: str) -> str:
    """The plain text of a section such as `1 §4.1`, its subsections included.

    Raises:
        KeyError: when there is none.
    """
    chapter, _, number = rule.partition(" §")
    text = chapters()[chapter]
    heads = list(_HEADING.finditer(text))
    begin = next((match.end() for match in heads if match[1] == number), None)
    if begin is None:
        raise KeyError(rule)
    after = [match.start() for match in heads if match.start() > begin and not match[1].startswith(f"{number}.")]
    return plain(text[begin : min(after, default=len(text))])


@cache
def sections() -> dict[str, str]:
    """The title of every section, by its rule such as `1 §4.1`."""
    return {
        f"{chapter} §{head[1]}": head[2] for chapter, text in chapters().items() for head in _HEADING.finditer(text)
    }


@cache
def machine_rows() -> dict[str, str]:
    """The rule of every row of a machine's table, by machine, state and input."""
    found: dict[str, str] = {}
    for text in chapters().values():
        for name, table in _MACHINE.findall(text):
            found |= {f"{name} {state} {given.strip()}": rule for state, given, rule in _ROW.findall(table)}
    return found


@cache
def obligations() -> tuple[Obligation, ...]:
    """Every sentence and every row of a table with a MUST in it, in order."""
    found = []
    everything = {"README": (folder() / "README.md").read_text(encoding="utf-8")} | chapters()
    for chapter, text in everything.items():
        bare = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        number = ""
        for block in re.split(r"\n\n|\n(?=#|\||\* |\d\. )", bare):
            head = _HEADING.match(block.strip())
            if head is not None:
                number = head[1]
            lines = [block] if block.lstrip().startswith("|") else _SENTENCE_END.split(block)
            found += [
                Obligation(rule=f"{chapter} §{number}" if number else chapter, text=plain(line))
                for line in lines
                if _OBLIGED.search(line)
            ]
    return tuple(found)


def untestable() -> dict[str, str]:
    """Obligations that cannot be seen from outside, each with the reason: `untestable.toml` beside the chapters."""
    entries = tomllib.loads((folder() / "untestable.toml").read_text(encoding="utf-8"))["sentence"]
    return {plain(entry["text"]): entry["why"] for entry in entries}


def cited(obligation: Obligation, cases: Iterable[Case]) -> list[str]:
    """The ids of the cases whose requirement quotes an obligation, with its MUST."""
    found = []
    for case in cases:
        quote = plain(case.requirement)
        bound = case.level is Level.MUST and _OBLIGED.search(quote) is not None
        if bound and case.rule == obligation.rule and (quote in obligation.text or obligation.text in quote):
            found.append(case.id)
    return found


@cache
def schemas() -> dict[str, dict[str, Any]]:
    """The JSON Schema of every message, by its type."""
    read = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder() / "schemas").glob("*.json"))]
    return {schema["title"]: schema for schema in read}


@cache
def common() -> frozenset[str]:
    """The fields that every message has, `type` included, and `request_id`."""
    table = chapters()["1"].partition("<!-- fields common -->")[2].partition("<!-- /fields -->")[0]
    return frozenset({"type", *re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE)})


@cache
def vectors() -> tuple[dict[str, Any], ...]:
    """Every test vector, in order."""
    paths = sorted(path for path in (folder() / "vectors").glob("*.json") if path.name != "vectors.schema.json")
    return tuple(each for path in paths for each in json.loads(path.read_text(encoding="utf-8"))["vectors"])


def example(kind: str) -> Message:
    """A message of a type with every field, such as a vector has it."""
    [vector] = [each for each in vectors() if each["id"] == f"{kind}/order-reversed"]
    return decode(bytes.fromhex(vector["hex"]))


@cache
def access() -> dict[str, tuple[frozenset[str], frozenset[str]]]:
    """The table of 1 §2.6: the roles that may send a message, and those that take it, by its type."""
    table = chapters()["1"].partition("<!-- access messages -->")[2].partition("<!-- /access -->")[0]
    everybody = frozenset(schemas()["session.hello"]["$defs"]["Role"]["enum"])
    found = {}
    for kind, *cells in re.findall(r"^\| `([a-z._]+)` \| ([a-z, ]+) \| ([a-z, ]+) \|$", table, re.MULTILINE):
        senders, receivers = (everybody if cell == "everybody" else frozenset(cell.split(", ")) for cell in cells)
        found[kind] = (senders, receivers)
    return found


@cache
def limits() -> dict[str, int]:
    """The bounds of 1 §3.4, by name."""
    rows = re.findall(r"^\| `([A-Z][A-Z0-9_]+)` \| (\d+) \|", chapters()["1"], re.MULTILINE)
    return {name: int(value) for name, value in rows}


@cache
def bounds() -> dict[str, int]:
    """The default bounds of 1 §2.7, by name: what a participant may have of a broker. Rates are per second."""
    table = chapters()["1"].partition("### 2.7 ")[2].partition("### 2.8 ")[0]
    rows = re.findall(r"^\| ([a-z ]+) \| (\d+)(?: per second)? \|", table, re.MULTILINE)
    return {name: int(value) for name, value in rows}
