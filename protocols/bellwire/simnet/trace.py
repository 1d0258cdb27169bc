"""What happened in virtual time, one event a line: the same bytes for the same seed, wherever it runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import msgspec

from bellwire.simnet.fabric import Frame

Value = str | int | bool | None | list[Any] | tuple[Any, ...] | dict[str, Any]

ID_FIELDS: Final = ("request_id", "create_id", "window_id", "pair_id", "gate_id", "attempt", "code", "status", "bits")
"""What of a message tells which one it is."""


class Trace:
    """Writes events as lines of JSON. Every event has `at_ns` of true time, `kind`, `actor` and `cause_id`, in that order.

    Only integers and text go in, so that no line depends on how a Python writes its floats or orders its sets.
    """

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self.events = 0

    def event(self, at_ns: int, kind: str, actor: str, cause_id: str = "", **fields: Value) -> None:
        """Write one event."""
        self.events += 1
        content = {"at_ns": at_ns, "kind": kind, "actor": actor, "cause_id": cause_id, **fields}
        self._write(json.dumps(content, separators=(",", ":"), ensure_ascii=False) + "\n")

    def frame(self, at_ns: int, kind: str, actor: str, frame: Frame, **fields: Value) -> None:
        """Write what happened to a frame: its two participants, its type and its ids."""
        try:
            content = msgspec.msgpack.decode(frame.data)
        except msgspec.DecodeError:
            content = {}
        known = content if isinstance(content, dict) else {}
        ids = {name: known[name] for name in ID_FIELDS if name in known}
        self.event(
            at_ns,
            kind,
            actor,
            str(known.get("cause_id", "")),
            **{"from": frame.sender, "to": frame.receiver, "type": str(known.get("type", "?"))},
            **ids,
            **fields,
        )
