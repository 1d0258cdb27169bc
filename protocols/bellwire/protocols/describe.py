"""The specification's tables and diagrams, made from the code that they describe. Pure functions.

A chapter of the specification keeps what is made here between markers. `refresh` rewrites those blocks in place and leaves
everything else alone; the last column of a table of fields, its meaning, is written by hand and kept.

    <!-- fields link.create -->      <!-- machine session -->      <!-- access messages -->
    <!-- /fields -->                 <!-- /machine -->             <!-- /access -->
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import inspect

from bellwire.protocols.access import ACCESS, EVERYBODY, Roles
from bellwire.protocols.arrival import Arrival
from bellwire.protocols.errors import ErrorCode
from bellwire.protocols.gate_end import GateEnd
from bellwire.protocols.herald import StationWindow, WindowEnd
from bellwire.protocols.ids import ENDPOINT_PATTERN, NAME_PATTERN, OPERAND_PATTERN
from bellwire.protocols.instructions import (
    Apply,
    Arm,
    Cancel,
    Discard,
    Done,
    Failed,
    Initialise,
    Measure,
    Measured,
    WindowEnded,
)
from bellwire.protocols.limits import INT64_MAX, MAX_ATTEMPTS_PER_WINDOW
from bellwire.protocols.machine import Machine
from bellwire.protocols.messages import MESSAGES, Acquaintance, Message, Reply, Request, Role, Step
from bellwire.protocols.pairs import PairEnd
from bellwire.protocols.path import Path
from bellwire.protocols.queue import LinkRequest
from bellwire.protocols.readout import Readout
from bellwire.protocols.session import Session
from bellwire.protocols.time_node import ClockMachine

MACHINES: tuple[type[Machine[Any, Any]], ...] = (
    Session,
    Path,
    Arrival,
    LinkRequest,
    WindowEnd,
    StationWindow,
    PairEnd,
    GateEnd,
    ClockMachine,
)
"""Every machine of this version of the protocol."""

ENTRIES: Mapping[str, frozenset[str]] = {"gate": frozenset({"opening", "prepared"})}
"""Machines with more than one initial state: a gate begins in one at the source and in the other at the target."""

INSTRUCTIONS = (Initialise, Apply, Measure, Discard, Arm, Cancel)
COMPLETIONS = (Done, Measured, WindowEnded, Failed)

_HEADER = "| field | type | unit | bounds | default | meaning |\n|---|---|---|---|---|---|"
_NUMBERS = {INT64_MAX: "2^63-1", MAX_ATTEMPTS_PER_WINDOW: "2^40"}
_UNITS = {"angle": "rad"}
_RULES = {None: "chars", NAME_PATTERN: "name", OPERAND_PATTERN: "operand", ENDPOINT_PATTERN: "endpoint"}
_COMMON = frozenset({"epoch", "peer_epoch", "cause_id", "request_id"})


@dataclass(frozen=True, slots=True)
class FieldRow:
    """One field of a struct, as the specification tells it."""

    name: str
    type: str
    unit: str
    bounds: str
    default: str


def structs() -> dict[str, type[msgspec.Struct]]:
    """Everything that has a table of fields, by the name that its marker has."""
    named: dict[str, type[msgspec.Struct]] = {
        "common": Request,
        "step": Step,
        "readout": Readout,
        "acquaintance": Acquaintance,
    }
    tagged: tuple[type[msgspec.Struct], ...] = (*MESSAGES, *INSTRUCTIONS, *COMPLETIONS)
    for struct in tagged:
        named[str(struct.__struct_config__.tag)] = struct
    return named


def fields(struct: type[msgspec.Struct]) -> list[FieldRow]:
    """The fields of a struct in order. Those that all messages have are left out, except of `Request` itself."""
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    own = [field for field in info.fields if struct is Request or field.name not in _COMMON]
    return [_row(field) for field in own]


def _row(field: inspect.Field) -> FieldRow:
    unit = next((unit for unit in ("ns", "ps") if field.name.endswith(f"_{unit}")), _UNITS.get(field.name, ""))
    if field.required:
        default = "required"
    else:
        value = msgspec.to_builtins(field.default)
        default = "nil" if value is None else "empty" if value in ("", b"", [], ()) else str(value)
        if isinstance(value, bool):
            default = default.lower()
        if isinstance(value, dict):
            default = "of its fields"
        elif isinstance(value, list | tuple) and value:
            default = ", ".join(map(str, value))
    return FieldRow(field.name, _type(field.type), unit, _bounds(field.type), default)


def _type(kind: inspect.Type) -> str:
    if isinstance(kind, inspect.UnionType):
        inner = [_type(option) for option in kind.types if not isinstance(option, inspect.NoneType)]
        return " or ".join([*inner, "nil"])
    if isinstance(kind, inspect.VarTupleType):
        return f"array of {_type(kind.item_type)}"
    names: dict[type, str] = {
        inspect.IntType: "integer",
        inspect.FloatType: "float",
        inspect.StrType: "string",
        inspect.BytesType: "binary",
        inspect.EnumType: "string",
        inspect.BoolType: "boolean",
        inspect.StructType: "map",
    }
    return names[type(kind)]


def _bounds(kind: inspect.Type) -> str:
    if isinstance(kind, inspect.UnionType):
        return ", ".join(filter(None, map(_bounds, kind.types)))
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        if kind.ge is None and kind.le is None:
            return "finite" if isinstance(kind, inspect.FloatType) else "any"
        return f"{_number(kind.ge)}..{_number(kind.le)}"
    if isinstance(kind, inspect.StrType):
        least = kind.min_length or (1 if kind.pattern else 0)
        return f"{least}..{kind.max_length} {_RULES[kind.pattern]}"
    if isinstance(kind, inspect.BytesType):
        return f"{kind.min_length or 0}..{kind.max_length} octets"
    if isinstance(kind, inspect.EnumType):
        values = [str(member.value) for member in kind.cls]
        return "a code of 1 §6.1" if kind.cls is ErrorCode else " ".join(f"`{value}`" for value in values)
    if isinstance(kind, inspect.VarTupleType):
        return f"{kind.min_length or 0}..{kind.max_length} items, each {_bounds(kind.item_type)}"
    return f"`{kind.cls.__name__.lower()}`" if isinstance(kind, inspect.StructType) else ""


def _number(value: float | None) -> str:
    """A bound, to the last digit: a receiver refuses what is beyond it."""
    if value is None:
        return ""
    named = _NUMBERS.get(int(abs(value)))
    if named is not None:
        return f"-({named})" if value < 0 else named
    return str(int(value)) if value == int(value) else str(value)


def fields_block(name: str, meanings: Mapping[str, str]) -> str:
    """The table of a struct's fields, with what is sent back for a request."""
    struct = structs()[name]
    lines = []
    if name != "common" and issubclass(struct, Message):
        lines += [_nature(struct), ""]
    rows = fields(struct)
    if rows:
        lines.append(_HEADER)
    for row in rows:
        cells = (f"`{row.name}`", row.type, row.unit, row.bounds, row.default, meanings.get(row.name, ""))
        lines.append("| " + " | ".join(cells) + " |")
    if not rows:
        lines.append("No fields of its own.")
    return "\n".join(lines)


def _nature(struct: type[Message]) -> str:
    if issubclass(struct, Request):
        answers = " or ".join(f"`{answer.__struct_config__.tag}`" for answer in struct.answered_by)
        return f"Request, answered by {answers}, or by `session.error`."
    return "Reply." if issubclass(struct, Reply) else "Neither request nor reply."


def access_block() -> str:
    """The table of who may send which message to whom."""
    lines = ["| message | may be sent by | to |", "|---|---|---|"]
    for message, access in ACCESS.items():
        tag = message.__struct_config__.tag
        lines.append(f"| `{tag}` | {_roles(access.senders)} | {_roles(access.receivers)} |")
    return "\n".join(lines)


def _roles(roles: Roles) -> str:
    return "everybody" if roles == EVERYBODY else ", ".join(role for role in Role if role in roles)


def machine_block(machine: type[Machine[Any, Any]]) -> str:
    """A machine's table and its diagram."""
    lines = ["| state | input | next state | action | rule |", "|---|---|---|---|---|"]
    for (state, given), row in machine.table.items():
        action = f"`{row.action}`" if row.action else ""
        lines.append(f"| {state.upper()} | {given} | {row.next.upper()} | {action} | {row.rule} |")
    lines += ["", "```mermaid", "stateDiagram-v2"]
    lines += [f"    [*] --> {state.upper()}" for state in sorted(entries(machine))]
    joined: dict[tuple[str, str], list[str]] = {}
    for (state, given), row in machine.table.items():
        joined.setdefault((state.upper(), row.next.upper()), []).append(str(given))
    lines += [f"    {state} --> {after}: {', '.join(inputs)}" for (state, after), inputs in joined.items()]
    left = {state for state, _ in machine.table}
    final = sorted({row.next.upper() for row in machine.table.values() if row.next not in left})
    lines += [f"    {state} --> [*]" for state in final]
    return "\n".join([*lines, "```"])


def entries(machine: type[Machine[Any, Any]]) -> frozenset[str]:
    """The states in which a machine may begin."""
    return ENTRIES.get(machine.name, frozenset({str(machine.initial)}))


_BLOCK = re.compile(r"<!-- (fields|machine|access) (\S+) -->\n(.*?)<!-- /\1 -->", re.DOTALL)
_CELLS = re.compile(r"^\| `(\w+)` \|(?:[^|\n]*\|){4} ([^\n]*?) ?\|$", re.MULTILINE)


def blocks(text: str) -> list[tuple[str, str]]:
    """The kind and name of every marked block of a chapter, in order."""
    return [(match[1], match[2]) for match in _BLOCK.finditer(text)]


def meanings(block: str) -> dict[str, str]:
    """The meanings written by hand in a table of fields."""
    return {match[1]: match[2].strip() for match in _CELLS.finditer(block)}


def refresh(text: str) -> str:
    """A chapter with all of its marked blocks made anew.

    Raises:
        KeyError: when a marker names nothing that there is.
    """
    machines = {machine.name: machine for machine in MACHINES}
    tables = {"messages": access_block}

    def made(match: re.Match[str]) -> str:
        kind, name = match[1], match[2]
        if kind == "machine":
            inner = machine_block(machines[name])
        else:
            inner = tables[name]() if kind == "access" else fields_block(name, meanings(match[3]))
        return f"<!-- {kind} {name} -->\n{inner}\n<!-- /{kind} -->"

    return _BLOCK.sub(made, text)
