"""The table `[bridge]`, and the folder of the sites' keys: what is wrong with them is one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bellwire.broker.bridge_mqtt import MqttServer
from bellwire.broker.bridge_sites import Sites
from bellwire.broker.commands import BrokerFile
from bellwire.broker.daemon import BrokerConfig, BrokerDaemon
from bellwire.protocols.errors import ConfigError
from bellwire.protocols.ids import BROKER, NodeId
from bellwire.protocols.messages import Role
from bellwire.shell.config import load_config
from bellwire.transport.keys import KeyPair, generate, load_secret

BROKER_FILE = 'bind = "tcp://127.0.0.1:*"\nsecret_key = "broker.key_secret"\nauthorized_keys = "authorized"\n[bridge]\n'
NAMES = 'network = "net"\nsite = "north"\n'
SITES = 'url = "mqtt://localhost"\npeers = "sites"\n'
LINE = 'bind = "tcp://127.0.0.1:7101"\nstandby = "tcp://127.0.0.1:7102"\n'


def load(directory: Path, table: str) -> BrokerFile:
    path = directory / "broker.toml"
    path.write_text(BROKER_FILE + table)
    return load_config(path, BrokerFile)


@pytest.mark.parametrize("table", [NAMES + SITES, NAMES + LINE, NAMES + SITES + LINE])
def test_bridge_to_sites_or_to_a_standby_or_both_is_taken(tmp_path: Path, table: str) -> None:
    bridge = load(tmp_path, table).bridge
    assert bridge is not None
    settings = bridge.settings(tmp_path)
    assert (settings.network, settings.site) == ("net", "north")
    assert (settings.mqtt is not None) == (SITES in table)
    assert settings.standby == (("tcp://127.0.0.1:7102",) if LINE in table else ())


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (NAMES, "`url` and `peers` for other sites"),
        (NAMES + 'url = "mqtt://localhost"', "come together"),
        (NAMES + 'bind = "tcp://*:7101"', "come together"),
        (NAMES + LINE + 'username = "lab"', "there is no `url`"),
        ('network = "a/b"\nsite = "north"\n' + SITES, "not a node name"),
        ('network = "net"\nsite = "#"\n' + SITES, "not a node name"),
        (NAMES + SITES + "qos = 1\n", "unknown key `qos`"),
    ],
)
def test_wrong_table_is_one_line_with_its_place(tmp_path: Path, table: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, table)
    assert str(tmp_path / "broker.toml") in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_servers_of_a_cluster_are_read() -> None:
    assert MqttServer.parse("mqtt://host") == MqttServer(host="host", port=1883, tls=False)
    assert MqttServer.parse("mqtts://[::1]:9000") == MqttServer(host="::1", port=9000, tls=True)


@pytest.mark.parametrize(
    "url", ["host", "http://host", "mqtt://", "mqtt://host:port", "mqtt://me:secret@host", "mqtt://host/path"]
)
def test_url_that_is_none_is_one_line(url: str) -> None:
    with pytest.raises(ConfigError, match="is not mqtt://"):
        MqttServer.parse(url)


@pytest.mark.parametrize("mode", [0o644, 0o600])
def test_password_is_read_from_a_file_that_others_cannot_read(tmp_path: Path, mode: int) -> None:
    (tmp_path / "password").write_text("secret\n")
    (tmp_path / "password").chmod(mode)
    bridge = load(tmp_path, NAMES + SITES + 'username = "lab"\npassword_file = "password"\n').bridge
    assert bridge is not None
    if mode == 0o644:
        with pytest.raises(ConfigError, match="chmod 600"):
            bridge.settings(tmp_path)
        return
    mqtt = bridge.settings(tmp_path).mqtt
    assert mqtt is not None
    assert mqtt.password == "secret"
    assert "secret" not in repr(mqtt)


def test_missing_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = load(tmp_path, NAMES + LINE).bridge
    assert bridge is not None
    monkeypatch.setitem(sys.modules, "aiomqtt", None)
    monkeypatch.delitem(sys.modules, "bellwire.broker.bridge_mqtt")
    monkeypatch.delitem(sys.modules, "bellwire.broker.bridge_daemon", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'bellwire\[mqtt\]'"):
        bridge.settings(tmp_path)


async def test_insecure_broker_has_no_bridge(tmp_path: Path) -> None:
    generate(tmp_path, BROKER, Role.BROKER)
    bridge = load(tmp_path, NAMES + LINE).bridge
    assert bridge is not None
    config = BrokerConfig(
        bind="tcp://127.0.0.1:*",
        secret_key=tmp_path / "broker.key_secret",
        authorized_keys=tmp_path,
        insecure=True,
        bridge=bridge.settings(tmp_path),
    )
    with pytest.raises(ConfigError, match="an insecure broker has no bridge"):
        BrokerDaemon(config)


# The sites' keys.


@pytest.fixture
def keys(tmp_path: Path) -> KeyPair:
    return load_secret(generate(tmp_path / "north", BROKER, Role.BROKER))


def site(folder: Path, name: str, source: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.key").write_bytes(source.read_bytes())


def test_sites_are_read_and_followed(tmp_path: Path, keys: KeyPair) -> None:
    south = load_secret(generate(tmp_path / "south", BROKER, Role.BROKER))
    folder = tmp_path / "sites"
    folder.mkdir()
    sites = Sites("north", keys, folder)
    assert sites.keys == {"north": keys.public}
    site(folder, "south", tmp_path / "south" / "broker.key")
    assert sites.refresh()
    assert sites.keys == {"north": keys.public, "south": south.public}
    assert not sites.refresh()
    assert sites.problems == ()
    (folder / "south.key").unlink()
    assert sites.refresh()
    assert sites.keys == {"north": keys.public}


def test_site_that_is_taken_out_is_forgotten_though_another_file_is_malformed(tmp_path: Path, keys: KeyPair) -> None:
    folder = tmp_path / "sites"
    for name in ("south", "west", "east"):
        generate(tmp_path / name, BROKER, Role.BROKER)
        site(folder, name, tmp_path / name / "broker.key")
    sites = Sites("north", keys, folder)
    (folder / "west.key").write_text("spoilt")
    (folder / "south.key").unlink()
    assert sites.refresh()
    assert set(sites.keys) == {"north", "east"}
    (problem,) = sites.problems
    assert "west.key" in problem
    folder.rename(tmp_path / "aside")
    with pytest.raises(ConfigError, match="no such directory of keys of sites"):
        sites.refresh()
    assert set(sites.keys) == {"north", "east"}, "while the folder cannot be read nobody is sent away"


@pytest.mark.parametrize("what", ["missing", "an agent's key", "own key elsewhere", "another key here", "writable"])
def test_wrong_sites_are_one_line(tmp_path: Path, keys: KeyPair, what: str) -> None:
    folder = tmp_path / "sites"
    if what != "missing":
        folder.mkdir()
    if what == "an agent's key":
        generate(tmp_path / "south", NodeId("alice"), Role.AGENT)
        site(folder, "south", tmp_path / "south" / "alice.key")
    elif what == "own key elsewhere":
        site(folder, "south", tmp_path / "north" / "broker.key")
    elif what == "another key here":
        generate(tmp_path / "south", BROKER, Role.BROKER)
        site(folder, "north", tmp_path / "south" / "broker.key")
    elif what == "writable":
        folder.chmod(0o777)
    with pytest.raises(ConfigError) as caught:
        Sites("north", keys, folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
