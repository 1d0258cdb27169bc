"""The kit over our own daemons: the healthy ones pass, and one fault of each kind is noticed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mutant import Mutant, copied
from scripts import load_script

from bellwire.conformance.cases import wire_cases
from bellwire.conformance.catalogue import OPTIONS, Role
from bellwire.conformance.clocks import Source
from bellwire.conformance.party import Party
from bellwire.conformance.runner import open_stage
from bellwire.conformance.wire import decode, encode
from bellwire.shell.main import FAILED, INTERRUPTED, MISTAKE, run

faulty = load_script("conformance/run.py")

FAST_MACHINES = {"SESS-4.9-06"}
"""Skipped where so many notices take longer than a second."""


@pytest.mark.parametrize("role", ["node", "station", "broker"])
def test_kit_over_our_own_daemon_fails_nothing_and_skips_nothing(role: str, tmp_path: Path) -> None:
    junit, html = tmp_path / "junit.xml", tmp_path / "run.html"
    told = faulty.check(role, (), "--junit", str(junit), "--html", str(html))
    wrong = {case["id"]: case["text"] for case in told["cases"] if case["verdict"] != "pass"}
    assert set(wrong) <= FAST_MACHINES, wrong
    assert "too slow" in wrong.get("SESS-4.9-06", "too slow")
    assert f'tests="{len(told["cases"])}"' in junit.read_text(encoding="utf-8")
    assert html.read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize("name", ["carried-out-twice", "reports-next-attempt", "relays-unbound"])
def test_kit_over_a_faulty_daemon_names_the_fault(name: str) -> None:
    [fault] = [fault for fault in faulty.load() if fault.name == name]
    verdict = faulty.judge(fault)
    assert verdict.caught, verdict


def spoilt(root: Path, file: str, old: str, new: str) -> dict[str, str]:
    """The environment of a station with a fault, whose code is copied to a folder."""
    environment: dict[str, str] = copied(root)
    Mutant(name="spoilt", says="", file=f"protocols/bellwire/protocols/{file}", old=old, new=new).apply(root)
    return environment


def test_case_in_which_a_daemon_dies_fails_and_the_next_ones_are_run_over_another(tmp_path: Path) -> None:
    serves = "    def status(_peer: NodeId, _message: SessionStatus) -> SessionReport:\n"
    environment = spoilt(tmp_path, "paths.py", serves, f"{serves}        __import__('os')._exit(7)\n")
    told = faulty.check("station", ("SESS-4.3-04", "SESS-5.11-01", "TIME-2.1-01"), environment=environment)
    verdicts = {case["id"]: (case["verdict"], case["text"].partition(":")[0]) for case in told["cases"]}
    assert verdicts == {
        "SESS-4.3-04": ("pass", ""),
        "SESS-5.11-01": ("fail", "the target ended with exit code 7"),
        "TIME-2.1-01": ("pass", ""),
    }


def test_field_of_another_type_is_one_line_before_the_first_case(tmp_path: Path) -> None:
    told = "uncertainty_ns=endpoint.clock.uncertainty_ns(endpoint.now_ns),\n"
    environment = spoilt(tmp_path, "time_hub.py", told, "uncertainty_ns='little',  # type: ignore\n")
    with pytest.raises(
        RuntimeError, match="the kit said nothing of the station: bellwire: a message came with something else"
    ):
        faulty.check("station", ("SESS-4.3-04",), environment=environment)


def test_lease_that_is_under_way_to_a_former_broker_is_not_taken_for_one_of_the_next() -> None:
    """It asks for exchanges already, and its grant says nothing to a target that has begun anew."""
    start = f"{sys.executable} -m bellwire.shell agent {{dir}}/node.toml"
    with open_stage(Role.NODE, start=start) as stage:
        stage.begin()
        lease = {"interval_ns": 10**8, "exchanges": 4, "lease_ns": 10**10, "epoch": stage.target_epoch, "request_id": 1}
        late = encode({"type": "time.lease", "peer_epoch": stage.broker.epoch, "cause_id": ""} | lease)
        again = stage.again

        def again_with_a_late_lease(name: str, *, epoch: int | None = None) -> Party:
            party = again(name, epoch=epoch)
            party.take(stage.target, decode(late), late)
            return party

        stage.again = again_with_a_late_lease  # type: ignore[method-assign]
        source = Source(stage)
        assert source.lease["request_id"] > 1
        assert source.lease["peer_epoch"] == source.broker.epoch


def conformance(*arguments: str) -> int:
    return run(["conformance", *arguments])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "--role says what the target is"),
        (("--role", "observer"), "'observer' is not one of broker, node, station"),
        (("--role", "node", "--backend", "mock"), "exclude each other"),
        (("--role", "node"), "--keys DIR, or --start"),
        (("--role", "broker"), "--target ENDPOINT"),
        (("--role", "node", "NONE-1-01"), "no case 'NONE-1-01'"),
        (("--role", "node", "--start", "bellwire {folder}"), "placeholders are {endpoint}"),
        (("--role", "node", "--start", ""), "--keys DIR, or --start"),
        (("--role", "node", "--start", "/no/such/command"), "cannot run '/no/such/command'"),
        (("--role", "node", "--prepare"), "--prepare needs --keys"),
        (
            ("--role", "node", "--prepare", "--keys", "k", "--target", "tcp://0.0.0.0:7300"),
            "an address of this machine",
        ),
        (("--role", "station", "--keys", "k", "--target", "tcp://*:*"), "an address of this machine"),
        (("--role", "node", "--keys", "k", "--repeat", "2"), "--repeat needs --start"),
        (("--coverage", "SESS"), "--coverage is of all cases"),
        (("--coverage", "--role", "broker"), "--coverage is of all cases"),
        (("--role", "node", "--without", "time", "--start", "x"), "'time' is not one of applications, paths, schemes"),
        (("--backend", "no-such"), "there is no backend 'no-such'"),
        (("--backend", "mock", "--config", "/no/file.toml"), "/no/file.toml: cannot be read"),
    ],
)
def test_mistake_on_the_command_line_is_one_line(
    arguments: tuple[str, ...],
    says: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert conformance(*arguments) == MISTAKE
    told = capsys.readouterr()
    assert told.out == ""
    assert says in told.err
    assert told.err.count("\n") == 1


def test_target_that_ends_at_once_is_told_with_its_last_word(capsys: pytest.CaptureFixture[str]) -> None:
    command = f"{sys.executable} -c \"raise SystemExit('no world today')\""
    assert conformance("--role", "station", "--start", command) == FAILED
    assert "the target ended with exit code 1: no world today" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_kit_ends_the_target_that_it_started(number: int, tmp_path: Path) -> None:
    target = f"sh -c 'echo $$ > {{dir}}/pid; exec {sys.executable} -m bellwire.shell station {{dir}}/station.toml'"
    command = [sys.executable, "-m", "bellwire.shell", "conformance", "--role", "station", "--keys", str(tmp_path)]
    with subprocess.Popen([*command, "--start", target], stderr=subprocess.PIPE) as kit:
        assert kit.stderr is not None
        assert b"pass" in kit.stderr.readline()
        kit.send_signal(number)
        assert b"bellwire: interrupted" in kit.stderr.read()
    assert kit.returncode == INTERRUPTED
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text(encoding="ascii")), 0)


def test_settings_are_prepared_for_a_target_that_somebody_else_starts(tmp_path: Path) -> None:
    folder = tmp_path / "kit"
    assert conformance("--role", "node", "--prepare", "--keys", str(folder), "--target", "tcp://kit.example:7300") == 0
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    assert settings["endpoint"] == "tcp://kit.example:7300"
    assert settings["links"]["kit-link"]["peer"] == "kit-peer"
    assert 'endpoint = "tcp://kit.example:7300"' in (folder / "node.toml").read_text(encoding="utf-8")
    assert (folder / "kit-target.key_secret").stat().st_mode & 0o077 == 0
    assert settings["applications"] == ["kit-app", "kit-other"]
    assert settings["links"]["kit-glow"]["scheme"] == "single-click"


def test_target_is_not_told_of_what_it_does_without(tmp_path: Path) -> None:
    left_out = [option for name in OPTIONS for option in ("--without", name)]
    arguments = ("--role", "node", "--prepare", "--keys", str(tmp_path), "--target", "tcp://kit.example:7300")
    assert conformance(*arguments, *left_out) == 0
    settings = json.loads((tmp_path / "settings.json").read_text(encoding="utf-8"))
    assert "applications" not in settings
    assert set(settings["links"]) == {"kit-link", "kit-lead"}
    told = (tmp_path / "node.toml").read_text(encoding="utf-8")
    assert "enabled = false" in told
    assert "applications" not in told


def test_target_without_paths_and_applications_has_their_cases_skipped_and_passes_others() -> None:
    told = faulty.check("node", ("CORE-2.6", "SESS-4.8"), "--without", "paths", "--without", "applications")
    needs = {case.id: case.needs for case in wire_cases()}
    assert {case["id"]: case["verdict"] for case in told["cases"]} == {
        case["id"]: "skip" if needs[case["id"]] else "pass" for case in told["cases"]
    }


def test_list_and_dry_run_run_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert conformance("--list", "--json", "SESS-4.1") == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed[0]["id"] == "SESS-4.1-01"
    assert conformance("--dry-run", "--role", "broker", "--json", "HRLD") == MISTAKE
    assert conformance("--dry-run", "--role", "broker", "--json") == 0
    assert {"broker"} <= set(json.loads(capsys.readouterr().out)[0]["profiles"])
    for options in (("--list", "SESS-4.1"), ("--coverage",)):
        assert conformance(*options) == 0
        assert " 0 missing" in " ".join(capsys.readouterr().out.split())


def test_cases_are_repeated_each_time_over_another_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert conformance("--backend", "mock", "--repeat", "3", "--json", "HARD-7-07", "HARD-7-14") == 0
    told = json.loads(capsys.readouterr().out)
    assert [case["id"] for case in told["cases"]] == ["HARD-7-07", "HARD-7-14"] * 3
    assert [case["round"] for case in told["cases"]] == [1, 1, 2, 2, 3, 3]
    assert told["counts"]["pass"] == 6


def test_rounds_so_far_are_reported_when_the_target_does_not_start_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    once = f"sh -c 'mkdir {tmp_path / 'once'} && exec {sys.executable} -m bellwire.shell station {{dir}}/station.toml'"
    junit = ("--junit", str(tmp_path / "junit.xml"))
    assert conformance("--role", "station", "--repeat", "2", "--json", "--start", once, *junit, "SESS-4.1-01") == FAILED
    told = capsys.readouterr()
    assert [(case["round"], case["verdict"]) for case in json.loads(told.out)["cases"]] == [(1, "pass")]
    assert "round 2 of 2: the target ended with exit code 1" in told.err
    assert 'tests="1"' in (tmp_path / "junit.xml").read_text(encoding="utf-8")


def test_backend_without_physics_fails_what_it_cannot_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert conformance("--backend", "mock", "--json") == FAILED
    verdicts = {case["id"]: case["verdict"] for case in json.loads(capsys.readouterr().out)["cases"]}
    assert (verdicts["HARD-7-07"], verdicts["HARD-7-08"], verdicts["HARD-7-18"]) == ("pass", "fail", "skip")
