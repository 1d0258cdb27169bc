"""The public keys of the other sites' brokers: a folder of key files, each called after its site."""

from __future__ import annotations

from pathlib import Path

from bellwire.protocols.errors import ConfigError
from bellwire.protocols.ids import node_id
from bellwire.protocols.messages import Role
from bellwire.transport.key_folder import KeyFolder
from bellwire.transport.keys import PUBLIC_SUFFIX, KeyPair, load_public


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
        self._folder = None if folder is None else KeyFolder(folder, PUBLIC_SUFFIX, "keys of sites", self._load)
        self.refresh()
        for problem in self.problems:
            raise ConfigError(problem)

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with files of the folder, whose sites are not known therefore."""
        return () if self._folder is None else tuple(self._folder.problems.values())

    def refresh(self) -> bool:
        """Look whether the folder has changed. Returns whether it has.

        Raises:
            ConfigError: when the folder cannot be read; what was known before stays known then.
        """
        if self._folder is None or not self._folder.scan():
            return False
        others = {name.removesuffix(PUBLIC_SUFFIX): key for name, key in self._folder.keys.items()}
        self.keys = {self._site: self._own} | others
        return True

    def _load(self, path: Path) -> bytes:
        site = path.name.removesuffix(PUBLIC_SUFFIX)
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
