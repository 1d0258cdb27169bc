"""How well a node knows the network's time: a broker and a node in processes of their own, one clock 50 ms and 50 ppm off."""

from __future__ import annotations

import asyncio
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from bellwire.agent.driver import NodeDaemon
from bellwire.agent.station import StationBrain
from bellwire.backends.mock import MockBackend
from bellwire.broker.daemon import BrokerConfig, BrokerDaemon
from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.ids import BROKER, NodeId
from bellwire.protocols.messages import ClockState, Role
from bellwire.protocols.network_clock import Bound
from bellwire.protocols.time_servo import ClockSpec, Sample, Servo
from bellwire.protocols.time_sources import TimeSettings
from bellwire.transport.clock import local_time_ns, new_epoch
from bellwire.transport.keys import PUBLIC_SUFFIX, SECRET_SUFFIX, generate, load_public, load_secret

NODE = NodeId("node")
SKEW_NS = 50_000_000
SKEW_PPM = 50
SECONDS = 30.0
SETTLED_S = 10.0
"""From when on the figures are those of a steady state."""

LOOK_S = 0.01
METHODS = ("naive", "session", "udp")
_BEGAN_NS = time.monotonic_ns()


def offset_ns() -> int:
    """This process's own clock less the monotonic one, as closely as the two can be read together."""
    return max(local_time_ns() - time.monotonic_ns() for _ in range(10_000))


_OFFSET_NS = offset_ns()


def skewed_at(monotonic_ns: int) -> int:
    """The node's clock: 50 ms ahead, and 50 ppm fast."""
    return monotonic_ns + _OFFSET_NS + SKEW_NS + (monotonic_ns - _BEGAN_NS) * SKEW_PPM // 1_000_000


def skewed_ns() -> int:
    """What the node's clock shows now."""
    return skewed_at(time.monotonic_ns())


class Naive(Servo):
    """One exchange now and then, and the time is what it says: no filter, no drift."""

    def take(self, sample: Sample) -> None:
        self.last = sample

    def agrees(self, sample: Sample) -> bool:  # noqa: ARG002
        return True

    def bound(self, local_ns: int) -> Bound:
        return Bound(local_ns=local_ns, offset_ns=self.last.offset_ns, half_ns=self.last.half_ns)

    def offset_at(self, local_ns: int) -> int:  # noqa: ARG002
        return self.last.offset_ns

    def rate_ppb(self, error_ns: int, interval_ns: int) -> int:
        return error_ns * 1_000_000_000 // interval_ns


def _broker(folder: str, pipe: Connection) -> None:
    asyncio.run(_serve(Path(folder), pipe))


async def _serve(folder: Path, pipe: Connection) -> None:
    secret = folder / f"{BROKER}{SECRET_SUFFIX}"
    daemon = BrokerDaemon(
        BrokerConfig(bind="tcp://127.0.0.1:*", secret_key=secret, authorized_keys=folder / "authorized")
    )
    await daemon.start()
    pipe.send((daemon.endpoint, offset_ns()))
    await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
    await daemon.close()


def _node(folder: str, method: str, endpoint: str, seconds: float, pipe: Connection) -> None:
    pipe.send(asyncio.run(_follow(Path(folder), method, endpoint, seconds)))


async def _follow(folder: Path, method: str, endpoint: str, seconds: float) -> list[tuple[float, int, int, bool]]:
    """Every so often: the seconds since the start, the network's time less the monotonic clock's, the claim, locked or not."""
    keys = load_secret(folder / f"{NODE}{SECRET_SUFFIX}")
    core = Endpoint(NODE, Role.STATION, new_epoch(), clock=BROKER)
    settings = TimeSettings(exchanges=1, settle_bursts=1) if method == "naive" else TimeSettings()
    brain = StationBrain(core, [], time=settings)
    part = brain.time.node
    assert part is not None
    if method == "naive":
        part.servo = part.machine.servo = Naive(ClockSpec())
    daemon = NodeDaemon(
        brain,
        MockBackend({}),
        broker_endpoint=endpoint,
        broker_key=load_public(folder / f"{BROKER}{PUBLIC_SUFFIX}").public,
        keys=keys,
        clock=skewed_ns,
    )
    await daemon.start()
    part.uses_path = method == "udp"
    began_s, seen = time.monotonic(), []
    while (passed_s := time.monotonic() - began_s) < seconds:
        true_ns = time.monotonic_ns()
        local_ns = skewed_at(true_ns)
        claim_ns = core.clock.uncertainty_ns(local_ns)
        locked = part.machine.state is ClockState.LOCKED
        seen.append((passed_s, core.clock.network_ns(local_ns) - true_ns, claim_ns or 0, locked))
        await asyncio.sleep(LOOK_S)
    await daemon.close()
    return seen


def _spin() -> None:
    while True:
        pass


@contextmanager
def busy_cores(number: int) -> Iterator[None]:
    """So many processes that do nothing, as fast as they can."""
    spinners = [multiprocessing.get_context("spawn").Process(target=_spin, daemon=True) for _ in range(number)]
    for spinner in spinners:
        spinner.start()
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.join()


def _run(folder: Path, method: str, seconds: float) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    broker = context.Process(target=_broker, args=(str(folder), there), daemon=True)
    broker.start()
    endpoint, broker_offset_ns = here.recv()
    result, inner = context.Pipe()
    node = context.Process(target=_node, args=(str(folder), method, endpoint, seconds, inner), daemon=True)
    node.start()
    seen = result.recv()
    node.join()
    here.send("stop")
    broker.join()
    errors = [(at_s, abs(time_ns - broker_offset_ns) / 1e3, claim / 1e3) for at_s, time_ns, claim, ok in seen if ok]
    steady = np.array([(error, claim) for at_s, error, claim in errors if at_s >= seconds * SETTLED_S / SECONDS])
    p50, p99 = np.percentile(steady[:, 0], [50, 99])
    figures = {"error_p50_us": p50, "error_p99_us": p99, "lock_ms": errors[0][0] * 1e3}
    if method != "naive":  # it has no claim to speak of: its bound does not age
        figures["claimed_p50_us"] = np.percentile(steady[:, 1], 50)
        figures["claim_holds_ratio"] = np.mean([error <= claim for _, error, claim in errors])
    return {name: float(value) for name, value in figures.items()}


def measure(scale: float = 1.0) -> dict[str, float]:
    """Errors, claims and times to lock, idle and with every core busy, for each way of exchange and a naive one."""
    folder = Path(tempfile.mkdtemp(prefix="bellwire-clocks-"))
    try:
        for name, role in ((BROKER, Role.BROKER), (NODE, Role.STATION)):
            generate(folder, name, role)
        (folder / "authorized").mkdir()
        shutil.copy(folder / f"{NODE}{PUBLIC_SUFFIX}", folder / "authorized")
        results: dict[str, float] = {}
        for load, number in (("idle", 0), ("busy", multiprocessing.cpu_count())):
            with busy_cores(number):
                for method in METHODS:
                    figures = _run(folder, method, max(4.0, SECONDS * scale))
                    results |= {f"time_{method}_{load}_{name}": value for name, value in figures.items()}
        return results
    finally:
        shutil.rmtree(folder)
