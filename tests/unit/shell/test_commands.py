"""The command line in one process: help, versions, and a person's mistakes, each told in one line with exit code 2."""

from __future__ import annotations

import io
import json
import re
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from bellwire.agent.shots import BATCH_SHOTS
from bellwire.shell import log
from bellwire.shell.main import run

TESTBED = """
name = "lab"
preset = "ideal"
[nodes.alice]
model = "ideal"
[nodes.bob]
model = "ideal"
[stations.hub]
[links.alice-bob]
ends = ["alice", "bob"]
station = "hub"
model = "ideal"
scheme = "any"
"""

BELL = """
name = "bell"
qubits = ["alice.c", "bob.t"]
steps = [["h", "alice.c"], ["cx", "alice.c", "bob.t"], ["measure", "alice.c"], ["measure", "bob.t"]]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BELLWIRE_CLIENT", raising=False)
    (tmp_path / "testbed.toml").write_text(TESTBED, encoding="utf-8")
    (tmp_path / "bell.toml").write_text(BELL, encoding="utf-8")
    (tmp_path / "eve.toml").write_text(BELL.replace("bell", "eve").replace("bob.", "eve."), encoding="utf-8")
    yield tmp_path
    structlog.reset_defaults()


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run a command line that is a mistake: the exit code, and the one line that it was told in."""
    code = run(arguments)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("\n")
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("bellwire: ")
    return code, captured.err.removeprefix("bellwire: ").rstrip()


def test_help_shows_every_command_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    for command in ("broker", "world", "station", "agent", "up", "entangle", "gate", "run", "time", "keys", "backends"):
        assert f" {command} " in out
    assert "bellwire up examples/two-nodes/testbed.toml" in out


def test_version_names_package_and_protocol(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("bellwire 0.")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("frob",), "No such command 'frob'"),
        (("entangle", "alice"), "Missing argument 'B'"),
        (("entangle", "alice", "bob", "--frob"), "No such option: --frob"),
        (("entangle", "alice", "bob"), "there is no testbed here"),
        (("entangle", "alice", "bob", "--basis", "x"), "--basis needs --type M"),
        (("entangle", "alice", "bob", "--type", "M", "--atomic"), "--atomic needs --type K"),
        (("entangle", "alice", "bob", "--type", "M", "--measure"), "--measure needs --type K"),
        (("entangle", "alice", "bob", "--type", "M", "--basis", "w"), "'w' is no basis: expected one of z, x, y"),
        (("entangle", "alice", "bob", "--type", "M", "--basis", "x,y,z"), "expected one basis for both nodes"),
        (("entangle", "alice", "bob", "--priority", "8"), "--priority"),
        (("gate", "cz", "alice", "bob:t"), "'alice' is not of the form node:qubit"),
        (("gate", "cz", "al ice:a", "bob:b"), "'al ice' is not a node name"),
        (("gate", "cz", "alice:", "bob:b"), "'' cannot name a qubit"),
        (("gate", "cz", "alice:a", f"bob:{'q' * 200}"), "cannot name a qubit: 1 to 160 characters"),
        (("entangle", "alice", "béb"), "'béb' is not a node name"),
        (("entangle", "alice", "bob", "--timeout", "inf"), "timeout"),
        (("gate", "cz", "alice:a", "bob:b", "--timeout", "1e12"), "timeout"),
        (("run", "none.toml", "--timeout", "1e10"), "timeout"),
        (("entangle", "alice", "bob", "--timeout", "nan"), "timeout"),
        (("gate", "cz", "alice:a", "bob:b", "--timeout", "nan"), "timeout"),
        (("run", "none.toml", "--timeout", "nan"), "timeout"),
        (("entangle", "alice", "bob", "--fidelity", "nan"), "fidelity"),
        (("gate", "cz", "alice:a", "bob:b", "--fidelity", "nan"), "fidelity"),
        (("gate", "cz", "alice:a", "bob:b", "--fidelity", "1.1"), "fidelity"),
        (("run", "none.toml"), "none.toml: cannot be read: No such file or directory"),
        (("run", "bell.toml", "--seed", "1"), "--seed needs --virtual"),
        (("run", "bell.toml", "--jobs", "1"), "--jobs needs --virtual"),
        (("run", "bell.toml", "--latency-us", "1"), "--latency-us needs --virtual"),
        (("run", "bell.toml", "--virtual", "none.toml"), "none.toml: cannot be read: No such file or directory"),
        (("run", "bell.toml", "--virtual", "testbed.toml", "--latency-us", "nan"), "--latency-us"),
        (("run", "eve.toml", "--virtual", "testbed.toml"), "testbed.toml: has no node 'eve', which eve asks for"),
        (("up", "none.toml"), "none.toml: cannot be read: No such file or directory"),
        (("agent", "none.toml"), "none.toml: cannot be read: No such file or directory"),
        (("broker", "none.toml"), "none.toml: cannot be read: No such file or directory"),
        (("agent", "none.toml", "--log-level", "loud"), "--log-level 'loud' is not one of"),
        (("keys", "new", "a b", "--role", "agent"), "'a b' is not a node name"),
        (("keys", "new", "alice", "--role", "duke"), "'duke' is not one of"),
        (("keys", "list", "none"), "none: no such folder"),
        (
            ("prepare", "testbed.toml", "--dir", "lab", "--broker", "broker", "--world", "world:7101"),
            "'broker' is not of the form host:port",
        ),
    ],
)
def test_mistake_is_one_line_with_exit_code_2(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    code, text = told(capsys, *arguments)
    assert code == 2
    assert said in text


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('model = "ideal"\n[nodes.bob]', 'modle = "ideal"\n[nodes.bob]', "nodes.alice: unknown key `modle`"),
        ('preset = "ideal"', 'preset = "real"', "there is no preset 'real': packaged are ideal"),
        ('preset = "ideal"', 'preset = "mine.toml"', "mine.toml: cannot read preset"),
        ('station = "hub"', 'station = "hob"', "links.alice-bob: station 'hob' has no table [stations.hob]"),
        ('ends = ["alice", "bob"]', 'ends = ["alice", "eve"]', "link alice-bob: its end 'eve' is not a node"),
        ("[stations.hub]", "[stations.hub]\n[stations.alice]", "there are two of the name 'alice'"),
        ("[links.alice-bob]", '[links."alice bob"]', "'alice bob' is not a link's name"),
        ("[stations.hub]", "[stations.hub]\n[stations.world]", "nothing in a testbed can be called 'world'"),
        ('[nodes.bob]\nmodel = "ideal"', '[nodes.bob]\nmodel = "tin"', "node bob: preset 'ideal' has no model 'tin'"),
    ],
)
def test_testbed_wrong_is_one_line_with_file_and_place(
    here: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, said: str
) -> None:
    assert old in TESTBED
    (here / "testbed.toml").write_text(TESTBED.replace(old, new, 1), encoding="utf-8")
    code, text = told(capsys, "up", "testbed.toml")
    assert code == 2
    assert text.startswith("testbed.toml: ")
    assert said in text
    assert not (here / ".bellwire").exists()


def test_client_two_testbeds_have_to_be_chosen_from(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        folder = here / ".bellwire" / name
        folder.mkdir(parents=True)
        (folder / "client.toml").touch()
    code, text = told(capsys, "entangle", "alice", "bob")
    assert code == 2
    assert ".bellwire/a/client.toml, .bellwire/b/client.toml" in text


def test_keys_new_then_list_shows_no_secret(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["keys", "new", "alice", "--role", "agent", "--dir", "keys"]) == 0
    secret = here / "keys" / "alice.key_secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    capsys.readouterr()
    assert run(["keys", "list", "keys", "--json"]) == 0
    out = capsys.readouterr().out
    (row,) = json.loads(out)
    assert (row["name"], row["role"], row["secret"]) == ("alice", "agent", True)
    hidden = secret.read_text(encoding="utf-8").split("secret-key")[1].split('"')[1]
    assert hidden not in out
    code, text = told(capsys, "keys", "new", "alice", "--role", "agent", "--dir", "keys")
    assert code == 2
    assert "a key is never overwritten" in text


def test_prepare_hosts_are_bound_everywhere_and_reached_by_name(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["prepare", "testbed.toml", "--dir", "lab", "--broker", "one:7100", "--world", "two:7101", "--json"]
    assert run(arguments) == 0
    parts = {
        part["name"]: tomllib.loads(Path(part["config"]).read_text()) for part in json.loads(capsys.readouterr().out)
    }
    assert parts["broker"]["bind"] == "tcp://0.0.0.0:7100"
    assert parts["alice"]["broker"]["endpoint"] == "tcp://one:7100"
    assert parts["hub"]["backend"]["options"]["endpoint"] == "tcp://two:7101"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("alice.key_secret", "none.key_secret", "keys/none.key_secret: cannot read the key: No such file"),
        ("alice.key_secret", "hub.key_secret", "is the key of hub (station), expected the role agent"),
        ("keys/broker.key", "keys/world.key", "broker.key: "),
        ('name = "sim"', 'name = "tin"', "there is no backend 'tin': installed are"),
        ("server_key =", "sever_key =", "backend sim of alice: unknown option 'sever_key'"),
        ("[links.alice-bob]", f"[links.{'x' * 65}]", "is not a link's name: 1 to 64 characters"),
        ('peer = "bob"', 'peer = "b o b"', "links.alice-bob: 'b o b' is not a node name"),
    ],
)
def test_agent_that_cannot_be_made_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, said: str
) -> None:
    assert run(["prepare", "testbed.toml", "--dir", "lab", "--broker", "one:7100", "--world", "two:7101"]) == 0
    capsys.readouterr()
    path = here / "lab" / "alice.toml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    code, line = told(capsys, "agent", "lab/alice.toml")
    assert code == 2
    assert said in line


def test_backends_json_names_sim_and_mock(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["backends", "--json"]) == 0
    assert {"sim", "mock"} <= {row["name"] for row in json.loads(capsys.readouterr().out)}


def test_log_json_hides_secrets() -> None:
    out = io.StringIO()
    log.configure("info", out)
    try:
        structlog.get_logger().info("loaded", secret_key="abc", secret_key_path="alice.key_secret", name="alice")
        structlog.get_logger().debug("not shown")
    finally:
        structlog.reset_defaults()
    (line,) = out.getvalue().splitlines()
    entry = json.loads(line)
    assert entry["secret_key"] == "(hidden)"
    assert entry["secret_key_path"] == "alice.key_secret"
    assert (entry["event"], entry["level"], entry["name"]) == ("loaded", "info", "alice")


def run_virtual(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert run(["run", "bell.toml", "--virtual", "testbed.toml", "--json", *options]) == 0
    told = json.loads(capsys.readouterr().out)
    assert isinstance(told, dict)
    assert told.pop("seconds") > 0
    return told


def test_run_virtual_json_says_what_daemons_say_and_how_much_virtual_time_passed(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = run_virtual(capsys, "--shots", "40", "--latency-us", "1000")
    # A shot takes an initialisation, the rest of what is local, a gate and a measurement: ten latencies at the least.
    assert 0.4 < told.pop("virtual_seconds") < 4.0
    assert set(told["counts"]) == {"00", "11"}
    assert sum(told.pop("counts").values()) == 40
    assert told == {
        "program": "bell",
        "shots": 40,
        "bits": ["alice.c", "bob.t"],
        "virtual": True,
        "seed": 1,
        "latency_us": 1000.0,
    }


def test_run_virtual_counts_depend_on_the_seed_and_not_on_the_number_of_processes(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shots = ("--shots", str(BATCH_SHOTS + 50))
    one = run_virtual(capsys, *shots, "--seed", "5", "--jobs", "1")
    assert sum(one["counts"].values()) == BATCH_SHOTS + 50
    assert run_virtual(capsys, *shots, "--seed", "5", "--jobs", "3") == one
    assert run_virtual(capsys, *shots, "--seed", "6", "--jobs", "1")["counts"] != one["counts"]


def test_run_virtual_shows_the_table_of_daemons(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "bell.toml", "--virtual", "testbed.toml", "--shots", "10"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"bell: 10 shots in [\d.]+ s, [\d.]+ s of virtual time, 1 teleported gates in each", out)
    assert "alice.c bob.t" in out


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_run_virtual_request_that_fails_is_one_line_wherever_it_failed(
    here: Path, capsys: pytest.CaptureFixture[str], jobs: str
) -> None:
    shots = str(2 * BATCH_SHOTS)
    command = ("run", "bell.toml", "--virtual", "testbed.toml", "--shots", shots, "--jobs", jobs, "--timeout", "0.001")
    assert told(capsys, *command) == (1, "TIMEOUT: the deadline came first")
