"""Sweeps over the seeds of one scenario or of several: sums, rows that were not reached and why, stories of failures."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from mutated import bellwire, copied, mutate

from bellwire.protocols.teleport import Half
from bellwire.shell.main import run
from bellwire.simnet.faults import AnyFault, Crash, Cut, FrameFault, FrameFaultKind, Skew, Slow, Stall, WorldCrash
from bellwire.virtual.run import Report
from bellwire.virtual.story import in_words
from bellwire.virtual.sweep import MAX_FAILURES, Summary, all_rows
from bellwire.virtual.unreachable import UNREACHABLE

SECOND_NS = 1_000_000_000


def report(seed: int, *, broken: bool = False, rows: tuple[str, ...] = ()) -> Report:
    violation: dict[str, str | int] = {"checker": "one-frame", "at_ns": 1, "text": "it is broken"}
    return Report(
        seed=seed,
        violations=[violation] if broken else [],
        outcomes={"gate: done": 2},
        faults={"crash": 1},
        rows=dict.fromkeys(rows, 1),
        events=10,
        frames=5,
        gates_checked=2,
        pairs_made=3,
        fired={},
    )


# What is summed up.


def test_summary_does_not_depend_on_the_order_of_the_seeds() -> None:
    summaries = [Summary(200), Summary(200)]
    for number in range(200):
        summaries[0].add("ring", report(number, broken=number % 3 > 0))
        summaries[1].add("ring", report(199 - number, broken=(199 - number) % 3 > 0))
    assert summaries[0] == summaries[1]
    assert summaries[0].failed == 133
    assert [failure.report.seed for failure in summaries[0].failing] == [n for n in range(200) if n % 3][:MAX_FAILURES]


def test_command_runs_every_scenario_and_sums_them_up(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.toml"
    other.write_text(tiny.read_text(encoding="utf-8").replace("frames = 2", "crashes = 2"), encoding="utf-8")
    assert run(["simnet", str(tiny), str(other), "--seeds", "0:4", "--jobs", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [each["scenario"] for each in told["scenarios"]] == [str(tiny), str(other)]
    assert (told["seeds"], told["seeds_asked"], told["failed"]) == (8, 8, 0)
    first, second = told["scenarios"]
    for count in ("seeds", "events", "frames", "pairs_made", "gates_checked"):
        assert told[count] == first[count] + second[count] > 0
    assert "crash" not in first["faults"]
    assert told["faults"] == {**first["faults"], **second["faults"]}
    reached = {row for each in told["scenarios"] for row in set(all_rows()) - set(each["rows_not_reached"])}
    assert set(told["rows_not_reached"]) == set(all_rows()) - reached
    assert told["rows_covered"] > max(first["rows_covered"], second["rows_covered"])


def test_command_shows_a_column_for_every_scenario(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simnet", str(tiny), "star-five-mixed", "--seeds", "0:2", "--jobs", "1"]) == 0
    captured = capsys.readouterr()
    assert f"{tiny}, star-five-mixed: 4 seeds in " in captured.out
    [seeds] = [line for line in captured.out.splitlines() if "│ seeds " in line]
    assert [cell.strip() for cell in seeds.split("│")[1:-1]] == ["seeds", "2", "2", "4"]
    assert captured.err == ""


def test_command_runs_seeds_on_many_cores_with_the_same_outcome(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = []
    for jobs in ("1", "3"):
        assert run(["simnet", str(tiny), "--seeds", "0:12", "--jobs", jobs, "--json"]) == 0
        content = json.loads(capsys.readouterr().out)
        del content["seconds"], content["jobs"]
        told.append(content)
    assert told[0] == told[1]


@pytest.mark.parametrize("jobs", [1, 2])
def test_sweep_stops_over_all_scenarios_when_enough_have_failed(tiny: Path, jobs: int, tmp_path: Path) -> None:
    environment = copied(tmp_path)
    mutate(tmp_path, "correction-forgotten")
    options = ["--seeds", "0:1000000", "--stop-after", "2", "--no-shrink", "--jobs", str(jobs), "--json"]
    done = bellwire(environment, "simnet", str(tiny), "no-faults", *options)
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert (told["failed"], told["seeds_asked"]) == (2, 2_000_000)
    assert told["scenarios"][0]["seeds"] == told["seeds"] < 100
    assert told["scenarios"][1]["seeds"] == 0


# Rows of transition tables.


def test_reasons_are_given_for_rows_that_there_are() -> None:
    assert set(UNREACHABLE) <= set(all_rows())
    assert all(reason and not reason.endswith(".") for reason in UNREACHABLE.values())


def test_rows_are_reached_not_reached_or_unreachable_and_a_wrong_reason_is_said() -> None:
    [reached, *others] = [row for row in all_rows() if row not in UNREACHABLE]
    [disproved, *unreachable] = UNREACHABLE
    summary = Summary(2)
    summary.add("ring", report(0, rows=(reached,)))
    assert summary.rows_disproved == []
    assert summary.rows_unreachable == UNREACHABLE
    assert summary.rows_not_reached == others
    summary.add("ring", report(1, rows=(disproved,)))
    assert summary.rows_disproved == [disproved]
    assert list(summary.rows_unreachable) == unreachable
    told = summary.as_dict()
    assert told["rows"] == told["rows_covered"] + len(told["rows_not_reached"]) + len(told["rows_unreachable"])


def test_command_tells_rows_with_a_reason_from_those_without(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simnet", str(tiny), "--seeds", "0:2", "--jobs", "1"]) == 0
    shown = capsys.readouterr().out
    missed, _, unreachable = shown.partition("Rows that no seed can reach")
    for row in UNREACHABLE:
        assert row not in missed
        assert row in unreachable
    assert "│ gate acting broken " in missed


# Stories.


def test_command_tells_the_story_of_a_failing_seed(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Half, "correct", lambda _self, _bits: [])
    assert run(["simnet", str(tiny), "--seeds", "0:12", "--jobs", "1"]) == 1
    told = capsys.readouterr().err
    assert "exact-correction: A gate that is reported done acted exactly once" in told
    assert "what it takes: none of the " in told  # Such a bug needs no fault.
    assert told.count(f"bellwire simnet {tiny} --seed") == 5
    assert re.search(r"also failed: \d+ of ", told)


def test_story_of_a_mutant_names_seed_and_commit_and_its_faults_alone_break_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = copied(tmp_path)
    head = committed(tmp_path)
    mutate(tmp_path, "skip-the-dedup")
    done = bellwire(environment, "simnet", "two-nodes-mixed", "--seeds", "0:60", "--stop-after", "1")
    assert done.returncode == 1
    first, *lines = done.stderr.strip().splitlines()
    heading = re.fullmatch(r"seed (\d+) of two-nodes-mixed failed at commit (\w{12})-dirty", first)
    assert heading is not None, done.stderr
    assert heading[2] == head
    [needed] = [re.search(r"what it takes: (\d+) of the (\d+) faults", line) for line in lines if "it takes" in line]
    assert needed is not None
    assert 1 <= int(needed[1]) <= int(needed[2])
    assert sum(bool(re.match(r"    \d+\. ", line)) for line in lines) == int(needed[1])

    program, *replay = shlex.split(lines[-1])
    assert program == "bellwire"
    assert replay[:4] == ["simnet", "two-nodes-mixed", "--seed", heading[1]]
    monkeypatch.chdir(tmp_path)
    again = bellwire(environment, *replay)
    assert again.returncode == 1
    [broken] = [line for line in lines if line.startswith("      after ")][:1]
    assert broken in again.stderr
    assert (tmp_path / "trace.jsonl").stat().st_size > 0
    without = [*replay[: replay.index("--trace")], "--faults", "none"]
    assert bellwire(environment, *without).returncode == 0


def committed(root: Path) -> str:
    """Commit a folder to a repository of its own: the commit."""
    name = "bellwire"
    identity = {f"GIT_{role}_{what}": name for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, **identity, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "All of it")
    return git("rev-parse", "--short=12", "HEAD")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            FrameFault(
                number=1, kind=FrameFaultKind.LOSE, permille=41, sender="n0", family="gate", duration_ns=SECOND_NS
            ),
            "from 0 s to 1 s, 4.1 % of the time a gate message from node n0 is lost",
        ),
        (
            FrameFault(number=1, kind=FrameFaultKind.DELAY, permille=500, delay_ns=2_000_000, spared=("app0",)),
            "from 0 s to 0 s, 50 % of the time a message, applications' frames apart, is delayed by up to 2 ms",
        ),
        (
            Cut(number=1, senders=("n0",), receivers=("n1", "s0", "broker"), start_ns=SECOND_NS // 2),
            "from 0.5 s to 0.5 s, nothing passes between node n0 and node n1, station s0 and the broker",
        ),
        (
            Cut(number=1, senders=("n0",), receivers=("app0",), both_ways=False),
            "from 0 s to 0 s, nothing passes from node n0 to application app0",
        ),
        (Stall(number=1, node="n0"), "from 0 s to 0 s, node n0 does nothing, and then all of it at once"),
        (
            Skew(number=1, node="n0", offset_ns=-13 * SECOND_NS, drift_ppb=8_000),
            "all the time, the clock of node n0 is 13 s behind and drifts by 8 ppm",
        ),
        (
            Slow(number=1, node="s0", delay_ns=1_500_000),
            "from 0 s to 0 s, the hardware of station s0 takes up to 1.5 ms longer each way",
        ),
        (Crash(number=1, node="broker"), "from 0 s to 0 s, the broker is dead, and then starts again"),
        (
            WorldCrash(number=1, notice_ns=3 * SECOND_NS),
            "from 0 s to 0 s, the simulated world is gone with every qubit; nodes notice within 3 s",
        ),
    ],
)
def test_fault_in_words(fault: AnyFault, words: str) -> None:
    assert in_words(fault) == words


# Mistakes.


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-faults", "--seeds", "5"], "FROM:TO"),
        (["no-faults", "--trace", "t"], "--trace needs --seed"),
        (["no-faults", "--faults", "1"], "--faults needs --seed"),
        (["nowhere"], "no scenario 'nowhere'"),
        (["no-faults", "ring", "no-faults"], "named twice"),
        (["no-faults", "ring", "--seed", "3"], "name one scenario"),
        (["no-faults", "--seed", "3", "--faults", "1"], "draws no fault '1'"),
        (["ring", "--seed", "3", "--faults", "1,x"], "draws no fault 'x'"),
    ],
)
def test_command_line_that_makes_no_sense_is_refused_in_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["simnet", *arguments]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert said in told
