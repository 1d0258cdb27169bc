"""The world's instructions: batches, ownership, refusals, noise, time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from bellwire.protocols.errors import BackendError, ConfigError
from bellwire.protocols.ids import LinkId, NodeId, QubitName
from bellwire.protocols.instructions import Apply, Cancel, Discard, Done, Failed, Gate, Initialise, Measured
from bellwire.protocols.limits import MAX_BATCH_INSTRUCTIONS, MAX_TEXT_CHARS
from bellwire.protocols.node import QubitKind
from bellwire.sim.preset import load_preset
from bellwire.sim.states import bell_density_matrix, shift_frame
from bellwire.sim.topology import WorldLink, WorldNode
from bellwire.sim.world import World

if TYPE_CHECKING:
    from tests.unit.sim.conftest import Lab, LabFactory

ALICE, BOB, STATION = NodeId("alice"), NodeId("bob"), NodeId("station")


def failure(lab: Lab, node: str, *instructions: Any) -> str:
    """Run a batch whose last instruction alone must fail, and give the text."""
    *before, last = lab.run(node, *instructions)
    assert not any(isinstance(completion, Failed) for completion in before)
    assert isinstance(last, Failed)
    return last.text


# -- batches ----------------------------------------------------------------------------------------------------------


def test_batch_of_instructions_is_answered_in_order(lab: LabFactory) -> None:
    here = lab()
    completions = here.run("alice", here.initialise("s"), here.gate(Gate.X, "s"), here.measure("s"), here.discard("s"))
    assert completions == (Done(), Done(), Measured(bit=1), Done())
    assert here.held("alice") == set()


def test_batch_that_is_empty_is_answered_with_nothing(lab: LabFactory) -> None:
    assert lab().run("alice") == ()


def test_batch_after_its_first_failure_is_not_executed(lab: LabFactory) -> None:
    here = lab()
    completions = here.run("alice", here.initialise("s"), here.measure("s2"), here.discard("s"), here.measure("s"))
    assert completions[0] == Done()
    assert completions[1] == Failed(text="qubit 's2' of alice is free: initialise or arm it first")
    assert completions[2:] == (Failed(text="not executed: instruction 2 of the batch failed"),) * 2
    assert here.held("alice") == {"s"}


def test_arm_that_is_not_last_fails_and_takes_no_qubit(lab: LabFactory) -> None:
    here = lab()
    completions = here.run("alice", here.arm("w", "c"), here.initialise("s"))
    assert completions[0] == Failed(text="Arm may only come last in a batch")
    assert isinstance(completions[1], Failed)
    assert here.held("alice") == set()


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_instruction_on_a_qubit_of_another_node_fails_and_changes_nothing(lab: LabFactory) -> None:
    here = lab()
    here.run("bob", here.initialise("s"), here.gate(Gate.X, "s"))
    for instruction in (here.gate(Gate.X, "s"), here.measure("s")):
        assert "of alice is free" in failure(here, "alice", instruction)
    for name in ("bob/s", "bob.s"):
        assert failure(here, "alice", here.initialise(name)) == f"alice has no qubit {name!r}"
    here.run("alice", here.discard("s"))
    np.testing.assert_allclose(here.inspect(("bob", "s")), np.diag([0, 1]), atol=1e-12)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda lab: lab.initialise("q"), "alice has no qubit 'q'"),
        (lambda lab: lab.discard("q"), "alice has no qubit 'q'"),
        (lambda lab: lab.measure("q"), "alice has no qubit 'q'"),
        (lambda lab: lab.gate(Gate.H, "s2"), "qubit 's2' of alice is free"),
        (lambda lab: lab.gate(Gate.CX, "s", "s2"), "qubit 's2' of alice is free"),
        (lambda lab: lab.gate(Gate.CX, "s", "s"), "gate cx on qubit 's' twice"),
        (lambda lab: lab.gate(Gate.CX, "s"), "gate cx acts on 2 qubits, got 1"),
        (lambda lab: lab.gate(Gate.H, "s", "c"), "gate h acts on 1 qubits, got 2"),
        (lambda lab: lab.gate(Gate.RX, "s", angle=math.nan), "gate rx with angle nan"),
        (lambda lab: lab.gate(Gate.RZ, "s", angle=math.inf), "gate rz with angle inf"),
        (lambda lab: lab.gate(Gate.X, "s", angle=-math.inf), "gate x with angle -inf"),
        (lambda lab: Apply(gate=cast("Gate", "toffoli"), qubits=(QubitName("s"),)), "'toffoli' is not a gate"),
        (lambda lab: "initialise", "str is not an instruction"),
        (lambda lab: lab.arm("w", "c", link="elsewhere"), "alice is not attached to link 'elsewhere'"),
        (lambda lab: lab.arm("w", None), "alice is an end of link 'link' and arms with a qubit"),
        (lambda lab: lab.arm("w", "s"), "qubit 's' is a storage qubit, links need a communication qubit"),
        (lambda lab: lab.arm("w", "r"), "qubit 'r' is a reference qubit"),
        (lambda lab: lab.arm("w", "q"), "alice has no qubit 'q'"),
        (lambda lab: lab.arm("w", "c", attempts=0), "0 attempts, expected 1 to"),
        (lambda lab: lab.arm("w", "c", attempts=2**40 + 1), "1099511627777 attempts"),
        (lambda lab: lab.arm("w", "c", timeout_ns=0), "expected a timeout of at least 1 ns"),
        (lambda lab: lab.arm("w", "c", start_in_ns=-1), "start that is not in the past"),
        (lambda lab: lab.arm("w" * 161, "c"), "window id is longer"),
    ],
)
def test_instruction_that_cannot_be_done_fails_with_the_reason(lab: LabFactory, make: Any, text: str) -> None:
    here = lab()
    assert text in failure(here, "alice", here.initialise("s"), make(here))
    assert here.held("alice") == {"s"}
    assert here.world.next_deadline_ns() is None


def test_station_and_strangers_have_no_qubits(lab: LabFactory) -> None:
    here = lab()
    assert failure(here, "station", here.initialise("c")) == "station has no qubit 'c'"
    assert "arms without a qubit" in failure(here, "station", here.arm("w", "c"))
    assert failure(here, "mallory", here.initialise("c")) == "there is no node 'mallory' in this world"
    assert here.world.qubits(NodeId("mallory")) == ()
    assert here.world.links(NodeId("mallory")) == ()
    assert here.held("mallory") == set()


def test_failure_text_is_bounded(lab: LabFactory) -> None:
    here = lab()
    assert len(failure(here, "alice", here.measure("q" * 10_000))) == MAX_TEXT_CHARS
    completions = here.run("alice", here.initialise("s"))
    too_long = [here.discard("s")] * (MAX_BATCH_INSTRUCTIONS + 1)
    (completed,) = here.submit("alice", *too_long)
    assert completed.completions[0] == Failed(text="the batch is too long")
    assert here.held("alice") == {"s"}
    assert completions == (Done(),)


def test_gate_that_would_entangle_too_many_qubits_fails(lab: LabFactory) -> None:
    here = lab(group_qubits=2)
    here.run("alice", *(here.initialise(qubit) for qubit in ("s", "s2", "c")), here.gate(Gate.CX, "s", "s2"))
    assert "3 qubits would become entangled" in failure(here, "alice", here.gate(Gate.CX, "s", "c"))


def test_armed_qubit_can_not_be_touched_until_its_window_has_ended(lab: LabFactory) -> None:
    here = lab()
    assert here.submit("alice", here.arm("w", "c")) == []
    assert here.held("alice") == {"c"}
    for instruction in (
        here.initialise("c"),
        here.gate(Gate.H, "c"),
        here.measure("c"),
        here.discard("c"),
        here.arm("w2", "c"),
    ):
        assert failure(here, "alice", instruction) == "qubit 'c' is armed for window 'w'"
    here.submit("alice", here.cancel("w"))
    assert here.run("alice", here.discard("c")) == (Done(),)


# -- holding ----------------------------------------------------------------------------------------------------------


def test_discard_of_a_free_qubit_is_no_error(lab: LabFactory) -> None:
    here = lab()
    assert here.run("alice", here.discard("s"), here.discard("s")) == (Done(), Done())


def test_initialise_of_a_held_qubit_resets_it_and_leaves_its_partner_mixed(lab: LabFactory) -> None:
    here = lab()
    here.run(
        "alice",
        *(here.initialise(qubit) for qubit in ("s", "c")),
        here.gate(Gate.H, "s"),
        here.gate(Gate.CX, "s", "c"),
        here.initialise("s"),
    )
    expected = np.kron(np.diag([1, 0]), np.eye(2) / 2)
    np.testing.assert_allclose(here.inspect(("alice", "s"), ("alice", "c")), expected, atol=1e-12)


def test_release_all_frees_the_qubits_of_that_node_only(lab: LabFactory) -> None:
    here = lab()
    here.arm_all("w")
    here.run("alice", here.initialise("s"))
    here.world.release_all(ALICE, here.now_ns)
    assert here.held("alice") == set()
    assert here.held("bob") == {"c"}
    np.testing.assert_allclose(here.inspect(("bob", "c")), np.eye(2) / 2, atol=1e-12)
    here.world.release_all(NodeId("mallory"), here.now_ns)


def test_release_all_forgets_what_was_completed_for_that_node(lab: LabFactory) -> None:
    here = lab()
    here.world.submit(ALICE, 1, [Initialise(qubit=QubitName("s"))], here.now_ns)
    here.world.submit(BOB, 2, [Initialise(qubit=QubitName("s"))], here.now_ns)
    here.world.release_all(ALICE, here.now_ns)
    assert [completed.node for completed in here.world.take_completions()] == [BOB]


def test_qubits_and_links_tell_what_a_node_has(lab: LabFactory) -> None:
    here = lab(period_ns=1_000, probability=0.25, werner=0.9, time_scale=4.0)
    kinds = {str(info.name): info.kind for info in here.world.qubits(ALICE)}
    assert kinds["c"] is QubitKind.COMMUNICATION
    assert kinds["r2"] is QubitKind.REFERENCE
    (link,) = here.world.links(ALICE)
    assert (link.link_id, link.ends, link.station, link.is_station) == ("link", (ALICE, BOB), STATION, False)
    assert (link.attempt_period_ns, link.success_probability) == (250, 0.25)
    assert link.fidelity_ratio == pytest.approx(0.9)
    (link,) = here.world.links(STATION)
    assert link.is_station


@pytest.mark.parametrize("wrong", [[], [("alice", "s2")], [("alice", "q")], [("eve", "s")], [("alice", "s")] * 2])
def test_inspect_of_what_is_not_there_raises(lab: LabFactory, wrong: list[tuple[str, str]]) -> None:
    here = lab()
    here.run("alice", here.initialise("s"))
    with pytest.raises(BackendError):
        here.inspect(*wrong)


# -- noise and time ---------------------------------------------------------------------------------------------------


def test_qubit_decays_by_t1_and_t2_in_world_time(lab: LabFactory) -> None:
    here = lab(storage={"t1": (2, "ms"), "t2": (1, "ms")}, time_scale=10.0)
    here.run("alice", here.initialise("s"), here.gate(Gate.H, "s"), here.initialise("s2"), here.gate(Gate.X, "s2"))
    here.wait(30_000)
    here.inspect(("alice", "s"))
    here.wait(20_000)
    elapsed_ns = 50_000 * 10
    state = here.inspect(("alice", "s"))
    assert state[0, 1].real == pytest.approx(math.exp(-elapsed_ns / 1e6) / 2)
    assert state[1, 1].real == pytest.approx(math.exp(-elapsed_ns / 2e6) / 2)
    assert here.inspect(("alice", "s2"))[1, 1].real == pytest.approx(math.exp(-elapsed_ns / 2e6))


def test_heralded_pair_decays_from_the_moment_of_its_success(lab: LabFactory) -> None:
    here = lab(communication={"t1": (math.inf, "s"), "t2": (1, "ms")}, period_ns=100_000, probability=1.0)
    here.arm_all("w")
    here.wait(400_000)
    overlap = here.inspect(("alice", "c"), ("bob", "c"))[1, 2].real
    assert abs(overlap) == pytest.approx(math.exp(-2 * 0.3) / 2)


def test_gates_depolarise_by_their_average_fidelity(lab: LabFactory) -> None:
    qubit = {"one_qubit_gate_fidelity": (0.99, "1"), "two_qubit_gate_fidelity": (0.97, "1")}
    here = lab(storage=qubit, communication={"two_qubit_gate_fidelity": (0.94, "1")})
    here.run("alice", *(here.initialise(name) for name in ("s", "s2", "c")), here.gate(Gate.X, "s"))
    assert here.inspect(("alice", "s"))[1, 1].real == pytest.approx(0.99)
    here.run("alice", here.initialise("s"), here.gate(Gate.CZ, "s", "s2"))
    assert here.inspect(("alice", "s"), ("alice", "s2"))[0, 0].real == pytest.approx(0.97)
    here.run("alice", here.initialise("s"), here.gate(Gate.CZ, "c", "s"))
    assert here.inspect(("alice", "s"), ("alice", "c"))[0, 0].real == pytest.approx(0.94)


def test_gate_on_a_reference_is_noiseless_and_a_reference_never_decays(lab: LabFactory) -> None:
    bad = {"t1": (1, "us"), "t2": (1, "us"), "two_qubit_gate_fidelity": (0.5, "1"), "readout_error": (0.5, "1")}
    here = lab(storage={**bad, "t1": (math.inf, "s"), "t2": (math.inf, "s")}, communication=bad, crosstalk=0.5)
    here.run(
        "alice",
        *(here.initialise(qubit) for qubit in ("r", "r2", "s")),
        here.gate(Gate.H, "r"),
        here.gate(Gate.CX, "r", "s"),
        here.gate(Gate.CX, "r", "r2"),
    )
    here.wait(10**9)
    assert here.inspect(("alice", "r"), ("alice", "s"), ("alice", "r2"))[0, 7].real == pytest.approx(0.5)
    first, second = here.run("alice", here.measure("r"), here.measure("r2"))
    assert first == second


def test_initialise_and_readout_err_with_their_probability(lab: LabFactory) -> None:
    here = lab(storage={"initialise_error": (0.02, "1"), "readout_error": (0.1, "1")})
    here.run("alice", here.initialise("s"))
    assert here.inspect(("alice", "s"))[1, 1].real == pytest.approx(0.02)
    shots, expected = 4_000, 0.02 * 0.9 + 0.98 * 0.1
    ones = 0
    for _ in range(shots):
        _, measured = here.run("alice", here.initialise("s"), here.measure("s"))
        assert isinstance(measured, Measured)
        ones += measured.bit
    assert abs(ones / shots - expected) < 3 * math.sqrt(expected * (1 - expected) / shots)


def test_measuring_a_communication_qubit_disturbs_held_storage_of_that_node_only(lab: LabFactory) -> None:
    here = lab(crosstalk=0.1)
    for node in ("alice", "bob"):
        here.run(node, *(here.initialise(qubit) for qubit in ("s", "c", "c2", "r")))
    here.bit("alice", "s")
    assert here.inspect(("alice", "s"))[0, 0].real == pytest.approx(1)
    here.bit("alice", "c")
    assert here.inspect(("alice", "s"))[0, 0].real == pytest.approx(0.95)
    for untouched in (("alice", "c2"), ("alice", "r"), ("bob", "s")):
        assert here.inspect(untouched)[0, 0].real == pytest.approx(1)
    assert here.held("alice") == {"s", "c", "c2", "r"}


def test_clock_that_goes_back_is_held(lab: LabFactory) -> None:
    here = lab(storage={"t1": (math.inf, "s"), "t2": (1, "ms")})
    here.run("alice", here.initialise("s"), here.gate(Gate.H, "s"))
    here.wait(1_000_000)
    here.now_ns -= 900_000
    assert here.inspect(("alice", "s"))[0, 1].real == pytest.approx(math.exp(-1) / 2)


def test_world_of_the_same_seed_repeats_itself(lab: LabFactory) -> None:
    def history(seed: int) -> list[object]:
        here = lab(seed=seed, heralds=["phi+", "phi-", "psi+", "psi-"], probability=0.3)
        told: list[object] = []
        for number in range(20):
            told.append(here.arm_all(f"w{number}", attempts=5))
            told.append(here.bit("alice", "c"))
        return told

    assert history(5) == history(5)
    assert history(5) != history(6)


# -- topology ---------------------------------------------------------------------------------------------------------

QUBITS = {QubitName("c"): QubitKind.COMMUNICATION}
NODES = [WorldNode(node=node, model="ideal", qubits=QUBITS) for node in (ALICE, BOB)]


def link(**changes: Any) -> WorldLink:
    fields = {"link_id": LinkId("link"), "ends": (ALICE, BOB), "station": STATION, "model": "ideal"}
    return WorldLink(**{**fields, **changes})


@pytest.mark.parametrize(
    ("nodes", "links", "text"),
    [
        ([*NODES, NODES[0]], [], "node alice: there are two of that name"),
        (
            [WorldNode(node=ALICE, model="x", qubits=QUBITS)],
            [],
            "node alice: preset 'ideal' has no model 'x', it has",
        ),
        (NODES, [link(model="x")], "link link: preset 'ideal' has no model 'x'"),
        (NODES, [link(), link()], "link link: there are two of that id"),
        (NODES, [link(ends=(ALICE, NodeId("eve")))], "its end 'eve' is not a node"),
        ([NODES[0], WorldNode(node=BOB, model="ideal", qubits={})], [link()], "'bob' has no communication qubit"),
        ([*NODES, WorldNode(node=STATION, model="ideal", qubits=QUBITS)], [link()], "'station' is a node with qubits"),
        (NODES, [link(station=ALICE)], "model 'ideal' needs a station between its ends, not 'alice'"),
    ],
)
def test_world_of_a_wrong_topology_is_refused(nodes: list[WorldNode], links: list[WorldLink], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        World(preset=load_preset("ideal"), nodes=nodes, links=links, seed=1, start_ns=0)
    assert text in str(caught.value)


@pytest.mark.parametrize("time_scale", [0.0, -1.0, math.inf, math.nan])
def test_world_of_an_impossible_time_scale_is_refused(time_scale: float) -> None:
    with pytest.raises(ConfigError, match="time scale"):
        World(preset=load_preset("ideal"), nodes=NODES, links=[], seed=1, start_ns=0, time_scale=time_scale)


@pytest.mark.parametrize(
    "make",
    [
        lambda: WorldNode(node=NodeId("a b"), model="ideal", qubits={}),
        lambda: WorldNode(node=ALICE, model="ideal", qubits={QubitName(""): QubitKind.STORAGE}),
        lambda: WorldNode(node=ALICE, model="x", qubits={QubitName(str(n)): QubitKind.STORAGE for n in range(300)}),
        lambda: link(ends=(BOB, BOB)),
        lambda: link(link_id=LinkId("")),
    ],
)
def test_topology_part_that_is_wrong_is_refused_where_it_is_made(make: Any) -> None:
    with pytest.raises(ConfigError):
        make()


def test_link_from_phi_plus_herald_is_in_that_frame(lab: LabFactory) -> None:
    here = lab(heralds=["phi+", "phi-", "psi+", "psi-"], seed=3)
    seen = set()
    for number in range(40):
        herald = here.arm_all(f"w{number}")["station"].bell_state
        assert herald is not None
        seen.add(herald)
        pair = here.inspect(("alice", "c"), ("bob", "c"))
        np.testing.assert_allclose(pair, bell_density_matrix(herald), atol=1e-12)
        np.testing.assert_allclose(shift_frame(pair, herald, herald), pair, atol=1e-12)
    assert len(seen) == 4


def test_cancel_and_discard_of_unknown_things_answer(lab: LabFactory) -> None:
    here = lab()
    assert here.run("alice", Cancel(window_id=here.cancel("nothing").window_id)) == (Done(),)
    assert here.run("alice", Discard(qubit=QubitName("s"))) == (Done(),)
