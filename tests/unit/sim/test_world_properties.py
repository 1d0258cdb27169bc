"""Whatever three parties ask of a world, it never raises, answers every batch once, and leaks nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bellwire.protocols.ids import LinkId, NodeId, QubitName, WindowId
from bellwire.protocols.instructions import (
    Apply,
    Arm,
    BellState,
    Cancel,
    Discard,
    Done,
    Failed,
    Gate,
    Initialise,
    Measure,
    Measured,
    WindowEnded,
)

if TYPE_CHECKING:
    from tests.unit.sim.conftest import LabFactory

NODES = st.sampled_from(["alice", "bob", "station"])
NAMES = st.sampled_from([QubitName(name) for name in ("c", "c2", "s", "r", "nobody")])
WINDOWS = st.sampled_from([WindowId(f"w{number}") for number in range(6)])
INSTRUCTIONS = st.one_of(
    st.builds(Initialise, qubit=NAMES),
    st.builds(Measure, qubit=NAMES),
    st.builds(Discard, qubit=NAMES),
    st.builds(
        Apply,
        gate=st.sampled_from(Gate),
        qubits=st.lists(NAMES, min_size=1, max_size=2).map(tuple),
        angle=st.floats(width=32),
    ),
    st.builds(Cancel, window_id=WINDOWS),
)
ARMS = st.builds(
    Arm,
    window_id=WINDOWS,
    link_id=st.just(LinkId("link")),
    qubit=st.sampled_from([QubitName("c"), QubitName("c2")]),
    start_in_ns=st.sampled_from([0, 0, 0, 150]),
    attempts=st.integers(1, 20),
    timeout_ns=st.integers(1, 3_000),
)
BATCHES = st.tuples(NODES, st.lists(INSTRUCTIONS, max_size=3), st.none() | ARMS | ARMS)
STEPS = st.one_of(
    st.tuples(st.just("submit"), BATCHES),
    st.tuples(st.just("submit"), BATCHES),
    st.tuples(st.just("wait"), st.integers(0, 700)),
    st.tuples(st.just("release"), NODES),
)
ANSWERS: dict[type, tuple[type, ...]] = {
    Initialise: (Done,),
    Apply: (Done,),
    Discard: (Done,),
    Cancel: (Done,),
    Measure: (Measured,),
    Arm: (WindowEnded,),
}


def at_station(arm: Arm) -> Arm:
    return Arm(
        window_id=arm.window_id,
        link_id=arm.link_id,
        qubit=None,
        start_in_ns=arm.start_in_ns,
        attempts=arm.attempts,
        timeout_ns=arm.timeout_ns,
    )


class Ledger:
    """What was asked and not yet answered."""

    def __init__(self) -> None:
        self.open: dict[tuple[str, int], list[Any]] = {}

    def settle(self, completed: list[Any]) -> None:
        heralds: dict[WindowId, list[WindowEnded]] = {}
        for batch in completed:
            asked = self.open.pop((batch.node, batch.batch_id))
            assert len(asked) == len(batch.completions)
            failed = False
            for instruction, completion in zip(asked, batch.completions, strict=True):
                failed = failed or isinstance(completion, Failed)
                assert isinstance(completion, Failed) if failed else isinstance(completion, ANSWERS[type(instruction)])
                if isinstance(completion, WindowEnded):
                    assert completion.window_id == instruction.window_id
                    assert completion.attempts <= instruction.attempts
                    assert completion.bell_state is None or batch.node == "station"
                    heralds.setdefault(completion.window_id, []).append(completion)
        for ends in heralds.values():
            if any(end.bell_state is not None for end in ends):
                assert len(ends) == 3
                assert len({end.attempts for end in ends}) == 1


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEPS, max_size=40), st.integers(0, 1000), st.sampled_from([0.0, 100.0]))
def test_world_of_random_requests_answers_each_once_and_leaks_nothing(
    lab: LabFactory, steps: list[Any], seed: int, period_ns: float
) -> None:
    here = lab(
        seed=seed,
        heralds=[state.value for state in BellState],
        probability=0.3,
        werner=0.9,
        period_ns=period_ns,
        crosstalk=0.1,
        time_scale=1.7,
        storage={"t1": (1, "us"), "t2": (1.5, "us"), "readout_error": (0.1, "1")},
    )
    ledger = Ledger()
    for kind, what in steps:
        if kind == "submit":
            node, instructions, arm = what
            if arm is not None:
                instructions = [*instructions, at_station(arm) if node == "station" else arm]
            ledger.open[node, here.batches + 1] = instructions
            ledger.settle(here.submit(node, *instructions))
        elif kind == "wait":
            ledger.settle(here.wait(what))
        else:
            here.world.release_all(NodeId(what), here.now_ns)
            assert here.held(what) == set()
            ledger.open = {key: asked for key, asked in ledger.open.items() if key[0] != what}
            ledger.settle(here.world.take_completions())
        deadline_ns = here.world.next_deadline_ns()
        assert deadline_ns is None or deadline_ns > here.now_ns
        assert (deadline_ns is None) == (not ledger.open)
        held = [(node, name) for node in ("alice", "bob") for name in sorted(here.held(node))]
        if held:
            state = here.inspect(*held)
            assert abs(np.trace(state) - 1) < 1e-9
            assert np.linalg.eigvalsh(state)[0] > -1e-9
    ledger.settle(here.wait(10_000))
    assert ledger.open == {}
    assert here.world.next_deadline_ns() is None
    for node in ("alice", "bob"):
        here.world.release_all(NodeId(node), here.now_ns)
    assert len(here.engine) == 0
