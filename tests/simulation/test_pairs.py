"""Pairs for applications: requests, confirmation, frames, leases (spec 2)."""

from __future__ import annotations

import numpy as np
import pytest
from scene import ALICE, BOB, apply, ideal_with, leaks, leave, measure, release, run, two_nodes

from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.ids import NodeId
from bellwire.protocols.instructions import BellState, Gate
from bellwire.protocols.messages import LinkCreate, LinkOk, RequestType
from bellwire.sim.preset import parse_preset
from bellwire.sim.virtual import SECOND_NS, VirtualApplication, VirtualTestbed

BELL = {
    BellState.PHI_PLUS: np.array([1, 0, 0, 1]),
    BellState.PHI_MINUS: np.array([1, 0, 0, -1]),
    BellState.PSI_PLUS: np.array([0, 1, 1, 0]),
    BellState.PSI_MINUS: np.array([0, 1, -1, 0]),
}


def entangle(
    bed: VirtualTestbed, application: VirtualApplication, *, at: NodeId = ALICE, number: int = 1
) -> list[tuple[LinkOk, LinkOk]]:
    """Make pairs and return the OKs of both ends, alice's first."""
    before = len(application.oks)
    peer = BOB if at == ALICE else ALICE
    application.call(at, LinkCreate(peer=peer, number=number, max_time_ns=10 * SECOND_NS))
    bed.net.run_until(lambda: len(application.oks) == before + 2 * number, limit_ns=20 * SECOND_NS)
    new = application.oks[before:]
    alice = {ok.pair_id: ok for node, ok in new if node == ALICE}
    bob = {ok.pair_id: ok for node, ok in new if node == BOB}
    return [(alice[pair], bob[pair]) for pair in alice]


@pytest.mark.parametrize("originator", [ALICE, BOB])
def test_create_at_either_end_gives_ok_at_both_ends_about_one_pair(originator: NodeId) -> None:
    bed = two_nodes(seed=1)
    application = bed.application()
    ((alice, bob),) = entangle(bed, application, at=originator)
    assert (alice.peer, bob.peer) == (BOB, ALICE)
    assert (alice.originator, bob.originator) == (originator == ALICE, originator == BOB)
    assert alice.create_id == bob.create_id
    assert alice.sequence_number == bob.sequence_number
    assert alice.bell_state is bob.bell_state
    assert alice.expires_ns == bob.expires_ns > bed.agents[ALICE].endpoint.network_time_ns()


def test_every_pair_is_in_the_frame_that_both_ends_name() -> None:
    """One frame: both ends agree which Bell state they hold, and the world's true state agrees with them."""
    bed = two_nodes(seed=2)
    application = bed.application()
    seen = set()
    for _ in range(40):
        ((alice, bob),) = entangle(bed, application)
        halves = [bed.agents[node].find_pair(alice.pair_id) for node in (ALICE, BOB)]
        qubits = [(half_node, half.qubit) for half_node, half in zip((ALICE, BOB), halves, strict=True) if half]
        state = bed.world.inspect(qubits, bed.net.now_ns)
        ideal = BELL[alice.bell_state] / np.sqrt(2)
        assert (ideal @ state @ ideal).real == pytest.approx(1.0, abs=1e-9)
        assert alice.bell_state is bob.bell_state
        seen.add(alice.bell_state)
        for node in (ALICE, BOB):
            run(application, node, release(alice.pair_id))
    assert seen == set(BellState)


def test_pair_measured_by_its_application_correlates_and_is_used_once() -> None:
    bed = two_nodes(seed=3)
    application = bed.application()
    for _ in range(30):
        ((ok, _),) = entangle(bed, application)
        (a,) = run(application, ALICE, apply(Gate.H, ok.pair_id), measure(ok.pair_id), release(ok.pair_id)).bits
        (b,) = run(application, BOB, apply(Gate.H, ok.pair_id), measure(ok.pair_id), release(ok.pair_id)).bits
        assert a ^ b == ok.bell_state.z
        with pytest.raises(RequestError) as refused:
            run(application, ALICE, measure(ok.pair_id))
        assert refused.value.code is ErrorCode.UNKNOWN_ID
    leave(application, bed)
    assert leaks(bed) == []


def test_many_pairs_of_one_request_are_numbered_without_gaps() -> None:
    bed = two_nodes(seed=4, communication=3)
    application = bed.application()
    before = 0
    for _ in range(4):
        pairs = entangle(bed, application, number=3)
        numbers = sorted(alice.sequence_number for alice, _ in pairs)
        assert numbers == list(range(before + 1, before + 4))
        assert len({alice.pair_id for alice, _ in pairs}) == 3
        before += 3
        for alice, _ in pairs:
            for node in (ALICE, BOB):
                run(application, node, release(alice.pair_id))


def test_unused_pair_expires_at_both_ends_and_its_application_is_told() -> None:
    bed = two_nodes(seed=5)
    application = bed.application()
    ((alice, _),) = entangle(bed, application)
    bed.net.run_for(6 * SECOND_NS)
    number = alice.sequence_number
    assert {(each.sequence_low, each.sequence_high) for each in application.expired} == {(number, number + 1)}
    assert len(application.expired) == 2
    assert leaks(bed) == []


def test_another_application_cannot_use_the_pair() -> None:
    bed = two_nodes(seed=6)
    owner, thief = bed.application("owner"), bed.application("thief")
    ((ok, _),) = entangle(bed, owner)
    with pytest.raises(RequestError) as refused:
        run(thief, ALICE, measure(ok.pair_id))
    assert refused.value.code is ErrorCode.UNKNOWN_ID
    assert run(owner, ALICE, measure(ok.pair_id)).bits


@pytest.mark.parametrize(
    ("create", "code"),
    [
        (LinkCreate(peer=NodeId("carol"), max_time_ns=SECOND_NS), ErrorCode.UNSUPP),
        (LinkCreate(peer=BOB, max_time_ns=SECOND_NS, number=3, atomic=True), ErrorCode.UNSUPP),
        (
            LinkCreate(peer=BOB, max_time_ns=SECOND_NS, request_type=RequestType.MEASURE, atomic=True),
            ErrorCode.UNSUPP,
        ),
    ],
    ids=["no-such-link", "more-at-once-than-qubits", "atomic-type-m"],
)
def test_create_that_cannot_be_served_is_refused_at_once(create: LinkCreate, code: ErrorCode) -> None:
    bed = two_nodes(seed=7)
    application = bed.application()
    with pytest.raises(RequestError) as refused:
        application.call(ALICE, create)
    assert refused.value.code is code


def test_create_beyond_the_fidelity_of_the_link_is_refused_with_unsupp() -> None:
    bed = two_nodes(seed=8, goodness=0.9)
    application = bed.application()
    with pytest.raises(RequestError) as refused:
        application.call(ALICE, LinkCreate(peer=BOB, min_fidelity=0.95, max_time_ns=SECOND_NS))
    assert refused.value.code is ErrorCode.UNSUPP
    assert "0.9" in refused.value.text


def test_create_on_a_link_that_never_heralds_ends_in_timeout_at_its_deadline() -> None:
    never = (
        'heralds = ["psi+"]\n'
        'attempt_period = { value = 1.0, unit = "us", tag = "assumed", source = "test" }\n'
        'success_probability = { value = 1e-12, unit = "1", tag = "assumed", source = "test" }\n'
        'werner_fidelity = { value = 1.0, unit = "1", tag = "assumed", source = "test" }\n'
    )
    bed = two_nodes(seed=9, preset=parse_preset(ideal_with(never), "test"))
    application = bed.application()
    began_ns = bed.net.now_ns
    application.call(ALICE, LinkCreate(peer=BOB, max_time_ns=2 * SECOND_NS))
    bed.net.run_until(lambda: bool(application.errors), limit_ns=10 * SECOND_NS)
    assert application.errors[0].code is ErrorCode.TIMEOUT
    assert bed.net.now_ns - began_ns < 3 * SECOND_NS
    leave(application, bed)
    assert leaks(bed) == []
