"""Nodes with simulated White Rabbit clocks in virtual time: nanoseconds where exchanges prove microseconds (spec 4 §3.6)."""

from __future__ import annotations

import pytest
from clocked import clocked_preset
from scene import ALICE, BOB, HUB, two_nodes

from bellwire.protocols.ids import BROKER, NodeId
from bellwire.protocols.messages import ClockState, LinkCreate
from bellwire.sim.preset import parse_preset
from bellwire.sim.virtual import SECOND_NS, VirtualTestbed
from bellwire.simnet.clocks import SkewedClock

CLOCKS = {
    ALICE: SkewedClock(offset_ns=50_000_000, drift_ppb=50_000, since_ns=SECOND_NS),
    BOB: SkewedClock(offset_ns=7 * SECOND_NS, drift_ppb=-80_000, since_ns=SECOND_NS),
    HUB: SkewedClock(offset_ns=-300_000_000, drift_ppb=10_000, since_ns=SECOND_NS),
}


def bed(seed: int) -> VirtualTestbed:
    return two_nodes(seed=seed, preset=parse_preset(clocked_preset(), "clocked.toml"), clocks=CLOCKS)


def look(bed: VirtualTestbed, name: NodeId) -> tuple[int, int]:
    """The claim and the true error of a node, in nanoseconds."""
    local_ns = bed.net.local_ns(name)
    clock = bed.brain(name).endpoint.clock
    claim_ns = clock.uncertainty_ns(local_ns)
    assert claim_ns is not None
    return claim_ns, abs(clock.network_ns(local_ns) - bed.net.now_ns)


@pytest.mark.parametrize("seed", range(5))
def test_clocks_with_drift_agree_to_nanoseconds_and_the_claim_holds(seed: int) -> None:
    net = bed(seed)
    net.net.run_for(10 * SECOND_NS)
    seen = []
    for _ in range(500):
        net.net.run_for(97_000_001)
        seen += [look(net, name) for name in (ALICE, BOB)]
    assert all(error_ns <= claim_ns for claim_ns, error_ns in seen)
    assert max(claim_ns for claim_ns, _ in seen) < 100
    assert max(error_ns for _, error_ns in seen) <= 10
    assert look(net, HUB)[0] > 50_000, "the station has no such clock"


def test_clock_that_is_lost_leaves_the_exchange_and_comes_back() -> None:
    net = bed(1)
    net.net.run_for(10 * SECOND_NS)
    part = net.agents[ALICE].time.node
    assert part is not None
    assert part.follows_hardware
    net.hardware.clocks.lost.add(ALICE)
    net.net.run_for(20 * SECOND_NS)
    assert not part.follows_hardware
    assert part.machine.state is ClockState.LOCKED
    claim_ns, error_ns = look(net, ALICE)
    assert error_ns <= claim_ns
    assert 50_000 < claim_ns < 500_000
    net.hardware.clocks.lost.discard(ALICE)
    net.net.run_for(5 * SECOND_NS)
    assert part.follows_hardware
    assert look(net, ALICE)[0] < 100


def test_clocks_of_hardware_keep_two_nodes_locked_while_the_broker_is_gone() -> None:
    net = bed(2)
    net.net.run_for(5 * SECOND_NS)
    net.crash(BROKER)
    net.net.run_for(60 * SECOND_NS)
    for name in (ALICE, BOB):
        part = net.agents[name].time.node
        assert part is not None
        assert part.machine.state is ClockState.LOCKED
        assert look(net, name)[0] < 100
    hub = net.stations[HUB].time.node
    assert hub is not None
    assert hub.machine.state is ClockState.HOLDOVER


def test_backend_that_is_lost_takes_its_clock_with_it() -> None:
    net = bed(3)
    net.net.run_for(5 * SECOND_NS)
    net.lose_world()
    net.notice_loss(ALICE)
    part = net.agents[ALICE].time.node
    assert part is not None
    assert not part.follows_hardware
    assert part.machine.state is ClockState.LOCKED


def test_link_whose_guard_band_only_hardware_can_hold_heralds_pairs() -> None:
    net = bed(4)
    net.net.run_for(5 * SECOND_NS)
    for name in (ALICE, BOB):
        net.agents[name].node.check_time(100)
    application = net.application()
    application.call(ALICE, LinkCreate(peer=BOB, max_time_ns=5 * SECOND_NS))
    net.net.run_until(lambda: len(application.oks) == 2, limit_ns=5 * SECOND_NS)
