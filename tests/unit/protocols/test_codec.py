"""Bytes to messages and back, checked by an independent MessagePack (spec 1 §3.1)."""

from __future__ import annotations

from itertools import product
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import inspect

from bellwire.protocols.codec import Codec, Undecodable
from bellwire.protocols.errors import ErrorCode, LocalProtocolError
from bellwire.protocols.ids import NAME_PATTERN, OPERAND_PATTERN, Epoch, NodeId, QubitName
from bellwire.protocols.limits import INT64_MAX, MAX_MESSAGE_BYTES
from bellwire.protocols.messages import (
    MESSAGES,
    SESSION_MESSAGES,
    LinkCreate,
    Message,
    ProgramResult,
    SessionGoodbye,
    SessionHeartbeat,
)
from bellwire.sim.messages import WORLD_CODEC, WORLD_MESSAGES

CODEC = Codec()
WIRES = [
    pytest.param(CODEC, MESSAGES, id="protocol"),
    pytest.param(WORLD_CODEC, WORLD_MESSAGES, id="world"),
]
KINDS = [
    pytest.param(wire.values[0], kind, id=f"{wire.id}-{kind.__struct_config__.tag}")
    for wire in WIRES
    for kind in wire.values[1]  # type: ignore[union-attr]
    if wire.id == "protocol" or kind not in SESSION_MESSAGES
]
every_wire = pytest.mark.parametrize(("codec", "messages"), WIRES)
every_kind = pytest.mark.parametrize(("codec", "kind"), KINDS)
NAMES = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}\Z")
OPERANDS = st.from_regex(r"\A[^\s:]{1,40}\Z")


def values(kind: inspect.Type) -> st.SearchStrategy[Any]:
    """Everything that a field may hold, by its type and bounds."""
    if isinstance(kind, inspect.IntType):
        return st.integers(kind.ge, kind.le)
    if isinstance(kind, inspect.FloatType):
        return st.floats(kind.ge, kind.le, allow_nan=False, allow_infinity=False)
    if isinstance(kind, inspect.StrType):
        text = st.text(st.characters(exclude_categories=["Cs"]), min_size=kind.min_length or 0, max_size=40)
        return {None: text, NAME_PATTERN: NAMES, OPERAND_PATTERN: OPERANDS}[kind.pattern]
    if isinstance(kind, inspect.BytesType):
        return st.binary(max_size=kind.max_length)
    if isinstance(kind, inspect.EnumType):
        return st.sampled_from(list(kind.cls))
    if isinstance(kind, inspect.BoolType):
        return st.booleans()
    if isinstance(kind, inspect.VarTupleType):
        items = st.lists(values(kind.item_type), min_size=kind.min_length or 0, max_size=min(kind.max_length or 4, 4))
        return items.map(tuple)
    if isinstance(kind, inspect.TupleType):
        return st.tuples(*map(values, kind.item_types))
    if isinstance(kind, inspect.UnionType):
        return st.one_of(*map(values, kind.types))
    if isinstance(kind, inspect.StructType):
        return structs(kind.cls)
    assert isinstance(kind, inspect.NoneType)
    return st.none()


def structs(struct: type[Any]) -> st.SearchStrategy[Any]:
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    return st.builds(struct, **{field.name: values(field.type) for field in info.fields})


def any_message(messages: tuple[type[Message], ...]) -> st.SearchStrategy[Message]:
    return st.sampled_from(messages).flatmap(structs)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def assert_read_or_undecodable(codec: Codec, data: bytes) -> None:
    refused: list[Undecodable] = []
    try:
        codec.decode(data)
    except Undecodable as error:
        refused.append(error)
    for refusal in refused:
        assert refusal.code in (ErrorCode.MALFORMED, ErrorCode.UNKNOWN_TYPE)
        assert all(0 <= number <= INT64_MAX for number in msgspec.structs.astuple(refusal.header)[1:])


@every_kind
@settings(max_examples=40)
@given(data=st.data())
def test_message_of_any_content_is_one_map_that_others_read_and_write(
    codec: Codec, kind: type[Message], data: st.DataObject
) -> None:
    message = data.draw(structs(kind))
    plain_map = msgpack.unpackb(codec.encode(message))
    as_json = [msgspec.json.decode(msgspec.json.encode(each)) for each in (plain_map, message)]
    assert as_json[0] == as_json[1]
    assert set(plain_map) == {"type", *kind.__struct_fields__}
    assert codec.decode(msgpack.packb(plain_map)) == message
    reordered = dict(reversed(plain_map.items()))
    assert codec.decode(msgpack.packb(reordered)) == message


@every_wire
@given(data=st.data(), extra=st.dictionaries(st.text(min_size=1, max_size=12).map("x-{}".format), plain, max_size=5))
def test_message_with_unknown_fields_is_read_without_them(
    codec: Codec, messages: tuple[type[Message], ...], data: st.DataObject, extra: dict[str, Any]
) -> None:
    message = data.draw(any_message(messages))
    assert codec.decode(msgpack.packb({**extra, **msgpack.unpackb(codec.encode(message))})) == message


def test_message_without_its_optional_fields_has_their_defaults() -> None:
    message = CODEC.decode(msgpack.packb({"type": "link.create", "peer": "bob", "max_time_ns": 5}))
    assert message == LinkCreate(peer=NodeId("bob"), max_time_ns=5)


@every_wire
@given(name=st.text(max_size=200), number=st.integers(0, INT64_MAX), epoch=st.integers(0, INT64_MAX))
def test_message_of_an_unknown_type_is_refused_with_what_all_messages_have(
    codec: Codec, messages: object, name: str, number: int, epoch: int
) -> None:
    data = msgpack.packb({"type": f"x.{name}", "request_id": number, "epoch": epoch, "peer_epoch": 3})
    with pytest.raises(Undecodable) as caught:
        codec.decode(data)
    assert caught.value.code is ErrorCode.UNKNOWN_TYPE
    assert caught.value.rule == "1 §3.5"
    header = caught.value.header
    assert (header.request_id, header.epoch, header.peer_epoch) == (number, epoch, 3)


def test_message_too_long_is_refused_on_the_way_in_and_never_sent() -> None:
    data = CODEC.encode(SessionHeartbeat()) + b"\x00" * MAX_MESSAGE_BYTES
    with pytest.raises(Undecodable) as caught:
        CODEC.decode(data)
    assert caught.value.code is ErrorCode.OVERSIZE
    with pytest.raises(LocalProtocolError, match=r"1 §3\.4"):
        CODEC.encode(ProgramResult(bits=(0,), qubits=tuple(QubitName("q" * 64) for _ in range(1_100))))


def test_message_of_the_greatest_length_is_read() -> None:
    short = msgpack.packb({"type": "session.heartbeat", "padding": ""})
    data = msgpack.packb({"type": "session.heartbeat", "padding": "x" * (MAX_MESSAGE_BYTES - len(short) - 2)})
    assert len(data) == MAX_MESSAGE_BYTES
    assert CODEC.decode(data) == SessionHeartbeat()
    with pytest.raises(Undecodable):
        CODEC.decode(data + b"x")


@every_wire
@given(data=st.binary(max_size=300))
@example(data=b"")
@example(data=b"\x91" * 60_000)
@example(data=b"\xc1")
@example(data=b"\x81\xa4type\xa2\xff\xfe")
@example(data=b"\x81\xa2\xff\xfe\x01")
@example(data=b"\x81\xc0\x01")
@example(data=b"\xdf\xff\xff\xff\xff")
def test_junk_raises_nothing_but_undecodable(codec: Codec, messages: object, data: bytes) -> None:
    with pytest.raises(Undecodable):
        codec.decode(data)


@every_wire
@given(value=plain)
def test_any_other_messagepack_raises_nothing_but_undecodable(codec: Codec, messages: object, value: Any) -> None:
    with pytest.raises(Undecodable) as caught:
        codec.decode(msgpack.packb(value))
    assert caught.value.code in (ErrorCode.MALFORMED, ErrorCode.UNKNOWN_TYPE)


@every_kind
@settings(max_examples=30)
@given(data=st.data())
def test_message_with_any_field_replaced_is_read_or_undecodable(
    codec: Codec, kind: type[Message], data: st.DataObject
) -> None:
    plain_map = msgpack.unpackb(codec.encode(data.draw(structs(kind))))
    name = data.draw(st.sampled_from(sorted(plain_map)))
    plain_map[name] = data.draw(plain)
    assert_read_or_undecodable(codec, msgpack.packb(plain_map))


@every_kind
@settings(max_examples=20)
@given(data=st.data())
def test_message_cut_short_or_bent_is_read_or_undecodable(
    codec: Codec, kind: type[Message], data: st.DataObject
) -> None:
    encoded = bytearray(codec.encode(data.draw(structs(kind))))
    for length in range(len(encoded)):
        with pytest.raises(Undecodable):
            codec.decode(bytes(encoded[:length]))
    for place, change in data.draw(
        st.lists(st.tuples(st.integers(0, len(encoded) - 1), st.integers(1, 255)), min_size=1)
    ):
        encoded[place] ^= change
        assert_read_or_undecodable(codec, bytes(encoded))


def wrong(kind: inspect.Type) -> list[Any]:
    """What a field cannot hold, by its type: something of every other type, and a thing that no field is."""
    if isinstance(kind, inspect.UnionType):
        allowed = [wrong(option) for option in kind.types]
        return [value for value in allowed[0] if all(value in other for other in allowed[1:])]
    octets, fields_unknown = b"1", {"no": "field"}
    every = [None, True, 1, 1.5, "no such thing:", octets, [1.5], [[fields_unknown]], fields_unknown]
    fits: dict[type, tuple[Any, ...]] = {
        inspect.IntType: (1,),
        inspect.FloatType: (1, 1.5),
        inspect.StrType: () if getattr(kind, "pattern", None) else ("no such thing:",),
        inspect.BytesType: (octets,),
        inspect.BoolType: (True,),
        inspect.NoneType: (None,),
        inspect.StructType: (fields_unknown,),
    }
    kept = fits.get(type(kind), ())
    return [value for value in every if not any(value is fit for fit in kept)]


@every_kind
@settings(max_examples=5)
@given(data=st.data())
def test_message_with_any_field_of_a_wrong_type_is_refused_by_name(
    codec: Codec, kind: type[Message], data: st.DataObject
) -> None:
    plain_map = msgpack.unpackb(codec.encode(data.draw(structs(kind))))
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    for field in info.fields:
        for value in wrong(field.type):
            with pytest.raises(Undecodable) as caught:
                codec.decode(msgpack.packb({**plain_map, field.name: value}))
            assert caught.value.code is ErrorCode.MALFORMED
            assert f"$.{field.name}" in caught.value.text


DEEP = [b"\x91" * 50_000, b"\x81\xa1a" * 15_000 + b"\xc0"]
ENDLESS = [
    *(kind + b"\xff\xff\xff\xff" for kind in (b"\xc6", b"\xdb", b"\xdd", b"\xdf", b"\xc9")),
    *(kind + b"\xff\xff" for kind in (b"\xc5", b"\xda", b"\xdc", b"\xde", b"\xc8")),
    b"\xdd\xff\xff\xff\xff\x01\x02\x03",
    b"\xdf\xff\xff\xff\xff\xa1a\x01",
]


@every_kind
def test_message_with_a_field_that_is_too_deep_or_promises_too_much_is_undecodable(
    codec: Codec, kind: type[Message]
) -> None:
    tag = msgpack.packb({"type": kind.__struct_config__.tag})[1:]
    for value, name in product([*DEEP, *ENDLESS], [*kind.__struct_fields__, "a field that nobody knows"]):
        field = msgpack.packb(name) + value
        for content in (tag + field, field + tag):
            with pytest.raises(Undecodable):
                codec.decode(b"\x82" + content)


@pytest.mark.parametrize("name", ["b\n", "bob\n", "", "-b", ".b", "b/c", "b b", "ü", "x" * 65])
def test_name_outside_its_alphabet_is_refused(name: str) -> None:
    with pytest.raises(Undecodable) as caught:
        CODEC.decode(msgpack.packb({"type": "link.create", "peer": name, "max_time_ns": 5}))
    assert "peer" in caught.value.text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epoch", -1),
        ("epoch", 2**63),
        ("epoch", 1.0),
        ("epoch", True),
        ("request_id", "1"),
        ("number", 0),
        ("number", 1_000_001),
        ("min_fidelity", 1.0000001),
        ("min_fidelity", float("nan")),
        ("max_time_ns", 0),
        ("priority", 8),
        ("request_type", "X"),
        ("cause_id", "x" * 161),
    ],
)
def test_field_out_of_type_or_bounds_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(Undecodable) as caught:
        CODEC.decode(msgpack.packb({"type": "link.create", "peer": "bob", "max_time_ns": 5, field: value}))
    assert caught.value.code is ErrorCode.MALFORMED


def test_codec_with_fewer_messages_does_not_know_the_others() -> None:
    with pytest.raises(Undecodable) as caught:
        Codec((SessionHeartbeat,)).decode(CODEC.encode(SessionGoodbye(epoch=Epoch(4))))
    assert caught.value.code is ErrorCode.UNKNOWN_TYPE
    assert caught.value.header.epoch == 4
