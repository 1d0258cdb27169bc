"""The rows of the table once more, in virtual time: the same application and agents, with enough shots for small errors.

The work is cut into parts of about a second, each in a testbed of its own and with a seed of its own: what is found does not
depend on how many processes share them. World time runs as in the laboratory here, for nobody has to wait for a pair.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

from bellwire.agent.testbed import TestbedConfig, load_testbed, virtual_testbed
from bellwire.client.virtual import VirtualOracle, connect_virtual, run_virtual
from bellwire.sim.preset import Preset
from bellwire.virtual.workers import derived_seed, spread
from oxford import estimation
from oxford.experiments import MEASUREMENTS, Row, Shots
from oxford.lab import Lab

PART: Final = Shots(
    bell_per_basis=100, cz_per_setting=3, grover_per_item=100, iswap_per_operator=32, swap_per_operator=20, exact=0
)
"""The shots of one part."""

PARTS: Final = {"SWAP": 42, "iSWAP": 25, "CZ": 20, "Grover": 18, "Bell pairs": 20}
"""How many parts there are of each measurement, the longest first: standard errors are some 0.005, for Bell pairs 0.003."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was found in virtual time: rows without a `virtual` of their own, and what they took."""

    rows: list[Row]
    shots: int
    lost_shots: int
    virtual_s: float


def measure(testbed: Path, scale: float, seed: int, jobs: int, advance: Callable[[], None]) -> Found:
    """Measure every row with so many times the shots, on so many processes. `advance` is called after each of `parts(scale)`.

    Raises:
        ConfigError: when the testbed's file is wrong.
        RequestError: when too many shots ended in one.
    """
    found = []
    for each in spread(partial(_measure_part, *load_testbed(testbed), seed), parts(scale), jobs):
        found.append(each)
        advance()
    return Found(
        rows=_pooled([row for each in found for row in each.rows]),
        shots=sum(each.shots for each in found),
        lost_shots=sum(each.lost_shots for each in found),
        virtual_s=sum(each.virtual_s for each in found),
    )


def parts(scale: float) -> list[tuple[str, int]]:
    """Name the parts, when there are so many times the shots: a measurement and a number."""
    return [(name, number) for name, many in PARTS.items() for number in range(max(1, round(many * scale)))]


def with_virtual(rows: list[Row], found: Found) -> list[Row]:
    """Put into the rows what was found of them in virtual time."""
    virtual = {row.published: row.ours for row in found.rows}
    return [replace(row, virtual=virtual[row.published]) for row in rows]


def _measure_part(config: TestbedConfig, preset: Preset, seed: int, part: tuple[str, int]) -> Found:
    name, number = part
    own_seed = derived_seed(seed, f"{name} {number}")
    bed = virtual_testbed(config, preset, seed=own_seed)
    begun_ns, shots = bed.net.now_ns, 0

    def count(_: str) -> None:
        nonlocal shots
        shots += 1

    async def work() -> tuple[list[Row], int]:
        async with connect_virtual(bed) as network:
            lab = Lab(network, VirtualOracle(bed))
            return await MEASUREMENTS[name](lab, PART, Random(own_seed), count), lab.lost

    rows, lost = run_virtual(bed, work())
    return Found(rows=rows, shots=shots, lost_shots=lost, virtual_s=(bed.net.now_ns - begun_ns) / 1e9)


def _pooled(rows: list[Row]) -> list[Row]:
    """Join the rows of parts that are about the same."""
    by_row = {row.published: [other for other in rows if other.published == row.published] for row in rows}
    return [
        replace(same[0], ours=estimation.pooled([row.ours for row in same]), pairs=sum(row.pairs for row in same))
        for same in by_row.values()
    ]
