"""Pairs and teleported gates between two daemon agents, over a link that always succeeds."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np

from bellwire.client import Network, connect, initialise, release

CONCURRENT = 8


async def _pairs(net: Network, number: int) -> dict[str, float]:
    """Confirmed pairs per second, each given back at once by both ends, and the time from herald to confirmation."""
    confirmations: list[int] = []

    async def worker(count: int) -> None:
        for _ in range(count):
            pair = await net.entangle("alice", "bob", timeout_s=10)
            confirmations.append(pair.confirmation_ns)
            await asyncio.gather(*(net.run(node, [release(pair.pair_id)]) for node in pair.nodes))

    began = time.perf_counter()
    await asyncio.gather(*(worker(number // CONCURRENT) for _ in range(CONCURRENT)))
    elapsed = time.perf_counter() - began
    p50, p99 = np.percentile(confirmations, [50, 99]) / 1e3
    return {
        "confirmed_pairs_per_s": len(confirmations) / elapsed,
        "herald_to_confirmed_p50_us": float(p50),
        "herald_to_confirmed_p99_us": float(p99),
    }


async def _latency(net: Network, number: int) -> dict[str, float]:
    """The same with one pair at a time: latency without queueing."""
    confirmations = []
    for _ in range(number):
        pair = await net.entangle("alice", "bob", timeout_s=10)
        confirmations.append(pair.confirmation_ns)
        await asyncio.gather(*(net.run(node, [release(pair.pair_id)]) for node in pair.nodes))
    p50, p99 = np.percentile(confirmations, [50, 99]) / 1e3
    return {"idle_herald_to_confirmed_p50_us": float(p50), "idle_herald_to_confirmed_p99_us": float(p99)}


async def _gates(net: Network, number: int, variant: str) -> dict[str, float]:
    """Teleported CZ per second with several under way, and the latency of one at a time, entanglement included."""
    names = [f"q{index}" for index in range(CONCURRENT)]
    for node in ("alice", "bob"):
        await net.run(node, [initialise(name) for name in names])

    async def worker(name: str, count: int) -> None:
        for _ in range(count):
            await net.cz(f"alice:{name}", f"bob:{name}", variant=variant, timeout_s=10)

    began = time.perf_counter()
    await asyncio.gather(*(worker(name, number // CONCURRENT) for name in names))
    rate = number // CONCURRENT * CONCURRENT / (time.perf_counter() - began)
    times = []
    for _ in range(number // 10):
        began = time.perf_counter()
        await net.cz("alice:q0", "bob:q0", variant=variant, timeout_s=10)
        times.append(time.perf_counter() - began)
    for node in ("alice", "bob"):
        await net.run(node, [release(name) for name in names])
    p50, p99 = np.percentile(times, [50, 99]) * 1e6
    return {
        f"teleported_cz_{variant}_per_s": rate,
        f"teleported_cz_{variant}_p50_us": float(p50),
        f"teleported_cz_{variant}_p99_us": float(p99),
    }


async def measure(client: Path, number: int) -> dict[str, float]:
    """All figures of this module, from one testbed."""
    async with connect(client) as net:
        await _pairs(net, number // 10)  # warm up
        results = await _pairs(net, number)
        results |= await _latency(net, number // 10)
        for variant in ("symmetric", "sequential"):
            results |= await _gates(net, number, variant)
    return results
