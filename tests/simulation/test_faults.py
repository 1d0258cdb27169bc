"""Lost, repeated and late frames, and participants that die (ARCHITECTURE: what must always hold)."""

from __future__ import annotations

from random import Random

import pytest
from scene import (
    ALICE,
    BOB,
    HUB,
    clear,
    leaks,
    leave,
    prepare_choi,
    process_fidelity,
    request_gate,
    two_nodes,
)

from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.ids import BROKER
from bellwire.protocols.messages import GateKind, GateRequest, GateResult, GateStatus, GateVariant
from bellwire.sim.virtual import SECOND_NS, VirtualApplication, VirtualTestbed
from bellwire.simnet.fabric import Frame, Rule

DEADLINE_NS = 10 * SECOND_NS


def between_nodes(frame: Frame) -> bool:
    return "app" not in (frame.sender, frame.receiver)


@pytest.mark.parametrize("seed", range(60))
def test_gates_over_a_bad_network_are_exact_or_named_errors_and_leak_nothing(seed: int) -> None:
    random = Random(seed)
    rule = Rule(
        loss_probability=random.choice([0.0, 0.02, 0.1, 0.2]),
        repeat_probability=random.choice([0.0, 0.1, 0.3]),
        delay_probability=random.choice([0.0, 0.1, 0.5]),
        delay_ns=random.choice([1_000_000, 1_000_000_000]),
        matches=between_nodes,
    )
    bed = two_nodes(seed, rules=[rule])
    application = bed.application()
    for _ in range(5):
        source, target = prepare_choi(application, ALICE), prepare_choi(application, BOB)
        kind, variant = random.choice([GateKind.CZ, GateKind.CNOT]), random.choice(list(GateVariant))
        result = request_gate(application, kind, variant, max_time_ns=DEADLINE_NS)
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
    if isinstance(result, GateResult) and result.status is not GateStatus.DONE:
        assert result.code in set(ErrorCode)
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


def test_broker_gone_and_back_is_greeted_again() -> None:
    bed = two_nodes(seed=6)
    bed.net.run_for(SECOND_NS)
    bed.restart_broker()
    bed.net.run_for(10 * SECOND_NS)
    assert all(brain.endpoint.is_up(BROKER) for brain in bed.agents.values())
