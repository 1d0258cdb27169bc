"""Agreed time between agents in virtual time: who is not sure enough opens no window (spec 4 §3.4)."""

from __future__ import annotations

import msgspec
import pytest
from scene import ALICE, BOB, HUB, Tap, release, run, two_nodes

from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.ids import BROKER, NodeId
from bellwire.protocols.messages import ClockState, HeraldOpen, LinkCreate
from bellwire.sim.preset import load_preset
from bellwire.sim.virtual import SECOND_NS, VirtualTestbed
from bellwire.simnet.clocks import SkewedClock
from bellwire.simnet.fabric import Rule
from bellwire.virtual.scenario import Scenario, build_network

CLOCKS = {
    ALICE: SkewedClock(offset_ns=50_000_000, drift_ppb=50_000, since_ns=SECOND_NS),
    BOB: SkewedClock(offset_ns=7 * SECOND_NS, drift_ppb=-80_000, since_ns=SECOND_NS),
    HUB: SkewedClock(offset_ns=-300_000_000, drift_ppb=10_000, since_ns=SECOND_NS),
}


def slow_path(to: NodeId, delay_ns: int) -> Rule:
    """Frames from the broker to a node take so much longer: that much of its time cannot be known."""
    return Rule(
        matches=lambda frame: (frame.sender, frame.receiver) == (BROKER, to),
        delay_probability=1.0,
        delay_ns=delay_ns,
        least_delay_ns=delay_ns,
    )


def bed_with(*rules: Rule) -> VirtualTestbed:
    bed = two_nodes(seed=1, clocks=CLOCKS, rules=rules)
    bed.net.run_for(5 * SECOND_NS)
    return bed


def test_nodes_with_wrong_clocks_agree_and_herald_a_pair() -> None:
    bed = bed_with()
    for name in (ALICE, BOB, HUB):
        part = bed.brain(name).time.node
        assert part is not None
        assert part.machine.state is ClockState.LOCKED
        local_ns = bed.net.local_ns(name)
        assert abs(bed.brain(name).endpoint.network_time_ns(local_ns) - bed.net.now_ns) < 20_000
    application = bed.application()
    application.call(ALICE, LinkCreate(peer=BOB, max_time_ns=5 * SECOND_NS))
    bed.net.run_until(lambda: len(application.oks) == 2, limit_ns=5 * SECOND_NS)
    first, second = (ok for _, ok in application.oks)
    assert first.expires_ns == second.expires_ns


@pytest.mark.parametrize("unsure", [ALICE, BOB])
def test_end_that_is_less_sure_than_the_guard_band_refuses_a_request_and_names_itself(unsure: NodeId) -> None:
    bed = bed_with(slow_path(unsure, 30_000_000))
    application = bed.application()
    create = LinkCreate(peer=BOB, max_time_ns=5 * SECOND_NS)
    said = rf"{unsure} is off the network's time by up to 1[5-9]\d{{6}} ns, the guard band is 10000000 ns"
    if unsure == ALICE:
        with pytest.raises(RequestError, match=said) as caught:
            application.call(ALICE, create)
        assert caught.value.code is ErrorCode.UNSYNCED
        return
    application.call(ALICE, create)
    bed.net.run_until(lambda: bool(application.errors), limit_ns=5 * SECOND_NS)
    assert application.errors[0].code is ErrorCode.UNSYNCED
    with pytest.raises(RequestError, match=said):
        raise RequestError(application.errors[0].code, application.errors[0].text)


def test_station_that_is_less_sure_than_the_guard_band_refuses_windows_until_the_request_ends_with_its_name() -> None:
    opened = Tap((HeraldOpen,))
    bed = bed_with(slow_path(HUB, 30_000_000), opened.rule())
    application = bed.application()
    application.call(ALICE, LinkCreate(peer=BOB, max_time_ns=2 * SECOND_NS))
    bed.net.run_until(lambda: bool(application.errors), limit_ns=5 * SECOND_NS)
    error = application.errors[0]
    assert error.code is ErrorCode.TIMEOUT
    assert error.text.startswith("the deadline came first: hub is off the network's time by up to 15")
    assert application.oks == []
    # Refusals do not come faster than requests are repeated.
    assert 2 <= len(opened.seen) <= 2 * 2 * 10 * 2


def test_primary_that_is_no_longer_locked_opens_no_window_for_a_request_that_it_has() -> None:
    opened = Tap((HeraldOpen,))
    bed = bed_with(opened.rule())
    application = bed.application()
    application.call(ALICE, LinkCreate(peer=BOB, number=4, max_time_ns=3 * SECOND_NS))
    bed.net.run_until(lambda: len(application.oks) == 4, limit_ns=SECOND_NS)
    before = len(opened.seen)
    bed.agents[ALICE].endpoint.clock.known = False
    for node in (ALICE, BOB):
        run(application, node, *(release(pair) for pair in dict.fromkeys(ok.pair_id for _, ok in application.oks)))
    bed.net.run_until(lambda: bool(application.errors), limit_ns=5 * SECOND_NS)
    assert len(opened.seen) == before
    assert application.errors[0].text.startswith("the deadline came first: alice is not locked to the network's time")


def test_nodes_go_over_to_a_standby_while_the_broker_is_gone_and_herald_pairs_by_its_time() -> None:
    """4 §2.2: the standby of a scenario takes over, and its nodes come back when the broker does."""
    text = 'duration_s = 1.0\n[topology]\nkind = "star"\nsize = 4\nstandbys = 2\nlead_ms = 2.0\nguard_ms = 5.0\n'
    network = build_network(msgspec.toml.decode(text, type=Scenario), 1)
    first, second, *others = (NodeId(f"n{number}") for number in range(4))
    assert network.participants.standbys == (first, second)
    bed = VirtualTestbed(
        preset=load_preset("ideal"),
        nodes=network.nodes,
        links=network.links,
        seed=1,
        clocks=dict.fromkeys(network.nodes, CLOCKS[ALICE]),
        time=network.time,
    )

    def chosen() -> set[NodeId | None]:
        parts = [bed.brain(name).time.node for name in (second, *others, *network.stations)]
        assert all(part is not None and part.machine.state is ClockState.LOCKED for part in parts)
        return {part.sources.chosen for part in parts if part is not None}

    bed.net.run_for(5 * SECOND_NS)
    assert chosen() == {BROKER}
    bed.crash(BROKER)
    bed.net.run_for(10 * SECOND_NS)
    assert chosen() == {first}
    application = bed.application()
    application.call(first, LinkCreate(peer=others[0], max_time_ns=5 * SECOND_NS))
    bed.net.run_until(lambda: len(application.oks) == 2, limit_ns=5 * SECOND_NS)
    bed.restart_broker()
    bed.net.run_for(15 * SECOND_NS)
    assert chosen() == {BROKER}


def test_node_in_holdover_serves_until_it_is_less_sure_than_the_guard_band() -> None:
    bed = bed_with()
    bed.crash(BROKER)
    bed.net.run_for(20 * SECOND_NS)
    part = bed.agents[ALICE].time.node
    assert part is not None
    assert part.machine.state is ClockState.HOLDOVER
    node = bed.agents[ALICE].node
    node.check_time(10_000_000)
    bed.net.run_for(3_000 * SECOND_NS)
    node.endpoint.begin(bed.net.local_ns(ALICE))
    with pytest.raises(RequestError, match="alice is off the network's time"):
        node.check_time(10_000_000)
