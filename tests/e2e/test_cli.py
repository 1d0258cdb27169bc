"""`bellwire` as people run it: real processes on loopback, signals, exit codes, one-line errors."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "two-nodes"
BELLWIRE = [sys.executable, "-m", "bellwire.shell"]
WAIT_S = 30.0
"""Nothing here takes so long, however busy the machine is."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BELLWIRE_CLIENT", raising=False)
    return tmp_path


def bellwire(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command = [*BELLWIRE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)


def up_with(*command: str, testbed: Path = EXAMPLE / "testbed.toml") -> subprocess.CompletedProcess[str]:
    """Run `bellwire` beside a testbed, and end the testbed with it."""
    return bellwire("up", testbed, "--", *BELLWIRE, *command)


@dataclass
class Up:
    """A testbed that is up until it is told to stop."""

    process: subprocess.Popen[str]
    ready: dict[str, Any]

    def wait(self) -> str:
        """Wait for the end; give what was said on standard error since it was ready."""
        _, said = self.process.communicate(timeout=WAIT_S)
        return said


@contextmanager
def running(here: Path) -> Iterator[Up]:
    """A testbed, killed at the end if it should still be there."""
    ready = here / "ready.json"
    command = [*BELLWIRE, "up", str(EXAMPLE / "testbed.toml"), "--ready-file", str(ready)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            lines = []
            for line in process.stderr:
                lines.append(line)
                if "Ctrl-C ends the testbed" in line:
                    break
            assert ready.exists(), "".join(lines)
            yield Up(process, json.loads(ready.read_text(encoding="utf-8")))
        finally:
            process.kill()


class Watched:
    """Processes that are waited for by their handles, which no other process can inherit the number of."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._handles = {os.pidfd_open(pid): name for name, pid in pids.items()}

    def wait_gone(self) -> float:
        """Wait until all of them have ended. Returns how long that took, in seconds."""
        began = time.monotonic()
        left = dict(self._handles)
        while left:
            ended, _, _ = select.select(left, [], [], WAIT_S)
            assert ended, f"still there: {sorted(left.values())}"
            for handle in ended:
                del left[handle]
        for handle in self._handles:
            os.close(handle)
        return time.monotonic() - began


def test_entangle_json_gives_pairs_whose_halves_agree(here: Path) -> None:
    done = up_with("entangle", "alice", "bob", "--number", "20", "--measure", "--json")
    assert done.returncode == 0, done.stderr
    pairs = json.loads(done.stdout)["pairs"]
    assert len({pair["pair_id"] for pair in pairs}) == 20
    assert [pair["sequence_number"] for pair in pairs] == sorted(pair["sequence_number"] for pair in pairs)
    for pair in pairs:
        same = pair["bits"] in ("00", "11")
        assert same == pair["bell_state"].startswith("phi"), pair


def test_entangle_type_m_gives_bits_that_agree_in_equal_bases(here: Path) -> None:
    options = ("--type", "M", "--basis", "xz,xyz", "--number", "60", "--priority", "3", "--consecutive", "--json")
    done = up_with("entangle", "alice", "bob", *options)
    assert done.returncode == 0, done.stderr
    pairs = json.loads(done.stdout)["pairs"]
    assert len({pair["pair_id"] for pair in pairs}) == 60
    assert {pair["bases"][0] for pair in pairs} == {"x", "z"}
    assert {pair["bases"][1] for pair in pairs} == {"x", "y", "z"}
    for pair in pairs:
        assert pair["as_expected"] is (True if pair["bases"][0] == pair["bases"][1] else None)


def test_peers_json_tells_of_every_node_who_is_direct_and_who_is_relayed(here: Path) -> None:
    with running(here) as testbed:
        deadline = time.monotonic() + WAIT_S
        ways: dict[tuple[str, str], str] = {}
        # Connections take a moment, and the first gate makes them.
        while ways.get(("alice", "bob")) != "direct" or ways.get(("bob", "alice")) != "direct":
            assert time.monotonic() < deadline, ways
            assert bellwire("gate", "cz", "alice:c", "bob:t", "--client", testbed.ready["client"]).returncode == 0
            done = bellwire("peers", "--client", testbed.ready["client"], "--json")
            assert done.returncode == 0, done.stderr
            ways = {(row["node"], row["peer"]): row["path"] for row in json.loads(done.stdout)}
        assert {ways[node, "broker"] for node in ("alice", "bob", "hub")} == {"relayed"}
        missing = bellwire("peers", "alice", "nobody", "--timeout", "1", "--client", testbed.ready["client"])
        assert missing.returncode == 1
        assert missing.stderr.strip().startswith("bellwire: nobody: ")
        assert len(missing.stderr.strip().splitlines()) == 1
        assert "alice" in missing.stdout


def test_entangle_fidelity_out_of_reach_is_refused_in_one_line(here: Path) -> None:
    text = (EXAMPLE / "testbed.toml").read_text(encoding="utf-8")
    assert text.endswith('scheme = "any"\n')
    (here / "lab.toml").write_text(text + "goodness = 0.8\n", encoding="utf-8")
    done = up_with("entangle", "alice", "bob", "--fidelity", "0.9", testbed=here / "lab.toml")
    assert done.returncode == 1
    assert "bellwire: UNSUPP: alice-bob gives fidelity 0.8, 0.9 was asked\n" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", ["cz", "cnot", "teleport"])
def test_gate_json_acts_as_expected(here: Path, kind: str) -> None:
    done = up_with("gate", kind, "alice:c", "bob:t", "--number", "10", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["as_expected"] == len(told["gates"]) == 10


def test_run_bell_program_gives_equal_bits(here: Path) -> None:
    done = up_with("run", str(EXAMPLE / "bell.toml"), "--shots", "50", "--json", "--variant", "sequential")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["bits"] == ["alice.c", "bob.t"]
    assert set(told["counts"]) == {"00", "11"}
    assert sum(told["counts"].values()) == 50


def test_up_command_gives_its_exit_code_and_its_client_file(here: Path) -> None:
    code = "import os, sys; print(os.environ['BELLWIRE_CLIENT']); sys.exit(7)"
    done = bellwire("up", EXAMPLE / "testbed.toml", "--state", "lab", "--", sys.executable, "-c", code)
    assert done.returncode == 7
    assert done.stdout == f"{here / 'lab' / 'client.toml'}\n"


def test_up_second_in_the_same_folder_is_refused_and_the_first_goes_on(here: Path) -> None:
    with running(here) as up:
        second = bellwire("up", EXAMPLE / "testbed.toml")
        assert second.returncode == 2
        assert "a testbed is running there already" in second.stderr
        assert bellwire("entangle", "alice", "bob").returncode == 0
        up.process.terminate()
        up.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: signal.Signals(number).name)
def test_up_signal_ends_every_process_within_a_second(here: Path, number: signal.Signals) -> None:
    with running(here) as up:
        assert set(up.ready["pids"]) == {"broker", "world", "hub", "alice", "bob"}
        watched = Watched(up.ready["pids"])
        up.process.send_signal(number)
        assert watched.wait_gone() < 1.0
        said = up.wait()
        assert up.process.returncode == 0
        assert said == ""
        assert not (here / "ready.json").exists()


def test_up_killed_leaves_no_orphans(here: Path) -> None:
    with running(here) as up:
        watched = Watched(up.ready["pids"])
        up.process.kill()
        watched.wait_gone()


@pytest.mark.parametrize("name", ["broker", "world", "hub", "alice"])
def test_daemon_sigterm_is_gone_within_a_second_and_the_others_stay(here: Path, name: str) -> None:
    with running(here) as up:
        watched = Watched({name: up.ready["pids"][name]})
        os.kill(up.ready["pids"][name], signal.SIGTERM)
        assert watched.wait_gone() < 1.0
        assert up.process.stderr is not None
        assert up.process.stderr.readline().startswith(f"{name} has ended (exit code 0); the others go on")
        up.process.terminate()
        up.wait()


def test_port_in_use_is_one_line(here: Path) -> None:
    text = (EXAMPLE / "testbed.toml").read_text(encoding="utf-8")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (here / "lab.toml").write_text(text.replace("seed = 1", f"seed = 1\nbroker_port = {port}"), encoding="utf-8")
        done = bellwire("up", "lab.toml")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("bellwire: broker did not start: ")
    assert f"127.0.0.1:{port}" in done.stderr


def test_command_nobody_answers_is_one_line(here: Path) -> None:
    done = up_with("entangle", "alice", "eve", "--timeout", "1")
    assert done.returncode == 1
    assert "bellwire: UNSUPP: alice has no link to eve\n" in done.stderr


def test_command_interrupted_is_one_line(here: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert bellwire("keys", "new", "broker", "--role", "broker").returncode == 0
        assert bellwire("keys", "new", "client", "--role", "application").returncode == 0
        port = silent.getsockname()[1]
        (here / "client.toml").write_text(
            f'name = "client"\nsecret_key = "client.key_secret"\n'
            f'broker = {{ endpoint = "tcp://127.0.0.1:{port}", key = "broker.key" }}\n',
            encoding="utf-8",
        )
        command = [*BELLWIRE, "entangle", "alice", "bob", "--client", "client.toml"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            silent.settimeout(WAIT_S)
            connection, _ = silent.accept()
            with connection:
                process.send_signal(signal.SIGINT)
                out, said = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out, said) == (130, "", "bellwire: interrupted\n")


def test_time_shows_the_clock_of_every_node_and_how_far_off_it_may_be(here: Path) -> None:
    with running(here):
        shown = bellwire("time", "--json")
        assert shown.returncode == 0, shown.stderr
        rows = {row["node"]: row for row in json.loads(shown.stdout)}
        assert list(rows) == ["broker", "alice", "bob", "hub"]
        assert {row["state"] for row in rows.values()} == {"locked"}
        assert {row["grandmaster"] for row in rows.values()} == {"broker"}
        assert rows["broker"]["uncertainty_ns"] == 0
        assert all(rows[node]["uncertainty_ns"] > 0 for node in ("alice", "bob", "hub"))
        # All of this machine read the same clock, and no process was there when another one read it first.
        assert all(abs(rows[node]["offset_ns"]) < 1_000_000_000 for node in rows)
        table = bellwire("time", "alice")
        assert "alice" in table.stdout
        assert "±" in table.stdout
        plotted = bellwire("time", "--plot", "clocks.svg", "--for", "0.3", "--every", "0.1", "--json")
        assert plotted.returncode == 0, plotted.stderr
        assert len(plotted.stdout.splitlines()) >= 3
        assert "<svg" in (here / "clocks.svg").read_text(encoding="utf-8")
        assert _points(here / "clocks.svg") >= 2 * len(("alice", "bob", "hub")) * 3
        command = [*BELLWIRE, "time", "--watch", "--plot", "watched.svg", "--every", "0.1", "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
            assert watching.stdout is not None
            for _ in range(5):
                assert watching.stdout.readline()
            watching.send_signal(signal.SIGINT)
            _, said = watching.communicate(timeout=WAIT_S)
        assert (watching.returncode, said) == (130, "bellwire: interrupted\n")
        assert _points(here / "watched.svg") >= 2 * len(("alice", "bob", "hub")) * 4
        nobody = bellwire("time", "nobody", "--timeout", "0.5")
        assert nobody.returncode == 1
        assert nobody.stderr == "bellwire: no answer of nobody within 0.5 s\n"
        assert bellwire("time", "--plot", "clocks.pdf").returncode == 2


def _points(plot: Path) -> int:
    """How many points were drawn: uses of round marks."""
    text = plot.read_text(encoding="utf-8")
    marks = re.findall(r'<path id="(\w+)" d="[^"]*C', text)
    return sum(text.count(f'"#{mark}"') for mark in marks if not mark.startswith("DejaVu"))
