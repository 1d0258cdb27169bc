"""A node whose hardware keeps the time itself (spec 4 §3.6)."""

from __future__ import annotations

import pytest
from tests.unit.protocols.conftest import ALICE, BOB, BROKER, MS, SECOND, Wire
from tests.unit.protocols.test_time_node import error_ns, master, node, state

from bellwire.protocols.endpoint import Answer
from bellwire.protocols.hardware_clock import HARDWARE, ClockClaim
from bellwire.protocols.ids import NodeId
from bellwire.protocols.messages import ClockState, TimeReport, TimeStatus
from bellwire.protocols.network_clock import Bound
from bellwire.protocols.time_hub import TimePart

TRUE_NS = 37 * MS
"""What the network's time is more than everybody's own clock, as `master` has it."""


def claim(
    wire: Wire,
    part: TimePart,
    *,
    offset_ns: int = TRUE_NS,
    uncertainty_ps: int = 1_065,
    reading_ns: int = 20,
    state: ClockState = ClockState.LOCKED,
    age_ns: int = 0,
    drift_ppb: int | None = None,
    name: NodeId = ALICE,
) -> None:
    """Let the node's hardware say what the time is."""
    wire.members[name].begin(wire.now_ns)
    part.claimed(
        ClockClaim(
            state=state,
            local_ns=wire.now_ns - age_ns,
            offset_ns=offset_ns,
            uncertainty_ps=uncertainty_ps,
            reading_ns=reading_ns,
            drift_ppb=drift_ppb,
        )
    )


def claims(wire: Wire, part: TimePart, seconds: int, *, offset_ns: int = TRUE_NS, reading_ns: int = 20) -> None:
    for _ in range(seconds):
        claim(wire, part, offset_ns=offset_ns, reading_ns=reading_ns)
        wire.run(SECOND)


def followed(seconds: int) -> tuple[Wire, TimePart]:
    """Alice, who has followed the broker for some seconds."""
    wire = Wire()
    master(wire)
    alice = node(wire)
    wire.run(seconds * SECOND)
    return wire, alice


def uncertainty_ns(wire: Wire, name: NodeId = ALICE) -> int:
    claimed_ns = wire.members[name].clock.uncertainty_ns(wire.now_ns)
    assert claimed_ns is not None
    return claimed_ns


def report(wire: Wire, name: NodeId = ALICE) -> TimeReport:
    answers: list[Answer] = []
    asker = wire.members.get(BOB) or wire.join(BOB)
    asker.ask(name, TimeStatus(), wire.now_ns + SECOND, answers.append)
    wire.run(100 * MS)
    (answer,) = answers
    assert isinstance(answer, TimeReport)
    return answer


def test_hardware_that_knows_better_takes_over_without_a_step_and_says_so_in_picoseconds() -> None:
    wire = Wire()
    master(wire)
    alice = node(wire)
    states: list[ClockState] = []
    assert alice.node is not None
    alice.node.on_state.append(lambda: states.append(state(alice)))
    wire.run(3 * SECOND)
    assert uncertainty_ns(wire) >= MS
    claims(wire, alice, 10)
    claim(wire, alice)
    assert uncertainty_ns(wire) < 100
    assert abs(error_ns(wire, ALICE, BROKER)) <= 22
    told = report(wire)
    assert (told.source, told.grandmaster, told.uncertainty_ps) == (HARDWARE, BROKER, 1_065)
    assert states == [ClockState.ACQUIRING, ClockState.LOCKED]


def test_node_with_hardware_alone_is_locked_after_four_claims_and_gives_its_time_to_others() -> None:
    wire = Wire()
    alice = node(wire, ALICE, HARDWARE, priority=1)
    bob = node(wire, BOB, ALICE)
    for number in range(4):
        assert state(alice) is not ClockState.LOCKED
        claim(wire, alice)
        wire.run(100 * MS)
        assert wire.members[ALICE].has_time is (number == 3)
    claims(wire, alice, 3)
    assert state(alice) is state(bob) is ClockState.LOCKED
    told = report(wire)
    assert (told.source, told.grandmaster, told.followers) == (HARDWARE, ALICE, (BOB,))
    assert abs(error_ns(wire, BOB, ALICE)) < 1_000
    assert not any(peer == HARDWARE for peer in wire.members[ALICE].sessions)


def test_stale_claim_of_the_only_source_is_holdover_whose_uncertainty_grows_until_the_next_one() -> None:
    wire = Wire()
    alice = node(wire, ALICE, HARDWARE)
    claims(wire, alice, 10)
    assert state(alice) is ClockState.LOCKED
    early_ns = uncertainty_ns(wire)
    wire.run(3 * SECOND + 1)
    assert state(alice) is ClockState.HOLDOVER
    assert report(wire).uncertainty_ps is None
    claimed = [wire.members[ALICE].clock.uncertainty_ns(wire.now_ns + s * SECOND) or 0 for s in range(0, 1_000, 100)]
    assert claimed == sorted(claimed)
    assert claimed[-1] > 1_000 * early_ns
    claim(wire, alice)
    assert state(alice) is ClockState.LOCKED


@pytest.mark.parametrize("how", ["stale", "not locked", "backend lost"])
def test_hardware_that_ends_leaves_the_node_locked_to_its_bursts(how: str) -> None:
    wire, alice = followed(2)
    claims(wire, alice, 10)
    assert report(wire).source == HARDWARE
    if how == "stale":
        wire.run(4 * SECOND)
    elif how == "not locked":
        claim(wire, alice, state=ClockState.HOLDOVER)
    else:
        wire.members[ALICE].begin(wire.now_ns)
        alice.backend_lost("unplugged")
    assert state(alice) is ClockState.LOCKED
    assert report(wire).source == BROKER
    wire.run(30 * SECOND)
    assert state(alice) is ClockState.LOCKED
    assert MS <= uncertainty_ns(wire) < 2 * MS


def test_hardware_keeps_the_node_locked_while_the_broker_is_gone() -> None:
    wire, alice = followed(2)
    claims(wire, alice, 5)
    del wire.members[BROKER]
    claims(wire, alice, 20)
    assert state(alice) is ClockState.LOCKED
    claim(wire, alice, state=ClockState.FREERUN)
    assert state(alice) is ClockState.HOLDOVER


def test_claim_that_is_worse_than_the_bursts_does_not_replace_them() -> None:
    wire, alice = followed(3)
    before_ns = uncertainty_ns(wire)
    for _ in range(20):
        claim(wire, alice, offset_ns=TRUE_NS + 4 * MS, reading_ns=5 * MS)
        wire.run(SECOND)
    assert report(wire).source == BROKER
    assert uncertainty_ns(wire) < before_ns + 200_000
    assert abs(error_ns(wire, ALICE, BROKER)) < 10_000


def test_claim_that_exchanges_prove_false_is_refused_for_as_long_as_they_do() -> None:
    wire, alice = followed(3)
    states: list[ClockState] = []
    assert alice.node is not None
    alice.node.on_state.append(lambda: states.append(state(alice)))
    claims(wire, alice, 10, offset_ns=TRUE_NS + 3 * MS)
    assert states == []
    assert report(wire).source == BROKER
    assert abs(error_ns(wire, ALICE, BROKER)) < 10_000
    claims(wire, alice, 3)
    assert report(wire).source == HARDWARE


def test_hardware_that_becomes_false_while_followed_is_found_out_and_left() -> None:
    wire, alice = followed(2)
    claims(wire, alice, 10)
    claims(wire, alice, 10, offset_ns=TRUE_NS + 20 * MS)
    assert report(wire).source == BROKER
    assert state(alice) is ClockState.LOCKED
    assert abs(error_ns(wire, ALICE, BROKER)) < 100_000


def test_source_that_becomes_false_against_the_hardware_is_the_networks_time_nevertheless() -> None:
    """4 §3.6: it is the source that has the network's time."""
    wire, alice = followed(2)
    claims(wire, alice, 10)
    clock = wire.members[BROKER].clock
    clock.step(wire.now_ns, TRUE_NS + 20 * MS, 0)
    clock.bound = Bound(local_ns=0, offset_ns=TRUE_NS + 20 * MS, half_ns=0)
    claims(wire, alice, 10)
    assert report(wire).source == BROKER
    assert abs(error_ns(wire, ALICE, BROKER)) < 100_000


@pytest.mark.parametrize("age_ns", [-1, 4 * SECOND, 60 * SECOND])
def test_claim_of_the_future_or_a_stale_one_is_none(age_ns: int) -> None:
    wire = Wire()
    alice = node(wire, ALICE, HARDWARE)
    wire.run(100 * SECOND)
    for _ in range(8):
        claim(wire, alice, age_ns=age_ns)
        wire.run(SECOND)
    assert state(alice) is ClockState.FREERUN


def test_claim_that_is_older_than_the_last_is_none() -> None:
    wire = Wire()
    alice = node(wire, ALICE, HARDWARE)
    assert alice.node is not None
    claims(wire, alice, 6)
    claim(wire, alice)
    last = alice.node.hardware.claim
    claim(wire, alice, offset_ns=TRUE_NS + MS, age_ns=500 * MS)
    assert alice.node.hardware.claim == last


def test_claims_become_samples_no_faster_than_a_drift_can_be_seen_in_them() -> None:
    wire = Wire()
    alice = node(wire, ALICE, HARDWARE)
    assert alice.node is not None
    for _ in range(1_000):
        claim(wire, alice)
        wire.run(5 * MS)
    assert state(alice) is ClockState.LOCKED
    oldest_ns = alice.node.servo.oldest_ns
    assert oldest_ns is not None
    assert wire.now_ns - oldest_ns >= 15 * alice.node.settings.acquire_interval_ns


def test_drift_that_the_hardware_is_wrong_about_makes_the_uncertainty_grow_by_as_much() -> None:
    right, wrong = Wire(), Wire()
    ages = []
    for wire, drift_ppb in ((right, 0), (wrong, 20_000)):
        alice = node(wire, ALICE, HARDWARE)
        for _ in range(20):
            claim(wire, alice, drift_ppb=drift_ppb)
            wire.run(SECOND)
        ages.append(uncertainty_ns(wire))
        assert abs(wire.members[ALICE].network_time_ns() - wire.now_ns - TRUE_NS) <= ages[-1]
    assert ages[0] < 200
    assert ages[1] > 20_000


@pytest.mark.parametrize("offset_ns", [-6, 2**63])
def test_claim_of_a_time_that_no_message_can_carry_cannot_be_made(offset_ns: int) -> None:
    with pytest.raises(ValueError, match="together"):
        ClockClaim(state=ClockState.LOCKED, local_ns=5, offset_ns=offset_ns)


def test_grandmaster_does_not_listen_to_its_hardware() -> None:
    wire = Wire()
    endpoint = master(wire)
    part = TimePart(endpoint)
    claim(wire, part, offset_ns=0, name=BROKER)
    part.backend_lost("unplugged")
    assert endpoint.network_time_ns() == wire.now_ns + TRUE_NS


@pytest.mark.parametrize("uncertainty_ps", [0, 1, 999, 1_000, 1_001])
def test_picoseconds_are_whole_nanoseconds_and_never_too_few(uncertainty_ps: int) -> None:
    half_ns = ClockClaim(state=ClockState.LOCKED, local_ns=0, uncertainty_ps=uncertainty_ps, reading_ns=7).half_ns
    assert 7_000 + uncertainty_ps <= 1_000 * half_ns < 8_000 + uncertainty_ps


@pytest.mark.parametrize(
    ("uncertainty_ps", "reading_ns", "drift_ppb"), [(-1, 0, None), (0, -1, None), (10**19, 0, None), (0, 0, 10**10)]
)
def test_claim_out_of_bounds_cannot_be_made(uncertainty_ps: int, reading_ns: int, drift_ppb: int | None) -> None:
    with pytest.raises(ValueError, match="lie"):
        ClockClaim(
            state=ClockState.LOCKED,
            local_ns=0,
            uncertainty_ps=uncertainty_ps,
            reading_ns=reading_ns,
            drift_ppb=drift_ppb,
        )
