"""CURVE keys in files: who a participant is, proved (spec 1 §2.2).

The files are ZeroMQ certificates: `<name>.key` for everybody to read and `<name>.key_secret` for its owner alone. Both say
in their metadata which participant the key stands for and in which role.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import zmq
from zmq.utils import z85

from bellwire.protocols.errors import ConfigError
from bellwire.protocols.ids import BROKER, NodeId, node_id
from bellwire.protocols.introductions import Introductions
from bellwire.protocols.messages import Role

PUBLIC_SUFFIX = ".key"
SECRET_SUFFIX = ".key_secret"
KEY_BYTES = 32
_MAX_FILE_BYTES = 16_384
_PUBLIC_MODE = 0o644
_SECRET_MODE = 0o600


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """A participant's public key: 32 bytes."""

    name: NodeId
    role: Role
    public: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """A participant's public and secret key: 32 bytes each."""

    name: NodeId
    role: Role
    public: bytes
    secret: bytes = field(repr=False)


def generate(directory: Path, name: NodeId, role: Role) -> Path:
    """Make a key pair: `<name>.key` (mode 0644) and `<name>.key_secret` (0600) in `directory`.

    Returns the path of the secret file; the public one is beside it.

    Raises:
        ConfigError: when either file exists already, the name is none, or the files cannot be written.
    """
    _check_name(name, role)
    public_path, secret_path = directory / f"{name}{PUBLIC_SUFFIX}", directory / f"{name}{SECRET_SUFFIX}"
    public, secret = (key.decode("ascii") for key in zmq.curve_keypair())
    head = f'metadata\n    name = {name}\n    role = {role}\ncurve\n    public-key = "{public}"\n'
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if public_path.exists():
            raise FileExistsError
        _write(
            secret_path,
            f'# Secret key of {name}. Never give it away.\n\n{head}    secret-key = "{secret}"\n',
            _SECRET_MODE,
        )
        _write(public_path, f"# Public key of {name}.\n\n{head}", _PUBLIC_MODE)
    except FileExistsError:
        path = public_path if public_path.exists() else secret_path
        raise ConfigError(f"{path}: exists already, and a key is never overwritten") from None
    except OSError as error:
        raise ConfigError(f"{directory}: cannot write keys: {error.strerror}") from None
    return secret_path


def load_secret(path: Path) -> KeyPair:
    """Read a secret key file.

    Raises:
        ConfigError: when it is missing or malformed, or when others than its owner can read it.
    """
    values = _read(path, secret=True)
    name, role, public = _identity(path, values)
    secret = _key(path, values, "secret-key")
    if _key_of(zmq.curve_public(z85.encode(secret))) != public:
        raise ConfigError(f"{path}: its secret-key does not belong to its public-key")
    return KeyPair(name=name, role=role, public=public, secret=secret)


def load_public(path: Path) -> PublicKey:
    """Read a public key file.

    Raises:
        ConfigError: when it is missing or malformed.
    """
    name, role, public = _identity(path, _read(path, secret=False))
    return PublicKey(name=name, role=role, public=public)


class KeysCapable(Protocol):
    """Whoever knows which keys are let in, and under which names."""

    problems: dict[Path, str]

    def lookup(self, public: bytes) -> PublicKey | None:
        """Whose key it is (32 bytes), or `None` when it is a stranger's."""


class IntroducedKeys:
    """The keys of those whom the broker has introduced."""

    def __init__(self, introductions: Introductions) -> None:
        """Let in whoever is known there now."""
        self.problems: dict[Path, str] = {}
        self._introductions = introductions

    def lookup(self, public: bytes) -> PublicKey | None:
        """Whose key it is (32 bytes), or `None` when it is a stranger's."""
        known = self._introductions.of_key(public)
        return None if known is None else PublicKey(name=known.node, role=known.role, public=public)


class AuthorizedKeys:
    """The public keys in a directory: whoever has one of them is let in under its name.

    Files may be added and removed while a hub runs: every lookup looks at the directory. Removing a file refuses new
    connections and does not end the ones that are open.
    """

    def __init__(self, directory: Path) -> None:
        """Read the directory.

        Raises:
            ConfigError: when it is missing or one of its key files is malformed.
        """
        self.directory = directory
        self.problems: dict[Path, str] = {}
        self._seen: dict[Path, tuple[tuple[int, int, int], PublicKey | None]] = {}
        self._scan()
        for problem in self.problems.values():
            raise ConfigError(problem)

    def lookup(self, public: bytes) -> PublicKey | None:
        """Whose key it is (32 bytes), or `None` when it is a stranger's.

        A file that became malformed while the hub runs lets nobody in; `problems` says what is wrong with it.
        """
        try:
            self._scan()
        except ConfigError as error:
            self.problems = {self.directory: str(error)}
            return None
        for _, key in self._seen.values():
            if key is not None and key.public == public:
                return key
        return None

    def role_of(self, name: NodeId) -> Role | None:
        """The role that stands with a participant's key, or `None` for a stranger. What its hello says does not count."""
        key = self.find(name)
        return None if key is None else key.role

    def key_of(self, name: NodeId) -> bytes | None:
        """A participant's public key (32 bytes), or `None` for a stranger."""
        key = self.find(name)
        return None if key is None else key.public

    def find(self, name: NodeId) -> PublicKey | None:
        """What is known of a participant, or `None` for a stranger."""
        seen = self._seen.get(self.directory / f"{name}{PUBLIC_SUFFIX}")
        return None if seen is None else seen[1]

    def _scan(self) -> None:
        try:
            paths = sorted(self.directory.glob(f"*{PUBLIC_SUFFIX}"))
            if not paths and not self.directory.is_dir():
                raise ConfigError(f"{self.directory}: no such directory of authorized keys")
        except OSError as error:
            raise ConfigError(f"{self.directory}: cannot read authorized keys: {error.strerror}") from None
        seen: dict[Path, tuple[tuple[int, int, int], PublicKey | None]] = {}
        problems: dict[Path, str] = {}
        for path in paths:
            try:
                status = path.stat()
            except OSError:
                continue  # removed in this very moment, so it authorizes nobody
            mark = (status.st_mtime_ns, status.st_size, status.st_ino)
            known = self._seen.get(path)
            if known is not None and known[0] == mark:
                seen[path] = known
                if path in self.problems:
                    problems[path] = self.problems[path]
                continue
            key: PublicKey | None = None
            try:
                key = _authorized(path)
            except ConfigError as error:
                problems[path] = str(error)
            seen[path] = (mark, key)
        self._seen, self.problems = seen, problems


def _authorized(path: Path) -> PublicKey:
    """Read an authorized key. Its file has its name, so that no two keys of a directory stand for one participant."""
    key = load_public(path)
    if path.name != f"{key.name}{PUBLIC_SUFFIX}":
        raise ConfigError(f"{path}: is the key of {key.name}, so its file must be {key.name}{PUBLIC_SUFFIX}")
    return key


def _check_name(name: str, role: Role) -> NodeId:
    checked = node_id(name)
    if (checked == BROKER) != (role is Role.BROKER):
        raise ConfigError(f"{name!r} as {role}: the broker's name is {BROKER!r}, and nobody else can have it")
    return checked


def _write(path: Path, text: str, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        os.fchmod(descriptor, mode)
        file.write(text)


def _read(path: Path, *, secret: bool) -> dict[str, str]:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if secret and mode & 0o077:
                raise ConfigError(
                    f"{path}: a secret key that others can read (mode {stat.S_IMODE(mode):04o}): chmod 600 it, "
                    "or make a new one"
                )
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the key: {error.strerror}") from None
    if len(data) > _MAX_FILE_BYTES:
        raise ConfigError(f"{path}: is no key file: it is longer than {_MAX_FILE_BYTES} bytes")
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is no key file: it is not text") from None
    values: dict[str, str] = {}
    for line in lines:
        name, separator, value = line.strip().partition("=")
        if separator and not name.startswith("#"):
            values[name.strip()] = value.strip().strip("\"'")
    return values


def _identity(path: Path, values: dict[str, str]) -> tuple[NodeId, Role, bytes]:
    for wanted in ("name", "role"):
        if wanted not in values:
            raise ConfigError(f"{path}: is no key file: it has no {wanted!r}")
    try:
        role = Role(values["role"])
    except ValueError:
        raise ConfigError(f"{path}: {values['role']!r} is no role; roles are {', '.join(sorted(Role))}") from None
    try:
        name = _check_name(values["name"], role)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return name, role, _key(path, values, "public-key")


def _key(path: Path, values: dict[str, str], which: str) -> bytes:
    if which not in values:
        raise ConfigError(f"{path}: is no key file: it has no {which!r}")
    key = _key_of(values[which].encode("utf-8"))
    if key is None:
        raise ConfigError(f"{path}: its {which!r} is not 40 characters of Z85")
    return key


def _key_of(text: bytes) -> bytes | None:
    """32 bytes from 40 characters of Z85 (ZeroMQ RFC 32), or `None` when they are none."""
    if len(text) != KEY_BYTES * 5 // 4 or any(character not in z85.Z85CHARS for character in text):
        return None
    try:
        return z85.decode(text)
    except (ValueError, struct.error):
        return None  # five characters can stand for more than four bytes hold
