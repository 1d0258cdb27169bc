"""The yardstick: a bare blocking pyzmq REQ/REP ping-pong between two processes over TCP loopback, without encryption."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection

import numpy as np
import zmq

MESSAGE = b"x" * 100
WARM_UP = 500


def _echo(pipe: Connection) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.REP)
    pipe.send(socket.bind_to_random_port("tcp://127.0.0.1"))
    while (message := socket.recv()) != b"":
        socket.send(message)
    socket.close(0)
    context.term()


def measure(rounds: int = 5_000) -> dict[str, float]:
    """Round trip times of 100-byte messages in microseconds: p50 and p99."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_echo, args=(there,))
    process.start()
    port = here.recv()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.REQ)
    socket.connect(f"tcp://127.0.0.1:{port}")
    times = np.empty(rounds + WARM_UP)
    for index in range(len(times)):
        began = time.perf_counter_ns()
        socket.send(MESSAGE)
        socket.recv()
        times[index] = time.perf_counter_ns() - began
    socket.send(b"")
    process.join(5)
    socket.close(0)
    context.term()
    p50, p99 = np.percentile(times[WARM_UP:], [50, 99]) / 1e3
    return {"pingpong_p50_us": float(p50), "pingpong_p99_us": float(p99)}
