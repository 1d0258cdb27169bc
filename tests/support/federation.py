"""Several brokers: of two sites that meet by MQTT, or a broker and its hot standby."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from bellwire.agent.testbed import Part, Prepared, prepare
from bellwire.protocols.ids import BROKER
from bellwire.protocols.messages import Role
from bellwire.shell.config import read_toml, to_toml
from bellwire.shell.ports import reserve_port
from bellwire.transport.keys import generate

STANDBY = "standby"
SOUTH = "south"


def change(path: Path, **tables: Any) -> None:
    """Set keys of a configuration file."""
    path.write_text(to_toml(read_toml(path) | tables))


def free_endpoint() -> str:
    """A loopback endpoint that nobody else is given."""
    return f"tcp://127.0.0.1:{reserve_port()}"


def two_sites(testbed: Path, directory: Path, url: str, southern: tuple[str, ...]) -> Prepared:
    """A testbed of which some nodes are at another site, with a broker and a key pair of its own there.

    The process of that broker is called `south`. The simulated world is everybody's.
    """
    prepared = prepare(testbed, directory)
    files = {part.name: part.config for part in prepared.parts}
    north_file = read_toml(files[BROKER])
    endpoint = free_endpoint()
    generate(directory / "south-keys", BROKER, Role.BROKER)
    for folder, site, keys in (("north-sites", SOUTH, "south-keys"), ("south-sites", "north", "keys")):
        (directory / folder).mkdir()
        shutil.copy(directory / keys / "broker.key", directory / folder / f"{site}.key")
    admitted = directory / "authorized" / BROKER
    (directory / "south-authorized").mkdir()
    for name in southern:
        (admitted / f"{name}.key").rename(directory / "south-authorized" / f"{name}.key")
        table = {"endpoint": endpoint, "key": "south-keys/broker.key"}
        change(files[name], broker=table)
    bridge = {"network": "net", "url": url}
    change(files[BROKER], bridge={**bridge, "site": "north", "peers": "north-sites"})
    south = directory / "south.toml"
    others = {
        "bind": endpoint,
        "secret_key": "south-keys/broker.key_secret",
        "authorized_keys": "south-authorized",
        "bridge": {**bridge, "site": SOUTH, "peers": "south-sites"},
    }
    south.write_text(to_toml(north_file | others))
    parts = (*prepared.parts[:1], Part(name=SOUTH, command="broker", config=south), *prepared.parts[1:])
    return Prepared(name=prepared.name, directory=prepared.directory, parts=parts)


def with_standby(testbed: Path, directory: Path) -> Prepared:
    """A testbed whose broker has a hot standby, a process called `standby`. Everybody knows both."""
    prepared = prepare(testbed, directory)
    files = {part.name: part.config for part in prepared.parts}
    broker = read_toml(files[BROKER])
    second, *line = (free_endpoint() for _ in range(3))
    standby = directory / "standby.toml"
    bridge = {"network": "net", "site": "north"}
    standby.write_text(to_toml(broker | {"bind": second, "bridge": {**bridge, "bind": line[1], "standby": line[0]}}))
    change(files[BROKER], bridge={**bridge, "bind": line[0], "standby": line[1]})
    members = [part.config for part in prepared.parts if part.command in ("agent", "station")]
    for path in (*members, prepared.client):
        table = read_toml(path)["broker"]
        change(path, broker=table | {"endpoint": [table["endpoint"], second]})
    parts = (*prepared.parts[:1], Part(name=STANDBY, command="broker", config=standby), *prepared.parts[1:])
    return Prepared(name=prepared.name, directory=prepared.directory, parts=parts)
