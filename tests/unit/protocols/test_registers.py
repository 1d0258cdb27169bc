"""What applications hold at a node (spec 3 §4)."""

from __future__ import annotations

import pytest

from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.ids import Epoch, NodeId, QubitName
from bellwire.protocols.limits import MAX_PEERS
from bellwire.protocols.messages import Role
from bellwire.protocols.node import Node, QubitKind
from bellwire.protocols.registers import Registers

APP = NodeId("app")


def registers(qubits: int) -> tuple[Node, Registers]:
    node = Node(Endpoint(NodeId("alice"), Role.AGENT, Epoch(1)))
    node.backend_connected([(QubitName(f"q{i}"), QubitKind.STORAGE) for i in range(qubits)], 0)
    return node, Registers(node, lambda _: None)


def test_applications_that_were_refused_a_qubit_leave_nothing_behind() -> None:
    _, held = registers(0)
    for index in range(MAX_PEERS + 1):
        with pytest.raises(RequestError) as refused:
            held.allocate(NodeId(f"app{index}"), "c", QubitKind.STORAGE)
        assert refused.value.code is ErrorCode.NORES
        held.release_all(NodeId(f"app{index}"))


def test_locked_qubit_cannot_be_used_until_unlocked() -> None:
    _, held = registers(1)
    held.allocate(APP, "c", QubitKind.STORAGE)
    held.lock(APP, "c")
    with pytest.raises(RequestError) as refused:
        held.use(APP, "c")
    assert refused.value.code is ErrorCode.NORES
    held.unlock(APP, "c")
    assert held.use(APP, "c") == "q0"


def test_application_gone_in_mid_gate_gives_its_qubit_back_when_unlocked() -> None:
    node, held = registers(1)
    held.allocate(APP, "c", QubitKind.STORAGE)
    held.lock(APP, "c")
    held.release_all(APP)
    assert node.qubits.held == {"q0"}
    held.unlock(APP, "c")
    assert node.qubits.held == set()
