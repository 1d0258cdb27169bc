"""The broker's relay under load made in C, as a ratio to a ROUTER in C under the same load; and a crowd that only lives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import native
import zmq
from zmq.utils import z85

from bellwire.protocols.codec import Codec
from bellwire.protocols.ids import BROKER, Epoch, NodeId
from bellwire.protocols.messages import Role, SessionHeartbeat, SessionHello, SessionWelcome
from bellwire.transport.keys import KeyPair, generate, load_secret
from bellwire.transport.reader import bare_send

LOADS = {"2_clients": (2, 64), "16_clients": (16, 2), "128_clients": (128, 16)}
"""Clients, and messages that each pair of them has under way: 64, 16 and 1,024 at a time."""

CROWD = 2_000
FLOODS = {"flood_relayed": "flood_relayed", "flood_delivered": "broker"}
"""Who floods, and whom with what."""
SECONDS = 5.0


class Folder:
    """Keys of a broker and its clients, and the broker's file."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.keys = place / "keys"
        self.broker = self.pair(BROKER, Role.BROKER)

    def pair(self, name: str, role: Role = Role.AGENT) -> KeyPair:
        path = self.keys / f"{name}.key_secret"
        return load_secret(path if path.exists() else generate(self.keys, NodeId(name), role))

    def file(self, *, insecure: bool, liveness_ms: int, limited: bool) -> Path:
        path = self.place / "broker.toml"
        path.write_text(
            f'bind = "tcp://127.0.0.1:*"\nsecret_key = "keys/broker.key_secret"\nauthorized_keys = "keys"\n'
            f"insecure = {str(insecure).lower()}\n[session]\nliveness_ms = {liveness_ms}\n"
            + ("" if limited else "[limits]\nrate = 1_000_000\n")
        )
        return path


@contextmanager
def broker(
    folder: Folder, *, insecure: bool, liveness_ms: int = 600_000, limited: bool = False
) -> Iterator[tuple[str, int]]:
    """A broker's process: its endpoint and its id. It holds a client to the rate that it is shipped with when `limited`."""
    file = folder.file(insecure=insecure, liveness_ms=liveness_ms, limited=limited)
    command = [sys.executable, "-m", "bellwire.shell", "broker", str(file), "--until-eof", "--log-level", "error"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        yield ready["endpoint"], process.pid
        process.communicate()


@contextmanager
def router(*command: str | Path) -> Iterator[str]:
    """A router that swaps two frames and knows nobody, in C or in Python: its endpoint."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.communicate()


def _python_router() -> None:
    """What the relay cannot be faster than in Python: the six calls that a message takes, and no thought in between."""
    socket = zmq.Context(2).socket(zmq.ROUTER)
    socket.sndhwm = socket.rcvhwm = 0
    socket.bind("tcp://127.0.0.1:*")
    print(socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0"), flush=True)  # noqa: T201
    poller = zmq.Poller()
    poller.register(socket, zmq.POLLIN)
    poller.register(sys.stdin.fileno(), zmq.POLLIN)
    receive, send = socket.recv, bare_send(socket)
    now, now_and_more = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)
    while sys.stdin.fileno() not in dict(poller.poll()):
        with suppress(zmq.Again):
            for _ in range(256):
                origin, target, message = receive(now), receive(now), receive(now, copy=False)
                if message.more:
                    raise SystemExit("bench: a frame too many")
                send(target, now_and_more)
                send(origin, now_and_more)
                send(message, now, False)
    socket.close()


def _hello() -> bytes:
    hello = SessionHello(epoch=Epoch(1), request_id=1, versions=(1,), role=Role.AGENT, heartbeat_ns=10**9)
    return Codec().encode(hello)


def _introduce(names: list[str], folder: Folder | None, hello: str) -> str:
    """What the load reads from its input: its clients, and what each says first."""
    lines = names
    if folder is not None:
        server = z85.encode(folder.broker.public).decode()
        pairs = [folder.pair(name) for name in names]
        lines = [
            f"{keys.name} {z85.encode(keys.public).decode()} {z85.encode(keys.secret).decode()} {server}"
            for keys in pairs
        ]
    return "\n".join([*lines, hello, ""])


def _under_load(
    load: Path, endpoint: str, clients: int, window: int, ms: int, folder: Folder | None, hello: str
) -> str:
    result = subprocess.run(
        [load, "relay", endpoint, str(clients), str(window), str(ms)],
        input=_introduce([f"n{number}" for number in range(clients)], folder, hello),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if result.returncode != 0:
        raise SystemExit(f"bench: {result.stderr.strip()}")
    return result.stdout


def measure(scale: float) -> dict[str, float]:
    """Messages per second and round trips of a C router, an insecure broker and a broker: each as a ratio to the router."""
    load = native.program()
    if load is None:
        return {}
    ms = max(300, int(3_000 * scale))
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="bellwire-relay-") as place:
        folder = Folder(Path(place))
        for label, (clients, window) in LOADS.items():
            taken: dict[str, tuple[float, float]] = {}
            for number in range(clients):
                folder.pair(f"n{number}")  # an insecure broker too asks the keys who has which role

            def note(what: str, output: str, taken: dict[str, tuple[float, float]] = taken) -> None:
                rate, p50, _ = (float(word) for word in output.split())
                taken[what] = (rate, p50 / 1e3)

            for what, command in (("router", (load, "router")), ("python_router", (sys.executable, __file__))):
                with router(*command) as endpoint:
                    note(what, _under_load(load, endpoint, clients, window, ms, None, "-"))
            with broker(folder, insecure=True) as (endpoint, _):
                note("insecure_broker", _under_load(load, endpoint, clients, window, ms, None, _hello().hex()))
            with broker(folder, insecure=False) as (endpoint, _):
                note("broker", _under_load(load, endpoint, clients, window, ms, folder, _hello().hex()))
            for what, (rate, p50_us) in taken.items():
                figures[f"{what}_{label}_relayed_per_s"] = rate
                figures[f"{what}_{label}_p50_us"] = p50_us
                if what != "router":
                    figures[f"{what}_{label}_routers"] = rate / taken["router"][0]
                    figures[f"{what}_{label}_p50_routers"] = p50_us / taken["router"][1]
    return figures


def _flood(load: Path, endpoint: str, flooder: str, to: str, folder: Folder) -> subprocess.Popen[str]:
    """One member of the broker sends to somebody all that its connection takes, until its input ends."""
    command: list[str | Path] = [load, "flood", endpoint, to]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(_introduce([flooder], folder, _hello().hex()))
    process.stdin.flush()
    if process.stdout.readline().strip() != "begun":
        raise SystemExit("bench: no flood")
    return process


def flood(scale: float) -> dict[str, float]:
    """Round trips of sixteen at a time through a broker, while one member begins to flood it: to itself, or to the broker."""
    load = native.program()
    if load is None:
        return {}
    clients, window = LOADS["16_clients"]
    ms = max(1_000, int(4_000 * scale))
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="bellwire-flood-") as place, ThreadPoolExecutor() as pool:
        folder = Folder(Path(place))
        for name in (*FLOODS, *(f"n{number}" for number in range(clients))):
            folder.pair(name)
        with broker(folder, insecure=False, limited=True) as (endpoint, _):
            for flooder, to in {"calm": "", **FLOODS}.items():
                others = pool.submit(_under_load, load, endpoint, clients, window, ms, folder, _hello().hex())
                if to:
                    time.sleep(0.3 * ms / 1_000)  # past the load's time to warm up
                    process = _flood(load, endpoint, flooder, to, folder)
                figures[f"{flooder}_p99_us"] = float(others.result().split()[2]) / 1e3
                if to:
                    process.communicate()
                    figures[f"{flooder}_p99_calms"] = figures[f"{flooder}_p99_us"] / figures["calm_p99_us"]
    return figures


def crowd(scale: float) -> dict[str, float]:
    """Many clients of one broker, which do nothing but live: how long until all are greeted, and what the broker takes."""
    number = max(16, int(CROWD * min(scale, 1.0)))
    codec = Codec()
    with tempfile.TemporaryDirectory(prefix="bellwire-crowd-") as place:
        folder = Folder(Path(place))
        pairs = [folder.pair(f"n{index}") for index in range(number)]
        with broker(folder, insecure=False, liveness_ms=3_000) as (endpoint, process):
            context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            context.max_sockets = number + 16
            poller = zmq.Poller()
            began = time.perf_counter()
            epochs: dict[zmq.Socket[bytes], int] = {}
            for keys in pairs:
                socket = context.socket(zmq.DEALER)
                socket.linger = 0
                socket.curve_publickey, socket.curve_secretkey = keys.public, keys.secret
                socket.curve_serverkey = folder.broker.public
                socket.connect(endpoint)
                socket.send_multipart([BROKER.encode(), _hello()])
                poller.register(socket, zmq.POLLIN)
                epochs[socket] = 0
            waiting = number
            while waiting:
                for socket, _ in poller.poll(30_000) or _nobody():
                    message = codec.decode(socket.recv_multipart()[1])
                    if isinstance(message, SessionWelcome):
                        waiting -= epochs[socket] == 0
                        epochs[socket] = message.epoch
            greeted_s = time.perf_counter() - began
            load, memory = _live(epochs, codec, process)
            for socket in epochs:
                socket.close()
            context.term()
    return {
        "crowd_clients": number,
        "crowd_greeted_s": greeted_s,
        "crowd_broker_cores": load,
        "crowd_broker_mb": memory,
    }


def _nobody() -> list[tuple[zmq.Socket[bytes], int]]:
    raise SystemExit("bench: the broker answers no more")


def _live(epochs: dict[zmq.Socket[bytes], int], codec: Codec, process: int) -> tuple[float, float]:
    """Let everybody send a heartbeat a second, evenly spread. Returns the broker's share of a core, and its megabytes."""
    beats = [
        (socket, codec.encode(SessionHeartbeat(epoch=Epoch(1), peer_epoch=Epoch(epoch))))
        for socket, epoch in epochs.items()
    ]
    began = settled = time.perf_counter()
    cpu = _cpu_s(process)
    sent = 0
    while (now := time.perf_counter()) - began < 1 + SECONDS:
        if settled == began and now - began >= 1:
            settled, cpu = now, _cpu_s(process)
        due = int((now - began) * len(beats))
        for index in range(sent, due):
            socket, beat = beats[index % len(beats)]
            socket.send_multipart([BROKER.encode(), beat])
            while socket.poll(0):
                if not isinstance(codec.decode(socket.recv_multipart()[1]), SessionHeartbeat):
                    raise SystemExit("bench: the broker has lost a client that lives")
        sent = due
        time.sleep(0.002)
    return (_cpu_s(process) - cpu) / (time.perf_counter() - settled), _resident_mb(process)


def _cpu_s(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_mb(process: int) -> float:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    _python_router()
