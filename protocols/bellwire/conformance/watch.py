"""What holds for every message that a target sends: looked at all the time, and judged by cases of their own."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import jsonschema

from bellwire.conformance import spec
from bellwire.conformance.wire import Message, as_json, brief

FRAMES = "CORE-2.3-01"
MAP = "CORE-3.1-01"
KEYS = "CORE-3.1-13"
EVERY_FIELD = "CORE-3.1-02"
BOUNDS = "CORE-3.1-03"
TYPES = "CORE-3.5-09"
EPOCHS = "CORE-3.2-01"
NUMBERS = "SESS-4.4-01"
SAME_OCTETS = "SESS-4.4-02"
WINDOW_IDS = "CORE-3.3-01"
FENCES = "SESS-4.8-08"

_TYPE_AT = 7
"""Where the type of a fence begins."""


_TYPES = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
    "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
)
Validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=_TYPES)
"""JSON Schema, but for integers: 1.0 is none in MessagePack (spec 1 §3.1)."""


class Watch:
    """Keeps what was seen of a target, and which rules it broke: the case's id with what came."""

    def __init__(self) -> None:
        self.broken: dict[str, list[str]] = defaultdict(list)
        self.types: set[str] = set()
        self._validators: dict[str, Any] = {}
        self._requests: dict[tuple[int, int], tuple[str, bytes]] = {}
        self._windows: dict[str, bytes] = {}

    def note(self, rule: str, text: str) -> None:
        """A rule was broken."""
        self.broken[rule].append(text)

    def see(self, message: Message, data: bytes, receiver: str) -> None:
        """Look at one message of the target."""
        kind = message.get("type")
        schema = spec.schemas().get(kind) if isinstance(kind, str) else None
        if schema is None:
            self.note(TYPES, f"a message of type {kind!r}")
            return
        self.types.add(str(kind))
        missing = sorted(set(schema["properties"]) - set(message))
        if missing:
            self.note(EVERY_FIELD, f"{kind} without {', '.join(missing)}")
        validator = self._validators.get(str(kind))
        if validator is None:
            validator = self._validators[str(kind)] = Validator(schema)
        error = jsonschema.exceptions.best_match(validator.iter_errors(as_json(message)))
        if error is not None:
            self.note(BOUNDS, f"{kind}: {error.json_path}: {error.message[:200]}")
            return
        for name, field in schema["properties"].items():
            if ("contentEncoding" in field) is not isinstance(message.get(name), bytes):
                self.note(
                    BOUNDS, f"{kind}: {name}: {type(message.get(name)).__name__} where the other of str and bin belongs"
                )
                return
        if not message.get("epoch"):
            self.note(EPOCHS, f"epoch {message.get('epoch')!r} in {brief(message)}")
        if kind in ("session.fence", "session.fenced") and not data.startswith(str(kind).encode(), _TYPE_AT):
            self.note(FENCES, f"{kind} that begins with {data[:24].hex(' ')}")
        if schema["x-nature"] == "request":
            self._number(message, data, receiver)

    def _number(self, message: Message, data: bytes, receiver: str) -> None:
        """Numbers of requests are used once, and what is repeated is the same octet by octet."""
        kind, number = str(message["type"]), (int(message["epoch"]), int(message["request_id"]))
        if number[1] < 1:
            self.note(NUMBERS, f"{kind} with request_id {number[1]}")
        known = self._requests.setdefault(number, (f"{kind} to {receiver}", data))
        if known[0] != f"{kind} to {receiver}":
            self.note(NUMBERS, f"request_id {number[1]} for {known[0]} and for {kind} to {receiver}")
        elif known[1] != data:
            self.note(SAME_OCTETS, f"{kind} with request_id {number[1]} came in two forms: {brief(message)}")
        if kind == "herald.open":
            body = repr(sorted((k, v) for k, v in message.items() if k not in ("request_id", "peer_epoch"))).encode()
            if self._windows.setdefault(str(message["window_id"]), body) != body:
                self.note(WINDOW_IDS, f"{message['window_id']} names two windows")
