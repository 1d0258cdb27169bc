"""The side path of an exchange: datagrams, each with a proof of who sent it and of its place in the order (spec 4 §3.5)."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct, error
from typing import Final

from bellwire.protocols.codec import Codec, Undecodable
from bellwire.protocols.departures import Departure
from bellwire.protocols.limits import PATH_KEY_BYTES
from bellwire.protocols.messages import Message, TimeDelayReq, TimeDelayResp, TimeFollowUp, TimeSync

VERSION: Final = 1
TAG_BYTES: Final = 16

_HEAD: Final = Struct(">BBQQ")
_CODEC: Final = Codec((TimeSync, TimeDelayReq, TimeFollowUp, TimeDelayResp))


class Direction(IntEnum):
    """Who sends: a datagram that is sent back to its sender is not the other one's."""

    TO_SOURCE = 0
    TO_NODE = 1


@dataclass(frozen=True, slots=True)
class Datagram:
    """A datagram to be sent to `address`, which only the transport understands, and the departure to be noted."""

    address: object
    data: bytes
    departure: Departure


def path_id_of(data: bytes) -> int | None:
    """The path that a datagram claims to belong to; `None` when it is none of these."""
    try:
        return int(_HEAD.unpack_from(data)[2])
    except error:
        return None


class SidePath:
    """One end of the side path of one lease.

    Head: version, direction, path id, counter; then the message as in chapter 1, or nothing; then the first 16 octets of
    HMAC-SHA-256 over all of that.
    """

    def __init__(self, path_id: int, key: bytes, sending: Direction) -> None:
        if len(key) != PATH_KEY_BYTES:
            raise ValueError(f"a path's key has {PATH_KEY_BYTES} octets")
        self.path_id = path_id
        self._key = key
        self._sending = sending
        self._sent = 0
        self._taken = 0

    def seal(self, message: Message | None) -> bytes:
        """Make the next datagram; one without a message says that its sender can be reached where it came from."""
        self._sent += 1
        data = _HEAD.pack(VERSION, self._sending, self.path_id, self._sent)
        if message is not None:
            data += _CODEC.encode(message)
        return data + self._tag(data)

    def open(self, data: bytes) -> tuple[bool, Message | None]:
        """Whether a datagram is the other end's and newer than all that were taken, and the message in it, if any."""
        body, tag = data[:-TAG_BYTES], data[-TAG_BYTES:]
        if len(body) < _HEAD.size or not hmac.compare_digest(self._tag(body), tag):
            return False, None
        version, direction, path_id, counter = _HEAD.unpack_from(body)
        ours = version == VERSION and direction != self._sending and path_id == self.path_id
        if not ours or counter <= self._taken:
            return False, None
        self._taken = counter
        if len(body) == _HEAD.size:
            return True, None
        try:
            return True, _CODEC.decode(body[_HEAD.size :])
        except Undecodable:
            return False, None

    def _tag(self, data: bytes) -> bytes:
        return hmac.digest(self._key, data, "sha256")[:TAG_BYTES]
