"""Bytes to messages and back: one MessagePack map with a type tag (spec 1 §3.1).

Sizes are bounded before anything is parsed; fields that are not known are ignored; a wrong type, a missing field or a value
out of bounds is refused with what was expected.
"""

from __future__ import annotations

from typing import Any, Final, Union

import msgspec

from bellwire.protocols.access import ACCESS, AccessTable
from bellwire.protocols.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from bellwire.protocols.ids import Epoch
from bellwire.protocols.limits import INT64_MAX, MAX_MESSAGE_BYTES, MAX_TEXT_CHARS
from bellwire.protocols.messages import MESSAGES, Message, Reply


class Header(msgspec.Struct, frozen=True):
    """The fields that even a message of an unknown type has, as far as they could be read.

    `request_id` is 0 for a reply: it is a number of the receiver's, and a refusal that bore it would answer another request.
    """

    type: str = ""
    epoch: Epoch = Epoch(0)
    peer_epoch: Epoch = Epoch(0)
    request_id: int = 0


class Undecodable(RemoteProtocolError):
    """A message frame that is no message. `header` is what could be read of it."""

    def __init__(self, text: str, rule: str, code: ErrorCode, header: Header) -> None:
        super().__init__(text[:MAX_TEXT_CHARS], rule, code)
        self.header = header


class Codec:
    """Encodes and decodes a fixed set of message types. `access` says who may send them."""

    def __init__(self, messages: tuple[type[Message], ...] = MESSAGES, access: AccessTable = ACCESS) -> None:
        self.access = access
        self._types = {str(message.__struct_config__.tag): issubclass(message, Reply) for message in messages}
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Union[messages])  # noqa: UP007
        self._header = msgspec.msgpack.Decoder(Header)

    def encode(self, message: Message) -> bytes:
        """Encode a message.

        Raises:
            LocalProtocolError: when it is longer than `MAX_MESSAGE_BYTES`.
        """
        data = self._encoder.encode(message)
        if len(data) > MAX_MESSAGE_BYTES:
            raise LocalProtocolError(
                f"a message of {len(data)} bytes, at most {MAX_MESSAGE_BYTES} are allowed", "1 §3.4"
            )
        return data

    def decode(self, data: bytes) -> Message:
        """Decode one message frame.

        Raises:
            Undecodable: when it is too long, no MessagePack map, of unknown type, or has a field of wrong type or value.
        """
        if len(data) > MAX_MESSAGE_BYTES:
            text = f"a message of {len(data)} bytes, at most {MAX_MESSAGE_BYTES} are allowed"
            raise Undecodable(text, "1 §3.4", ErrorCode.OVERSIZE, Header())
        try:
            message: Message = self._decoder.decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, OverflowError) as error:
            raise self._explain(data, error) from None
        return message

    def _explain(self, data: bytes, error: Exception) -> Undecodable:
        try:
            header = self._header.decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, OverflowError):
            return Undecodable(f"no message: {error}", "1 §3.1", ErrorCode.MALFORMED, Header())
        if not all(0 <= number <= INT64_MAX for number in (header.epoch, header.peer_epoch, header.request_id)):
            header = Header(type=header.type)
        if header.type not in self._types:
            text = f"unknown message type {header.type[:64]!r}"
            return Undecodable(text, "1 §3.5", ErrorCode.UNKNOWN_TYPE, header)
        if self._types[header.type]:
            header = msgspec.structs.replace(header, request_id=0)
        return Undecodable(f"{header.type}: {error}", "1 §3.1", ErrorCode.MALFORMED, header)


CODEC: Final = Codec()
"""The codec of the signaling protocol. It keeps nothing between two messages, so that one serves every endpoint."""
