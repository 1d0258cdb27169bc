"""Teleported gates against the world's exact state (spec 3: exact correction)."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from scene import (
    ALICE,
    BOB,
    Tap,
    apply,
    clear,
    ideal_with,
    initialise,
    leaks,
    leave,
    prepare_choi,
    process_fidelity,
    release,
    request_gate,
    run,
    two_nodes,
)

from bellwire.protocols.instructions import BellState, Gate
from bellwire.protocols.messages import GateKind, GateOutcome, GateRequest, GateResult, GateStatus, GateVariant
from bellwire.protocols.messages.herald import HeraldReport
from bellwire.protocols.teleport import Half
from bellwire.sim.preset import parse_preset
from bellwire.sim.virtual import SECOND_NS

KINDS = [GateKind.CZ, GateKind.CNOT]
SHOTS = 1000


@pytest.mark.parametrize("variant", list(GateVariant))
@pytest.mark.parametrize("kind", KINDS)
def test_gate_in_a_noiseless_world_is_exact_for_every_outcome(
    kind: GateKind, variant: GateVariant, outcomes: Tap
) -> None:
    bed = two_nodes(seed=11, rules=[outcomes.rule()])
    application = bed.application()
    for _ in range(SHOTS):
        source, target = prepare_choi(application, ALICE), prepare_choi(application, BOB)
        assert request_gate(application, kind, variant).status is GateStatus.DONE
        assert process_fidelity(bed, kind, source, target) == pytest.approx(1.0, abs=1e-9)
    heralds = {m.bell_state for _, m in outcomes.seen if isinstance(m, HeraldReport)}
    bits = {(sender, m.bits) for sender, m in outcomes.seen if isinstance(m, GateOutcome)}
    assert heralds == set(BellState)
    assert bits == {(node, (bit,)) for node in (ALICE, BOB) for bit in (0, 1)}
    clear(application)
    leave(application, bed)
    assert leaks(bed) == []


def test_state_teleportation_in_a_noiseless_world_is_exact_for_every_outcome(outcomes: Tap) -> None:
    bed = two_nodes(seed=12, rules=[outcomes.rule()])
    application = bed.application()
    bell = np.array([1, 0, 0, 1]) / np.sqrt(2)
    for _ in range(200):
        reference, _ = prepare_choi(application, ALICE)
        (target,) = run(application, BOB, initialise("t"), apply(Gate.H, "t")).qubits
        request = GateRequest(kind=GateKind.STATE, qubit="c", peer=BOB, peer_qubit="t", max_time_ns=10 * SECOND_NS)
        result = application.call(ALICE, request)
        assert isinstance(result, GateResult)
        assert result.status is GateStatus.DONE
        state = bed.world.inspect([(ALICE, reference), (BOB, target)], bed.net.now_ns)  # type: ignore[list-item]
        assert (bell @ state @ bell).real == pytest.approx(1.0, abs=1e-9)
        run(application, BOB, release("t"))
    assert {m.bits for _, m in outcomes.seen if isinstance(m, GateOutcome)} == {(0, 0), (0, 1), (1, 0), (1, 1)}


@pytest.mark.parametrize("variant", list(GateVariant))
@pytest.mark.parametrize("kind", KINDS)
def test_gate_without_its_corrections_is_caught_by_the_world(
    kind: GateKind, variant: GateVariant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oracle has teeth: a protocol that forgets its corrections cannot pass the test above."""
    monkeypatch.setattr(Half, "correct", lambda _self, _bits: [])
    bed = two_nodes(seed=13)
    application = bed.application()
    fidelities = []
    for _ in range(20):
        source, target = prepare_choi(application, ALICE), prepare_choi(application, BOB)
        assert request_gate(application, kind, variant).status is GateStatus.DONE
        fidelities.append(process_fidelity(bed, kind, source, target))
    assert min(fidelities) < 0.5


PERIOD = 'attempt_period = { value = 0.0, unit = "ns", tag = "assumed", source = "test" }\n'
ALWAYS = 'success_probability = { value = 1.0, unit = "1", tag = "assumed", source = "test" }\n'
WERNER = (
    'heralds = ["psi+", "psi-"]\n'
    + PERIOD
    + ALWAYS
    + 'werner_fidelity = { value = 0.97, unit = "1", tag = "assumed", source = "test" }\n'
)
# Main et al., Nature 638, 383 (2025), remote Bell state tomography; magnitudes and phases in units of pi.
OXFORD = (
    'heralds = ["psi+"]\n'
    + PERIOD
    + ALWAYS
    + """
[links.ideal.density_matrix]
tag = "measured"
source = "Main et al., Nature 638, 383 (2025)"
magnitude = [
  [0.012, 0.014, 0.014, 0.0],
  [0.014, 0.508, 0.475, 0.008],
  [0.014, 0.475, 0.479, 0.009],
  [0.0, 0.008, 0.009, 0.0],
]
phase_pi_upper = { "01" = -1.850, "02" = -1.825, "03" = -0.985, "12" = -0.002, "13" = -0.902, "23" = -0.931 }
"""
)


@pytest.mark.parametrize("variant", list(GateVariant))
@pytest.mark.parametrize(("link", "expected"), [(WERNER, 0.97), (OXFORD, 0.96946)], ids=["werner-0.97", "oxford"])
def test_cz_over_a_noisy_pair_has_the_pair_fidelity(
    link: str, expected: float, variant: GateVariant, outcomes: Tap
) -> None:
    """With ideal local operations the process fidelity is the pair's (closed form; reference row `teleported_cz`)."""
    bed = two_nodes(
        seed=14, preset=parse_preset(ideal_with(link), "test"), rules=[outcomes.rule()], scheme="double-click"
    )
    application = bed.application()
    by_outcome: dict[object, list[float]] = defaultdict(list)
    for _ in range(60):
        outcomes.seen.clear()
        source, target = prepare_choi(application, ALICE), prepare_choi(application, BOB)
        assert request_gate(application, GateKind.CZ, variant).status is GateStatus.DONE
        bits = {(sender, m.bits) for sender, m in outcomes.seen if isinstance(m, GateOutcome)}
        heralds = {m.bell_state for _, m in outcomes.seen if isinstance(m, HeraldReport)}
        fidelity = process_fidelity(bed, GateKind.CZ, source, target)
        by_outcome[frozenset(bits), frozenset(heralds)].append(fidelity)
    # On halves of maximally entangled states all outcomes are equally likely, and each has one exact fidelity.
    assert len(by_outcome) == 4 * (2 if link == WERNER else 1)
    assert all(np.ptp(values) < 1e-9 for values in by_outcome.values())
    assert np.mean([values[0] for values in by_outcome.values()]) == pytest.approx(expected, abs=1e-4)
