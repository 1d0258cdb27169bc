"""The command `bellwire broker`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import typer

from bellwire.shell.config import GRANDMASTER, SessionTable, Table, Text, TimeTable, load_config
from bellwire.shell.daemon import Readiness, serve
from bellwire.shell.options import DAEMONS, ConfigFile, HealthFile, LogLevel, UntilEof, begin_daemon

if TYPE_CHECKING:
    from bellwire.broker.daemon import BrokerDaemon

app = typer.Typer()


class BrokerFile(Table, frozen=True, kw_only=True):
    """A broker's configuration file. Paths are relative to the file's folder."""

    bind: Text
    secret_key: Text
    authorized_keys: Text
    session: SessionTable = SessionTable()
    time: TimeTable = GRANDMASTER


@app.command("broker", rich_help_panel=DAEMONS)
def broker(
    config: ConfigFile,
    health_file: HealthFile = None,
    log_level: LogLevel = "info",
    until_eof: UntilEof = False,
) -> None:
    """Run a broker: it lets participants in by their keys, and carries their messages to each other.

    The file holds `bind` (such as "tcp://0.0.0.0:7100"), `secret_key` and `authorized_keys` (a folder of public keys).
    """
    from bellwire.broker.daemon import BrokerConfig, BrokerDaemon

    supervision = begin_daemon(log_level, health_file, until_eof)
    file = load_config(config, BrokerFile)
    base = config.parent
    settings = BrokerConfig(
        bind=file.bind,
        secret_key=base / Path(file.secret_key),
        authorized_keys=base / Path(file.authorized_keys),
        session=file.session.settings(),
        time=file.time.settings(),
    )

    async def make(readiness: Readiness) -> _ReadyBroker:
        return _ReadyBroker(BrokerDaemon(settings, report=structlog.get_logger().warning), readiness)

    serve("broker", make, supervision)


class _ReadyBroker:
    """A broker that says when it listens."""

    def __init__(self, daemon: BrokerDaemon, readiness: Readiness) -> None:
        self._daemon = daemon
        self._readiness = readiness
        self.run = daemon.run
        self.close = daemon.close

    async def start(self) -> None:
        await self._daemon.start()
        self._readiness.set(True, self._daemon.endpoint)
