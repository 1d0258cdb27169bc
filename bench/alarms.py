"""How late an alarm rings on asyncio's own loop: asleep until the end, and spinning for the last stretch."""

from __future__ import annotations

import asyncio
import time

import numpy as np

from bellwire.transport.alarm import Alarm

DELAY_NS = 2_000_000
SPIN_NS = 200_000


async def _late(spin_ns: int, rounds: int) -> list[int]:
    """How many nanoseconds late alarms ring."""
    loop = asyncio.get_running_loop()
    late: list[int] = []
    for _ in range(rounds):
        rung: asyncio.Future[int] = loop.create_future()

        def ring(rung: asyncio.Future[int] = rung) -> None:
            rung.set_result(time.monotonic_ns())

        alarm = Alarm(ring, spin_ns)
        due_ns = time.monotonic_ns() + DELAY_NS
        alarm.set(DELAY_NS)
        late.append(await rung - due_ns)
        alarm.close()
    return late


def measure(scale: float) -> dict[str, float]:
    """Lateness in microseconds, p50 and p99."""
    figures: dict[str, float] = {}
    for label, spin_ns in (("", 0), ("_spin", SPIN_NS)):
        late = asyncio.run(_late(spin_ns, max(50, int(300 * scale))))
        p50, p99 = np.percentile(late, [50, 99]) / 1e3
        figures |= {f"alarm_late{label}_p50_us": float(p50), f"alarm_late{label}_p99_us": float(p99)}
    return figures
