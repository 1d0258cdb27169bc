"""Halves that wait: in storage, so that communication qubits are free, and no longer than their cut-off (spec 2 §4.5)."""

from __future__ import annotations

import math

import msgspec
import pytest
from scene import ALICE, BOB, HUB, LINK, leaks, leave

from bellwire.protocols.errors import ErrorCode
from bellwire.protocols.messages import LinkCreate
from bellwire.protocols.node import QubitKind
from bellwire.sim.preset import Preset, load_preset
from bellwire.sim.quantity import Quantity
from bellwire.sim.states import bell_vector, state_fidelity
from bellwire.sim.virtual import SECOND_NS, VirtualApplication, VirtualLink, VirtualNode, VirtualTestbed

MEMORY_S = 2.0


def forgetful() -> Preset:
    """The ideal preset, but that communication qubits relax and dephase."""
    preset = load_preset("ideal")
    lifetime = Quantity(value=MEMORY_S, unit="s", tag="assumed", source="a test")
    node = preset.nodes["ideal"]
    communication = msgspec.structs.replace(node.communication, t1=lifetime, t2=lifetime)
    return msgspec.structs.replace(preset, nodes={"ideal": msgspec.structs.replace(node, communication=communication)})


def two_nodes(
    *,
    pair_storage: int = 0,
    communication: int = 1,
    storage: int = 4,
    preset: Preset | None = None,
    link: str = "ideal",
) -> VirtualTestbed:
    node = VirtualNode(communication=communication, storage=storage, pair_storage=pair_storage)
    return VirtualTestbed(
        preset=preset or load_preset("ideal"),
        nodes={ALICE: node, BOB: node},
        links=[VirtualLink(link_id=LINK, ends=(ALICE, BOB), station=HUB, model=link)],
        seed=51,
    )


def create(bed: VirtualTestbed, application: VirtualApplication, number: int) -> None:
    application.call(ALICE, LinkCreate(peer=BOB, number=number, max_time_ns=3 * SECOND_NS))
    bed.net.run_until(lambda: len(application.oks) == 2 * number or bool(application.errors), limit_ns=10 * SECOND_NS)


def fidelities(bed: VirtualTestbed) -> list[float]:
    """Of every pair that alice holds, with the Bell state that she takes it for."""
    found = []
    for pair in bed.agents[ALICE].links[LINK].book.pairs.values():
        other = bed.agents[BOB].find_pair(pair.pair_id)
        assert other is not None
        state = bed.world.inspect([(ALICE, pair.qubit), (BOB, other.qubit)], bed.net.now_ns)
        found.append(state_fidelity(state, bell_vector(pair.bell_state)))
    return found


def test_one_communication_qubit_makes_as_many_pairs_as_may_be_stored() -> None:
    bed = two_nodes(pair_storage=3)
    application = bed.application()
    create(bed, application, 4)
    assert application.errors == []
    assert fidelities(bed) == pytest.approx([1.0] * 4)
    for name in (ALICE, BOB):
        node = bed.agents[name].node
        assert {qubit.rstrip("0123456789") for qubit in node.stored} == {QubitKind.STORAGE}
        assert len(node.stored) == 3
        assert node.qubits.held == bed.world.held(name) == {*node.stored, "communication0"}
    leave(application, bed)
    assert leaks(bed) == []
    assert not bed.agents[ALICE].node.stored


def test_pairs_that_may_not_be_stored_keep_their_communication_qubit_from_the_next() -> None:
    bed = two_nodes()
    application = bed.application()
    create(bed, application, 2)
    assert [error.code for error in application.errors] == [ErrorCode.TIMEOUT]
    assert len(application.oks) == 2


def test_stored_pair_lives_as_long_as_storage_does() -> None:
    """With T1 = T2 = T at both ends and x = e^(-t/T): |xx| = |yy| = x², and zz = ±x² + (1 - x)²."""
    for pair_storage in (0, 1):
        bed = two_nodes(pair_storage=pair_storage, preset=forgetful())
        application = bed.application()
        create(bed, application, 1)
        (began,) = fidelities(bed)
        bed.net.run_for(SECOND_NS)
        (ended,) = fidelities(bed)
        assert began > 0.999
        if pair_storage:
            assert ended == pytest.approx(began)
        else:
            (pair,) = bed.agents[ALICE].links[LINK].book.pairs.values()
            x, relaxed = math.exp(-1 / MEMORY_S), (1 - math.exp(-1 / MEMORY_S)) ** 2
            expected = (1 + 3 * x**2 + (-relaxed if pair.bell_state.x else relaxed)) / 4
            assert ended == pytest.approx(expected, abs=1e-3)


def test_pair_that_is_not_used_ends_at_its_cut_off_wherever_it_is() -> None:
    bed = two_nodes(pair_storage=2)
    application = bed.application()
    create(bed, application, 2)
    lifetime_ns = bed.agents[ALICE].links[LINK].settings.pair_lifetime_ns
    bed.net.run_for(lifetime_ns - SECOND_NS)
    assert application.expired == []
    bed.net.run_for(2 * SECOND_NS)
    assert len(application.expired) == 4
    assert leaks(bed) == []


def test_pair_in_storage_is_released_with_its_backend() -> None:
    bed = two_nodes(pair_storage=2)
    application = bed.application()
    create(bed, application, 2)
    bed.hardware.leave(ALICE)
    bed.notice_loss(ALICE)
    bed.net.flush()
    bed.reconnect(ALICE)
    bed.net.run_for(SECOND_NS)
    assert leaks(bed) == []
    assert not bed.agents[ALICE].node.stored
    before = len(application.oks)
    application.call(ALICE, LinkCreate(peer=BOB, number=2, max_time_ns=3 * SECOND_NS))
    bed.net.run_until(lambda: len(application.oks) == before + 4, limit_ns=10 * SECOND_NS)


def test_several_communication_qubits_are_multiplexed_on_one_link() -> None:
    """Four windows at a time take about a quarter of the time that one takes."""
    elapsed_ns = {}
    for communication in (1, 4):
        bed = two_nodes(communication=communication, storage=64, pair_storage=64, link="lossy")
        application = bed.application()
        began_ns = bed.net.now_ns
        create(bed, application, 60)
        assert application.errors == []
        elapsed_ns[communication] = bed.net.now_ns - began_ns
    assert 3 < elapsed_ns[1] / elapsed_ns[4] < 5
