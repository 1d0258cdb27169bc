"""The one family of errors, and the codes that cross the wire (spec 1 §6)."""

from __future__ import annotations

from enum import StrEnum

from bellwire.protocols.limits import MAX_TEXT_CHARS


class BellwireError(Exception):
    """Root of every error that Bellwire raises on purpose."""


class ProtocolError(BellwireError):
    """A rule of the protocol was broken. `rule` names the section of the specification."""

    def __init__(self, text: str, rule: str) -> None:
        super().__init__(f"{text} (spec {rule})")
        self.text = text
        self.rule = rule


class LocalProtocolError(ProtocolError):
    """This side asked for something that the protocol does not allow: a mistake in the calling code."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something that the protocol does not allow. `code` is what the peer is told."""

    def __init__(self, text: str, rule: str, code: ErrorCode | None = None) -> None:
        super().__init__(text, rule)
        self.code = code if code is not None else ErrorCode.PROTOCOL


class BackendError(BellwireError):
    """The hardware, or what simulates it, failed or refused an instruction."""


class TransportError(BellwireError):
    """A socket, an endpoint or a key could not be used."""


class ConfigError(BellwireError):
    """A file, a flag or a value that a person wrote is wrong. The text is one line that says where and what."""


class RequestError(BellwireError):
    """A request ended with an error. `code` is the wire code, `text` says what happened."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text[:MAX_TEXT_CHARS]


class ErrorCode(StrEnum):
    """Codes on the wire.

    The first group has the names of draft-dahlberg-ll-quantum-03 §4.4, the others are Bellwire's own (spec 1 §6.1).
    """

    UNSUPP = "UNSUPP"
    NOTIME = "NOTIME"
    NORES = "NORES"
    TIMEOUT = "TIMEOUT"
    REJECTED = "REJECTED"
    OTHER = "OTHER"
    EXPIRE = "EXPIRE"

    PROTOCOL = "PROTOCOL"
    MALFORMED = "MALFORMED"
    OVERSIZE = "OVERSIZE"
    UNKNOWN_TYPE = "UNKNOWN_TYPE"
    VERSION = "VERSION"
    NO_SESSION = "NO_SESSION"
    STALE = "STALE"
    NO_ROUTE = "NO_ROUTE"
    PEER_LOST = "PEER_LOST"
    DENIED = "DENIED"
    UNKNOWN_ID = "UNKNOWN_ID"
    BACKEND = "BACKEND"
    INDETERMINATE = "INDETERMINATE"
    UNSYNCED = "UNSYNCED"
    LIMIT = "LIMIT"
