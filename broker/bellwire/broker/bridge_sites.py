"""The public keys of the other sites' brokers: a folder of key files, each called after its site."""

from __future__ import annotations

import stat
from pathlib import Path

from bellwire.protocols.errors import ConfigError
from bellwire.protocols.ids import node_id
from bellwire.protocols.messages import Role
from bellwire.transport.keys import PUBLIC_SUFFIX, KeyPair, load_public

Marks = dict[str, tuple[int, int, int]]


class Sites:
    """The sites that are known, with the public keys of their brokers (32 octets). The folder may change at any time."""

    def __init__(self, site: str, keys: KeyPair, folder: Path | None) -> None:
        """Begin with this site's own key; `folder` has one `SITE.key` for each of the others.

        Raises:
            ConfigError: when the folder is missing or everybody may write to it, or one of its files is wrong.
        """
        self.keys: dict[str, bytes] = {site: keys.public}
        self._site = site
        self._own = keys.public
        self._folder = folder
        self._marks: Marks = {}
        self.refresh()

    def refresh(self) -> bool:
        """Look whether the folder has changed. Returns whether it has.

        Raises:
            ConfigError: as when it was first read; what was known before stays known then.
        """
        if self._folder is None:
            return False
        try:
            marks = self._look(self._folder)
        except OSError as error:
            raise ConfigError(f"{self._folder}: cannot read the sites' keys: {error.strerror}") from None
        if marks == self._marks:
            return False
        keys = {site: self._load(self._folder, site) for site in (name.removesuffix(PUBLIC_SUFFIX) for name in marks)}
        self.keys = {self._site: self._own} | keys
        self._marks = marks
        return True

    def _look(self, folder: Path) -> Marks:
        mode = folder.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise ConfigError(f"{folder}: everybody may add sites to it: chmod o-w it")
        found = {path.name: path.stat() for path in sorted(folder.glob(f"*{PUBLIC_SUFFIX}"))}
        return {name: (each.st_mtime_ns, each.st_size, each.st_ino) for name, each in found.items()}

    def _load(self, folder: Path, site: str) -> bytes:
        path = folder / f"{site}{PUBLIC_SUFFIX}"
        try:
            node_id(site)
        except ConfigError:
            raise ConfigError(f"{path}: {site!r} is no name of a site") from None
        key = load_public(path)
        if key.role is not Role.BROKER:
            raise ConfigError(f"{path}: is the key of the {key.role} {key.name}, not a broker's")
        if (site == self._site) != (key.public == self._own):
            raise ConfigError(f"{path}: this site is {self._site}, and no other one has its key")
        return key.public
