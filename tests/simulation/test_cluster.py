"""Sweeps on a Dask cluster: a real scheduler and real workers, each a process."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from dask_cluster import WAIT_S, DaskCluster, dask_cluster
from mutated import BELLWIRE, bellwire, copied, mutate

from bellwire.protocols.errors import ConfigError, TransportError
from bellwire.shell.main import run
from bellwire.virtual import cluster as virtual_cluster
from bellwire.virtual.cluster import AHEAD, dask_runner
from bellwire.virtual.run import run_seed
from bellwire.virtual.scenario import load_scenario

MILLION = "0:1000000"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    with dask_cluster(tmp_path_factory.mktemp("dask"), workers=2) as running:
        yield running


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is waited for."""
    monkeypatch.setattr(virtual_cluster, "CONNECT_S", 0.2)


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run a command line that is refused: the exit code, and the one line that it was told in."""
    code = run(["simnet", *arguments])
    said = capsys.readouterr().err
    assert said.startswith("bellwire: ")
    assert said.count("\n") == 1
    return code, said


def without_place(content: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in ("seconds", "jobs", "dask", "workers")}


def test_cluster_gives_what_this_machine_gives_and_every_worker_has_its_share(
    cluster: DaskCluster, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["simnet", str(tiny), "two-nodes-mixed", "--seeds", "0:24", "--json"]
    assert run([*asked, "--dask", cluster.address]) == 0
    there = json.loads(capsys.readouterr().out)
    assert run([*asked, "--jobs", "1"]) == 0
    here = json.loads(capsys.readouterr().out)
    assert without_place(there) == without_place(here)
    assert there["dask"] == cluster.address
    assert len(there["workers"]) == 2
    assert sum(there["workers"].values()) == there["seeds"] == 48
    assert all(there["workers"].values())


def test_threads_of_a_worker_do_not_mix_their_coverage(tmp_path: Path, tiny: Path) -> None:
    """Rows are counted for a whole process: without a lock, seeds that run side by side count each other's."""
    scenario, seeds = load_scenario(str(tiny)), range(12)
    with dask_cluster(tmp_path / "dask", workers=0) as cluster:
        cluster.add_worker(threads=4)
        with dask_runner(cluster.address) as runner:
            there = {report.seed: report for report in runner.run(scenario, seeds)}
    assert there == {seed: run_seed(scenario, seed) for seed in seeds}


def test_million_seeds_are_with_the_cluster_a_few_chunks_at_a_time(cluster: DaskCluster) -> None:
    scenario = load_scenario("two-nodes-mixed")
    with cluster.client() as client, dask_runner(cluster.address) as runner:
        most = 0
        with closing(runner.run(scenario, range(10**6))) as reports:
            for number, _ in enumerate(reports):
                most = max(most, cluster.tasks(client))
                if number == 40:
                    break
        cluster.wait_until_idle(client)
    assert 2 <= most <= 2 * (AHEAD + 1)


def test_interrupt_cancels_what_the_cluster_still_has(cluster: DaskCluster, tiny: Path) -> None:
    command = [*BELLWIRE, "simnet", str(tiny), "--seeds", MILLION, "--dask", cluster.address]
    with cluster.client() as client, subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            cluster.wait_for_a_result(client)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=WAIT_S)
        finally:
            process.kill()
        cluster.wait_until_idle(client)
    assert process.returncode == 130
    assert said == "bellwire: interrupted\n"


def test_sweep_on_a_cluster_stops_when_enough_have_failed_and_tells_their_story(tmp_path: Path) -> None:
    environment = copied(tmp_path)
    mutate(tmp_path, "correction-forgotten")
    with dask_cluster(tmp_path / "dask", workers=2, environment=environment) as cluster:
        options = ["--seeds", MILLION, "--stop-after", "3", "--no-shrink", "--json", "--dask", cluster.address]
        done = bellwire(environment, "simnet", "two-nodes-mixed", *options)
        with cluster.client() as client:
            cluster.wait_until_idle(client)
    assert done.returncode == 1
    content = json.loads(done.stdout)
    assert (content["failed"], content["seeds_asked"]) == (3, 1_000_000)
    assert content["seeds"] < 1_000
    assert [story["seed"] for story in content["stories"]] == [failing["seed"] for failing in content["failing"]]
    assert content["broken"]["exact-correction"] == 3


# Whom a sweep refuses.


def test_worker_with_another_bellwire_is_refused_in_one_line(
    tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with dask_cluster(tmp_path / "dask", workers=1) as cluster:
        environment = copied(tmp_path / "copy")
        mutate(tmp_path / "copy", "correction-forgotten")
        cluster.add_worker(environment)
        code, said = told(capsys, str(tiny), "--seeds", "0:4", "--dask", cluster.address)
    assert code == 2
    assert "results could differ" in said
    assert said.count("bellwire 0.1.0") == 2


def test_worker_with_another_bellwire_that_joins_later_ends_the_sweep(tmp_path: Path, tiny: Path) -> None:
    scenario = load_scenario(str(tiny))
    environment = copied(tmp_path / "copy")
    mutate(tmp_path / "copy", "correction-forgotten")
    with (
        dask_cluster(tmp_path / "dask", workers=1) as cluster,
        dask_runner(cluster.address) as runner,
        closing(runner.run(scenario, range(10**6))) as reports,
    ):
        next(reports)
        cluster.add_worker(environment)
        with pytest.raises(ConfigError, match="results could differ"):
            list(reports)


def test_scheduler_that_is_lost_ends_the_sweep_in_one_line(tmp_path: Path, tiny: Path) -> None:
    with (
        dask_cluster(tmp_path / "dask", workers=1) as cluster,
        dask_runner(cluster.address) as runner,
        closing(runner.run(load_scenario(str(tiny)), range(10**6))) as reports,
    ):
        next(reports)
        cluster.kill_scheduler()
        with pytest.raises(TransportError, match="scheduler is gone"):
            list(reports)


@pytest.mark.usefixtures("hasty")
def test_scheduler_without_workers_is_refused(tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with dask_cluster(tmp_path / "dask", workers=0) as cluster:
        code, said = told(capsys, str(tiny), "--dask", cluster.address)
    assert code == 2
    assert "no worker" in said


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("listens", [False, True])
def test_address_where_nobody_answers_is_refused(listens: bool, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listens:
            silent.listen()
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        code, said = told(capsys, str(tiny), "--dask", address)
    assert code == 2
    assert address in said


@pytest.mark.parametrize("address", ["localhost", "foo://localhost:1", "tcp://localhost:port"])
def test_address_that_is_none_is_refused(address: str, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = told(capsys, str(tiny), "--dask", address)
    assert code == 2
    assert address in said


def test_without_dask_the_extra_is_named(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    code, said = told(capsys, str(tiny), "--dask", "tcp://127.0.0.1:8786")
    assert code == 2
    assert "bellwire[dask]" in said


@pytest.mark.parametrize("options", [["--jobs", "2"], ["--seed", "3"]])
def test_options_of_this_machine_do_not_go_with_a_cluster(
    options: list[str], tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = told(capsys, str(tiny), "--dask", "tcp://127.0.0.1:8786", *options)
    assert code == 2
    assert options[0] in said
