"""Configuration files: what is right becomes a struct, what is wrong one line with its place."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bellwire.agent.config import AgentConfig, DirectTable
from bellwire.protocols.errors import ConfigError
from bellwire.shell.config import GRANDMASTER, SessionTable, TimeTable, load_config, nanoseconds, to_toml

AGENT = """
secret_key = "keys/alice.key_secret"
broker = { endpoint = "tcp://127.0.0.1:7100", key = "keys/broker.key" }
[backend]
name = "sim"
options = { endpoint = "tcp://127.0.0.1:7101" }
[links.alice-bob]
peer = "bob"
station = "hub"
primary = true
window_timeout_ms = 1500
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "alice.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_agent_file_right_becomes_link_settings(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, AGENT), AgentConfig)
    settings = config.links["alice-bob"].settings("alice-bob")
    assert settings.peer == "bob"
    assert settings.window_timeout_ns == 1_500_000_000
    assert config.backend.options == {"endpoint": "tcp://127.0.0.1:7101"}
    assert config.session == SessionTable()


def test_time_table_becomes_settings_and_what_contradicts_itself_is_told() -> None:
    settings = TimeTable(sources=("gps", "broker"), priority=64, interval_ms=20.0, max_drift_ppm=0.5).settings()
    assert settings.sources == ("gps", "broker")
    assert (settings.priority, settings.interval_ns, settings.acquire_interval_ns) == (64, 20_000_000, 20_000_000)
    assert settings.clock.max_drift_ppb == 500
    assert GRANDMASTER.settings().sources == ()
    assert TimeTable(interval_ms=60_000.0).settings().silence_ns == 240_000_000_000
    with pytest.raises(ConfigError, match="is not a node name"):
        TimeTable(sources=("the sun",))
    with pytest.raises(ValueError, match="10 ms or more"):
        TimeTable(interval_ms=1.0)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('station = "hub"', 'sation = "hub"', "links.alice-bob: unknown key `sation`, did you mean `station`?"),
        ('station = "hub"', "", "links.alice-bob: missing key `station`"),
        ("primary = true", 'primary = "yes"', "links.alice-bob.primary: expected `bool`, got `str`"),
        (
            "window_timeout_ms = 1500",
            "window_timeout_ms = -1",
            "links.alice-bob.window_timeout_ms: expected `float` > 0",
        ),
        (
            "window_timeout_ms = 1500",
            'scheme = "carrier-pigeon"',
            "links.alice-bob: scheme 'carrier-pigeon' is not one of",
        ),
        ('name = "sim"', 'nam = "sim"', "backend: unknown key `nam`, did you mean `name`?"),
        ("[backend]", "backends = 1\n[backend]", "unknown key `backends`, did you mean `backend`?"),
        ("[links.alice-bob]", "[links]\nalice-bob = 1\n[other]", "links.alice-bob: expected a table"),
        ("[backend]", "[backend", "is not TOML:"),
        (
            "[links.alice-bob]",
            '[links.dark]\npeer = "bob"\nstation = "hub"\nprimary = true\n[links.alice-bob]',
            "links dark and alice-bob both lead to bob: a node has one for each",
        ),
        ("[backend]", "[session]\nheartbeat_ms = 5000\n[backend]", "heartbeat_ns must be positive and less than"),
    ],
)
def test_agent_file_wrong_is_one_line_with_its_place(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = written(tmp_path, AGENT.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load_config(path, AgentConfig)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert said in text
    assert "\n" not in text


def test_file_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file or directory"):
        load_config(tmp_path / "none.toml", AgentConfig)


def test_file_not_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load_config(path, AgentConfig)


def test_nanoseconds_of_very_little_is_at_least_one() -> None:
    assert nanoseconds(1e-9) == 1
    assert nanoseconds(0.5) == 500_000


names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
leaves = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
values = st.one_of(leaves, st.lists(leaves, max_size=3))
tables = st.recursive(
    st.dictionaries(names, values, max_size=3),
    lambda inner: st.dictionaries(names, st.one_of(values, inner), max_size=3),
    max_leaves=6,
)


@given(tables)
def test_toml_written_is_read_back_the_same(content: dict[str, object]) -> None:
    assert tomllib.loads(to_toml(content)) == content


def test_direct_table_listens_everywhere_unless_it_says_otherwise(tmp_path: Path) -> None:
    usual = load_config(written(tmp_path, AGENT), AgentConfig).direct.settings()
    assert usual is not None
    assert (usual.listen, usual.advertise) == ("tcp://0.0.0.0:0", ())
    text = AGENT + '[direct]\nlisten = "tcp://127.0.0.1:7"\nadvertise = ["tcp://alice.lab:0"]\n'
    told = load_config(written(tmp_path, text), AgentConfig).direct.settings()
    assert told is not None
    assert (told.listen, told.advertise) == ("tcp://127.0.0.1:7", ("tcp://alice.lab:0",))
    assert DirectTable(enabled=False).settings() is None


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ('listen = "127.0.0.1:7"', "listen: '127.0.0.1:7' is no endpoint: expected tcp://HOST:PORT"),
        ('advertise = ["alice"]', "advertise: 'alice' is no endpoint: expected tcp://HOST:PORT"),
    ],
)
def test_direct_table_with_no_endpoint_is_one_line(tmp_path: Path, table: str, told: str) -> None:
    path = written(tmp_path, f"{AGENT}[direct]\n{table}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path, AgentConfig)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
