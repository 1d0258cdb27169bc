"""Several links over few qubits: everybody is served, or told by name, and nothing is left behind."""

from __future__ import annotations

from random import Random

import pytest
from scene import initialise, leaks, leave, run

from bellwire.protocols.ids import LinkId, NodeId
from bellwire.protocols.messages import GateKind, GateRequest, GateResult, GateStatus, GateVariant
from bellwire.sim.preset import load_preset
from bellwire.sim.virtual import SECOND_NS, VirtualLink, VirtualNode, VirtualTestbed
from bellwire.simnet.fabric import Frame, Rule

NAMES = [NodeId(f"n{index}") for index in range(5)]
HUB = NodeId("hub")


def star(seed: int, rule: Rule) -> VirtualTestbed:
    """Five nodes with one communication qubit each: a star around the first, and one link between two rays."""
    random = Random(seed)
    node = VirtualNode(communication=1, storage=16)
    rays = [(NAMES[0], ray) if random.random() < 0.5 else (ray, NAMES[0]) for ray in NAMES[1:]]
    links = [VirtualLink(link_id=LinkId(f"ray{i}"), ends=ends, station=HUB) for i, ends in enumerate(rays)]
    links.append(VirtualLink(link_id=LinkId("chord"), ends=(NAMES[1], NAMES[2]), station=HUB))
    nodes = dict.fromkeys(NAMES, node)
    return VirtualTestbed(preset=load_preset("ideal"), nodes=nodes, links=links, seed=seed, rules=[rule])


def between_nodes(frame: Frame) -> bool:
    return "app" not in (frame.sender, frame.receiver)


def request_gates(bed: VirtualTestbed, random: Random, number: int) -> list[GateResult]:
    """Ask for gates all at once and let time pass until all have ended."""
    application = bed.application()
    answers = []
    for index in range(number):
        source, target = random.choice([(NAMES[0], ray) for ray in NAMES[1:]] + [(NAMES[1], NAMES[2])])
        if random.random() < 0.5:
            source, target = target, source
        for node in (source, target):
            run(application, node, initialise(f"q{index}"))
        request = GateRequest(
            kind=GateKind.CZ,
            variant=random.choice(list(GateVariant)),
            qubit=f"q{index}",
            peer=target,
            peer_qubit=f"q{index}",
            max_time_ns=10 * SECOND_NS,
        )
        answers.append(application.send(source, request))
    bed.net.run_until(lambda: all(answers), limit_ns=15 * SECOND_NS)
    bed.net.fabric.rules.clear()
    bed.net.run_for(12 * SECOND_NS)
    leave(application, bed)
    results = [answer[0] for answer in answers]
    assert all(isinstance(result, GateResult) for result in results)
    return [result for result in results if isinstance(result, GateResult)]


@pytest.mark.parametrize("seed", range(10))
def test_gates_that_contend_for_one_qubit_are_all_done_on_a_good_network(seed: int) -> None:
    bed = star(seed, Rule())
    assert {result.status for result in request_gates(bed, Random(seed), 12)} == {GateStatus.DONE}
    assert leaks(bed, NAMES) == []


@pytest.mark.parametrize("seed", range(20))
def test_gates_that_contend_on_a_bad_network_end_by_name_and_leak_nothing(seed: int) -> None:
    random = Random(seed)
    rule = Rule(
        loss_probability=random.choice([0.0, 0.02, 0.1]),
        repeat_probability=random.choice([0.0, 0.1, 0.3]),
        delay_probability=random.choice([0.0, 0.1, 0.5]),
        delay_ns=random.choice([1_000_000, 1_000_000_000]),
        matches=between_nodes,
    )
    bed = star(seed, rule)
    results = request_gates(bed, random, 12)
    assert all(result.status is GateStatus.DONE or (result.code and result.text) for result in results)
    assert leaks(bed, NAMES) == []
