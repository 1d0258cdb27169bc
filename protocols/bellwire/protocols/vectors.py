"""Test vectors of every message: bytes with what they mean, and bytes that have to be refused. Pure functions.

A vector is `exact` when its bytes are what this implementation writes: fields in the order of the tables, every number in its
shortest format. Others decode to the same message, and need not be written by anybody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import inspect

from bellwire.protocols.ids import ENDPOINT_PATTERN
from bellwire.protocols.limits import MAX_MESSAGE_BYTES
from bellwire.protocols.messages import MESSAGES, Message
from bellwire.protocols.schemas import DIALECT, tag

VECTORS_SCHEMA: Final[dict[str, Any]] = {
    "$schema": DIALECT,
    "title": "Test vectors of one family of messages",
    "type": "object",
    "properties": {
        "family": {"type": "string", "pattern": "^[a-z]+$"},
        "vectors": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/vector"}},
    },
    "required": ["family", "vectors"],
    "additionalProperties": False,
    "$defs": {
        "vector": {
            "type": "object",
            "properties": {
                "id": {"type": "string", "description": "Permanent: what is shown, behind the message's type."},
                "hex": {
                    "type": "string",
                    "pattern": "^([0-9a-f]{2})*$",
                    "description": "The octets of a message frame.",
                },
                "pad": {"type": "integer", "minimum": 1, "description": "So many octets 0 more follow."},
                "exact": {"type": "boolean", "description": "Whether an encoder that writes fields in order gives it."},
                "message": {
                    "type": "object",
                    "description": "What it means, every field included; octets (bin) in Base64.",
                },
                "refuse": {"enum": ["MALFORMED", "OVERSIZE", "UNKNOWN_TYPE"], "description": "1 §3.1, 3.4, 3.5."},
                "why": {"type": "string"},
            },
            "required": ["id", "hex"],
            "oneOf": [{"required": ["message", "exact"]}, {"required": ["refuse", "why"]}],
            "additionalProperties": False,
        }
    },
}

_WRONG: Final[Mapping[type[inspect.Type], tuple[Any, ...]]] = {
    inspect.IntType: ("1", 1.5, True, None),
    inspect.FloatType: ("0.5", None, True),
    inspect.StrType: (7, None, b"x"),
    inspect.EnumType: (7, "no such value", None),
    inspect.BoolType: (1, "true", None),
    inspect.BytesType: (7, "text", None),
    inspect.VarTupleType: (7, {"0": 1}, None),
    inspect.UnionType: (7.5, [], {}),
}


def all_vectors() -> dict[str, dict[str, Any]]:
    """The vectors of every family."""
    families: dict[str, list[dict[str, Any]]] = {}
    for message in MESSAGES:
        families.setdefault(tag(message).partition(".")[0], []).extend(message_vectors(message))
    families["session"] += list(_no_messages())
    return {family: {"family": family, "vectors": vectors} for family, vectors in families.items()}


def message_vectors(message: type[Message]) -> list[dict[str, Any]]:
    """The vectors of one message: the least and the greatest of every field, other spellings, and everything that is wrong."""
    name, info = tag(message), inspect.type_info(message)
    assert isinstance(info, inspect.StructType)
    fields = {field.encode_name: field for field in info.fields}
    least = {"type": name} | {key: _sample(field.type, great=False) for key, field in fields.items()}
    great = {"type": name} | {key: _sample(field.type, great=True) for key, field in fields.items()}
    plain = {"type": name} | {key: _usual(field) for key, field in fields.items()}
    required = {"type", *(key for key, field in fields.items() if field.required)}
    bare = {key: value for key, value in plain.items() if key in required}
    found = [_good(f"{name}/{what}", each, each, True) for what, each in (("least", least), ("greatest", great))]
    found += [
        _good(f"{name}/defaults-left-out", bare, plain, False),
        _good(f"{name}/order-reversed", dict(reversed(plain.items())), plain, False),
        _good(f"{name}/unknown-fields", {**plain, "x": [1, {"y": None}], "zz": b"\xff"}, plain, False),
        _bad(f"{name}/trailing-octet", msgspec.msgpack.encode(plain) + b"\xc0", "an octet after the map"),
        _bad(f"{name}/cut", msgspec.msgpack.encode(plain)[:-1], "the last octet is missing"),
    ]
    for key in sorted(required - {"type"}):
        left = {each: value for each, value in plain.items() if each != key}
        found.append(_bad(f"{name}/without-{key}", msgspec.msgpack.encode(left), f"{key} is required"))
    for key, field in fields.items():
        for number, (wrong, why) in enumerate(_wrongs(field.type), 1):
            data = msgspec.msgpack.encode({**plain, key: wrong})
            found.append(_bad(f"{name}/{key}-wrong-{number}", data, f"{key}: {why}"))
    return found


def _good(name: str, written: Mapping[str, Any], meant: Mapping[str, Any], exact: bool) -> dict[str, Any]:
    return {
        "id": name,
        "hex": msgspec.msgpack.encode(written).hex(),
        "exact": exact,
        "message": msgspec.to_builtins(meant),
    }


def _bad(name: str, data: bytes, why: str, code: str = "MALFORMED") -> dict[str, Any]:
    return {"id": name, "hex": data.hex(), "refuse": code, "why": why}


def _usual(field: inspect.Field) -> Any:
    return (
        _sample(field.type, great=False)
        if field.required
        else msgspec.to_builtins(field.default, builtin_types=(bytes,))
    )


def _sample(kind: inspect.Type, *, great: bool) -> Any:
    """A value of a type: the least that it takes, or the greatest number and a longer text."""
    if isinstance(kind, inspect.UnionType):
        inner = [each for each in kind.types if not isinstance(each, inspect.NoneType)]
        return _sample(inner[0], great=True) if great else None
    if isinstance(kind, inspect.IntType):
        return kind.le if great else kind.ge
    if isinstance(kind, inspect.FloatType):
        return (1.0 if kind.le is None else float(kind.le)) if great else float(kind.ge or 0)
    if isinstance(kind, inspect.StrType):
        return _text(kind, great=great)
    if isinstance(kind, inspect.EnumType):
        values = [str(member.value) for member in kind.cls]
        return values[-1] if great else values[0]
    if isinstance(kind, inspect.BytesType):
        return b"\xff" * (kind.max_length or 0) if great else bytes(kind.min_length or 0)
    if isinstance(kind, inspect.VarTupleType):
        number = min(kind.max_length or 1, 3) if great else kind.min_length or 0
        return [_sample(kind.item_type, great=great)] * number
    if isinstance(kind, inspect.StructType):
        return {field.encode_name: _sample(field.type, great=great) for field in kind.fields}
    return great


def _text(kind: inspect.StrType, *, great: bool) -> str:
    most = kind.max_length or 0
    if kind.pattern == ENDPOINT_PATTERN:
        return f"tcp://{'h' * (most - 12)}:65535" if great else "tcp://h:1"
    letters = "ab-1" if kind.pattern else "é –1"
    return (letters * most)[:most] if great else "a" if (kind.min_length or kind.pattern) else ""


def _short(kind: inspect.Type) -> Any:
    """As the least `_sample`, without what has a default: many of them fit into one message."""
    if not isinstance(kind, inspect.StructType):
        return _sample(kind, great=False)
    return {field.encode_name: _sample(field.type, great=False) for field in kind.fields if field.required}


def _wrongs(kind: inspect.Type) -> Iterator[tuple[Any, str]]:
    """Values that are not of a type, or out of its bounds, each with the reason."""
    for value in _WRONG.get(type(kind), ()):
        yield value, f"{'no value' if value is None else type(value).__name__} in place of {_name(kind)}"
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        if kind.ge is not None:
            yield kind.ge - 1, f"less than {kind.ge}"
        if kind.le is not None:
            yield kind.le + 1, f"greater than {kind.le}"
    if isinstance(kind, inspect.FloatType):
        yield float("nan"), "NaN"
    if isinstance(kind, inspect.StrType):
        yield "a" * ((kind.max_length or 0) + 1), f"longer than {kind.max_length} characters"
        if kind.min_length or kind.pattern:
            yield "", "empty"
        if kind.pattern:
            yield "a b", "a space in a name"
            yield "a\n", "a line feed in a name"
    if isinstance(kind, inspect.BytesType):
        yield bytes((kind.max_length or 0) + 1), f"longer than {kind.max_length} octets"
        if kind.min_length:
            yield bytes(kind.min_length - 1), f"shorter than {kind.min_length} octets"
    if isinstance(kind, inspect.VarTupleType):
        yield from _wrong_lists(kind)


def _wrong_lists(kind: inspect.VarTupleType) -> Iterator[tuple[Any, str]]:
    usual = _short(kind.item_type)
    yield [usual] * ((kind.max_length or 0) + 1), f"more than {kind.max_length} items"
    if kind.min_length:
        yield [], f"fewer than {kind.min_length} items"
    yield [*([usual] if kind.min_length else []), [[]]], "an item of another type"
    if isinstance(kind.item_type, inspect.StrType) and kind.item_type.pattern:
        yield ["a b"], "a space in an item"


def _name(kind: inspect.Type) -> str:
    return (
        type(kind).__name__.removesuffix("Type").replace("VarTuple", "array").replace("Union", "a value or nil").lower()
    )


def _no_messages() -> Iterator[dict[str, Any]]:
    """Octets that are no message of any type."""
    yield _bad("no-message/empty", b"", "no octets")
    yield _bad("no-message/array", msgspec.msgpack.encode(["session.hello"]), "an array")
    yield _bad("no-message/integer-key", msgspec.msgpack.encode({1: 2}), "a key that is no string")
    yield _bad("no-message/nesting", b"\x91" * 4096, "arrays in arrays")
    yield _bad("no-message/no-text", b"\x81\xa4type\xa2\xff\xfe", "a str that is not UTF-8")
    yield _bad("no-message/huge-array", b"\x81\xa4type\xdd\xff\xff\xff\xff", "a length that nothing follows")
    yield _bad("no-type", msgspec.msgpack.encode({"epoch": 1}), "no field type", "UNKNOWN_TYPE")
    unknown = msgspec.msgpack.encode({"type": "no.such", "epoch": 1})
    yield _bad("unknown-type", unknown, "a type that there is not", "UNKNOWN_TYPE")
    upper = msgspec.msgpack.encode({"type": "Session.Heartbeat", "epoch": 1, "peer_epoch": 1})
    yield _bad("type-in-capitals", upper, "types are in lower case", "UNKNOWN_TYPE")
    whole = msgspec.msgpack.encode({"type": "session.heartbeat", "epoch": 1, "peer_epoch": 1})
    pad = MAX_MESSAGE_BYTES + 1 - len(whole)
    yield {**_bad("oversize", whole, "one octet too long", "OVERSIZE"), "pad": pad}
