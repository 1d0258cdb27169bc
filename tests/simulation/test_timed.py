"""Photons that are emitted on the nodes' own clocks: the worse the time, the worse the pairs (the example `timed`)."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from scene import ALICE, BOB

from bellwire.agent.testbed import load_testbed, virtual_testbed
from bellwire.protocols.ids import NodeId, WindowId
from bellwire.protocols.instructions import Arm
from bellwire.protocols.messages import ClockState, LinkCreate
from bellwire.protocols.node import Batch
from bellwire.sim.states import bell_vector, state_fidelity
from bellwire.sim.virtual import SECOND_NS, VirtualTestbed
from bellwire.sim.world import BatchCompleted

EXAMPLE = Path(__file__).parents[2] / "examples" / "timed" / "testbed.toml"
LIFETIME_NS = 12.0


class Beginnings:
    """When each end begins each window, in true time."""

    def __init__(self, bed: VirtualTestbed) -> None:
        self.bed = bed
        self.at_ns: dict[tuple[NodeId, WindowId], int] = {}

    def attached(self, bed: VirtualTestbed) -> None: ...

    def submitted(self, name: NodeId, batch: Batch) -> None:
        for each in batch.instructions:
            if isinstance(each, Arm):
                assert each.start_in_ns > 0
                self.at_ns[name, each.window_id] = self.bed.net.now_ns + each.start_in_ns

    def completed(self, name: NodeId, batch: BatchCompleted) -> None: ...

    def noted(self, name: NodeId, event: object) -> None: ...

    def released(self, name: NodeId) -> None: ...


def herald(file: Path, seed: int) -> tuple[int, float]:
    """Make a pair. Returns by how much the ends began apart, in nanoseconds, and its true fidelity."""
    bed = virtual_testbed(*load_testbed(file), seed=seed)
    beginnings = Beginnings(bed)
    bed.hardware.watchers.append(beginnings)
    for name in (ALICE, BOB):
        part = bed.agents[name].time.node
        assert part is not None
        assert part.follows_hardware
        assert part.machine.state is ClockState.LOCKED
    application = bed.application()
    bed.net.run_for(SECOND_NS)
    application.call(ALICE, LinkCreate(peer=BOB, max_time_ns=5 * SECOND_NS))
    bed.net.run_until(lambda: len(application.oks) == 2, limit_ns=6 * SECOND_NS)
    ok = application.oks[0][1]
    halves = [(name, bed.agents[name].find_pair(ok.pair_id)) for name in (ALICE, BOB)]
    state = bed.world.inspect([(name, half.qubit) for name, half in halves if half is not None], bed.net.now_ns)
    window_id = WindowId(ok.pair_id.rpartition("/")[0])
    apart_ns = abs(beginnings.at_ns[ALICE, window_id] - beginnings.at_ns[BOB, window_id])
    return apart_ns, state_fidelity(state, bell_vector(ok.bell_state))


@pytest.mark.parametrize(("model", "least_ns", "most_ns"), [("white-rabbit", 0, 5), ("satellite", 20, 180)])
def test_pair_of_a_timed_link_has_the_fidelity_that_its_ends_clocks_leave(
    tmp_path: Path, model: str, least_ns: int, most_ns: int
) -> None:
    """F = (1 + e^(-|δ|/τ))/2, where no number but δ, by which the ends begin apart, is the clocks'."""
    text = EXAMPLE.read_text(encoding="utf-8")
    assert text.count('model = "white-rabbit"') == 2
    file = tmp_path / "testbed.toml"
    file.write_text(text.replace("white-rabbit", model), encoding="utf-8")
    apart = []
    for seed in range(1, 7):
        apart_ns, fidelity = herald(file, seed)
        assert fidelity == pytest.approx((1 + math.exp(-apart_ns / LIFETIME_NS)) / 2, abs=1e-9)
        apart.append(apart_ns)
    assert least_ns <= max(apart) <= most_ns, apart
