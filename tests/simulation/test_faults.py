"""Lost, repeated and late frames, and participants that die (what must always hold)."""

from __future__ import annotations

from functools import partial
from random import Random

import pytest
from scene import (
    ALICE,
    BOB,
    HUB,
    Tap,
    clear,
    leaks,
    leave,
    prepare_choi,
    process_fidelity,
    request_gate,
    two_nodes,
)

from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.ids import BROKER, GateId, NetworkTimeNs, QubitName
from bellwire.protocols.instructions import Discard
from bellwire.protocols.messages import (
    GateKind,
    GateOpen,
    GateOutcome,
    GateRequest,
    GateResult,
    GateStatus,
    GateVariant,
    LinkCreate,
)
from bellwire.sim.virtual import SECOND_NS, VirtualApplication, VirtualTestbed
from bellwire.simnet.fabric import Frame, Rule

DEADLINE_NS = 10 * SECOND_NS
MS_NS = 1_000_000


def between_nodes(frame: Frame) -> bool:
    return "app" not in (frame.sender, frame.receiver)


def run_on_bad_network(seed: int, rule: Rule) -> list[GateStatus]:
    """Five gates over a network with faults; whatever they come to, the world agrees, and nothing is left behind."""
    random = Random(seed)
    bed = two_nodes(seed, rules=[rule])
    application = bed.application()
    statuses = []
    for _ in range(5):
        source, target = prepare_choi(application, ALICE), prepare_choi(application, BOB)
        kind, variant = random.choice([GateKind.CZ, GateKind.CNOT]), random.choice(list(GateVariant))
        result = request_gate(application, kind, variant, max_time_ns=DEADLINE_NS)
        statuses.append(result.status)
        if result.status is GateStatus.DONE:
            assert process_fidelity(bed, kind, source, target) == pytest.approx(1.0, abs=1e-9)
        else:
            assert result.code is not None
            assert result.text
            # "failed" promises that nothing reached the application's qubits: they still hold what was prepared.
            if result.status is GateStatus.FAILED:
                assert_untouched(bed, source, target)
            bed.net.run_for(2 * DEADLINE_NS)
        clear(application)
    bed.net.fabric.rules.clear()
    leave(application, bed)
    assert leaks(bed) == []
    return statuses


def test_gates_over_a_network_that_only_repeats_and_delays_are_all_done() -> None:
    for seed in range(20):
        rule = Rule(repeat_probability=0.3, delay_probability=0.5, delay_ns=100_000_000, matches=between_nodes)
        assert set(run_on_bad_network(seed, rule)) == {GateStatus.DONE}


def test_gates_over_a_network_that_loses_a_tenth_are_nearly_all_done() -> None:
    statuses = []
    for seed in range(40):
        rule = Rule(
            loss_probability=0.1,
            repeat_probability=0.1,
            delay_probability=0.1,
            delay_ns=100_000_000,
            matches=between_nodes,
        )
        statuses += run_on_bad_network(seed, rule)
    assert statuses.count(GateStatus.DONE) >= 0.95 * len(statuses)


def test_gates_over_a_network_that_loses_most_frames_end_by_name_and_leak_nothing() -> None:
    statuses = []
    for seed in range(30):
        rule = Rule(loss_probability=0.7, delay_probability=0.2, delay_ns=1_000_000_000, matches=between_nodes)
        statuses += run_on_bad_network(seed, rule)
    assert statuses.count(GateStatus.FAILED) > 0


@pytest.mark.parametrize("variant", list(GateVariant))
def test_peer_that_dies_after_the_source_has_measured_makes_the_gate_indeterminate(variant: GateVariant) -> None:
    """A lost peer after a measurement is reported as indeterminate, never as success (spec 3 §2.4)."""
    told = Tap((GateOutcome,))
    bed = two_nodes(seed=21, rules=[told.rule()])
    application = bed.application()
    answers = start_gate(application, variant)
    while not any(sender == ALICE for sender, _ in told.seen):
        bed.net.step()
    assert not answers
    bed.crash(BOB)
    bed.net.run_until(lambda: bool(answers), limit_ns=2 * DEADLINE_NS)
    assert isinstance(answers[0], GateResult)
    assert answers[0].status is GateStatus.INDETERMINATE
    bed.start_agent(BOB)
    leave(application, bed)
    assert leaks(bed) == []


def test_target_that_never_hears_the_outcome_ends_the_sequential_gate_without_having_acted() -> None:
    """The source has measured and cannot know. The target acts after the outcome only, so its qubit is untouched."""
    mute = Rule(loss_probability=1.0, matches=lambda frame: b"gate.outcome" in frame.data)
    bed = two_nodes(seed=22, rules=[mute])
    application = bed.application()
    prepare_choi(application, ALICE)
    reference, circuit = prepare_choi(application, BOB)
    result = request_gate(application, GateKind.CZ, GateVariant.SEQUENTIAL, max_time_ns=DEADLINE_NS)
    assert result.status is GateStatus.INDETERMINATE
    state = bed.world.inspect([(BOB, reference), (BOB, circuit)], bed.net.now_ns)  # type: ignore[list-item]
    assert (state[0, 0] + state[0, 3] + state[3, 0] + state[3, 3]).real / 2 == pytest.approx(1.0, abs=1e-9)
    bed.net.run_for(DEADLINE_NS)
    clear(application)
    leave(application, bed)
    assert leaks(bed) == []


def _has_oks(application: VirtualApplication, wanted: int) -> bool:
    return len(application.oks) == wanted


@pytest.mark.parametrize("at_target", [False, True])
def test_pair_named_as_a_qubit_of_its_own_gate_is_refused_and_leaks_nothing(at_target: bool) -> None:
    bed = two_nodes(seed=23)
    application = bed.application()
    prepare_choi(application, ALICE)
    prepare_choi(application, BOB)
    for _ in range(4):
        wanted = len(application.oks) + 2
        application.call(ALICE, LinkCreate(peer=BOB, max_time_ns=DEADLINE_NS))
        bed.net.run_until(partial(_has_oks, application, wanted), limit_ns=DEADLINE_NS)
        pair_id = application.oks[-1][1].pair_id
        request = GateRequest(
            kind=GateKind.CZ,
            qubit="c" if at_target else pair_id,
            peer=BOB,
            peer_qubit=pair_id if at_target else "c",
            pair_id=pair_id,
            max_time_ns=DEADLINE_NS,
        )
        with pytest.raises(RequestError) as refused:
            application.call(ALICE, request)
        assert refused.value.code is ErrorCode.UNSUPP
        bed.net.run_for(DEADLINE_NS)
    assert request_gate(application, GateKind.CZ, GateVariant.SYMMETRIC).status is GateStatus.DONE
    leave(application, bed)
    assert leaks(bed) == []


def test_target_refuses_a_gate_whose_qubit_is_its_own_pair() -> None:
    """A neighbour that skips the source's check gets a refusal, and nothing is kept."""
    bed = two_nodes(seed=24)
    application = bed.application()
    application.call(ALICE, LinkCreate(peer=BOB, max_time_ns=DEADLINE_NS))
    bed.net.run_until(lambda: len(application.oks) == 2, limit_ns=DEADLINE_NS)
    pair_id = application.oks[0][1].pair_id
    alice = bed.agents[ALICE].endpoint
    answers: list[object] = []
    alice.begin(bed.net.now_ns)
    opening = GateOpen(
        gate_id=GateId("forged"),
        pair_id=pair_id,
        kind=GateKind.CZ,
        variant=GateVariant.SYMMETRIC,
        application=application.endpoint.node,
        qubit=pair_id,
        deadline_ns=NetworkTimeNs(bed.net.now_ns + DEADLINE_NS),
    )
    alice.ask(BOB, opening, bed.net.now_ns + DEADLINE_NS, answers.append)
    bed.net.flush()
    bed.net.run_until(lambda: bool(answers), limit_ns=DEADLINE_NS)
    assert isinstance(answers[0], RequestError)
    assert answers[0].code is ErrorCode.UNSUPP
    leave(application, bed)
    assert leaks(bed) == []


def test_story_of_a_pair_tells_its_life_and_why_it_ended() -> None:
    bed = two_nodes(seed=25)
    application = bed.application()
    application.call(ALICE, LinkCreate(peer=BOB, max_time_ns=DEADLINE_NS))
    bed.net.run_until(lambda: len(application.oks) == 2, limit_ns=DEADLINE_NS)
    pair_id = application.oks[0][1].pair_id
    bed.net.run_for(DEADLINE_NS)
    for node in (ALICE, BOB):
        story = bed.agents[node].node.journal.story(pair_id)
        names = [event.name for event in story if pair_id in event.subjects]
        assert names == ["PairHeralded", "PairConfirmed", "PairDelivered", "PairEnded"]
        assert "lifetime" in story[-1].detail
        assert all(event.cause_id for event in story)


def assert_untouched(bed: VirtualTestbed, source: tuple[str, str], target: tuple[str, str]) -> None:
    for node, (reference, circuit) in ((ALICE, source), (BOB, target)):
        state = bed.world.inspect([(node, reference), (node, circuit)], bed.net.now_ns)  # type: ignore[list-item]
        assert (state[0, 0] + state[0, 3] + state[3, 0] + state[3, 3]).real / 2 == pytest.approx(1.0, abs=1e-9)


def start_gate(application: VirtualApplication, variant: GateVariant) -> list[object]:
    prepare_choi(application, ALICE)
    prepare_choi(application, BOB)
    request = GateRequest(
        kind=GateKind.CZ, variant=variant, qubit="c", peer=BOB, peer_qubit="c", max_time_ns=DEADLINE_NS
    )
    return list_of(application, request)


def list_of(application: VirtualApplication, request: GateRequest) -> list[object]:
    return application.send(ALICE, request, limit_ns=3 * DEADLINE_NS)  # type: ignore[return-value]


@pytest.mark.parametrize("variant", list(GateVariant))
@pytest.mark.parametrize("events", range(0, 40, 2))
def test_peer_killed_in_mid_gate_ends_it_by_name_and_the_next_one_succeeds(events: int, variant: GateVariant) -> None:
    bed = two_nodes(seed=events)
    application = bed.application()
    answers = start_gate(application, variant)
    began_ns = bed.net.now_ns
    for _ in range(events):
        bed.net.step()
    bed.crash(BOB)
    bed.net.run_until(lambda: bool(answers), limit_ns=2 * DEADLINE_NS)
    assert bed.net.now_ns - began_ns <= DEADLINE_NS + SECOND_NS
    result = answers[0]
    assert isinstance(result, GateResult)
    if result.status is not GateStatus.DONE:
        named = {ErrorCode.PEER_LOST, ErrorCode.TIMEOUT, ErrorCode.INDETERMINATE, ErrorCode.EXPIRE}
        assert result.code in named
    bed.start_agent(BOB)
    bed.net.run_for(DEADLINE_NS)
    (reference, circuit), target = prepare_choi(application, ALICE), prepare_choi(application, BOB)
    assert request_gate(application, GateKind.CZ, variant).status is GateStatus.DONE
    assert process_fidelity(bed, GateKind.CZ, (reference, circuit), target) == pytest.approx(1.0, abs=1e-9)
    leave(application, bed)
    assert leaks(bed) == []


@pytest.mark.parametrize("events", range(0, 40, 3))
def test_source_killed_in_mid_gate_leaves_no_qubit_behind_at_the_target(events: int) -> None:
    bed = two_nodes(seed=events)
    application = bed.application()
    answers = start_gate(application, GateVariant.SYMMETRIC)
    for _ in range(events):
        bed.net.step()
    bed.crash(ALICE)
    bed.net.run_until(lambda: bool(answers), limit_ns=4 * DEADLINE_NS)
    assert isinstance(answers[0], GateResult | RequestError)
    bed.start_agent(ALICE)
    bed.net.run_for(DEADLINE_NS)
    prepare_choi(application, ALICE)
    prepare_choi(application, BOB)
    assert request_gate(application, GateKind.CZ, GateVariant.SYMMETRIC).status is GateStatus.DONE
    leave(application, bed)
    assert leaks(bed) == []


@pytest.mark.parametrize("events", range(0, 30, 3))
def test_station_killed_in_mid_window_costs_time_and_nothing_else(events: int) -> None:
    bed = two_nodes(seed=events)
    application = bed.application()
    answers = start_gate(application, GateVariant.SYMMETRIC)
    for _ in range(events):
        bed.net.step()
    bed.crash(HUB)
    bed.net.run_for(SECOND_NS)
    bed.start_station(HUB)
    bed.net.run_until(lambda: bool(answers), limit_ns=2 * DEADLINE_NS)
    assert isinstance(answers[0], GateResult)
    assert answers[0].status is GateStatus.DONE
    leave(application, bed)
    assert leaks(bed) == []


@pytest.mark.parametrize("node", [ALICE, BOB])
@pytest.mark.parametrize("events", range(0, 40, 4))
def test_backend_lost_in_mid_gate_ends_it_by_name_and_the_next_one_succeeds(events: int, node: str) -> None:
    bed = two_nodes(seed=events)
    application = bed.application()
    answers = start_gate(application, GateVariant.SEQUENTIAL)
    for _ in range(events):
        bed.net.step()
    brain = bed.agents[ALICE if node == ALICE else BOB]
    brain.node.backend_lost("the world is gone", bed.net.now_ns)
    bed.net.flush()
    bed.net.run_until(lambda: bool(answers), limit_ns=2 * DEADLINE_NS)
    assert isinstance(answers[0], GateResult | RequestError)
    bed.reconnect(brain.endpoint.node)
    bed.net.run_for(DEADLINE_NS)
    source, target = prepare_choi(application, ALICE), prepare_choi(application, BOB)
    assert request_gate(application, GateKind.CZ, GateVariant.SEQUENTIAL).status is GateStatus.DONE
    assert process_fidelity(bed, GateKind.CZ, source, target) == pytest.approx(1.0, abs=1e-9)
    leave(application, bed)
    assert leaks(bed) == []


def test_application_gone_in_mid_gate_leaves_nothing_behind() -> None:
    bed = two_nodes(seed=5)
    application = bed.application()
    start_gate(application, GateVariant.SYMMETRIC)
    for _ in range(10):
        bed.net.step()
    bed.net.remove(application.endpoint.node)
    bed.net.run_for(30 * SECOND_NS)
    assert leaks(bed) == []


def test_batches_of_a_backend_that_becomes_quick_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by `test_ends`: what was decided at the very moment at which an earlier batch was due overtook it."""
    bed = two_nodes(seed=7)
    node, submitted = bed.agents[ALICE].node, []
    monkeypatch.setattr(bed.world, "submit", lambda _node, number, *_: submitted.append(number))
    due_ns = bed.net.now_ns + MS_NS
    bed.hardware.slowness.append(lambda _, now_ns: MS_NS if now_ns < due_ns else 0)

    def decide() -> None:
        node.execute([Discard(qubit=QubitName("storage0"))], lambda _: None)
        bed.net.touch(ALICE)

    bed.net.at(due_ns, decide)
    decide()
    bed.net.flush(ALICE)
    bed.net.run_for(MS_NS)
    assert len(submitted) == 2
    assert submitted == sorted(submitted)


def test_broker_gone_and_back_is_greeted_again() -> None:
    bed = two_nodes(seed=6)
    bed.net.run_for(SECOND_NS)
    bed.restart_broker()
    bed.net.run_for(10 * SECOND_NS)
    assert all(brain.endpoint.is_up(BROKER) for brain in bed.agents.values())
