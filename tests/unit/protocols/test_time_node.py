"""Nodes and sources of time, driven against each other in memory (spec 4 §2)."""

from __future__ import annotations

import pytest
from tests.unit.protocols.conftest import ALICE, BOB, BROKER, CODEC, MS, SECOND, Wire

from bellwire.protocols.endpoint import Answer, Endpoint
from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.ids import NodeId
from bellwire.protocols.limits import MAX_TIME_LEASES, MIN_TIME_INTERVAL_NS
from bellwire.protocols.messages import (
    ClockState,
    Message,
    Role,
    TimeAnnounce,
    TimeDelayReq,
    TimeDelayResp,
    TimeFollowUp,
    TimeGrant,
    TimeLease,
    TimeReport,
    TimeStatus,
    TimeSync,
)
from bellwire.protocols.network_clock import Bound
from bellwire.protocols.node import Node
from bellwire.protocols.time_hub import TimePart
from bellwire.protocols.time_sources import Sources, TimeSettings

MASTER = NodeId("master")
EXCHANGE = (TimeSync, TimeDelayReq, TimeFollowUp, TimeDelayResp)


def node(wire: Wire, name: NodeId = ALICE, *sources: NodeId, priority: int | None = None) -> TimePart:
    endpoint = wire.join(name, clock=BROKER)
    part = TimePart(endpoint, TimeSettings(sources=sources or (BROKER,), priority=priority))
    part.start()
    return part


def master(
    wire: Wire, name: NodeId = BROKER, epoch: int = 1, *, priority: int | None = None, offset_ns: int = 37 * MS
) -> Endpoint:
    """A grandmaster. All of a wire have the same clock of their own, so the network's is made to differ from it."""
    endpoint = wire.join(name, epoch, Role.BROKER if name == BROKER else Role.STATION)
    TimePart(endpoint, TimeSettings(priority=priority))
    endpoint.clock.step(0, offset_ns, 0)
    endpoint.clock.bound = Bound(local_ns=0, offset_ns=offset_ns, half_ns=0)
    return endpoint


def state(part: TimePart) -> ClockState:
    assert part.node is not None
    return part.node.machine.state


def error_ns(wire: Wire, follower: NodeId, source: NodeId) -> int:
    return wire.members[follower].network_time_ns() - wire.members[source].network_time_ns()


def test_node_is_locked_after_four_bursts_to_within_half_of_the_round_trip() -> None:
    wire = Wire()
    master(wire)
    alice = node(wire)
    endpoint = wire.members[ALICE]
    assert state(alice) is ClockState.FREERUN
    assert not endpoint.has_time
    wire.run(300 * MS)
    assert state(alice) is ClockState.LOCKED
    assert endpoint.has_time
    uncertainty_ns = endpoint.clock.uncertainty_ns(wire.now_ns)
    assert uncertainty_ns is not None
    assert abs(error_ns(wire, ALICE, BROKER)) <= 1_000
    assert MS <= uncertainty_ns <= MS + 30_000  # 300 ms of age at 100 ppm


def test_path_that_takes_longer_one_way_moves_the_time_by_half_and_the_claim_says_so() -> None:
    wire = Wire(fault=lambda sender, _: [5 * MS if sender == BROKER else MS])
    master(wire)
    node(wire)
    wire.run(3 * SECOND)
    assert error_ns(wire, ALICE, BROKER) == pytest.approx(-2 * MS, abs=10_000)
    uncertainty_ns = wire.members[ALICE].clock.uncertainty_ns(wire.now_ns)
    assert uncertainty_ns is not None
    assert uncertainty_ns >= 3 * MS


def test_copies_and_late_frames_of_an_exchange_do_not_mix_their_times() -> None:
    def fault(_: NodeId, message: Message) -> list[int]:
        return [MS, 3 * MS, 90 * MS] if isinstance(message, EXCHANGE) else [MS]

    wire = Wire(fault=fault)
    master(wire)
    alice = node(wire)
    wire.run(20 * SECOND)
    assert state(alice) is ClockState.LOCKED
    assert alice.node is not None
    assert alice.node.path_delay_ns == MS
    assert abs(error_ns(wire, ALICE, BROKER)) < 1_000
    assert wire.count(TimeDelayResp) <= wire.count(TimeSync)  # each is answered once, whatever came twice


def test_lost_grandmaster_leaves_a_node_in_holdover_whose_claim_grows_until_it_is_back() -> None:
    wire = Wire()
    master(wire)
    alice = node(wire)
    clock = wire.members[ALICE].clock
    wire.run(10 * SECOND)
    del wire.members[BROKER]
    wire.run(5 * SECOND)
    assert state(alice) is ClockState.HOLDOVER
    early, late = clock.uncertainty_ns(wire.now_ns), clock.uncertainty_ns(wire.now_ns + 100 * SECOND)
    assert early is not None
    assert late is not None
    assert late > 2 * early
    assert wire.members[ALICE].has_time
    master(wire, epoch=2)
    wire.run(5 * SECOND)
    assert state(alice) is ClockState.LOCKED


def test_grandmaster_that_comes_back_with_another_time_is_acquired_anew() -> None:
    wire = Wire()
    master(wire)
    alice = node(wire)
    seen: list[ClockState] = []
    assert alice.node is not None
    alice.node.on_state.append(lambda: seen.append(state(alice)))
    wire.run(2 * SECOND)
    master(wire, epoch=2, offset_ns=900 * MS)
    wire.run(6 * SECOND)
    assert seen == [
        ClockState.ACQUIRING,
        ClockState.LOCKED,
        ClockState.HOLDOVER,
        ClockState.ACQUIRING,
        ClockState.LOCKED,
    ]
    assert abs(error_ns(wire, ALICE, BROKER)) < 1_000


def test_nodes_go_over_to_the_next_best_source_and_stay_locked_to_the_same_time() -> None:
    wire = Wire()
    master(wire, MASTER, priority=64)
    standby = node(wire, BOB, MASTER, priority=128)
    alice = node(wire, ALICE, MASTER, BOB)
    states: list[ClockState] = []
    assert alice.node is not None
    alice.node.on_state.append(lambda: states.append(state(alice)))
    wire.run(20 * SECOND)
    assert alice.node.sources.chosen == MASTER
    assert states == [ClockState.ACQUIRING, ClockState.LOCKED]
    del wire.members[MASTER]
    wire.run(10 * SECOND)
    assert state(standby) is ClockState.HOLDOVER
    assert alice.node.sources.chosen == BOB
    assert states[2:] == [ClockState.HOLDOVER, ClockState.LOCKED]
    announcement = alice.node.sources.announcement()
    assert announcement is not None
    assert (announcement.clock_class, announcement.priority) == (14, 128)
    assert abs(error_ns(wire, ALICE, BOB)) < 1_000
    for name in (ALICE, BOB):
        claim_ns = wire.members[name].clock.uncertainty_ns(wire.now_ns)
        assert claim_ns is not None
        assert abs(wire.members[name].network_time_ns() - wire.now_ns - 37 * MS) <= claim_ns


def announced(priority: int, clock_class: int = 13, grandmaster: NodeId = MASTER) -> TimeAnnounce:
    return TimeAnnounce(
        priority=priority, clock_class=clock_class, uncertainty_ns=0, grandmaster=grandmaster, steps_removed=0
    )


def test_better_source_is_taken_when_heard_twice_and_not_too_soon_after_the_last_choice() -> None:
    sources = Sources(ALICE, TimeSettings(sources=(BROKER, BOB)))
    sources.heard(BROKER, announced(128), 0)
    assert sources.choose(0) == BROKER
    sources.heard(BOB, announced(64), SECOND)
    sources.heard(BOB, announced(64), 2 * SECOND)
    sources.heard(BROKER, announced(128), 2 * SECOND)
    assert sources.choose(2 * SECOND) == BROKER
    for second in range(7, 12):
        sources.heard(BROKER, announced(128), second * SECOND)
    assert sources.choose(11 * SECOND) == BROKER
    sources.heard(BOB, announced(64), 11 * SECOND)
    assert sources.choose(11 * SECOND) == BOB


def test_source_that_comes_and_goes_is_changed_for_once_in_the_hold_time() -> None:
    sources = Sources(ALICE, TimeSettings(sources=(BROKER, BOB)))
    changes = []
    for second in range(100):
        sources.heard(BROKER, announced(128), second * SECOND)
        if second % 6 < 3:
            sources.heard(BOB, announced(64), second * SECOND)
        elif second % 6 == 3:
            sources.lost(BOB)
        before = sources.chosen
        if sources.choose(second * SECOND) != before:
            changes.append(second)
    returns = [later - sooner for sooner, later in zip(changes[1::2], changes[2::2], strict=False)]
    assert all(gap >= 1 for gap in returns)
    assert len(changes) <= 2 * 100 // 10 + 1


@pytest.mark.parametrize("announce", [announced(1, clock_class=255), announced(1, grandmaster=ALICE)])
def test_source_that_nobody_should_follow_or_that_follows_this_node_is_none(announce: TimeAnnounce) -> None:
    sources = Sources(ALICE, TimeSettings(sources=(BROKER, BOB)))
    sources.heard(BOB, announce, 0)
    assert sources.choose(0) is None


def test_two_standbys_that_follow_each_other_make_no_loop() -> None:
    wire = Wire()
    parts = [node(wire, ALICE, BOB, priority=1), node(wire, BOB, ALICE, priority=2)]
    wire.run(20 * SECOND)
    assert [state(part) for part in parts] == [ClockState.FREERUN] * 2
    assert wire.count(TimeSync) == 0


def test_lease_ends_when_it_is_not_renewed_and_bursts_come_no_faster_than_allowed() -> None:
    wire = Wire()
    master(wire)
    alice = wire.join(ALICE)
    answers: list[Answer] = []
    lease = TimeLease(interval_ns=MIN_TIME_INTERVAL_NS, exchanges=4, lease_ns=SECOND)
    for _ in range(50):
        alice.ask(BROKER, lease, wire.now_ns + SECOND, answers.append)
        wire.run(MS)
    wire.run(4 * SECOND)
    assert len(answers) == 50
    assert wire.count(TimeSync) <= 105
    sent = wire.count(TimeAnnounce)
    wire.run(4 * SECOND)
    assert wire.count(TimeAnnounce) == sent


def test_node_renews_a_lease_after_half_of_what_was_granted() -> None:
    wire = Wire()
    source = wire.join(BROKER, 1, Role.BROKER)
    source.handle(TimeLease, lambda _peer, _lease: TimeGrant(lease_ns=SECOND))
    node(wire)
    wire.run(1_400 * MS)
    assert wire.count(TimeLease, ALICE) == 3  # at once, and after one and two halves of a second


def test_source_grants_as_many_leases_as_it_may() -> None:
    wire = Wire()
    endpoint = master(wire)
    part = TimePart(endpoint)
    assert part.hub is not None
    lease = TimeLease(interval_ns=SECOND, exchanges=0, lease_ns=SECOND)
    for number in range(MAX_TIME_LEASES):
        part.hub.grant(NodeId(f"n{number}"), lease)
    with pytest.raises(RequestError) as caught:
        part.hub.grant(ALICE, lease)
    assert caught.value.code is ErrorCode.LIMIT
    part.hub.grant(NodeId("n7"), lease)


def test_anybody_is_told_what_a_participant_believes_of_the_time() -> None:
    wire = Wire()
    master(wire)
    node(wire)
    asker = wire.join(BOB)
    answers: list[Answer] = []
    wire.run(SECOND)
    for peer in (ALICE, BROKER):
        asker.ask(peer, TimeStatus(), wire.now_ns + SECOND, answers.append)
    wire.run(100 * MS)
    reports = sorted((answer for answer in answers if isinstance(answer, TimeReport)), key=lambda each: each.source)
    assert [(each.state, each.source, each.grandmaster, each.followers) for each in reports] == [
        (ClockState.LOCKED, "", BROKER, (ALICE,)),
        (ClockState.LOCKED, BROKER, BROKER, ()),
    ]
    assert reports[1].offset_ns == pytest.approx(37 * MS, abs=1_000)
    assert reports[1].path_delay_ns == MS
    assert CODEC.decode(CODEC.encode(reports[1])) == reports[1]


def test_node_whose_time_is_not_known_well_enough_refuses_and_names_itself_and_its_uncertainty() -> None:
    """4 §3.4: the refusal has the node's name and its uncertainty."""
    wire = Wire()
    node(wire)
    machines = Node(wire.members[ALICE])
    with pytest.raises(RequestError, match="alice is not locked to the network's time: it has not heard it") as caught:
        machines.check_time(10 * MS)
    assert caught.value.code is ErrorCode.UNSYNCED
    master(wire)
    wire.run(SECOND)
    machines.check_time(10 * MS)
    with pytest.raises(
        RequestError, match=r"alice is off the network's time by up to 1\d{6} ns, the guard band is 999 ns"
    ):
        machines.check_time(999)
