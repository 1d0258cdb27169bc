"""What a broker that dies leaves standing: in virtual time the path between two participants is direct."""

from __future__ import annotations

from scene import ALICE, BOB, initialise, request_gate, run, two_nodes

from bellwire.protocols.ids import BROKER
from bellwire.protocols.messages import GateKind, GateStatus, GateVariant
from bellwire.sim.virtual import SECOND_NS


def test_agents_that_have_met_go_on_when_the_broker_crashes() -> None:
    bed = two_nodes(seed=5)
    application = bed.application()
    for node in (ALICE, BOB):
        run(application, node, initialise("c"))
    assert request_gate(application, GateKind.CZ, GateVariant.SYMMETRIC).status is GateStatus.DONE
    lost = []
    for name, brain in bed.agents.items():
        brain.endpoint.on_peer_lost.append(lambda peer, *_, name=name: lost.append((name, peer)))
    bed.crash(BROKER)
    bed.net.run_for(10 * SECOND_NS)
    assert set(lost) == {(ALICE, BROKER), (BOB, BROKER)}
    for variant in GateVariant:
        assert request_gate(application, GateKind.CZ, variant).status is GateStatus.DONE
    assert set(lost) == {(ALICE, BROKER), (BOB, BROKER)}
