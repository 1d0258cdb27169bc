"""Many shots of a distributed program in virtual time: in batches, each in a testbed of its own, on all cores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from bellwire.agent.testbed import TestbedConfig, load_testbed, virtual_testbed
from bellwire.client.program import Program, run_program
from bellwire.client.virtual import connect_virtual, run_virtual
from bellwire.protocols.errors import ConfigError
from bellwire.sim.preset import Preset
from bellwire.virtual.workers import derived_seed, spread

BATCH_SHOTS: Final = 250
"""Shots of one batch. The counts depend on the seed and on this, and not on the number of processes."""


@dataclass(slots=True)
class Counts:
    """What shots gave: how often each string of bits came, and the virtual time that passed for the application."""

    bits: Counter[str] = field(default_factory=Counter)
    virtual_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualRun:
    """A program and the testbed on which it is run. `timeout_s` of virtual time is for every single request."""

    program: Program
    config: TestbedConfig
    preset: Preset
    seed: int
    latency_ns: int
    variant: str
    timeout_s: float

    @classmethod
    def load(
        cls, program: Program, testbed: Path, *, seed: int | None, latency_ns: int, variant: str, timeout_s: float
    ) -> VirtualRun:
        """Read the testbed's file, whose seed holds unless another is given.

        Raises:
            ConfigError: when the file is wrong, or has not all nodes of the program.
        """
        config, preset = load_testbed(testbed)
        for node in program.nodes:
            if node not in config.nodes:
                raise ConfigError(f"{testbed}: has no node {node!r}, which {program.name} asks for")
        return cls(
            program=program,
            config=config,
            preset=preset,
            seed=config.seed if seed is None else seed,
            latency_ns=latency_ns,
            variant=variant,
            timeout_s=timeout_s,
        )

    def shots(self, number: int, *, jobs: int, on_shots: Callable[[int], None]) -> Counts:
        """Run so many shots on as many processes. `on_shots` is told of each batch how many it had.

        Raises:
            RequestError: when a node refuses or loses a step.
        """
        sizes = [min(BATCH_SHOTS, number - begun) for begun in range(0, number, BATCH_SHOTS)]
        counts = Counts()
        for batch in spread(partial(_run_batch, self), list(enumerate(sizes)), jobs):
            counts.bits += batch.bits
            counts.virtual_ns += batch.virtual_ns
            on_shots(batch.bits.total())
        return counts


def _run_batch(run: VirtualRun, batch: tuple[int, int]) -> Counts:
    """Run one batch, given as its number and its shots."""
    number, shots = batch
    seed = derived_seed(run.seed, f"batch {number}")
    bed = virtual_testbed(run.config, run.preset, seed=seed, latency_ns=run.latency_ns)
    begun_ns = bed.net.now_ns

    async def work() -> Counter[str]:
        async with connect_virtual(bed, run.config.client) as network:
            return await run_program(network, run.program, shots=shots, variant=run.variant, timeout_s=run.timeout_s)

    bits = run_virtual(bed, work())
    return Counts(bits, bed.net.now_ns - begun_ns)
