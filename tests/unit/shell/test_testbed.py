"""What `bellwire up` makes of a testbed's file."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bellwire.agent.config import AgentConfig, StationConfig, WorldConfig
from bellwire.agent.daemons import make_world
from bellwire.agent.testbed import load_testbed, plan_links, prepare, virtual_testbed
from bellwire.agent.up import locked
from bellwire.broker.commands import BrokerFile
from bellwire.client.config import ClientConfig
from bellwire.protocols.detectors import StationSettings
from bellwire.protocols.errors import ConfigError
from bellwire.protocols.ids import LinkId, NodeId
from bellwire.protocols.messages import Role
from bellwire.shell.config import SessionTable, TimeTable, load_config, nanoseconds
from bellwire.sim.physics import LinkPhysics
from bellwire.sim.virtual import VirtualTestbed
from bellwire.transport.keys import AuthorizedKeys, load_public, load_secret

TESTBED = Path(__file__).parents[3] / "examples" / "two-nodes" / "testbed.toml"
STAR = TESTBED.parents[1] / "star" / "testbed.toml"


def test_prepare_example_gives_every_part_a_file_that_its_daemon_reads(tmp_path: Path) -> None:
    prepared = prepare(TESTBED, tmp_path)
    assert [(part.name, part.command) for part in prepared.parts] == [
        ("broker", "broker"),
        ("world", "world"),
        ("hub", "station"),
        ("alice", "agent"),
        ("bob", "agent"),
    ]
    kinds: dict[str, type[msgspec.Struct]] = {
        "broker": BrokerFile,
        "world": WorldConfig,
        "station": StationConfig,
        "agent": AgentConfig,
    }
    for part in prepared.parts:
        load_config(part.config, kinds[part.command])
    client = load_config(prepared.client, ClientConfig)
    assert client.world is not None
    assert load_secret(tmp_path / client.secret_key).role is Role.APPLICATION
    assert load_secret(tmp_path / client.world.secret_key).role is Role.OBSERVER


def test_prepare_two_ends_have_one_primary_and_the_same_link(tmp_path: Path) -> None:
    prepare(TESTBED, tmp_path)
    alice, bob = (load_config(tmp_path / f"{name}.toml", AgentConfig).links["alice-bob"] for name in ("alice", "bob"))
    assert (alice.primary, alice.peer) == (True, "bob")
    assert (bob.primary, bob.peer) == (False, "alice")
    assert alice.goodness == bob.goodness == 1.0
    station = load_config(tmp_path / "hub.toml", StationConfig).links["alice-bob"]
    assert (station.primary, station.secondary) == ("alice", "bob")


def test_prepare_tells_every_part_from_whom_it_takes_the_time(tmp_path: Path) -> None:
    path = tmp_path / "testbed.toml"
    told = '[time]\nsources = ["hub"]\n\n[stations.hub]\ntime = { sources = [], priority = 64 }\n'
    path.write_text(TESTBED.read_text(encoding="utf-8").replace("[stations.hub]\n", told), encoding="utf-8")
    prepare(path, tmp_path / "state")
    assert load_config(tmp_path / "state" / "broker.toml", BrokerFile).time.settings().sources == ("hub",)
    station = load_config(tmp_path / "state" / "hub.toml", StationConfig).time.settings()
    assert (station.sources, station.priority) == ((), 64)
    assert load_config(tmp_path / "state" / "alice.toml", AgentConfig).time == TimeTable()


def test_mean_time_of_a_pair_is_the_presets_on_the_clock_of_whoever_waits_for_it(tmp_path: Path) -> None:
    """An attempt takes 100 µs and succeeds once in four; daemons live in a world that is twice as fast, virtual time in it."""
    text = TESTBED.read_text(encoding="utf-8").replace(
        'station = "hub"\nmodel = "ideal"', 'station = "hub"\nmodel = "lossy"'
    )
    path = tmp_path / "lossy.toml"
    path.write_text(text, encoding="utf-8")
    config, preset = load_testbed(path)
    twice = msgspec.structs.replace(config, time_scale=2.0)
    for time_scale, pair_time_ms in ((1.0, 0.4), (2.0, 0.2)):
        (link,) = plan_links(config, preset, time_scale=time_scale)
        assert {end.pair_time_ms for end in link.at_end.values()} == {pair_time_ms}
    bed = virtual_testbed(twice, preset)
    assert bed.agents[NodeId("alice")].links[LinkId("alice-bob")].settings.pair_time_ns == 400_000


def test_mean_time_of_a_pair_is_that_of_the_goodness_that_the_link_is_given() -> None:
    """Where there are bright states, less fidelity takes less time."""
    config, preset = load_testbed(STAR)
    model = msgspec.structs.replace(preset.links["single-click"], werner_fidelity=None)
    preset = msgspec.structs.replace(preset, links={"single-click": model})
    times_ms = []
    for goodness in (None, 0.8):
        link = msgspec.structs.replace(config.links["alice-dora"], goodness=goodness)
        planned = plan_links(msgspec.structs.replace(config, links={"alice-dora": link}), preset, time_scale=1.0)
        times_ms.append(planned[0].at_end[NodeId("alice")].pair_time_ms)
    physics = LinkPhysics.of(model)
    bright = physics.bright_states()
    assert bright is not None
    expected = [1e3 / physics.pairs_per_s, 1e3 / physics.rate_per_s(bright.ratio_for(0.8))]
    assert times_ms == pytest.approx(expected, rel=1e-3)
    assert times_ms[1] < times_ms[0] / 2


def test_prepare_authorizes_who_belongs_where_and_nobody_else(tmp_path: Path) -> None:
    prepare(TESTBED, tmp_path)
    authorized = {
        place: {path.stem for path in (tmp_path / "authorized" / place).glob("*.key")} for place in ("broker", "world")
    }
    assert authorized == {"broker": {"hub", "alice", "bob", "client"}, "world": {"hub", "alice", "bob", "observer"}}
    keys = AuthorizedKeys(tmp_path / "authorized" / "broker")
    alice = keys.lookup(load_public(tmp_path / "keys" / "alice.key").public)
    assert alice is not None
    assert alice.role is Role.AGENT
    assert not list((tmp_path / "authorized").rglob("*_secret"))


def test_prepare_again_keeps_the_keys(tmp_path: Path) -> None:
    prepare(TESTBED, tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "keys").iterdir()}
    prepare(TESTBED, tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / "keys").iterdir()} == before


def test_prepare_world_has_the_nodes_and_the_link(tmp_path: Path) -> None:
    prepare(TESTBED, tmp_path)
    path = tmp_path / "world.toml"
    world = make_world(path, load_config(path, WorldConfig))
    names = [qubit.name for qubit in world.qubits(NodeId("alice"))]
    assert names == ["network0", "network1", "circuit0", "circuit1", "circuit2", "circuit3", "reference0"]
    assert [link.link_id for link in world.links(NodeId("hub"))] == [LinkId("alice-bob")]


def test_prepare_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file/lab: cannot be written: Not a directory"):
        prepare(TESTBED, tmp_path / "file" / "lab")


def test_preset_path_is_relative_to_the_testbed(tmp_path: Path) -> None:
    text = TESTBED.read_text(encoding="utf-8").replace('preset = "ideal"', 'preset = "sub/mine.toml"')
    (tmp_path / "testbed.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"sub/mine\.toml: cannot read preset"):
        load_testbed(tmp_path / "testbed.toml")


def test_state_folder_is_for_one_testbed_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(ConfigError, match="running there already"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


ODD = """
name = "odd"
preset = "ideal"
seed = 99
time_scale = 7.0
[session]
heartbeat_ms = 900.0
liveness_ms = 2900.0
retry_ms = 190.0
retry_limit_ms = 990.0
[nodes.alice]
model = "ideal"
communication = 2
storage = 3
[nodes.bob]
model = "ideal"
reference = 2
[nodes.carol]
model = "ideal"
[stations.hub]
[stations.hut]
[links.alice-bob]
ends = ["bob", "alice"]
station = "hub"
model = "ideal"
scheme = "any"
attempts = 11
window_timeout_ms = 1900.0
report_timeout_ms = 490.0
pair_lifetime_ms = 4900.0
backoff_ms = 1.5
goodness = 0.75
[links.bob-carol]
ends = ["bob", "carol"]
station = "hut"
model = "ideal"
"""


def test_virtual_testbed_is_told_what_the_daemons_files_say(tmp_path: Path) -> None:
    path = tmp_path / "testbed.toml"
    path.write_text(ODD, encoding="utf-8")
    prepare(path, tmp_path)
    bed = virtual_testbed(*load_testbed(path))
    for name in ("alice", "bob", "carol"):
        file = load_config(tmp_path / f"{name}.toml", AgentConfig)
        agent = bed.agents[NodeId(name)]
        assert {link_id: link.settings for link_id, link in agent.links.items()} == {
            link_id: table.settings(link_id) for link_id, table in file.links.items()
        }
        assert agent.endpoint.settings == file.session.settings() != SessionTable().settings()
        assert agent._application_timeout_ns == nanoseconds(file.application_timeout_ms)
    for name in ("hub", "hut"):
        tables = load_config(tmp_path / f"{name}.toml", StationConfig).links
        served = bed.stations[NodeId(name)].station._links
        assert served == {link_id: table.settings(link_id) for link_id, table in tables.items()}
    world = make_world(tmp_path / "world.toml", load_config(tmp_path / "world.toml", WorldConfig))
    for node in map(NodeId, ("alice", "bob", "carol")):
        assert bed.world.qubits(node) == world.qubits(node)
        assert bed.world.links(node) == world.links(node)


def test_virtual_testbed_is_ready_at_once_with_the_time_of_the_broker(tmp_path: Path) -> None:
    bed = virtual_testbed(*load_testbed(TESTBED))
    assert all(brain.endpoint.has_time and brain.node.backend_up for brain in bed.agents.values())


SCHEMES_BED = """
name = "schemes"
preset = "schemes"
[nodes.alice]
model = "ideal"
[nodes.bob]
model = "ideal"
[nodes.carol]
model = "ideal"
[stations.hub]
[links.alice-bob]
ends = ["alice", "bob"]
station = "hub"
model = "single-click"
scheme = "single-click"
lead_ms = 1.5
[links.bob-carol]
ends = ["bob", "carol"]
station = "carol"
model = "direct"
scheme = "direct"
"""


def prepared(folder: Path, text: str) -> VirtualTestbed:
    """Write a testbed's files for daemons, and make it in virtual time too."""
    path = folder / "testbed.toml"
    path.write_text(text, encoding="utf-8")
    prepare(path, folder)
    return virtual_testbed(*load_testbed(path))


def test_testbed_of_other_schemes_tells_both_ends_of_bright_states_and_of_who_receives(tmp_path: Path) -> None:
    bed = prepared(tmp_path, SCHEMES_BED)
    assert list(bed.stations) == ["hub"]
    files = {name: load_config(tmp_path / f"{name}.toml", AgentConfig) for name in ("alice", "bob", "carol")}
    for name, file in files.items():
        told = {link_id: link.settings for link_id, link in bed.agents[NodeId(name)].links.items()}
        assert told == {link_id: table.settings(link_id) for link_id, table in file.links.items()}
    first, second = (files[name].links["alice-bob"].settings("alice-bob") for name in ("alice", "bob"))
    assert first.bright_states == second.bright_states is not None
    assert (first.lead_ns, first.goodness) == (1_500_000, 1.0)
    assert {files[name].links["bob-carol"].station for name in ("bob", "carol")} == {"carol"}
    world = make_world(tmp_path / "world.toml", load_config(tmp_path / "world.toml", WorldConfig))
    assert {link.link_id: link.is_station for link in world.links(NodeId("carol"))} == {"bob-carol": True}


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (
            'scheme = "single-click"',
            'scheme = "time-bin"',
            "links.alice-bob: scheme 'time-bin', but model 'single-click' is",
        ),
        ('station = "carol"', 'station = "hub"', "model 'direct' needs one of its ends as the station, not 'hub'"),
        ('station = "carol"', 'station = "alice"', "model 'direct' needs one of its ends as the station, not 'alice'"),
        ('station = "hub"', 'station = "bob"', "links.alice-bob: station 'bob' has no table [stations.bob]"),
    ],
)
def test_testbed_whose_scheme_fits_neither_model_nor_station_is_one_line(
    tmp_path: Path, old: str, new: str, text: str
) -> None:
    path = tmp_path / "testbed.toml"
    path.write_text(SCHEMES_BED.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_testbed(path)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_testbed_of_a_station_with_a_switch_tells_everybody(tmp_path: Path) -> None:
    switch = "[stations.hub]\ndetectors.sets = 2\ndetectors.switch_ms = 0.25"
    bed = prepared(tmp_path, SCHEMES_BED.replace("[stations.hub]", switch))
    expected = StationSettings(sets=2, switch_ns=250_000)
    assert load_config(tmp_path / "hub.toml", StationConfig).detectors.settings() == expected
    stations = load_config(tmp_path / "world.toml", WorldConfig).stations
    assert {name: table.detectors.settings() for name, table in stations.items()} == {"hub": expected}
    assert bed.stations[NodeId("hub")].station.detectors.settings == expected
    shared = {
        (name, link): table.shared_detectors
        for name in ("alice", "bob", "carol")
        for link, table in load_config(tmp_path / f"{name}.toml", AgentConfig).links.items()
    }
    assert shared == {(node, link): link == "alice-bob" for node, link in shared}


def test_testbed_whose_nodes_store_pairs_tells_the_agents(tmp_path: Path) -> None:
    stores = "[nodes.alice]\nstorage = 3\npair_storage = 2"
    bed = prepared(tmp_path, SCHEMES_BED.replace("[nodes.alice]", stores))
    for name, expected in (("alice", 2), ("bob", 0)):
        assert load_config(tmp_path / f"{name}.toml", AgentConfig).pair_storage == expected
        assert bed.agents[NodeId(name)].node.pair_storage == expected
    with pytest.raises(ConfigError, match="`pair_storage` is 2, of 1 storage qubits"):
        prepared(tmp_path, SCHEMES_BED.replace("[nodes.alice]", stores.replace("3", "1")))
