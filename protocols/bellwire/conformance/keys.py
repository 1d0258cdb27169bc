"""A folder of CURVE keys: the kit's parties, and the target's own where the kit made it (spec 1 §2.2).

The files are ZeroMQ certificates, `NAME.key` and `NAME.key_secret`, that say in their metadata who the key stands for.
"""

from __future__ import annotations

import os
from pathlib import Path

import zmq
import zmq.auth

from bellwire.protocols.errors import ConfigError


class Keys:
    """The keys in a folder, by name. All of them are in Z85."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self, roles: dict[str, str]) -> None:
        """Make the keys that are not there yet, `roles` being names with their roles.

        Raises:
            ConfigError: when the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name, role in roles.items():
                if not (self.folder / f"{name}.key").exists():
                    self._write(name, role)
        except OSError as error:
            raise ConfigError(f"{self.folder}: cannot write keys: {error.strerror}") from None

    def _write(self, name: str, role: str) -> None:
        public, secret = (key.decode("ascii") for key in zmq.curve_keypair())
        head = f'metadata\n    name = {name}\n    role = {role}\ncurve\n    public-key = "{public}"\n'
        path = self.folder / f"{name}.key_secret"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f'{head}    secret-key = "{secret}"\n')
        (self.folder / f"{name}.key").write_text(head, encoding="ascii")

    def public(self, name: str) -> bytes:
        """A public key.

        Raises:
            ConfigError: when the folder has none of that name.
        """
        return self._load(name, ".key")[0]

    def secret(self, name: str) -> bytes:
        """A secret key. Raises as `public`."""
        secret = self._load(name, ".key_secret")[1]
        if secret is None:
            raise ConfigError(f"{self.folder / name}.key_secret: has no secret key in it")
        return secret

    def _load(self, name: str, suffix: str) -> tuple[bytes, bytes | None]:
        path = self.folder / f"{name}{suffix}"
        try:
            return zmq.auth.load_certificate(path)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: cannot read the key: {error}") from None
