"""One agent asks another one: relayed by a broker, and on the direct connection that they were introduced to.

Each of the three is a process of its own, with what daemons have between socket and protocol, and CURVE. Messages are typed:
encoded and decoded at both ends. Nothing else is asked meanwhile.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import TypeVar

import numpy as np

from bellwire.broker.daemon import BrokerConfig, BrokerDaemon
from bellwire.protocols.endpoint import Answer, Endpoint
from bellwire.protocols.ids import BROKER, GateId, NodeId
from bellwire.protocols.messages import GateDone, GateOutcome, Role
from bellwire.protocols.path import DirectSettings
from bellwire.protocols.paths import Paths
from bellwire.shell.daemon import keep_heap, quickest_loop
from bellwire.transport.clock import local_time_ns, new_epoch
from bellwire.transport.connection import Connection
from bellwire.transport.direct import Direct
from bellwire.transport.driver import Driver
from bellwire.transport.keys import generate, load_public, load_secret

T = TypeVar("T")
ALICE, BOB = NodeId("alice"), NodeId("bob")
WARM_UP = 500
PATIENCE_NS = 30_000_000_000


@dataclass(frozen=True)
class _Agent:
    """What is above an agent's sockets."""

    endpoint: Endpoint
    paths: Paths
    driver: Driver

    def begin(self, action: Callable[[], object]) -> None:
        """Do something at the endpoint, and flush it."""

        def stimulus(now_ns: int) -> None:
            self.endpoint.begin(now_ns)
            action()

        self.driver.stimulate(stimulus)


@asynccontextmanager
async def _agent(keys: Path, name: NodeId, address: str, settings: DirectSettings | None) -> AsyncIterator[_Agent]:
    """An agent in session with the broker; without `settings` it has no direct connections."""

    def deliver(peer: NodeId, data: bytes) -> None:
        driver.deliver(peer, data)

    def drained() -> None:
        driver.poke()

    pair = load_secret(keys / f"{name}.key_secret")
    endpoint = Endpoint(name, pair.role, new_epoch())
    paths = Paths(endpoint, endpoint)
    server = load_public(keys / f"{BROKER}.key").public
    connection = Connection(address, pair, server, deliver, drained=drained)
    direct = None if settings is None else Direct(paths, endpoint, pair, settings, connection.send)
    if direct is None:
        driver = Driver(endpoint, connection.send)
    else:
        direct.driver = driver = Driver(paths, direct.send, after=direct.carry)
        await direct.start(address)
    connection.start()
    agent = _Agent(endpoint, paths, driver)
    up = asyncio.Event()
    endpoint.on_peer_up.append(lambda _: up.set())
    agent.begin(lambda: endpoint.keep_session(BROKER))
    await up.wait()
    keep_heap()
    try:
        yield agent
    finally:
        driver.close()
        if direct is not None:
            await direct.close()
        await connection.close()


async def _asked_to_end(pipe: Pipe) -> None:
    asked, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_reader(pipe.fileno(), asked.set)
    await asked.wait()
    loop.remove_reader(pipe.fileno())


async def _broker(keys: Path, pipe: Pipe) -> None:
    config = BrokerConfig(bind="tcp://127.0.0.1:*", secret_key=keys / f"{BROKER}.key_secret", authorized_keys=keys)
    broker = BrokerDaemon(config)
    await broker.start()
    pipe.send(broker.endpoint)
    await _asked_to_end(pipe)
    await broker.close()


async def _answering(keys: Path, address: str, pipe: Pipe) -> None:
    """Bob, who listens for others."""
    async with _agent(keys, BOB, address, DirectSettings(listen="tcp://127.0.0.1:0")) as bob:
        bob.endpoint.handle(GateOutcome, lambda _, message: GateDone(gate_id=message.gate_id))
        pipe.send("ready")
        await _asked_to_end(pipe)


async def _asking(keys: Path, address: str, rounds: int, *, direct: bool) -> list[int]:
    """Alice: round trips in nanoseconds, as her own code sees them, once the path is the one that is measured."""
    async with _agent(keys, ALICE, address, DirectSettings() if direct else None) as alice:
        times: list[int] = []
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def ask() -> None:
            counts = not direct or alice.paths.is_direct(BOB)
            began_ns = time.perf_counter_ns()

            def answered(answer: Answer) -> None:
                if counts:
                    times.append(time.perf_counter_ns() - began_ns)
                if not isinstance(answer, GateDone):
                    done.set_exception(SystemExit(f"bench: {answer}"))
                elif len(times) < rounds + WARM_UP:
                    ask()
                else:
                    done.set_result(None)

            request = GateOutcome(gate_id=GateId("gate"), bits=(0, 1))
            alice.endpoint.ask(BOB, request, local_time_ns() + PATIENCE_NS, answered)

        alice.begin(ask)
        await done
    return times[WARM_UP:]


def _run(work: Coroutine[None, None, T], *, uvloop: bool) -> T:
    with asyncio.Runner(loop_factory=quickest_loop() if uvloop else None) as runner:
        return runner.run(work)


def _run_broker(keys: Path, uvloop: bool, pipe: Pipe) -> None:
    _run(_broker(keys, pipe), uvloop=uvloop)


def _run_bob(keys: Path, address: str, uvloop: bool, pipe: Pipe) -> None:
    _run(_answering(keys, address, pipe), uvloop=uvloop)


def _round_trips(keys: Path, rounds: int, *, uvloop: bool) -> dict[str, list[int]]:
    spawn = multiprocessing.get_context("spawn")
    to_broker, broker_end = spawn.Pipe()
    to_bob, bob_end = spawn.Pipe()
    broker = spawn.Process(target=_run_broker, args=(keys, uvloop, broker_end))
    broker.start()
    address = to_broker.recv()
    bob = spawn.Process(target=_run_bob, args=(keys, address, uvloop, bob_end))
    bob.start()
    to_bob.recv()
    try:
        return {
            "relayed": _run(_asking(keys, address, rounds, direct=False), uvloop=uvloop),
            "direct": _run(_asking(keys, address, rounds, direct=True), uvloop=uvloop),
        }
    finally:
        for pipe, process in ((to_bob, bob), (to_broker, broker)):
            pipe.send("end")
            process.join(10)


def measure(scale: float, yardstick: dict[str, float]) -> dict[str, float]:
    """Round trips in microseconds and in multiples of the ping-pong in C, on asyncio's own loop and on uvloop."""
    rounds = max(500, int(5_000 * scale))
    plain_us = yardstick.get("native_pingpong_p50_us")
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="bellwire-bench-") as folder:
        keys = Path(folder)
        for name, role in ((BROKER, Role.BROKER), (ALICE, Role.AGENT), (BOB, Role.AGENT)):
            generate(keys, name, role)
        for label, uvloop in (("", False), ("_uvloop", True)):
            if uvloop and quickest_loop() is None:
                continue
            for path, times in _round_trips(keys, rounds, uvloop=uvloop).items():
                p50, p99 = (float(each) / 1e3 for each in np.percentile(times, [50, 99]))
                what = f"{path}{label}"
                figures |= {f"{what}_p50_us": p50, f"{what}_p99_us": p99, f"{what}_p99_p50s": p99 / p50}
                if plain_us is not None:
                    figures[f"{what}_p50_native_pingpongs"] = p50 / plain_us
            figures[f"relayed{label}_p50_directs"] = (
                figures[f"relayed{label}_p50_us"] / figures[f"direct{label}_p50_us"]
            )
    return figures
