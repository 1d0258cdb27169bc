"""The table `[bridge]` of a broker's file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bellwire.protocols.errors import ConfigError
from bellwire.protocols.ids import node_id
from bellwire.shell.config import Table, Text

if TYPE_CHECKING:
    from bellwire.broker.bridge_daemon import BridgeConfig

_MAX_PASSWORD_BYTES = 1_024


class BridgeTable(Table, frozen=True, kw_only=True):
    """The table `[bridge]`: how this broker reaches the others. Paths are relative to the file's folder.

    `url` is one MQTT broker or several of a cluster; `peers` is a folder with the public key of every other site's broker,
    `SITE.key`. `bind` and `standby` are the line to the other broker of this site: where it reaches this one, and where this
    one reaches it.
    """

    network: Text
    site: Text
    url: Text | tuple[Text, ...] = ()
    peers: Text | None = None
    username: Text | None = None
    password_file: Text | None = None
    bind: Text | None = None
    standby: Text | tuple[Text, ...] = ()

    def __post_init__(self) -> None:
        node_id(self.network)
        node_id(self.site)
        if bool(self.url) != (self.peers is not None):
            raise ConfigError("`url` and `peers` come together: MQTT, and the keys of the sites that are reached by it")
        if bool(self.standby) != (self.bind is not None):
            raise ConfigError(
                "`bind` and `standby` come together: the two ends of the line to this site's other broker"
            )
        if not self.url and not self.standby:
            raise ConfigError(
                "needs `url` and `peers` for other sites, or `bind` and `standby` for a second broker here"
            )
        if (self.username or self.password_file) and not self.url:
            raise ConfigError("`username` and `password_file` are for MQTT, and there is no `url`")

    def settings(self, base: Path) -> BridgeConfig:
        """Give the table as the bridge has it.

        Raises:
            ConfigError: when a URL or the password's file is wrong, or a library is missing.
        """
        try:
            from bellwire.broker.bridge_daemon import BridgeConfig
            from bellwire.broker.bridge_mqtt import MqttConfig, MqttServer
        except ModuleNotFoundError as error:
            raise ConfigError(f"a bridge needs {error.name}: pip install 'bellwire[mqtt]'") from None
        mqtt = None
        if self.url:
            servers = tuple(MqttServer.parse(url) for url in _several(self.url))
            password = None if self.password_file is None else _password(base / self.password_file)
            mqtt = MqttConfig(servers=servers, username=self.username, password=password)
        return BridgeConfig(
            network=self.network,
            site=self.site,
            mqtt=mqtt,
            peers=None if self.peers is None else base / self.peers,
            bind=self.bind or "",
            standby=_several(self.standby),
        )


def _several(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


def _password(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_PASSWORD_BYTES + 1)
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path}: a password that others can read: chmod 600 it")
        if len(data) > _MAX_PASSWORD_BYTES:
            raise ConfigError(f"{path}: is no password: it is longer than {_MAX_PASSWORD_BYTES} bytes")
        return data.decode("utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the password: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is no password: it is not text") from None
