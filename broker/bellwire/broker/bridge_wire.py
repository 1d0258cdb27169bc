"""What brokers send each other: an envelope that everybody on the way can read, and a sealed body that nobody there can.

A body is sealed between the key pairs of two sites (X25519, then XChaCha20-Poly1305), with the envelope's header as what is
authenticated with it. The keys are those of CURVE. Formats are in spec 1 §2.8.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta
from nacl.exceptions import CryptoError
from nacl.public import Box, PrivateKey
from nacl.public import PublicKey as SealKey
from nacl.secret import Aead

from bellwire.protocols.errors import ErrorCode, TransportError
from bellwire.protocols.ids import NAME_PATTERN
from bellwire.protocols.limits import (
    MAX_ENDPOINT_CHARS,
    MAX_ENDPOINTS,
    MAX_MESSAGE_BYTES,
    MAX_NODE_ID_CHARS,
    PUBLIC_KEY_BYTES,
)
from bellwire.protocols.messages import Role

FORMAT: Final = 1
"""Version of this format. An envelope of another one is dropped."""

TOKEN_BYTES: Final = 16
"""What names one run of a broker: drawn at random when it starts."""

MAX_ENVELOPE_BYTES: Final = 2 * MAX_MESSAGE_BYTES
"""A longer envelope is dropped unread."""

MAX_ENTRIES: Final = 256
"""Participants in one `Entries`."""

Name = Annotated[str, Meta(min_length=1, max_length=MAX_NODE_ID_CHARS, pattern=NAME_PATTERN)]
Token = Annotated[bytes, Meta(min_length=TOKEN_BYTES, max_length=TOKEN_BYTES)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
EndpointText = Annotated[str, Meta(max_length=MAX_ENDPOINT_CHARS)]


class Header(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Between whom an envelope goes. `to` is the token of one broker, or empty: whichever brokers the site has."""

    format: int = FORMAT
    network: Name
    site: Name
    broker: Token
    to_site: Name
    to: Annotated[bytes, Meta(max_length=TOKEN_BYTES)] = b""


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What is published: the header as octets, since just these are authenticated, and the sealed packet."""

    header: Annotated[bytes, Meta(max_length=512)]
    sealed: bytes


class Body(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base of what brokers tell each other."""


class Hello(Body, frozen=True, kw_only=True, tag="hello"):
    """Is anybody there? To one broker, it says that its own hello was heard."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One participant that is bound to the sender."""

    name: Name
    role: Role
    public_key: Annotated[bytes, Meta(max_length=PUBLIC_KEY_BYTES)] = b""
    incarnation: Count = 0
    endpoints: Annotated[tuple[EndpointText, ...], Meta(max_length=MAX_ENDPOINTS)] = ()


class Entries(Body, frozen=True, kw_only=True, tag="entries"):
    """A part of the sender's directory, the `number`th since the one that is `first`, which begins it anew.

    What is `added` as `news` has come to the sender just now.
    """

    first: bool = False
    news: bool = False
    number: Count
    added: Annotated[tuple[Entry, ...], Meta(max_length=MAX_ENTRIES)] = ()
    removed: Annotated[tuple[Name, ...], Meta(max_length=MAX_ENTRIES)] = ()


class Beat(Body, frozen=True, kw_only=True, tag="beat"):
    """The sender is alive, and has sent so many `Entries`."""

    number: Count


class Want(Body, frozen=True, kw_only=True, tag="want"):
    """The sender has missed some `Entries`, and wants them all from the beginning."""


class Relayed(Body, frozen=True, kw_only=True, tag="relayed"):
    """A message of a participant at the sender's site for one that is bound to the receiver."""

    sender: Name
    receiver: Name
    message: Annotated[bytes, Meta(max_length=MAX_MESSAGE_BYTES)]


class Missed(Body, frozen=True, kw_only=True, tag="missed"):
    """A message could not be handed over: NO_ROUTE or LIMIT."""

    sender: Name
    receiver: Name
    code: ErrorCode


class Revoked(Body, frozen=True, kw_only=True, tag="revoked"):
    """A participant of the sender's site has no authorized key any more, or another one."""

    name: Name


class Bye(Body, frozen=True, kw_only=True, tag="bye"):
    """The sender goes."""


AnyBody = Hello | Entries | Beat | Want | Relayed | Missed | Revoked | Bye


class Packet(msgspec.Struct, frozen=True, kw_only=True):
    """What is sealed: a body, and a number that only grows from one packet of a broker to the next."""

    number: Count
    body: AnyBody


class Refused(TransportError):
    """An envelope that is none, or not from whom it says."""


_ENCODER: Final = msgspec.msgpack.Encoder()
_HEADERS: Final = msgspec.msgpack.Decoder(Header)
_ENVELOPES: Final = msgspec.msgpack.Decoder(Envelope)
_PACKETS: Final = msgspec.msgpack.Decoder(Packet)


class Seals:
    """Seals packets for the sites whose public keys are known, and opens theirs. Keys are 32 octets."""

    def __init__(self, secret: bytes) -> None:
        self._secret = PrivateKey(secret)
        self._keys: dict[str, tuple[bytes, Aead]] = {}

    def know(self, keys: dict[str, bytes]) -> None:
        """From now on, these are the sites and their public keys, but for those whose key is none.

        Raises:
            ValueError: when one is none: then the others are known.
        """
        former, self._keys = self._keys, {}
        wrong: list[str] = []
        for site, public in keys.items():
            known = former.get(site)
            try:
                self._keys[site] = known if known is not None and known[0] == public else (public, self._shared(public))
            except CryptoError as error:
                wrong.append(f"the key of {site} is none to share anything with: {error}")
        if wrong:
            raise ValueError("; ".join(wrong))

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites whose keys are known."""
        return tuple(self._keys)

    def seal(self, header: Header, packet: Packet) -> bytes:
        """Make the envelope of a packet for the site `header.to_site`, whose key is known."""
        head = _ENCODER.encode(header)
        sealed = self._keys[header.to_site][1].encrypt(_ENCODER.encode(packet), head)
        return _ENCODER.encode(Envelope(header=head, sealed=bytes(sealed)))

    def open(self, header: Header, envelope: Envelope) -> Packet:
        """Open an envelope whose header was read.

        Raises:
            Refused: when it was not sealed by the site that its header names, for this one, or holds no packet.
        """
        known = self._keys.get(header.site)
        if known is None:
            raise Refused(f"{header.site} is no site that is known here")
        try:
            return _PACKETS.decode(known[1].decrypt(envelope.sealed, envelope.header))
        except (CryptoError, ValueError):
            raise Refused(f"not sealed by {header.site}") from None
        except msgspec.MsgspecError as error:
            raise Refused(f"{header.site} sent what is no packet: {error}") from None

    def _shared(self, public: bytes) -> Aead:
        return Aead(Box(self._secret, SealKey(public)).shared_key())


def read(data: bytes) -> tuple[Header, Envelope]:
    """Read an envelope and its header, which is not proved yet.

    Raises:
        Refused: when it is none.
    """
    if len(data) > MAX_ENVELOPE_BYTES:
        raise Refused(f"an envelope of {len(data)} octets")
    try:
        envelope = _ENVELOPES.decode(data)
        header = _HEADERS.decode(envelope.header)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Refused(f"no envelope: {error}") from None
    if header.format != FORMAT:
        raise Refused(f"format {header.format}, this is {FORMAT}")
    return header, envelope
