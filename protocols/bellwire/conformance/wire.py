"""Messages as plain maps, and their bytes: MessagePack by the package `msgpack`, which the implementation does not use."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any, cast

import msgpack

Message = dict[str, Any]


class NoMessage(ValueError):
    """Bytes that are no message (spec 1 §3.1)."""


class KeyTwice(NoMessage):
    """A map in which a key occurs twice."""


@dataclass(kw_only=True)
class Arrow:
    """One transmission as it was seen: who sent what to whom, and when, in seconds since the case began."""

    at_s: float
    sender: str
    receiver: str
    message: Message = field(default_factory=dict)
    note: str = ""
    """What is to be said of it: what was expected, or that it was no message; from the target to itself, the verdict."""
    direct: bool = False
    """Whether it took a direct connection, and not the way by the broker."""

    @property
    def label(self) -> str:
        """The message's type, or what stands for it."""
        return str(self.message.get("type", "")) or self.note or "?"


def encode(message: Message) -> bytes:
    """The bytes of a message."""
    return cast(bytes, msgpack.packb(message, use_bin_type=True))


def decode(data: bytes) -> Message:
    """The message in some bytes.

    Raises:
        NoMessage: when they are no single map with string keys, or a key occurs twice.
    """

    def pairs(items: list[tuple[Any, Any]]) -> Message:
        keys = [key for key, _ in items]
        if not all(isinstance(key, str) for key in keys):
            raise NoMessage("a key is no string")
        if len(set(keys)) != len(keys):
            raise KeyTwice("a key occurs twice")
        return dict(items)

    try:
        content = msgpack.unpackb(data, raw=False, object_pairs_hook=pairs, strict_map_key=False)
    except NoMessage:
        raise
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise NoMessage(f"no MessagePack: {error}") from None
    if not isinstance(content, dict):
        raise NoMessage(f"a {type(content).__name__}, expected a map")
    return content


def as_json(value: Any) -> Any:
    """A message as JSON has it: octets in Base64."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return {name: as_json(each) for name, each in value.items()} if isinstance(value, dict) else value


def brief(message: Message, most: int = 200) -> str:
    """A message in one line for people: its own fields, without those that all have."""
    own = {name: value for name, value in message.items() if name not in ("type", "cause_id", "epoch", "peer_epoch")}
    text = f"{message.get('type', '?')} " + ", ".join(f"{name}={value!r}" for name, value in own.items())
    return text if len(text) <= most else text[: most - 1] + "…"
