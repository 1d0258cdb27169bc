"""What an application has to know to take part: `client.toml`, as `bellwire up` writes it."""

from __future__ import annotations

import msgspec


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a broker is, or a broker and its hot standby; its public key file, and whether it is an insecure one."""

    endpoint: str | tuple[str, ...]
    key: str
    insecure: bool = False


class ObserverConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Access to a simulated world's exact states: where it is, its public key file, and the observer's own secret key."""

    endpoint: str
    key: str
    name: str
    secret_key: str


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An application's name, key and broker. Paths are relative to the file's folder.

    With `direct` it connects to the nodes that it talks to, where they can be reached; it listens nowhere.
    """

    name: str
    secret_key: str
    broker: ServerConfig
    direct: bool = True
    world: ObserverConfig | None = None
