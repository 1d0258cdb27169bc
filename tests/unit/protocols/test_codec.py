"""Bytes to messages and back, checked by an independent MessagePack (spec 1 §3.1)."""

from __future__ import annotations

from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import inspect

from bellwire.protocols.codec import Codec, Undecodable
from bellwire.protocols.errors import ErrorCode, LocalProtocolError
from bellwire.protocols.ids import Epoch, NodeId, QubitName
from bellwire.protocols.limits import INT64_MAX, MAX_MESSAGE_BYTES
from bellwire.protocols.messages import MESSAGES, LinkCreate, Message, ProgramResult, SessionGoodbye, SessionHeartbeat

CODEC = Codec()
NAMES = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}\Z")


def values(kind: inspect.Type) -> st.SearchStrategy[Any]:
    """Everything that a field may hold, by its type and bounds."""
    if isinstance(kind, inspect.IntType):
        return st.integers(kind.ge, kind.le)
    if isinstance(kind, inspect.FloatType):
        return st.floats(kind.ge, kind.le, allow_nan=False)
    if isinstance(kind, inspect.StrType):
        text = st.text(st.characters(exclude_categories=["Cs"]), min_size=kind.min_length or 0, max_size=40)
        return NAMES if kind.pattern else text
    if isinstance(kind, inspect.BytesType):
        return st.binary(max_size=kind.max_length)
    if isinstance(kind, inspect.EnumType):
        return st.sampled_from(list(kind.cls))
    if isinstance(kind, inspect.BoolType):
        return st.booleans()
    if isinstance(kind, inspect.VarTupleType):
        items = st.lists(values(kind.item_type), min_size=kind.min_length or 0, max_size=min(kind.max_length or 4, 4))
        return items.map(tuple)
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


any_message = st.sampled_from(MESSAGES).flatmap(structs)
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


def assert_read_or_undecodable(data: bytes) -> None:
    refused: list[Undecodable] = []
    try:
        CODEC.decode(data)
    except Undecodable as error:
        refused.append(error)
    for refusal in refused:
        assert refusal.code in (ErrorCode.MALFORMED, ErrorCode.UNKNOWN_TYPE)
        assert all(0 <= number <= INT64_MAX for number in msgspec.structs.astuple(refusal.header)[1:])


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: str(kind.__struct_config__.tag))
@settings(max_examples=40)
@given(data=st.data())
def test_message_of_any_content_is_one_map_that_others_read_and_write(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(structs(kind))
    plain_map = msgpack.unpackb(CODEC.encode(message))
    as_json = [msgspec.json.decode(msgspec.json.encode(each)) for each in (plain_map, message)]
    assert as_json[0] == as_json[1]
    assert set(plain_map) == {"type", *kind.__struct_fields__}
    assert CODEC.decode(msgpack.packb(plain_map)) == message
    reordered = dict(reversed(plain_map.items()))
    assert CODEC.decode(msgpack.packb(reordered)) == message


@given(any_message, st.dictionaries(st.text(min_size=1, max_size=12).map("x-{}".format), plain, max_size=5))
def test_message_with_unknown_fields_is_read_without_them(message: Message, extra: dict[str, Any]) -> None:
    data = msgpack.packb({**extra, **msgpack.unpackb(CODEC.encode(message))})
    assert CODEC.decode(data) == message


def test_message_without_its_optional_fields_has_their_defaults() -> None:
    message = CODEC.decode(msgpack.packb({"type": "link.create", "peer": "bob", "max_time_ns": 5}))
    assert message == LinkCreate(peer=NodeId("bob"), max_time_ns=5)


@given(st.text(max_size=200), st.integers(0, INT64_MAX), st.integers(0, INT64_MAX))
def test_message_of_an_unknown_type_is_refused_with_what_all_messages_have(name: str, request: int, epoch: int) -> None:
    data = msgpack.packb({"type": f"x.{name}", "request_id": request, "epoch": epoch, "peer_epoch": 3})
    with pytest.raises(Undecodable) as caught:
        CODEC.decode(data)
    assert caught.value.code is ErrorCode.UNKNOWN_TYPE
    assert caught.value.rule == "1 §3.5"
    header = caught.value.header
    assert (header.request_id, header.epoch, header.peer_epoch) == (request, epoch, 3)


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


@given(st.binary(max_size=300))
@example(b"")
@example(b"\x91" * 60_000)
@example(b"\xc1")
@example(b"\x81\xa4type\xa2\xff\xfe")
@example(b"\xdf\xff\xff\xff\xff")
def test_junk_raises_nothing_but_undecodable(data: bytes) -> None:
    with pytest.raises(Undecodable):
        CODEC.decode(data)


@given(plain)
def test_any_other_messagepack_raises_nothing_but_undecodable(value: Any) -> None:
    with pytest.raises(Undecodable) as caught:
        CODEC.decode(msgpack.packb(value))
    assert caught.value.code in (ErrorCode.MALFORMED, ErrorCode.UNKNOWN_TYPE)


@given(any_message, st.data())
def test_message_with_any_field_replaced_is_read_or_undecodable(message: Message, data: st.DataObject) -> None:
    plain_map = msgpack.unpackb(CODEC.encode(message))
    name = data.draw(st.sampled_from(sorted(plain_map)))
    plain_map[name] = data.draw(plain)
    assert_read_or_undecodable(msgpack.packb(plain_map))


@given(any_message, st.data())
def test_message_cut_short_or_bent_is_read_or_undecodable(message: Message, data: st.DataObject) -> None:
    encoded = bytearray(CODEC.encode(message))
    place = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(Undecodable):
        CODEC.decode(bytes(encoded[:place]))
    encoded[place] ^= data.draw(st.integers(1, 255))
    assert_read_or_undecodable(bytes(encoded))


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
