"""The link's service by kind: type M, exclusive requests, errors by name, test rounds (spec 2 §2)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import msgspec
import pytest
from scene import ALICE, BOB, HUB, LINK, MS, Tap, ideal_with, leaks, leave, lossy, measure, measuring, run, two_nodes

from bellwire.protocols.codec import Codec
from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.ids import NodeId
from bellwire.protocols.limits import MAX_LINK_REQUESTS
from bellwire.protocols.messages import (
    HeraldOpen,
    LinkAdd,
    LinkCreate,
    LinkCreated,
    LinkMeasured,
    PairOutcome,
    RequestType,
)
from bellwire.protocols.queue import TEST_PURPOSE
from bellwire.protocols.readout import PAULI_BASES, Basis, Readout, parity
from bellwire.sim.preset import parse_preset
from bellwire.sim.virtual import SECOND_NS, VirtualApplication, VirtualLink, VirtualNode, VirtualTestbed
from bellwire.simnet.fabric import Rule

Oks = list[tuple[LinkMeasured, LinkMeasured]]
ANY_PAULI = Readout(bases=PAULI_BASES)


# Type M.


def measure_at_once(bed: VirtualTestbed, request: LinkCreate) -> tuple[VirtualApplication, Oks]:
    """Serve a request of type M. The OKs of both ends, Alice's first, pair for pair."""
    application = bed.application()
    application.call(ALICE, request)
    bed.net.run_until(lambda: len(application.measured) == 2 * request.number, limit_ns=20 * SECOND_NS)
    told = [{ok.pair_id: ok for node, ok in application.measured if node == end} for end in (ALICE, BOB)]
    return application, [(ok, told[1][pair_id]) for pair_id, ok in told[0].items()]


def m(number: int, local: Readout, remote: Readout) -> LinkCreate:
    return LinkCreate(
        peer=BOB,
        number=number,
        max_time_ns=10 * SECOND_NS,
        request_type=RequestType.MEASURE,
        local=local,
        remote=remote,
    )


def test_outcomes_of_type_m_agree_with_the_frame_in_equal_bases_and_with_nothing_in_others() -> None:
    """2 §4.6."""
    bed = two_nodes(seed=31)
    _, oks = measure_at_once(bed, m(300, ANY_PAULI, ANY_PAULI))
    agreed: Counter[tuple[bool, bool]] = Counter()
    for alice, bob in oks:
        assert (alice.bell_state, alice.sequence_number) == (bob.bell_state, bob.sequence_number)
        if alice.basis is bob.basis:
            assert alice.outcome ^ bob.outcome == parity(alice.bell_state, alice.basis)
        agreed[alice.basis is bob.basis, alice.outcome == bob.outcome] += 1
    assert {alice.basis for alice, _ in oks} == set(PAULI_BASES)
    assert 70 < agreed[True, True] + agreed[True, False] < 130
    assert 70 < agreed[False, True] < 130
    assert leaks(bed) == []


def test_type_m_keeps_no_qubit_and_makes_more_pairs_than_there_are_qubits_without_any_help() -> None:
    bed = two_nodes(seed=32, communication=1)
    application, oks = measure_at_once(bed, m(20, Readout(), Readout()))
    assert len(oks) == 20
    assert {ok.basis for pair in oks for ok in pair} == {Basis.Z}
    assert not bed.world.held(ALICE) | bed.world.held(BOB)
    with pytest.raises(RequestError) as refused:
        run(application, ALICE, measure(oks[0][0].pair_id))
    assert refused.value.code is ErrorCode.UNKNOWN_ID


def correlation(bed: VirtualTestbed, first: Basis, second: Basis, number: int = 400) -> float:
    """The mean product of the signs that two bases give for Φ+, other frames counted as their own signs allow."""
    _, oks = measure_at_once(bed, m(number, Readout(bases=(first,)), Readout(bases=(second,))))
    plus = [1 - 2 * (a.outcome ^ b.outcome) for a, b in oks if a.bell_state.value == "phi+"]
    return sum(plus) / len(plus)


def test_rotated_bases_break_the_chsh_bound_as_far_as_physics_lets_them() -> None:
    """Alice in Z and X, Bob in Z turned by π/4 either way: 2√2 for a perfect pair, at most 2 without entanglement."""
    bases = [(Basis.Z, Basis.Z_PLUS), (Basis.Z, Basis.Z_MINUS), (Basis.X, Basis.Z_PLUS), (Basis.X, Basis.Z_MINUS)]
    signs = (1, 1, 1, -1)
    values = [correlation(two_nodes(seed=33 + i), *pair) for i, pair in enumerate(bases)]
    chsh = sum(sign * value for sign, value in zip(signs, values, strict=True))
    assert chsh == pytest.approx(2 * 2**0.5, abs=0.35)


def test_rotation_of_three_angles_measures_in_the_basis_that_it_turns_z_into() -> None:
    """A quarter turn around X takes Z to Y up to its sign: with Y at the other end every outcome is certain."""
    quarter = Readout(bases=(Basis.ROTATED,), rotation=(-math.pi / 2, 0.0, 0.0))
    _, oks = measure_at_once(two_nodes(seed=37), m(60, quarter, Readout(bases=(Basis.Y,))))
    assert {alice.outcome ^ bob.outcome ^ parity(alice.bell_state, Basis.Y) for alice, bob in oks} == {0}


def test_weights_are_the_odds_of_the_bases() -> None:
    mostly_x = Readout(bases=(Basis.X, Basis.Z), weights=(9, 1))
    never_x = Readout(bases=(Basis.X, Basis.Z), weights=(0, 255))
    _, oks = measure_at_once(two_nodes(seed=38), m(200, mostly_x, never_x))
    assert 160 < sum(alice.basis is Basis.X for alice, _ in oks) < 195
    assert {bob.basis for _, bob in oks} == {Basis.Z}


# Exclusive requests.


def keep(
    number: int, *, atomic: bool = False, consecutive: bool = False, max_time_ns: int = 10 * SECOND_NS
) -> LinkCreate:
    return LinkCreate(
        peer=BOB, number=number, max_time_ns=max_time_ns, atomic=atomic, consecutive=consecutive, priority=0
    )


@pytest.mark.parametrize("seed", range(3))
def test_atomic_request_is_handed_over_when_all_of_its_pairs_are_there_and_not_before(seed: int) -> None:
    """2 §2.3."""
    bed = lossy(seed, communication=4)
    application = bed.application()
    application.call(ALICE, keep(4, atomic=True))
    bed.net.run_until(lambda: bool(application.oks), limit_ns=SECOND_NS)
    node, _ = application.oks[0]
    bed.net.run_for(1_000)
    oks = [ok for sender, ok in application.oks if sender == node]
    assert len(oks) == 4
    assert len(bed.world.held(node)) == 4
    bed.net.run_for(SECOND_NS)
    assert Counter(sender for sender, _ in application.oks) == {ALICE: 4, BOB: 4}


def test_atomic_request_that_is_not_complete_by_its_deadline_gives_nothing_and_frees_everything() -> None:
    bed = lossy(5, communication=3)
    stubborn, application = bed.application("stubborn"), bed.application()
    stubborn.call(ALICE, keep(1))
    bed.net.run_until(lambda: len(stubborn.oks) == 2, limit_ns=SECOND_NS)
    application.call(ALICE, keep(3, atomic=True, max_time_ns=SECOND_NS))
    bed.net.run_for(2 * SECOND_NS)
    assert application.oks == []
    assert [error.code for error in application.errors] == [ErrorCode.TIMEOUT]
    assert len(bed.world.held(ALICE)) == 1


def test_pair_of_an_atomic_request_that_is_gone_early_is_made_again() -> None:
    bed = lossy(6, communication=4)
    application = bed.application()
    application.call(ALICE, keep(4, atomic=True))
    kept = bed.agents[ALICE].links[LINK].book.requests
    bed.net.run_until(lambda: any(len(request.kept) == 2 for request in kept.values()), limit_ns=SECOND_NS)
    (request,) = kept.values()
    first = request.kept[0]
    bed.agents[ALICE].links[LINK].pairs.release(first, "the test lets it go")
    bed.net.run_for(SECOND_NS)
    pairs = {ok.pair_id for _, ok in application.oks}
    assert Counter(sender for sender, _ in application.oks) == {ALICE: 4, BOB: 4}
    assert len(pairs) == 4
    assert first.pair_id not in pairs


def numbers_of(*, consecutive: bool) -> tuple[list[int], list[int]]:
    """The numbers of the pairs of a request of ten, and of another application's that are made meanwhile."""
    bed = lossy(8, communication=3)
    other, application = bed.application("other"), bed.application()
    other.send(ALICE, measuring(60))
    bed.net.run_for(3 * MS)
    request = measuring(10)
    application.send(ALICE, msgspec.structs.replace(request, consecutive=consecutive))
    bed.net.run_until(lambda: len(other.measured) == 120, limit_ns=10 * SECOND_NS)
    own = sorted(ok.sequence_number for node, ok in application.measured if node == ALICE)
    return own, sorted(ok.sequence_number for node, ok in other.measured if node == ALICE)


def test_consecutive_request_has_no_pair_of_another_between_its_own_and_an_ordinary_one_has() -> None:
    own, others = numbers_of(consecutive=True)
    assert own[0] > others[0]
    assert own == list(range(own[0], own[0] + 10))
    own, others = numbers_of(consecutive=False)
    assert any(own[0] < number < own[-1] for number in others)


@pytest.mark.parametrize("seed", range(6))
def test_consecutive_request_is_not_interrupted_after_first_windows_that_bring_nothing(seed: int) -> None:
    """2 §3.1: whatever its own windows have brought. Here three windows of four bring nothing, and one is open at a time."""
    opened = Tap((HeraldOpen,))
    bed = lossy(seed, communication=1, attempts=1, rules=[opened.rule()])
    patient, urgent = bed.application("patient"), bed.application("urgent")
    created = patient.call(ALICE, msgspec.structs.replace(measuring(4), consecutive=True))
    assert isinstance(created, LinkCreated)
    urgent.send(ALICE, measuring(4, priority=5))
    bed.net.run_until(lambda: len(urgent.measured) == 8, limit_ns=SECOND_NS)
    own = [isinstance(message, HeraldOpen) and message.create_id == created.create_id for _, message in opened.seen]
    assert len(patient.measured) == 8
    assert own == sorted(own, reverse=True)


# Every error by its name.


def refusal(bed: VirtualTestbed, request: LinkCreate) -> ErrorCode:
    with pytest.raises(RequestError) as refused:
        bed.application().call(ALICE, request)
    return refused.value.code


@pytest.mark.parametrize(
    "request_",
    [
        LinkCreate(peer=NodeId("carol"), max_time_ns=SECOND_NS),
        LinkCreate(peer=BOB, max_time_ns=SECOND_NS, min_fidelity=0.95),
        LinkCreate(peer=BOB, max_time_ns=SECOND_NS, number=3, atomic=True),
        LinkCreate(peer=BOB, max_time_ns=SECOND_NS, request_type=RequestType.MEASURE, atomic=True),
        m(1, Readout(bases=(Basis.X, Basis.X)), Readout()),
        m(1, Readout(), Readout(bases=(Basis.X, Basis.Z), weights=(1,))),
        m(1, Readout(bases=(Basis.X,), weights=(0,)), Readout()),
        m(1, Readout(bases=(Basis.ROTATED,)), Readout()),
    ],
)
def test_unsupp_when_the_link_or_the_node_cannot_do_it(request_: LinkCreate) -> None:
    """2 §2.1."""
    assert refusal(two_nodes(seed=40, goodness=0.9), request_) is ErrorCode.UNSUPP


@pytest.mark.parametrize(
    ("number", "max_time_ns", "refused"), [(1, 9 * MS, True), (1, 11 * MS, False), (10, 49 * MS, True)]
)
def test_notime_when_the_link_needs_longer_on_average_before_an_attempt_is_wasted(
    number: int, max_time_ns: int, refused: bool
) -> None:
    """2 §2.1: a pair takes 10 ms here, and two are made at a time."""
    bed = lossy(41, pair_time_ns=10 * MS)
    request = measuring(number, max_time_ns=max_time_ns)
    if refused:
        assert refusal(bed, request) is ErrorCode.NOTIME
        assert bed.agents[ALICE].links[LINK].book.ended == {}
    else:
        bed.application().call(ALICE, request)


def test_nores_when_the_queue_is_full() -> None:
    bed = lossy(42)
    application = bed.application()
    answers = [application.send(ALICE, measuring(1_000)) for _ in range(MAX_LINK_REQUESTS + 1)]
    bed.net.run_for(10 * MS)
    codes = [each[0].code for each in answers if isinstance(each[0], RequestError)]
    assert codes == [ErrorCode.NORES]


def test_timeout_when_the_deadline_comes_first() -> None:
    bed = lossy(43)
    application = bed.application()
    application.call(ALICE, measuring(1_000, max_time_ns=100 * MS))
    bed.net.run_for(150 * MS)
    assert [error.code for error in application.errors] == [ErrorCode.TIMEOUT]


def test_rejected_when_the_other_end_no_longer_has_the_request() -> None:
    bed = lossy(44)
    application = bed.application()
    application.call(ALICE, measuring(1_000))
    bed.net.run_for(5 * MS)
    link = bed.agents[BOB].links[LINK]
    (request,) = link.book.requests.values()
    link.fail_request(request, RequestError(ErrorCode.OTHER, "forgotten"))
    bed.net.run_for(50 * MS)
    assert [error.code for error in application.errors] == [ErrorCode.REJECTED]


def test_other_when_the_other_end_refuses_for_a_reason_that_says_nothing_to_an_application() -> None:
    bed = lossy(45)
    del bed.agents[BOB].links[LINK]
    application = bed.application()
    application.call(ALICE, measuring(1))
    bed.net.run_for(50 * MS)
    (error,) = application.errors
    assert error.code is ErrorCode.OTHER
    assert "UNKNOWN_ID" in error.text


def test_expire_names_the_pairs_that_are_lost_at_one_moment_as_one_range() -> None:
    """2 §2.4."""
    bed = two_nodes(seed=46, communication=4)
    application = bed.application()
    application.call(ALICE, keep(4, atomic=True))
    bed.net.run_until(lambda: len(application.oks) == 8, limit_ns=SECOND_NS)
    bed.crash(BOB)
    bed.start_agent(BOB)
    bed.net.run_until(lambda: bool(application.expired), limit_ns=30 * SECOND_NS)
    (expired,) = application.expired
    numbers = sorted(ok.sequence_number for node, ok in application.oks if node == ALICE)
    assert (expired.sequence_low, expired.sequence_high) == (numbers[0], numbers[-1] + 1)
    leave(application, bed)
    assert leaks(bed) == []


# Test rounds.


def noisy_link(fidelity: float, *, test_every: int, rules: Sequence[Rule]) -> tuple[VirtualTestbed, VirtualApplication]:
    """A link that promises fidelity 1 and gives less, after 700 pairs were made over it."""
    noisy = ideal_with(
        'heralds = ["psi+", "psi-"]\n'
        'attempt_period = { value = 0.0, unit = "ns", tag = "assumed", source = "test" }\n'
        'success_probability = { value = 1.0, unit = "1", tag = "assumed", source = "test" }\n'
        f'werner_fidelity = {{ value = {fidelity}, unit = "1", tag = "assumed", source = "test" }}\n'
    )
    node = VirtualNode(communication=2, storage=2)
    link = VirtualLink(link_id=LINK, ends=(ALICE, BOB), station=HUB, test_every=test_every)
    nodes, preset = {ALICE: node, BOB: node}, parse_preset(noisy, "test")
    bed = VirtualTestbed(preset=preset, nodes=nodes, links=[link], seed=50, rules=rules)
    application = bed.application()
    application.call(ALICE, measuring(700))
    bed.net.run_until(lambda: len(application.measured) == 1_400, limit_ns=20 * SECOND_NS)
    bed.net.run_for(100 * MS)
    return bed, application


def test_goodness_is_estimated_from_test_rounds_at_both_ends_and_told_and_held_against_requests() -> None:
    """2 §4.7."""
    bed, application = noisy_link(0.85, test_every=2, rules=[])
    ends = [bed.agents[node].links[LINK].book for node in (ALICE, BOB)]
    assert ends[0].goodness() == ends[1].goodness()
    assert len(ends[0].rounds) > 300
    goodness = ends[0].goodness()
    assert goodness.low < 0.85 < goodness.high < 0.92
    _, first = application.measured[0]
    assert (first.goodness, first.goodness_low, first.goodness_high, first.goodness_estimated) == (1.0, 0.0, 1.0, False)
    _, last = application.measured[-1]
    assert last.goodness_estimated
    assert last.goodness_low < 0.85 < last.goodness_high
    assert refusal(bed, LinkCreate(peer=BOB, max_time_ns=SECOND_NS, min_fidelity=0.95)) is ErrorCode.UNSUPP
    bed.application("modest").call(ALICE, LinkCreate(peer=BOB, max_time_ns=SECOND_NS, min_fidelity=0.75))
    bed.net.run_for(10 * SECOND_NS)
    assert leaks(bed) == []


def test_link_without_test_rounds_says_what_is_configured_and_takes_requests_by_it() -> None:
    bed, application = noisy_link(0.85, test_every=0, rules=[])
    assert {(ok.goodness, ok.goodness_estimated) for _, ok in application.measured} == {(1.0, False)}
    bed.application("bold").call(ALICE, LinkCreate(peer=BOB, max_time_ns=SECOND_NS, min_fidelity=0.95))


def test_test_round_whose_outcome_is_lost_does_not_count_and_holds_nothing_up() -> None:
    codec = Codec()
    lose = Rule(loss_probability=1.0, matches=lambda frame: isinstance(codec.decode(frame.data), PairOutcome))
    bed, _ = noisy_link(0.85, test_every=2, rules=[lose])
    for node in (ALICE, BOB):
        book = bed.agents[node].links[LINK].book
        assert len(book.rounds) == 0
        assert not book.goodness().estimated
    bed.net.run_for(10 * SECOND_NS)
    assert leaks(bed) == []


@pytest.mark.parametrize("seed", range(3))
def test_test_rounds_take_their_share_of_a_link_that_mostly_fails_and_no_more(seed: int) -> None:
    """2 §4.7: after four pairs for others comes one for a test, also where a pair takes four windows on average."""
    seen = Tap((HeraldOpen, LinkAdd))
    bed = lossy(seed, attempts=1, test_every=4, rules=[seen.rule()])
    application = bed.application()
    application.call(ALICE, measuring(200))
    bed.net.run_until(lambda: len(application.measured) == 400, limit_ns=20 * SECOND_NS)
    added = [message for _, message in seen.seen if isinstance(message, LinkAdd)]
    tests = {message.create_id for message in added if message.purpose_id == TEST_PURPOSE}
    assert len(tests) == 50
    opened = Counter(message.create_id in tests for _, message in seen.seen if isinstance(message, HeraldOpen))
    assert 0.15 < opened[True] / opened.total() < 0.25
