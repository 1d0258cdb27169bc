"""The experiment's own application, over whole testbeds in virtual time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from bellwire.agent.testbed import load_testbed, virtual_testbed
from bellwire.client import Network
from bellwire.client.virtual import VirtualOracle, connect_virtual, run_virtual
from bellwire.sim.preset import Preset, load_preset
from bellwire.sim.virtual import VirtualTestbed

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "oxford-2025"
sys.path.insert(0, str(EXAMPLE))

from oxford.lab import Lab, NetworkCapable  # noqa: E402

T = TypeVar("T")


def in_lab(
    bed: VirtualTestbed,
    work: Callable[[Lab], Coroutine[Any, Any, T]],
    through: Callable[[Network], NetworkCapable] = lambda network: network,
) -> T:
    """Do work in the two modules of a testbed. `through` is what the work sees of the network."""

    async def main() -> T:
        async with connect_virtual(bed) as network:
            return await work(Lab(through(network), VirtualOracle(bed)))

    return run_virtual(bed, main())


@pytest.fixture(scope="session")
def oxford() -> Preset:
    return load_preset(EXAMPLE / "preset.toml")


@pytest.fixture
def ideal_bed() -> VirtualTestbed:
    """A noiseless testbed in which every attempt succeeds, with any of the four Bell states."""
    config, _ = load_testbed(EXAMPLE / "testbed.toml")
    replace = msgspec.structs.replace
    nodes = {name: replace(node, model="ideal") for name, node in config.nodes.items()}
    links = {name: replace(link, model="ideal", scheme="any") for name, link in config.links.items()}
    return virtual_testbed(replace(config, nodes=nodes, links=links), load_preset("ideal"), seed=7)


@pytest.fixture
def oxford_bed() -> VirtualTestbed:
    return virtual_testbed(*load_testbed(EXAMPLE / "testbed.toml"), seed=7)
