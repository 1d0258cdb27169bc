"""The command `bellwire broker`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import structlog
import typer
from msgspec import Meta

from bellwire.broker.bridge_config import BridgeTable
from bellwire.protocols.errors import ConfigError
from bellwire.shell.config import GRANDMASTER, LoopTable, SessionTable, Table, Text, TimeTable, load_config
from bellwire.shell.daemon import Readiness, serve
from bellwire.shell.options import DAEMONS, ConfigFile, HealthFile, LogLevel, UntilEof, begin_daemon
from bellwire.transport.members import BROKER_LIMITS, HubLimits

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from bellwire.broker.daemon import BrokerDaemon

app = typer.Typer()

Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Rate = Annotated[int, Meta(ge=10, le=1_000_000_000)]


class LimitsTable(Table, frozen=True, kw_only=True):
    """The table `[limits]`: what one participant may take of the broker, per second as far as it is a rate."""

    queue: Count = BROKER_LIMITS.queue
    rate: Rate = BROKER_LIMITS.rate
    own_rate: Rate = BROKER_LIMITS.own_rate
    error_rate: Rate = BROKER_LIMITS.error_rate

    def limits(self) -> HubLimits:
        """Give the limits as the hub has them."""
        return HubLimits(queue=self.queue, rate=self.rate, own_rate=self.own_rate, error_rate=self.error_rate)


class BrokerFile(Table, frozen=True, kw_only=True):
    """A broker's configuration file. Paths are relative to the file's folder."""

    bind: Text
    secret_key: Text
    authorized_keys: Text
    session: SessionTable = SessionTable()
    time: TimeTable = GRANDMASTER
    limits: LimitsTable = LimitsTable()
    insecure: bool = False
    insecure_anywhere: bool = False
    loop: LoopTable = LoopTable()
    bridge: BridgeTable | None = None


@app.command("broker", rich_help_panel=DAEMONS)
def broker(
    config: ConfigFile,
    health_file: HealthFile = None,
    log_level: LogLevel = "info",
    until_eof: UntilEof = False,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure", help="Ask for no keys and encrypt nothing: whoever connects is who it says. Loopback only."
        ),
    ] = False,
    insecure_anywhere: Annotated[
        bool, typer.Option("--insecure-anywhere", help="The same, also where other machines can connect.")
    ] = False,
) -> None:
    """Run a broker: it lets participants in by their keys, and carries their messages to each other.

    The file holds `bind` (such as "tcp://0.0.0.0:7100"), `secret_key` and `authorized_keys` (a folder of public keys). A
    table `[limits]` says what one participant may take of the broker: `queue` (messages that wait for it), `rate` (messages
    relayed for it per second), `own_rate` (messages to the broker) and `error_rate`.

    A table `[bridge]` joins it with others. Other sites, by MQTT 5: `network`, `site` (names of the network and of this site),
    `url` ("mqtt://HOST", "mqtts://HOST", or a list of them) and `peers` (a folder with each other site's broker key as
    SITE.key); `username` and `password_file` if MQTT wants them. A hot standby at this site, with the same secret key and
    authorized keys: `bind` (such as "tcp://10.0.0.1:7101") and `standby` (the other's `bind`). Participants then list both
    brokers: `endpoint = ["tcp://10.0.0.1:7100", "tcp://10.0.0.2:7100"]`. It needs bellwire[mqtt].

    `insecure = true` or --insecure is for measuring and for wire captures on one machine. The others then need `insecure =
    true` in their table `[broker]`.
    """
    from bellwire.broker.daemon import BrokerConfig, BrokerDaemon

    supervision = begin_daemon(log_level, health_file, until_eof)
    file = load_config(config, BrokerFile)
    base = config.parent
    try:
        bridge = None if file.bridge is None else file.bridge.settings(base)
    except ConfigError as error:
        raise ConfigError(f"{config}: bridge: {error}") from None
    settings = BrokerConfig(
        bind=file.bind,
        secret_key=base / Path(file.secret_key),
        authorized_keys=base / Path(file.authorized_keys),
        session=file.session.settings(),
        time=file.time.settings(),
        limits=file.limits.limits(),
        insecure=insecure or insecure_anywhere or file.insecure or file.insecure_anywhere,
        insecure_anywhere=insecure_anywhere or file.insecure_anywhere,
        spin_ns=file.loop.spin_ns,
        bridge=bridge,
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

    @property
    def tallies(self) -> Mapping[str, DataclassInstance]:
        return self._daemon.tallies

    async def start(self) -> None:
        await self._daemon.start()
        self._readiness.set(True, self._daemon.endpoint)
