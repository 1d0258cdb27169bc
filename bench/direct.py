"""One agent asks another one on a direct connection with CURVE: typed messages, encoded and decoded at both ends."""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
import time
from collections.abc import Coroutine
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import TypeVar

import numpy as np

from bellwire.protocols.endpoint import Answer, Endpoint
from bellwire.protocols.ids import Epoch, GateId, NodeId
from bellwire.protocols.messages import GateDone, GateOutcome, Role
from bellwire.shell.daemon import keep_heap, quickest_loop
from bellwire.transport.alarm import Alarm
from bellwire.transport.clock import local_time_ns
from bellwire.transport.connection import Connection
from bellwire.transport.driver import Driver
from bellwire.transport.hub import Hub
from bellwire.transport.keys import AuthorizedKeys, generate, load_secret

T = TypeVar("T")
WARM_UP = 500
ALICE, BOB = NodeId("alice"), NodeId("bob")
SECOND_NS = 1_000_000_000


def _run(work: Coroutine[None, None, T], *, uvloop: bool) -> T:
    with asyncio.Runner(loop_factory=quickest_loop() if uvloop else None) as runner:
        return runner.run(work)


def _answer(keys: Path, pipe: Pipe, uvloop: bool) -> None:
    _run(_answering(keys, pipe), uvloop=uvloop)


async def _answering(keys: Path, pipe: Pipe) -> None:
    """Bob, whom others connect to."""

    def deliver(peer: NodeId, data: bytes) -> None:
        driver.deliver(peer, data)

    def drained() -> None:
        driver.poke()

    core = Endpoint(BOB, Role.AGENT, Epoch(1))
    core.handle(GateOutcome, lambda _, message: GateDone(gate_id=message.gate_id))
    hub = Hub(
        BOB,
        "tcp://127.0.0.1:*",
        load_secret(keys / "bob.key_secret"),
        AuthorizedKeys(keys),
        deliver,
        drained=drained,
    )
    driver = Driver(core, hub.send)
    hub.follow(core)
    await hub.start()
    keep_heap()
    pipe.send(hub.endpoint)
    asked = asyncio.Event()
    asyncio.get_running_loop().add_reader(pipe.fileno(), asked.set)
    await asked.wait()
    asyncio.get_running_loop().remove_reader(pipe.fileno())
    driver.close()
    await hub.close()


async def _asking(keys: Path, endpoint: str, rounds: int) -> list[int]:
    """Alice: round trips in nanoseconds, as her own code sees them."""

    def deliver(peer: NodeId, data: bytes) -> None:
        driver.deliver(peer, data)

    def drained() -> None:
        driver.poke()

    core = Endpoint(ALICE, Role.AGENT, Epoch(1))
    bob = load_secret(keys / "bob.key_secret")
    connection = Connection(
        endpoint,
        load_secret(keys / "alice.key_secret"),
        bob.public,
        deliver,
        drained=drained,
    )
    driver = Driver(core, connection.send)
    connection.start()
    times: list[int] = []
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def ask() -> None:
        began_ns = time.perf_counter_ns()

        def answered(answer: Answer) -> None:
            times.append(time.perf_counter_ns() - began_ns)
            if not isinstance(answer, GateDone):
                done.set_exception(SystemExit(f"bench: {answer}"))
            elif len(times) < rounds + WARM_UP:
                ask()
            else:
                done.set_result(None)

        core.ask(BOB, GateOutcome(gate_id=GateId("gate"), bits=(0, 1)), local_time_ns() + 30 * SECOND_NS, answered)

    keep_heap()
    core.begin(local_time_ns())
    ask()
    driver.poke()
    await done
    driver.close()
    await connection.close()
    return times[WARM_UP:]


def _round_trips(rounds: int, *, uvloop: bool) -> tuple[float, float]:
    with tempfile.TemporaryDirectory(prefix="bellwire-direct-") as place:
        keys = Path(place)
        for name in (ALICE, BOB):
            generate(keys, name, Role.AGENT)
        here, there = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=_answer, args=(keys, there, uvloop))
        process.start()
        times = _run(_asking(keys, here.recv(), rounds), uvloop=uvloop)
        here.send(None)
        process.join(5)
    p50, p99 = np.percentile(times, [50, 99]) / 1e3
    return float(p50), float(p99)


async def _late(spin_ns: int, rounds: int) -> list[int]:
    """How many nanoseconds late an alarm of 2 ms rings."""
    loop = asyncio.get_running_loop()
    late: list[int] = []
    for _ in range(rounds):
        rung: asyncio.Future[int] = loop.create_future()

        def ring(rung: asyncio.Future[int] = rung) -> None:
            rung.set_result(time.monotonic_ns())

        alarm = Alarm(ring, spin_ns)
        due_ns = time.monotonic_ns() + 2_000_000
        alarm.set(2_000_000)
        late.append(await rung - due_ns)
        alarm.close()
    return late


def measure(scale: float, yardstick: dict[str, float]) -> dict[str, float]:
    """Round trips, and alarms; in microseconds, and in multiples of the ping-pong in C (of pyzmq's where that is missing)."""
    rounds = max(500, int(5_000 * scale))
    plain_us = yardstick.get("native_pingpong_p50_us", yardstick["pingpong_p50_us"])
    figures: dict[str, float] = {}
    for label, uvloop in (("", False), ("_uvloop", True)):
        if uvloop and quickest_loop() is None:
            continue
        p50, p99 = _round_trips(rounds, uvloop=uvloop)
        figures |= {
            f"direct{label}_p50_us": p50,
            f"direct{label}_p99_us": p99,
            f"direct{label}_p50_native_pingpongs": p50 / plain_us,
            f"direct{label}_p99_p50s": p99 / p50,
        }
    for label, spin_ns in (("", 0), ("_spin", 200_000)):
        late = _run(_late(spin_ns, max(50, int(300 * scale))), uvloop=False)
        p50, p99 = np.percentile(late, [50, 99]) / 1e3
        figures |= {f"alarm_late{label}_p50_us": float(p50), f"alarm_late{label}_p99_us": float(p99)}
    return figures
