"""A real Dask cluster on loopback: a scheduler and workers in processes of their own, each ended by its handle."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Final

from distributed import Client
from distributed.diagnostics.plugin import SchedulerPlugin

WAIT_S: Final = 60
"""Nothing here takes so long, however busy the machine is."""

END_S: Final = 10
"""How long a process may take to end when it is asked to: a worker whose scheduler is dead may never do."""

_LISTENS: Final = re.compile(r"Scheduler at:\s+(tcp://\S+)")


class DaskCluster:
    """A scheduler at `address`, and the workers that were started for it. Their logs are files in `directory`."""

    def __init__(self, address: str, directory: Path, scheduler: subprocess.Popen[bytes], processes: ExitStack) -> None:
        self.address = address
        self._scheduler = scheduler
        self._directory = directory
        self._processes = processes
        self._workers = 0

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A client of the test's own, to look at the cluster with."""
        with Client(self.address, timeout=WAIT_S, set_as_default=False) as client:
            yield client

    def kill_scheduler(self) -> None:
        """End the scheduler as `kill -9` does."""
        self._scheduler.kill()

    def add_worker(self, environment: Mapping[str, str] = {}, *, threads: int = 1) -> None:
        """Start one more worker, and wait until it has joined."""
        self._workers += 1
        name = f"worker-{self._workers}"
        options = [
            "--name",
            name,
            "--nthreads",
            str(threads),
            "--no-nanny",
            "--local-directory",
            str(self._directory / name),
        ]
        log = self._processes.enter_context((self._directory / f"{name}.log").open("wb"))
        command = _command("dask_worker", self.address, *options)
        self._processes.enter_context(_process(command, environment, stderr=log))
        with self.client() as client:
            client.wait_for_workers(self._workers, timeout=WAIT_S)

    def tasks(self, client: Client) -> int:
        """How many tasks the scheduler knows."""
        return int(client.run_on_scheduler(_count_tasks))

    def wait_for_a_result(self, client: Client) -> None:
        """Wait until a task has ended, from now on."""
        client.run_on_scheduler(_until_a_task_ends)

    def wait_until_idle(self, client: Client) -> None:
        """Wait until the scheduler knows no task."""
        client.run_on_scheduler(_until_no_task_is_left)


@contextmanager
def dask_cluster(directory: Path, *, workers: int, environment: Mapping[str, str] = {}) -> Iterator[DaskCluster]:
    """A cluster, ended when the context is left. `environment` is added to that of all its processes."""
    directory.mkdir(parents=True, exist_ok=True)
    with ExitStack() as processes:
        log = processes.enter_context((directory / "scheduler.log").open("w", encoding="utf-8"))
        process = processes.enter_context(_process(_command("dask_scheduler"), environment, stderr=subprocess.PIPE))
        assert process.stderr is not None
        address = _address(process.stderr, log)
        follower = threading.Thread(target=_follow, args=(process.stderr, log))
        follower.start()
        processes.callback(follower.join, WAIT_S)
        processes.callback(process.terminate)
        cluster = DaskCluster(address, directory, process, processes)
        for _ in range(workers):
            cluster.add_worker(environment)
        yield cluster


def _command(module: str, *arguments: str) -> list[str]:
    options = ["--host", "127.0.0.1", "--no-dashboard"]
    ports = ["--port", "0"] if module == "dask_scheduler" else []
    return [sys.executable, "-m", f"distributed.cli.{module}", *arguments, *options, *ports]


@contextmanager
def _process(command: list[str], environment: Mapping[str, str], stderr: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that can import what this folder and `environment` say, ended with the context."""
    support = str(Path(__file__).parent)
    path = os.pathsep.join(filter(None, [environment.get("PYTHONPATH", ""), support]))
    whole = {**os.environ, **environment, "PYTHONPATH": path}
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, env=whole, stdin=quiet, stdout=quiet, stderr=stderr) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _address(lines: IO[bytes], log: IO[str]) -> str:
    """Read the scheduler's log until it says where it listens."""
    for line in lines:
        log.write(line.decode())
        found = _LISTENS.search(line.decode())
        if found:
            return found[1]
    raise AssertionError(f"the scheduler has ended: {log.name}")


def _follow(lines: IO[bytes], log: IO[str]) -> None:
    for line in lines:
        log.write(line.decode())


# What runs in the scheduler's process.


def _count_tasks(dask_scheduler: Any) -> int:
    return len(dask_scheduler.tasks)


class _Watch(SchedulerPlugin):
    """Sets an event whenever a task has changed into a state."""

    name = "bellwire-watch"

    def __init__(self, state: str) -> None:
        self.changed = asyncio.Event()
        self._state = state

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        if finish == self._state:
            self.changed.set()


async def _until_a_task_ends(dask_scheduler: Any) -> None:
    watch = _Watch("memory")
    dask_scheduler.add_plugin(watch)
    await asyncio.wait_for(watch.changed.wait(), WAIT_S)
    dask_scheduler.remove_plugin(watch.name)


async def _until_no_task_is_left(dask_scheduler: Any) -> None:
    watch = _Watch("forgotten")
    dask_scheduler.add_plugin(watch)
    while dask_scheduler.tasks:
        watch.changed.clear()
        await asyncio.wait_for(watch.changed.wait(), WAIT_S)
    dask_scheduler.remove_plugin(watch.name)
