"""The experiment's own application, over a whole testbed in virtual time instead of sockets."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bellwire.protocols.ids import LinkId, NodeId, PairId, QubitName
from bellwire.protocols.instructions import BellState
from bellwire.protocols.messages import (
    GateKind,
    GateRequest,
    GateResult,
    GateStatus,
    LinkCreate,
    ProgramResult,
    ProgramRun,
    Step,
)
from bellwire.sim.preset import Preset, load_preset
from bellwire.sim.virtual import SECOND_NS, VirtualLink, VirtualNode, VirtualTestbed

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "oxford-2025"
sys.path.insert(0, str(EXAMPLE))

IDEAL_NETWORK_QUBIT = "communication0"


@dataclass(frozen=True)
class VirtualPair:
    pair_id: PairId
    bell_state: BellState


class VirtualNetwork:
    """`bellwire.client.Network` and `Oracle`, as far as the experiment uses them."""

    def __init__(self, preset: Preset, models: tuple[str, str], link: str, seed: int, time_scale: float) -> None:
        self._alice, self._bob = NodeId("alice"), NodeId("bob")
        self._testbed = VirtualTestbed(
            preset=preset,
            nodes={
                node: VirtualNode(model=model, storage=1, reference=2)
                for node, model in zip((self._alice, self._bob), models, strict=True)
            },
            links=[
                VirtualLink(
                    link_id=LinkId("link"),
                    ends=(self._alice, self._bob),
                    station=NodeId("station"),
                    model=link,
                    scheme="any",
                    attempts=1_000_000,
                )
            ],
            seed=seed,
            latency_ns=10_000,
            time_scale=time_scale,
        )
        self._application = self._testbed.application()

    async def run(self, node: str, steps: Sequence[Step]) -> ProgramResult:
        result = self._application.call(NodeId(node), ProgramRun(steps=tuple(steps)))
        assert isinstance(result, ProgramResult)
        return result

    async def cz(self, source: str, target: str) -> GateResult:
        (node, qubit), (peer, peer_qubit) = source.split(":"), target.split(":")
        request = GateRequest(
            kind=GateKind.CZ, qubit=qubit, peer=NodeId(peer), peer_qubit=peer_qubit, max_time_ns=30 * SECOND_NS
        )
        result = self._application.call(NodeId(node), request)
        assert isinstance(result, GateResult)
        assert result.status is GateStatus.DONE, result.text
        return result

    async def entangle(self, first: str, second: str) -> VirtualPair:
        seen = len(self._application.oks)
        self._application.call(NodeId(first), LinkCreate(peer=NodeId(second), max_time_ns=30 * SECOND_NS))
        self._testbed.net.run_until(lambda: len(self._application.oks) == seen + 2, limit_ns=60 * SECOND_NS)
        _, ok = self._application.oks[-1]
        return VirtualPair(ok.pair_id, ok.bell_state)

    async def state(self, qubits: Sequence[tuple[str, str]]) -> NDArray[np.complex128]:
        named = [(NodeId(node), QubitName(qubit)) for node, qubit in qubits]
        return self._testbed.world.inspect(named, self._testbed.net.now_ns)


NetworkFactory = Callable[..., VirtualNetwork]


@pytest.fixture(scope="session")
def oxford() -> Preset:
    return load_preset(EXAMPLE / "preset.toml")


@pytest.fixture
def ideal_network() -> VirtualNetwork:
    """A noiseless testbed in which every attempt succeeds, with any of the four Bell states."""
    return VirtualNetwork(load_preset("ideal"), ("ideal", "ideal"), "ideal", seed=7, time_scale=1.0)


@pytest.fixture
def oxford_network(oxford: Preset) -> VirtualNetwork:
    return VirtualNetwork(oxford, ("alice", "bob"), "photonic", seed=7, time_scale=1.0)
