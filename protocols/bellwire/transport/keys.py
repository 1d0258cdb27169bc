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
from bellwire.transport.key_folder import KeyFolder

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


def authorize(path: Path, directory: Path) -> PublicKey:
    """Let the owner of a public key file in: put the file into a directory of authorized keys, as a whole or not at all.

    Raises:
        ConfigError: when it is no public key, another key of that name is there already, or it cannot be written.
    """
    key = load_public(path)
    target = directory / f"{key.name}{PUBLIC_SUFFIX}"
    if target.exists() and load_public(target) != key:
        raise ConfigError(f"{target}: another key of {key.name} is authorized: revoke it first")
    head = f'metadata\n    name = {key.name}\n    role = {key.role}\ncurve\n    public-key = "'
    beside = directory / f".{key.name}.part"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        beside.unlink(missing_ok=True)
        text = z85.encode(key.public).decode("ascii")
        _write(beside, f'# Public key of {key.name}.\n\n{head}{text}"\n', _PUBLIC_MODE)
        beside.replace(target)
    except OSError as error:
        raise ConfigError(f"{directory}: cannot write keys: {error.strerror}") from None
    return key


def revoke(name: NodeId, directory: Path) -> Path:
    """Let a participant in no more: take its public key out of a directory of authorized keys. Returns the file's path.

    Raises:
        ConfigError: when it is not there or cannot be removed.
    """
    path = directory / f"{name}{PUBLIC_SUFFIX}"
    try:
        path.unlink()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such key, so {name} is not authorized there") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot remove the key: {error.strerror}") from None
    return path


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
    """Whoever knows which keys are let in, and under which names.

    `names` has those that are read from somewhere: another table whenever it was found to have changed.
    """

    problems: dict[Path, str]
    names: dict[NodeId, PublicKey]

    def lookup(self, public: bytes) -> PublicKey | None:
        """Whose key it is (32 bytes), or `None` when it is a stranger's."""

    def find(self, public: bytes) -> PublicKey | None:
        """As `lookup`, of a key that was known before: at less cost."""

    def known(self, public: bytes) -> PublicKey | None:
        """Whose key it was the last time that was looked up or refreshed."""

    def refresh(self) -> str | None:
        """Look anew who is let in. Returns why that cannot be known, if so."""


class IntroducedKeys:
    """The keys of those whom the broker has introduced."""

    def __init__(self, introductions: Introductions) -> None:
        """Let in whoever is known there now."""
        self.problems: dict[Path, str] = {}
        self.names: dict[NodeId, PublicKey] = {}
        self._introductions = introductions

    def lookup(self, public: bytes) -> PublicKey | None:
        """Whose key it is (32 bytes), or `None` when it is a stranger's."""
        known = self._introductions.of_key(public)
        return None if known is None else PublicKey(name=known.node, role=known.role, public=public)

    find = known = lookup

    def refresh(self) -> str | None:
        """Nothing is to be read: what the broker says is known at once."""
        return None


class AuthorizedKeys:
    """The public keys in a directory: whoever has one of them is let in under its name.

    Files may be added, replaced and removed while a hub runs. `lookup` reads the directory; `find` reads one file of it, and
    `known` nothing.
    """

    def __init__(self, directory: Path) -> None:
        """Read the directory.

        Raises:
            ConfigError: when it is missing, everybody may write to it, or one of its key files is malformed.
        """
        self.directory = directory
        self.problems: dict[Path, str] = {}
        self.names: dict[NodeId, PublicKey] = {}
        self._folder = KeyFolder(directory, PUBLIC_SUFFIX, "authorized keys", _authorized)
        self._keys: dict[bytes, tuple[str, PublicKey]] = {}
        self._scan()
        for problem in self.problems.values():
            raise ConfigError(problem)

    def lookup(self, public: bytes) -> PublicKey | None:
        """Whose key it is (32 bytes), or `None` when it is a stranger's.

        A file that became malformed while the hub runs lets nobody in; `problems` says what was wrong with the files the last
        time that the directory was read, as it is for every stranger.
        """
        return None if self.refresh() is not None else self.known(public)

    def find(self, public: bytes) -> PublicKey | None:
        """As `lookup`, of a key that was in the directory when it was last read: only its own file is looked at."""
        found = self._keys.get(public)
        if found is None:
            return None
        name, key = found
        return key if self._folder.is_unchanged(name) else self.lookup(public)

    def known(self, public: bytes) -> PublicKey | None:
        """Whose key it was when the directory was last read."""
        found = self._keys.get(public)
        return None if found is None else found[1]

    def role_of(self, name: NodeId) -> Role | None:
        """The role that stands with a participant's key, or `None` for a stranger. What its hello says does not count."""
        key = self.names.get(name)
        return None if key is None else key.role

    def key_of(self, name: NodeId) -> bytes | None:
        """A participant's public key (32 bytes), or `None` for a stranger."""
        key = self.names.get(name)
        return None if key is None else key.public

    def refresh(self) -> str | None:
        """Read the directory anew. Returns why it cannot be read, if so; what was known stays known then."""
        try:
            self._scan()
        except ConfigError as error:
            self.problems = {self.directory: str(error)}
            return str(error)
        return None

    def _scan(self) -> None:
        if self._folder.scan():
            self._keys = {key.public: (name, key) for name, key in self._folder.keys.items()}
            self.names = {key.name: key for key in self._folder.keys.values()}
        self.problems = self._folder.problems


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
