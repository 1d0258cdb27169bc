"""The same request and reply over Mosquitto with aiomqtt, QoS 1, and over a broker of ours: 1, 16 and 64 at a time."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import relay
from aiomqtt import Client

from bellwire.client.participant import SocketParticipant
from bellwire.protocols.codec import Codec
from bellwire.protocols.ids import BROKER, GateId, NodeId
from bellwire.protocols.messages import GateDone, GateOutcome

CONCURRENT = (1, 16, 64)
Ask = Callable[[int], Awaitable[None]]


@contextmanager
def mosquitto(command: str, *, nodelay: bool) -> Iterator[int]:
    """A Mosquitto broker on loopback: its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="bellwire-mqtt-") as place:
        file = Path(place) / "mosquitto.conf"
        tuned = "set_tcp_nodelay true\nmax_inflight_messages 0\n" if nodelay else ""
        file.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n{tuned}")
        with subprocess.Popen([command, "-c", file], stderr=subprocess.DEVNULL) as process:
            until = time.monotonic() + 10
            while time.monotonic() < until:
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.02)
            yield port
            process.terminate()


async def _measured(ask: Ask, number: int, concurrent: int) -> tuple[float, float]:
    """Round trips per second, and the median in microseconds."""
    times: list[float] = []

    async def worker(index: int, count: int) -> None:
        for _ in range(count):
            began = time.perf_counter()
            await ask(index)
            times.append(time.perf_counter() - began)

    await asyncio.gather(*(worker(index, 1) for index in range(concurrent)))
    times.clear()
    began = time.perf_counter()
    await asyncio.gather(*(worker(index, max(1, number // concurrent)) for index in range(concurrent)))
    return len(times) / (time.perf_counter() - began), float(np.median(times)) * 1e6


def _client(port: int, *, nodelay: bool) -> Client:
    tuned = {"socket_options": [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)], "max_inflight_messages": 1_000}
    client = Client("127.0.0.1", port, **(tuned if nodelay else {}))  # type: ignore[arg-type]
    client.pending_calls_threshold = 1_000  # else it warns at every call beyond ten
    return client


async def _over_mqtt(port: int, number: int, *, nodelay: bool) -> dict[int, tuple[float, float]]:
    codec, waiting = Codec(), dict[str, asyncio.Future[None]]()
    async with _client(port, nodelay=nodelay) as alice:
        await alice.subscribe("alice", qos=1)

        async def listen() -> None:
            async for message in alice.messages:
                reply = codec.decode(bytes(message.payload))
                assert isinstance(reply, GateDone)
                waiting.pop(reply.gate_id).set_result(None)

        listening = asyncio.ensure_future(listen())

        async def ask(index: int) -> None:
            gate = GateId(f"g{index}")
            waiting[gate] = asyncio.get_running_loop().create_future()
            answered = waiting[gate]
            await alice.publish("bob", codec.encode(GateOutcome(gate_id=gate, bits=(0, 1))), qos=1)
            await answered

        try:
            return {concurrent: await _measured(ask, number, concurrent) for concurrent in CONCURRENT}
        finally:
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening


async def _over_bellwire(endpoint: str, folder: relay.Folder, number: int) -> dict[int, tuple[float, float]]:
    alice = SocketParticipant(
        server=BROKER,
        endpoint=endpoint,
        server_key=folder.keys / "broker.key",
        secret_key=folder.keys / "alice.key_secret",
    )
    await alice.start(10)

    async def ask(index: int) -> None:
        await alice.ask(NodeId("bob"), GateOutcome(gate_id=GateId(f"g{index}"), bits=(0, 1)), GateDone, timeout_s=30)

    try:
        return {concurrent: await _measured(ask, number, concurrent) for concurrent in CONCURRENT}
    finally:
        await alice.close()


async def _answer_mqtt(port: int, *, nodelay: bool) -> None:
    codec = Codec()
    async with _client(port, nodelay=nodelay) as bob:
        await bob.subscribe("bob", qos=1)
        print("ready", flush=True)  # noqa: T201
        async for message in bob.messages:
            request = codec.decode(bytes(message.payload))
            assert isinstance(request, GateOutcome)
            await bob.publish("alice", codec.encode(GateDone(gate_id=request.gate_id)), qos=1)


async def _answer_bellwire(endpoint: str, keys: Path) -> None:
    bob = SocketParticipant(
        server=BROKER, endpoint=endpoint, server_key=keys / "broker.key", secret_key=keys / "bob.key_secret"
    )
    bob.endpoint.handle(GateOutcome, lambda _, message: GateDone(gate_id=message.gate_id))
    await bob.start(10)
    print("ready", flush=True)  # noqa: T201
    await asyncio.Event().wait()


@contextmanager
def _answering(*words: str) -> Iterator[None]:
    """Bob, in a process of his own."""
    with subprocess.Popen([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise SystemExit("bench: nobody answers")
        yield
        process.kill()


def program() -> str | None:
    """Mosquitto, or `None` where it is not installed."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")


def measure(scale: float) -> dict[str, float]:
    """Rates and medians of both, and their ratios; nothing without mosquitto."""
    broker = program()
    if broker is None:
        return {}
    number = max(128, int(2_000 * scale))
    taken: dict[str, dict[int, tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="bellwire-relayed-") as place:
        folder = relay.Folder(Path(place))
        for name in ("alice", "bob"):
            folder.pair(name)
        with (
            relay.broker(folder, insecure=False, liveness_ms=3_000) as (endpoint, _),
            _answering("bellwire", endpoint, str(folder.keys)),
        ):
            taken["relayed"] = asyncio.run(_over_bellwire(endpoint, folder, number))
    for label, nodelay in (("mosquitto", True), ("mosquitto_as_shipped", False)):
        with mosquitto(broker, nodelay=nodelay) as port, _answering("mqtt", str(port), str(int(nodelay))):
            # As it is shipped a round trip takes two delayed acknowledgements, of 40 ms each.
            taken[label] = asyncio.run(_over_mqtt(port, number if nodelay else number // 20, nodelay=nodelay))
    figures: dict[str, float] = {}
    for label, by_concurrent in taken.items():
        for concurrent, (rate, p50_us) in by_concurrent.items():
            figures[f"{label}_{concurrent}_at_a_time_per_s"] = rate
            figures[f"{label}_{concurrent}_at_a_time_p50_us"] = p50_us
            if label != "relayed":
                figures[f"relayed_{concurrent}_at_a_time_{label}s"] = taken["relayed"][concurrent][0] / rate
    return figures


if __name__ == "__main__":
    if sys.argv[1] == "mqtt":
        asyncio.run(_answer_mqtt(int(sys.argv[2]), nodelay=sys.argv[3] == "1"))
    else:
        asyncio.run(_answer_bellwire(sys.argv[2], Path(sys.argv[3])))
