"""A request from one participant to another and its answer: relayed by a broker, and over a direct connection.

Each of the three is a process of its own, CURVE is on, and nothing else is asked meanwhile.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
import time
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import numpy as np

from bellwire.broker.daemon import BrokerConfig, BrokerDaemon
from bellwire.client.participant import SocketParticipant
from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.ids import BROKER, GateId, NodeId
from bellwire.protocols.messages import GateDone, GateOutcome, Role
from bellwire.protocols.path import DirectSettings
from bellwire.protocols.paths import Paths
from bellwire.transport.clock import new_epoch
from bellwire.transport.connection import Connection
from bellwire.transport.direct import Direct
from bellwire.transport.driver import Driver
from bellwire.transport.keys import generate, load_public, load_secret

ASKER, ANSWERER = NodeId("asker"), NodeId("answerer")
WARM_UP = 200
LISTEN = DirectSettings(listen="tcp://127.0.0.1:0")


async def _serve_broker(pipe: Pipe, keys: Path) -> None:
    config = BrokerConfig(bind="tcp://127.0.0.1:*", secret_key=keys / f"{BROKER}.key_secret", authorized_keys=keys)
    broker = BrokerDaemon(config)
    await broker.start()
    pipe.send(broker.endpoint)
    await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
    await broker.close()


async def _serve_answers(pipe: Pipe, keys: Path, address: str) -> None:
    pair = load_secret(keys / f"{ANSWERER}.key_secret")
    endpoint = Endpoint(pair.name, pair.role, new_epoch())
    endpoint.handle(GateOutcome, lambda _, message: GateDone(gate_id=message.gate_id))
    paths = Paths(endpoint, endpoint)

    def deliver(peer: NodeId, data: bytes) -> None:
        driver.deliver(peer, data)

    def drained() -> None:
        driver.poke()

    server = load_public(keys / f"{BROKER}.key").public
    connection = Connection(address, pair, server, deliver, drained=drained)
    direct = Direct(paths, endpoint, pair, LISTEN, connection.send)
    direct.driver = driver = Driver(paths, direct.send, after=direct.carry)
    up = asyncio.Event()
    endpoint.on_peer_up.append(lambda _: up.set())
    await direct.start(address)
    connection.start()

    def greet(now_ns: int) -> None:
        endpoint.begin(now_ns)
        endpoint.keep_session(BROKER)

    driver.stimulate(greet)
    await up.wait()
    pipe.send("ready")
    await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
    driver.close()
    await direct.close()
    await connection.close()


def _broker(pipe: Pipe, keys: Path) -> None:
    asyncio.run(_serve_broker(pipe, keys))


def _answerer(pipe: Pipe, keys: Path, address: str) -> None:
    asyncio.run(_serve_answers(pipe, keys, address))


async def _round_trips(keys: Path, address: str, number: int, *, direct: bool) -> list[float]:
    """Seconds that each request took, once the path is the one that is measured."""
    participant = SocketParticipant(
        server=BROKER,
        endpoint=address,
        server_key=keys / f"{BROKER}.key",
        secret_key=keys / f"{ASKER}.key_secret",
        direct=direct,
    )
    await participant.start(10)
    try:
        request = GateOutcome(gate_id=GateId("g"), bits=(0,))
        while direct and not (participant.paths is not None and participant.paths.is_direct(ANSWERER)):
            await participant.ask(ANSWERER, request, GateDone, timeout_s=10)
        taken = []
        for _ in range(number + WARM_UP):
            began = time.perf_counter()
            await participant.ask(ANSWERER, request, GateDone, timeout_s=10)
            taken.append(time.perf_counter() - began)
        return taken[WARM_UP:]
    finally:
        await participant.close()


def measure(scale: float) -> dict[str, float]:
    """Round trips in microseconds, p50 and p99, and how many times as long the relayed ones take."""
    number = max(50, int(3_000 * scale))
    results: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="bellwire-bench-") as folder:
        keys = Path(folder)
        for name, role in ((BROKER, Role.BROKER), (ASKER, Role.AGENT), (ANSWERER, Role.AGENT)):
            generate(keys, name, role)
        spawn = multiprocessing.get_context("spawn")
        to_broker, broker_end = spawn.Pipe()
        to_answerer, answerer_end = spawn.Pipe()
        broker = spawn.Process(target=_broker, args=(broker_end, keys))
        broker.start()
        address = to_broker.recv()
        answerer = spawn.Process(target=_answerer, args=(answerer_end, keys, address))
        answerer.start()
        to_answerer.recv()
        try:
            for path, direct in (("relayed", False), ("direct", True)):
                taken = asyncio.run(_round_trips(keys, address, number, direct=direct))
                p50, p99 = np.percentile(taken, [50, 99]) * 1e6
                results |= {f"{path}_round_trip_p50_us": float(p50), f"{path}_round_trip_p99_us": float(p99)}
        finally:
            for pipe, process in ((to_answerer, answerer), (to_broker, broker)):
                pipe.send("end")
                process.join(10)
    results["relayed_per_direct_round_trip"] = (
        results["relayed_round_trip_p50_us"] / results["direct_round_trip_p50_us"]
    )
    return results
