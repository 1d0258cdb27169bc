"""Hostile frames: mutations of recorded ones, by structure and by octet. Everything follows from a seed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, Final

import msgpack

from bellwire.protocols.limits import MAX_MESSAGE_BYTES
from bellwire.protocols.messages import MESSAGES

TAGS: Final = tuple(str(message.__struct_config__.tag) for message in MESSAGES)
HEADER: Final = ("type", "epoch", "peer_epoch", "request_id", "cause_id")
KEPT_FRAMES: Final = 512


def nested(depth: int) -> Any:
    """Arrays within arrays."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


EVIL: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64 - 1, -(2**63)),
    *(0.0, -0.0, 1e308, float("inf"), float("nan"), 5e-324),
    *(
        "",
        "a",
        "broker",
        "alice",
        "x" * 64,
        "x" * 65,
        "x" * 1_025,
        "\x00",
        "\u202e",
        "a b",
        "../../etc",
        "%s%n",
        "é" * 160,
    ),
    *(b"", b"\xff" * 40, [], [[]], [None] * 3, {}, {"type": "session.hello"}, {"": {}}, nested(40), nested(1_000)),
    *(["x"] * 2_000, "cz", "K", "psi+", "done", "PROTOCOL"),
)


def pack(content: Any) -> bytes:
    """MessagePack, of surrogates and deep nests too."""
    return bytes(msgpack.packb(content, unicode_errors="surrogatepass"))


class Mutator:
    """Makes hostile frames of real ones. It keeps the latest of those that it was shown."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self._kept: deque[bytes] = deque(maxlen=KEPT_FRAMES)
        self._ways: tuple[Callable[[bytes], bytes], ...] = (
            *(self._field,) * 6,
            *(self._own_field,) * 6,
            *(self._borrowed,) * 10,
            *(self._moved,) * 6,
            *(self._header, self._type, self._dropped, self._added, self._twice),
            *(self._flipped, self._cut, self._inserted, self._spliced, self._noise, self._same, self._lengthened),
        )

    def show(self, data: bytes) -> None:
        """Remember a real frame."""
        self._kept.append(data)

    def mutate(self, data: bytes) -> bytes:
        """A hostile frame made of a real one, by one to three mutations."""
        for _ in range(self.random.choice((1, 1, 1, 2, 3))):
            data = self.random.choice(self._ways)(data)
        return data

    def stamp(self, data: bytes, **numbers: int) -> bytes:
        """Give a frame these fields, as far as it is a map still."""
        try:
            content = msgpack.unpackb(data, strict_map_key=False, unicode_errors="surrogatepass")
            return pack({**content, **numbers}) if isinstance(content, dict) else data
        except (ValueError, TypeError, RecursionError, OverflowError):
            return data

    # By structure.

    def _change(self, data: bytes, change: Callable[[dict[Any, Any]], None]) -> bytes:
        if len(data) > MAX_MESSAGE_BYTES:
            return self._cut(data)
        try:
            content = msgpack.unpackb(data, strict_map_key=False, unicode_errors="surrogatepass")
        except (ValueError, TypeError, RecursionError):
            return self._flipped(data)
        if not isinstance(content, dict) or not content:
            return self._flipped(data)
        change(content)
        try:
            return pack(content)
        except (ValueError, OverflowError):
            return self._flipped(data)

    def _value(self, old: Any) -> Any:
        random = self.random
        if isinstance(old, int) and not isinstance(old, bool) and random.random() < 0.5:
            return max(-(2**63), min(2**64 - 1, old + random.choice((-1, 1, 2, 1_000, 10**9, -(10**9), 2**32))))
        if isinstance(old, list) and old and random.random() < 0.7:
            items = list(old)
            items[random.randrange(len(items))] = self._value(items[0])
            return items * random.choice((1, 1, 2, 1_100 if len(pack(items)) < 64 else 1))
        if isinstance(old, dict) and old and random.random() < 0.7:
            return {**old, random.choice(list(old)): random.choice(EVIL)}
        return random.choice(EVIL)

    def _field(self, data: bytes) -> bytes:
        def change(content: dict[Any, Any]) -> None:
            name = self.random.choice(list(content))
            content[name] = self._value(content[name])

        return self._change(data, change)

    def _own_field(self, data: bytes) -> bytes:
        """A field behind the header: the message gets as far as its handler more often."""

        def change(content: dict[Any, Any]) -> None:
            names = [name for name in content if name not in HEADER]
            if names:
                name = self.random.choice(names)
                content[name] = self._value(content[name])

        return self._change(data, change)

    def _borrowed(self, data: bytes) -> bytes:
        """A field as it is in another frame: of the right type, and out of place."""

        def change(content: dict[Any, Any]) -> None:
            try:
                other = msgpack.unpackb(self.random.choice(self._kept), unicode_errors="surrogatepass")
            except (IndexError, ValueError, TypeError):
                return
            shared = [name for name in other if name in content and name not in HEADER]
            for name in self.random.sample(shared, min(len(shared), self.random.choice((1, 1, 2)))):
                content[name] = other[name]

        return self._change(data, change)

    def _moved(self, data: bytes) -> bytes:
        """A request again, under a number that was not used."""

        def change(content: dict[Any, Any]) -> None:
            if isinstance(content.get("request_id"), int):
                content["request_id"] = self.random.randrange(1, 2**40)

        return self._change(data, change)

    def _header(self, data: bytes) -> bytes:
        def change(content: dict[Any, Any]) -> None:
            content[self.random.choice(HEADER)] = self.random.choice(EVIL)

        return self._change(data, change)

    def _type(self, data: bytes) -> bytes:
        return self._change(data, lambda content: content.update(type=self.random.choice(TAGS)))

    def _dropped(self, data: bytes) -> bytes:
        return self._change(data, lambda content: content.pop(self.random.choice(list(content))) and None)

    def _added(self, data: bytes) -> bytes:
        return self._change(data, lambda content: content.update({f"x{len(content)}": self.random.choice(EVIL)}))

    def _twice(self, data: bytes) -> bytes:
        """A map with the same key twice."""
        if not b"\x80" <= data[:1] < b"\x8f":
            return self._flipped(data)
        return bytes((data[0] + 1,)) + data[1:] + pack("type") + pack("session.hello")

    # By octet.

    def _flipped(self, data: bytes) -> bytes:
        if not data:
            return self._noise(data)
        changed = bytearray(data)
        for _ in range(self.random.choice((1, 1, 2, 8))):
            changed[self.random.randrange(len(changed))] ^= 1 << self.random.randrange(8)
        return bytes(changed)

    def _cut(self, data: bytes) -> bytes:
        return data[: self.random.randrange(len(data) + 1)]

    def _inserted(self, data: bytes) -> bytes:
        place = self.random.randrange(len(data) + 1)
        return data[:place] + self.random.randbytes(self.random.choice((1, 4, 64))) + data[place:]

    def _spliced(self, data: bytes) -> bytes:
        other = self.random.choice(self._kept) if self._kept else data
        return data[: self.random.randrange(len(data) + 1)] + other[self.random.randrange(len(other) + 1) :]

    def _noise(self, data: bytes) -> bytes:
        return self.random.randbytes(self.random.choice((0, 1, 2, 16, 300)))

    def _same(self, data: bytes) -> bytes:
        return data

    def _lengthened(self, data: bytes) -> bytes:
        long = self.random.random() < 0.05
        return data + bytes(MAX_MESSAGE_BYTES if long else self.random.randrange(8))
