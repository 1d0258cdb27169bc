"""Seeds on a Dask cluster: they go out in chunks, a few for each thread of its workers, and come back as reports."""

from __future__ import annotations

import asyncio
import logging
import threading
import warnings
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import msgspec

from bellwire.protocols.errors import ConfigError, TransportError
from bellwire.virtual.build import Build, build
from bellwire.virtual.run import Report, run_seed
from bellwire.virtual.scenario import Scenario
from bellwire.virtual.sweep import chunk_size

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT_S: Final = 10
"""How long the scheduler, and then its first worker, are waited for."""

AHEAD: Final = 3
"""Chunks that are with the cluster for each of its threads: the one that runs, and what it goes on with."""

_ALONE = threading.Lock()
"""Rows of transition tables are counted for a whole process, so its threads run one seed at a time."""


class DaskRunner:
    """Runs seeds on the workers of a Dask cluster."""

    def __init__(self, client: Client, address: str) -> None:
        self._client = client
        self._address = address
        self._seeds: Counter[str] = Counter()

    def where(self) -> dict[str, Any]:
        """Where seeds have run: how many on each worker, by its address."""
        return {"dask": self._address, "workers": dict(sorted(self._seeds.items()))}

    def _threads(self) -> int:
        """How many threads the workers have at present: they come and go."""
        threads: dict[str, int] = self._client.nthreads()
        return max(1, sum(threads.values()))

    def run(self, scenario: Scenario, seeds: range) -> Generator[Report, None, None]:
        """Run seeds, and give the reports as they come. What is with the cluster when the generator is closed is cancelled.

        Raises:
            ConfigError: when a worker has another Bellwire than this one.
            TransportError: when the scheduler is lost, or a chunk has ended several workers.
        """
        from distributed import KilledWorker, as_completed

        encoded = msgspec.msgpack.encode(scenario)
        size = chunk_size(seeds, self._threads())
        chunks = (seeds[start : start + size] for start in range(0, len(seeds), size))
        pending: set[Future[Any]] = set()
        done = as_completed(loop=self._client.loop, with_results=True)

        def submit(number: int) -> None:
            for chunk in islice(chunks, number):
                future = self._client.submit(_run_chunk, build(), encoded, chunk, pure=False)
                pending.add(future)
                done.add(future)

        try:
            submit(AHEAD * self._threads())
            for future, result in done:
                pending.discard(future)
                if future.status != "finished":
                    raise TransportError("the Dask scheduler is gone, or somebody has cancelled what was asked of it")
                submit(max(0, AHEAD * self._threads() - len(pending)))
                worker, reports = result
                self._seeds[worker] += len(reports)
                yield from reports
        except KilledWorker as error:
            raise TransportError(f"a chunk of seeds has ended worker after worker: {error}") from None
        except OSError as error:
            raise TransportError(f"the Dask scheduler is gone: {error}") from None
        finally:
            if self._client.status == "running":
                self._client.cancel(list(pending))


@contextmanager
def dask_runner(address: str) -> Iterator[DaskRunner]:
    """Connect to the cluster whose scheduler is at `address`, as tcp://HOST:PORT, and check that it runs this Bellwire.

    Raises:
        ConfigError: when Dask is not installed, nobody answers there, no worker has joined, or Bellwire is another one.
    """
    try:
        from distributed import Client
        from distributed.utils import silence_logging_cmgr
        from distributed.versions import VersionMismatchWarning
    except ImportError:
        raise ConfigError("--dask needs Dask, which the extra `dask` brings: pip install 'bellwire[dask]'") from None
    asyncio.run(_greet(address))
    with warnings.catch_warnings():
        # A table of packages, of which `_check` compares those that matter.
        warnings.simplefilter("ignore", VersionMismatchWarning)
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    # Dask logs a traceback for a scheduler that is lost, of which `run` tells in one line.
    with silence_logging_cmgr(logging.CRITICAL), client:
        try:
            _check(client, address)
        except OSError as error:
            raise TransportError(f"the Dask scheduler is gone: {error}") from None
        yield DaskRunner(client, address)


async def _greet(address: str) -> None:
    """See whether a scheduler answers. Dask's own client waits for ever for one that accepts and then says nothing."""
    try:
        kind = await asyncio.wait_for(_kind(address), 2 * CONNECT_S)
    except TimeoutError:
        raise ConfigError(f"--dask {address}: what listens there does not answer as a Dask scheduler does") from None
    except Exception as error:
        raise ConfigError(f"--dask {address}: no Dask scheduler can be reached: {error}") from None
    if kind != "Scheduler":
        raise ConfigError(f"--dask {address}: this is not a Dask scheduler, but a {kind}")


async def _kind(address: str) -> str:
    from distributed import Security
    from distributed.comm.core import connect

    comm = await connect(address, timeout=CONNECT_S, **Security().get_connection_args("client"))
    try:
        await comm.write({"op": "identity", "reply": True})
        return str((await comm.read())["type"])
    finally:
        comm.abort()


def _check(client: Client, address: str) -> None:
    """Refuse a cluster without workers, or with a Bellwire that is not the one that runs here."""
    try:
        client.wait_for_workers(1, timeout=CONNECT_S)
    except TimeoutError:
        raise ConfigError(f"--dask {address}: no worker has joined its scheduler") from None
    try:
        builds = {"the scheduler": client.run_on_scheduler(build)}
    except Exception as error:
        raise ConfigError(f"the scheduler cannot pass on what this Bellwire, {build()}, asks: {error}") from None
    builds |= {f"the worker {name}": theirs for name, theirs in client.run(build, on_error="return").items()}
    for who, theirs in builds.items():
        if not isinstance(theirs, Build):
            raise ConfigError(f"{who} cannot run this Bellwire, {build()}: {theirs}")
        if not build().gives_the_same_as(theirs):
            raise ConfigError(_different(who, theirs, build()))


def _different(who: str, theirs: Build, ours: Build) -> str:
    text = "results could differ; after a change of the code, start scheduler and workers anew"
    return f"{who} runs {theirs}, this is {ours}: {text}"


def _run_chunk(asked_by: Build, encoded: bytes, seeds: range) -> tuple[str, list[Report]]:
    """Run seeds on a worker: its address, and the reports. Workers may join at any time, so each chunk checks anew."""
    from distributed import get_worker

    worker = get_worker().address
    if not build().gives_the_same_as(asked_by):
        raise ConfigError(_different(f"the worker {worker}", build(), asked_by))
    scenario = msgspec.msgpack.decode(encoded, type=Scenario)
    reports = []
    for seed in seeds:
        with _ALONE:
            reports.append(run_seed(scenario, seed))
    return worker, reports
