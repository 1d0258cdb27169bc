"""JSON Schemas of every message, and the AsyncAPI document of the protocol, made from the code. Pure functions.

A schema says what a receiver accepts: fields that it does not know are allowed, fields with a default may be missing. A
sender writes every field (spec 1 §3.1).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from bellwire.protocols.access import ACCESS
from bellwire.protocols.describe import meanings
from bellwire.protocols.messages import MESSAGES, Message, Reply, Request, SessionError
from bellwire.protocols.version import PROTOCOL_VERSION

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_BLOCK: Final = re.compile(r"^### [\d.]+ (\S+)\n\n(.+?)\n\n<!-- fields \1 -->\n(.*?)<!-- /fields -->", re.M | re.S)
_COMMON: Final = re.compile(r"<!-- fields common -->\n(.*?)<!-- /fields -->", re.S)


def tag(message: type[Message]) -> str:
    """A message's type on the wire."""
    return str(message.__struct_config__.tag)


def message_schema(message: type[Message], said: str, fields: Mapping[str, str]) -> dict[str, Any]:
    """The JSON Schema of a message. `said` is what it means, `fields` what its fields mean."""
    (_,), components = msgspec.json.schema_components([message], ref_template="#/$defs/{name}")
    own = components.pop(message.__name__)
    schema: dict[str, Any] = {"$schema": DIALECT, "$id": f"{tag(message)}.json", "title": tag(message)}
    schema |= {"description": said, "x-nature": _nature(message)}
    if issubclass(message, Request):
        schema["x-answered-by"] = [tag(answer) for answer in message.answered_by]
    properties = {name: {**_tidy(each)} for name, each in own["properties"].items()}
    for name, meaning in fields.items():
        if name in properties:
            properties[name]["description"] = _plain(meaning)
    schema |= {"type": "object", "properties": properties, "required": own["required"]}
    if components:
        schema["$defs"] = {name: _tidy(each) for name, each in components.items()}
    return schema


def _nature(message: type[Message]) -> str:
    return "request" if issubclass(message, Request) else "reply" if issubclass(message, Reply) else "notice"


def _plain(text: str) -> str:
    return re.sub(r"`|\*\*|\\(?=\|)", "", text)


def _tidy(node: Any) -> Any:
    """Leave out what is said elsewhere (Python's names and docstrings), and write patterns as ECMA 262 does."""
    if isinstance(node, list):
        return [_tidy(each) for each in node]
    if not isinstance(node, dict):
        return node
    kept = {name: value for name, value in node.items() if name not in ("title", "description")}
    tidied = {
        name: {key: _tidy(each) for key, each in value.items()} if name == "properties" else _tidy(value)
        for name, value in kept.items()
    }
    pattern = tidied.get("pattern")
    if isinstance(pattern, str):
        tidied["pattern"] = pattern.replace(r"\Z", "$").replace(r"\-", "-")
    return tidied


def all_schemas(chapters: str) -> dict[str, dict[str, Any]]:
    """The JSON Schema of every message by its type, with the meanings that stand in the text of all chapters.

    Raises:
        KeyError: when a message has no block of its own in the text.
    """
    said = {match[1]: (" ".join(match[2].split()), meanings(match[3])) for match in _BLOCK.finditer(chapters)}
    common = _COMMON.search(chapters)
    shared = meanings(common[1]) if common is not None else {}
    return {
        tag(message): message_schema(message, _plain(said[tag(message)][0]), shared | said[tag(message)][1])
        for message in MESSAGES
    }


def asyncapi(chapters: str) -> dict[str, Any]:
    """The AsyncAPI 3 document: one channel, the connection between two participants, and who may send what on it."""
    schemas = all_schemas(chapters)
    messages = {
        name: {
            "name": name,
            "summary": schema["description"],
            "contentType": "application/msgpack",
            "payload": {"$ref": f"schemas/{name}.json"},
            "x-sent-by": sorted(ACCESS[message].senders),
            "x-taken-by": sorted(ACCESS[message].receivers),
        }
        for message, (name, schema) in zip(MESSAGES, schemas.items(), strict=True)
    }
    operations: dict[str, Any] = {}
    for message in MESSAGES:
        name = tag(message)
        operation: dict[str, Any] = {
            "action": "send",
            "channel": {"$ref": "#/channels/connection"},
            "messages": [_on_channel(name)],
        }
        if issubclass(message, Reply):
            continue
        if issubclass(message, Request):
            answers = [*map(tag, message.answered_by), tag(SessionError)]
            channel = {"$ref": "#/channels/connection"}
            operation["reply"] = {"channel": channel, "messages": [_on_channel(answer) for answer in answers]}
        operations[name] = operation
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Bellwire",
            "version": str(PROTOCOL_VERSION),
            "description": "The signaling protocol of quantum nodes. The chapters beside this file are normative.",
        },
        "defaultContentType": "application/msgpack",
        "channels": {
            "connection": {
                "description": "Two ZeroMQ frames per transmission, [peer][message], with CURVE (1 §2.3).",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
            }
        },
        "operations": operations,
        "components": {"messages": messages},
    }


def _on_channel(name: str) -> dict[str, str]:
    return {"$ref": f"#/channels/connection/messages/{name}"}
