"""`bellwire tags` in one process: what each verb shows, writes and refuses."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from bellwire.shell.main import run
from bellwire.tags.files import Recorder, open_tags
from bellwire.tags.format import Header
from bellwire.tags.stream import CLOCK, Tags

from .ptu_files import photon, sync, write_ptu


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    code = run(["tags", *arguments])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def plain(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    return json.loads(shown(capsys, *arguments, "--json"))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a mistake is told in."""
    code = run(["tags", *arguments])
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert captured.err.count("\n") == 1
    return captured.err


def test_help_teaches_with_a_walk_through_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "--help")
    assert "bellwire tags simulate demo.tags --truth truth.jsonl" in out
    for verb in ("info", "find", "record", "replay", "convert", "simulate"):
        assert f" {verb} " in out
        assert "Example: bellwire tags" in " ".join(shown(capsys, verb, "--help").split())
    assert 'patterns = [[1, 2, "psi+"]' in shown(capsys, "find", "--help")


def test_simulate_then_find_by_its_settings_is_the_truth(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "sim.toml").write_text(
        'encoding = "time-bin"\ndark_hz = 0.0\nefficiencies = [0.3, 0.2]\n', encoding="utf-8"
    )
    made = plain(
        capsys,
        *("simulate", "a.tags", "-n", "100000", "--settings", "sim.toml", "--seed", "5"),
        *("--truth", "truth.jsonl", "--finder", "finder.toml"),
    )
    assert made["attempts"] == 100_000
    assert made["tags"] == open_tags(here / "a.tags").tags
    assert tomllib.loads((here / "finder.toml").read_text(encoding="utf-8"))["gates_ps"] == [
        [90_000, 110_000],
        [290_000, 310_000],
    ]
    truth = [json.loads(line) for line in (here / "truth.jsonl").read_text(encoding="utf-8").splitlines()]
    found = plain(capsys, "find", "a.tags", "--settings", "finder.toml", "--limit", "0")
    assert [{"attempt": row["attempt"], "bell_state": row["bell_state"]} for row in found["coincidences"]] == truth
    assert found["found"] == made["heralded"] == len(truth)
    assert len(truth) == pytest.approx(100_000 * 0.3 * 0.2 / 2, rel=0.1)
    assert found["counts"]["heralds"].keys() == {"psi+", "psi-"}
    first = found["coincidences"][0]
    assert first["window"] == 1
    assert [290_000 <= click - first["attempt_ps"] < 310_000 for click in first["clicks_ps"]] == [False, True]


def test_find_limit_shows_the_first_and_counts_all(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown(capsys, "simulate", "a.tags", "-n", "200000")
    every = plain(capsys, "find", "a.tags", "--limit", "0")
    some = plain(capsys, "find", "a.tags", "--limit", "7")
    assert some["coincidences"] == every["coincidences"][:7]
    assert some["found"] == every["found"] > 3_000
    assert some["counts"] == every["counts"]
    out = shown(capsys, "find", "a.tags", "--limit", "7")
    assert f"a.tags: {every['found']} coincidences, the first 7 of them" in out
    assert "What became of the tags" in out
    assert "unmatched" in out


def test_info_counts_channels_and_measures_disorder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = Header(resolution_ps=4, start_epoch_ns=1_700_000_000_000_000_000, channels={0: "trigger", 5: "unused"})
    with Recorder(here / "a.tags", header) as recorder:
        recorder.write(Tags.of([(0, 0), (10, -2), (7, -2), (8, -2), (2 * 10**12, CLOCK), (2 * 10**12, 0)]))
    seen = plain(capsys, "info", "a.tags")
    channels = {one.pop("channel"): one for one in seen.pop("channels")}
    assert seen == {
        "format": "bellwire",
        "whole": True,
        "resolution_ps": 4,
        "start": "2023-11-14T22:13:20+00:00",
        "period_ps": 0,
        "tags": 6,
        "duration_s": 2.0,
        "out_of_order": 2,
        "disorder_ps": 3,
    }
    assert channels == {
        -2: {"name": "", "tags": 3, "tags_per_s": 1.5},
        0: {"name": "trigger", "tags": 2, "tags_per_s": 1.0},
        5: {"name": "unused", "tags": 0, "tags_per_s": 0.0},
    }
    assert "disorder_ps" in shown(capsys, "info", "a.tags")


def test_info_of_a_file_without_tags_shows_none(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Recorder(here / "a.tags", Header()).close()
    seen = plain(capsys, "info", "a.tags")
    assert (seen["tags"], seen["duration_s"], seen["channels"], seen["start"]) == (0, 0.0, [], None)


def test_convert_ptu_gives_the_same_tags_in_the_own_format(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_ptu(here / "a.ptu", [sync(5), photon(1, 7), photon(2, 9), sync(50)])
    assert plain(capsys, "convert", "a.ptu", "a.tags") == {"file": "a.tags", "tags": 4}
    ptu, own = open_tags(here / "a.ptu"), open_tags(here / "a.tags")
    (one,), (two,) = ptu.chunks(), own.chunks()
    assert (one.times_ps.tolist(), one.channels.tolist()) == (two.times_ps.tolist(), two.channels.tolist())
    assert own.kind == "bellwire"
    (here / "finder.toml").write_text(
        'trigger = 0\ngates_ps = [[1, 9]]\npatterns = [[1, 2, "psi+"]]\n', encoding="utf-8"
    )
    for file in ("a.ptu", "a.tags"):
        (row,) = plain(capsys, "find", file, "--settings", "finder.toml")["coincidences"]
        assert (row["attempt"], row["bell_state"], row["clicks_ps"]) == (1, "psi+", [7, 9])


def test_convert_salvages_what_is_left_of_a_truncated_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Recorder(here / "a.tags", Header()) as recorder:
        recorder.write(Tags.of([(1, 1), (2, 2), (3, 3)]))
    (here / "a.tags").write_bytes((here / "a.tags").read_bytes()[:-3])
    assert "a.tags: truncated: it holds 2 tags of 3; `bellwire tags convert --salvage`" in refused(
        capsys, "info", "a.tags"
    )
    assert plain(capsys, "convert", "--salvage", "a.tags", "b.tags") == {"file": "b.tags", "tags": 2}
    assert open_tags(here / "b.tags").whole


def test_convert_that_fails_leaves_no_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Recorder(here / "a.tags", Header()) as recorder:
        recorder.write(Tags.of([(1, 1), (2**62, 2)]))
    assert "is out of range" in refused(capsys, "convert", "a.tags", "b.tags")
    assert not (here / "b.tags").exists()


def test_record_from_a_file_or_the_simulation_stops_at_its_number(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plain(capsys, "record", "simulated", "a.tags", "-n", "100001", "--speed", "0")["tags"] == 100_001
    assert plain(capsys, "record", "a.tags", "b.tags", "-n", "70000", "--speed", "0")["tags"] == 70_000
    assert plain(capsys, "record", "b.tags", "c.tags", "--speed", "0")["tags"] == 70_000
    assert (here / "b.tags").read_bytes() == (here / "c.tags").read_bytes()
    assert open_tags(here / "b.tags").header.channels[0] == "trigger"


def test_record_stops_after_its_seconds(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded = plain(capsys, "record", "simulated", "a.tags", "--seconds", "0.05", "--speed", "0")["tags"]
    assert open_tags(here / "a.tags").whole
    assert open_tags(here / "a.tags").tags == recorded


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("info", "none.tags"), "none.tags: cannot be read: No such file"),
        (("info", "text.tags"), "text.tags: holds no time tags"),
        (("find", "a.tags", "--settings", "none.toml"), "none.toml: cannot be read"),
        (("find", "a.tags", "--settings", "wrong.toml"), "wrong.toml: unknown key `triger`, did you mean `trigger`?"),
        (("find", "a.tags", "--settings", "empty.toml"), "empty.toml: missing key `gates_ps`"),
        (("find", "a.tags", "--limit", "-1"), "limit"),
        (("convert", "a.tags", "a.tags"), "a.tags: exists; what was recorded is never overwritten"),
        (("simulate", "a.tags"), "a.tags: exists; what was recorded is never overwritten"),
        (("simulate", "b.tags", "--truth", "none/truth.jsonl"), "none/truth.jsonl: cannot be written"),
        (("simulate", "b.tags", "--finder", "none/finder.toml"), "none/finder.toml: cannot be written"),
        (("simulate", "b.tags", "-n", "0"), "attempts"),
        (("record", "tcp://nowhere", "b.tags"), "'tcp://nowhere' is not of the form tcp://host:port"),
        (("record", "none.tags", "b.tags"), "none.tags: cannot be read"),
        (("record", "a.tags", "a.tags"), "a.tags: exists"),
        (("replay", "a.tags", "--listen", "here"), "'here' is not of the form tcp://host:port"),
        (("replay", "a.tags"), "Missing option"),
    ],
)
def test_mistake_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    Recorder(here / "a.tags", Header()).close()
    (here / "text.tags").write_text("channel,time", encoding="utf-8")
    (here / "wrong.toml").write_text("triger = 0", encoding="utf-8")
    (here / "empty.toml").touch()
    assert said in refused(capsys, *arguments)
    assert not (here / "b.tags").exists()
