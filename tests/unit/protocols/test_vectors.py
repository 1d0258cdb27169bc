"""The test vectors, the JSON Schemas and the AsyncAPI document say what the code does, and `msgpack` reads them alike."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import jsonschema
import msgpack
import msgspec
import pytest
from scripts import load_script

from bellwire.conformance import spec
from bellwire.protocols.codec import CODEC, Undecodable
from bellwire.protocols.messages import MESSAGES, Reply, Request
from bellwire.protocols.schemas import tag

ROOT = Path(__file__).parents[3]
SPEC = ROOT / "protocols" / "spec"
FAMILIES = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((SPEC / "vectors").glob("[a-z]*.json"))
}
META = FAMILIES.pop("vectors.schema")
VECTORS = [vector for family in FAMILIES.values() for vector in family["vectors"]]
KINDS = sorted({vector["id"].partition("/")[0] for vector in VECTORS})
SCHEMAS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (SPEC / "schemas").glob("*.json")}


def octets(vector: dict[str, Any]) -> bytes:
    return bytes.fromhex(vector["hex"]) + bytes(int(vector.get("pad", 0)))


def as_json(value: Any) -> Any:
    """What `msgpack` has read, as JSON writes it: octets in Base64."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, list):
        return [as_json(each) for each in value]
    return {name: as_json(each) for name, each in value.items()} if isinstance(value, dict) else value


def of_kind(kind: str, has: str) -> list[dict[str, Any]]:
    return [vector for vector in VECTORS if vector["id"].partition("/")[0] == kind and has in vector]


def test_everything_made_from_the_code_is_up_to_date() -> None:
    generate = load_script("../protocols/spec/generate.py")
    assert generate.main(["--check"]) == 0, "run python protocols/spec/generate.py"


def test_file_that_the_code_does_not_make_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate = load_script("../protocols/spec/generate.py")
    monkeypatch.setattr(generate, "HERE", tmp_path)
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "no.such.json").write_text("{}")
    monkeypatch.setattr(generate, "made", lambda: {tmp_path / "asyncapi.json": "{}\n"})
    assert generate.main(["--check"]) == 1
    assert generate.main([]) == 0
    assert sorted(path.name for path in tmp_path.rglob("*.json")) == ["asyncapi.json"]
    assert generate.main(["--check"]) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_keep_their_schema_and_each_has_an_id_of_its_own(family: str) -> None:
    jsonschema.validate(FAMILIES[family], META)
    ids = [vector["id"] for vector in FAMILIES[family]["vectors"]]
    assert len(ids) == len(set(ids))
    assert FAMILIES[family]["family"] == family


def test_every_message_has_vectors_that_mean_something_and_that_are_refused() -> None:
    for message in MESSAGES:
        own = [vector for vector in VECTORS if vector["id"].startswith(f"{tag(message)}/")]
        assert {"exact", "refuse"} <= {key for vector in own for key in vector}, tag(message)


@pytest.mark.parametrize("kind", KINDS)
def test_vector_with_a_meaning_is_read_so_by_both_codecs(kind: str) -> None:
    for vector in of_kind(kind, "message"):
        data, meant = octets(vector), vector["message"]
        message = CODEC.decode(data)
        assert json.loads(msgspec.json.encode(message)) == meant, vector["id"]
        plain = msgpack.unpackb(data, raw=False)
        read = as_json(plain)
        known = SCHEMAS[kind]["properties"]
        defaults = {name: each.get("default") for name, each in known.items()}
        assert defaults | {name: value for name, value in read.items() if name in known} == meant, vector["id"]
        if vector["exact"]:
            assert CODEC.encode(message) == data == msgpack.packb(plain), vector["id"]


@pytest.mark.parametrize("kind", KINDS)
def test_vector_that_has_to_be_refused_is_refused_with_its_code(kind: str) -> None:
    for vector in of_kind(kind, "refuse"):
        with pytest.raises(Undecodable) as refusal:
            CODEC.decode(octets(vector))
        assert refusal.value.code.value == vector["refuse"], vector["id"]


@pytest.mark.parametrize("kind", SCHEMAS)
def test_schema_takes_what_has_a_meaning_and_nothing_that_is_refused(kind: str) -> None:
    for vector in of_kind(kind, "id"):
        if vector["id"].endswith(("/trailing-octet", "/cut")):
            continue
        read = as_json(msgpack.unpackb(octets(vector), raw=False))
        beyond_json = vector.get("why", "").endswith(("NaN", "a line feed in a name", "octets"))
        beyond_json |= vector.get("why", "").endswith(("bytes in place of str", "str in place of bytes"))
        valid = jsonschema.Draft202012Validator(SCHEMAS[kind]).is_valid(read)
        assert valid == ("message" in vector) or beyond_json, vector["id"]


@pytest.mark.parametrize("message", MESSAGES, ids=tag)
def test_schema_of_a_message_says_what_it_is_and_what_every_field_means(message: type[Any]) -> None:
    schema = SCHEMAS[tag(message)]
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["x-nature"] == (
        "request" if issubclass(message, Request) else "reply" if issubclass(message, Reply) else "notice"
    )
    fields = {name: each for name, each in schema["properties"].items() if name != "type"}
    assert set(fields) == {field.encode_name for field in msgspec.structs.fields(message)}
    assert all(each.get("description") for each in fields.values())


def test_asyncapi_document_keeps_the_published_schema() -> None:
    document = json.loads((SPEC / "asyncapi.json").read_text(encoding="utf-8"))
    published = json.loads((Path(__file__).parent / "asyncapi" / "3.0.0.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft7Validator(published)
    validator.check_schema(published)
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)] == []
    document["operations"]["session.hello"]["action"] = "shout"
    assert not validator.is_valid(document)


def test_asyncapi_document_says_which_roles_send_and_take_every_message() -> None:
    document = json.loads((SPEC / "asyncapi.json").read_text(encoding="utf-8"))
    told = {
        name: (frozenset(message["x-sent-by"]), frozenset(message["x-taken-by"]))
        for name, message in document["components"]["messages"].items()
    }
    assert told == spec.access()


def test_asyncapi_document_has_every_message_and_refers_to_nothing_that_is_not() -> None:
    document = json.loads((SPEC / "asyncapi.json").read_text(encoding="utf-8"))
    assert document["asyncapi"] == "3.0.0"
    assert set(document["components"]["messages"]) == set(SCHEMAS) == {tag(message) for message in MESSAGES}
    requests = {tag(message) for message in MESSAGES if issubclass(message, Request)}
    assert {name for name, operation in document["operations"].items() if "reply" in operation} == requests

    def references(node: Any) -> list[str]:
        if isinstance(node, list):
            return [found for each in node for found in references(each)]
        if not isinstance(node, dict):
            return []
        return [node["$ref"]] if "$ref" in node else [found for each in node.values() for found in references(each)]

    for reference in references(document):
        if reference.startswith("#/"):
            here = document
            for part in reference[2:].split("/"):
                here = here[part]
        else:
            assert (SPEC / reference).is_file()
