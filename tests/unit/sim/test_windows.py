"""Windows of attempts: rendezvous, chances, timeouts, cancels (spec 2 §7)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bellwire.protocols.detectors import StationSettings
from bellwire.protocols.errors import ConfigError
from bellwire.protocols.ids import LinkId, NodeId, QubitName, WindowId
from bellwire.protocols.instructions import Arm, BellState, Discard, Done, Failed, Gate, WindowEnded
from bellwire.protocols.limits import MAX_ATTEMPTS_PER_WINDOW, MAX_TOMBSTONES
from bellwire.protocols.node import QubitKind
from bellwire.sim.preset import Preset, parse_preset
from bellwire.sim.topology import WorldLink, WorldNode
from bellwire.sim.windows import MAX_OPEN_WINDOWS_PER_LINK, first_success
from bellwire.sim.world import World

if TYPE_CHECKING:
    from tests.unit.sim.conftest import Lab, LabFactory

    from bellwire.sim.world import BatchCompleted

PARTIES = {"alice", "bob", "station"}
BURST = (
    'burst.attempts_on = { value = 400.0, unit = "ns", tag = "assumed", source = "t" }\n'
    'burst.recooling = { value = 600.0, unit = "ns", tag = "assumed", source = "t" }'
)


def refused(lab: Lab, node: str, window: str) -> str:
    """Arm where it must fail at once, and give the text."""
    (failed,) = lab.run(node, lab.arm(window, None if node == "station" else "c2"))
    assert isinstance(failed, Failed)
    return failed.text


# -- rendezvous and success -------------------------------------------------------------------------------------------


def test_window_of_certain_success_completes_within_the_last_submit(lab: LabFactory) -> None:
    here = lab()
    ends = here.arm_all("w")
    assert set(ends) == PARTIES
    assert {end.attempts for end in ends.values()} == {1}
    assert ends["alice"].bell_state is None
    assert ends["bob"].bell_state is None
    assert ends["station"].bell_state in (BellState.PSI_PLUS, BellState.PSI_MINUS)
    assert here.held("alice") == here.held("bob") == {"c"}
    assert here.world.next_deadline_ns() is None


@pytest.mark.parametrize("order", [("alice", "station", "bob"), ("station", "bob", "alice")])
def test_window_begins_in_whatever_order_its_parties_arm(lab: LabFactory, order: tuple[str, ...]) -> None:
    here = lab()
    completed: list[BatchCompleted] = []
    for node in order:
        assert completed == []
        completed = here.submit(node, here.arm("w", None if node == "station" else "c"))
    assert set(here.ends(completed)) == PARTIES


def test_window_answers_the_instructions_before_its_arm_too(lab: LabFactory) -> None:
    here = lab()
    assert here.submit("alice", here.initialise("s"), here.gate(Gate.H, "s"), here.arm("w", "c")) == []
    alice = here.batches
    here.submit("bob", here.arm("w", "c"))
    (first, *_) = here.submit("station", here.arm("w", None))
    assert (first.node, first.batch_id) == ("alice", alice)
    assert first.completions[:2] == (Done(), Done())
    assert isinstance(first.completions[2], WindowEnded)


def test_window_begins_at_the_latest_start_and_tries_the_fewest_attempts(lab: LabFactory) -> None:
    here = lab(period_ns=100.0, probability=0.0)
    here.submit("alice", here.arm("w", "c", attempts=7, start_in_ns=500))
    here.wait(200)
    here.submit("bob", here.arm("w", "c", attempts=5, start_in_ns=100))
    here.submit("station", here.arm("w", None, attempts=9))
    assert here.world.next_deadline_ns() == 1_000 + 500 + 5 * 100
    assert here.wait(799) == []
    ends = here.ends(here.wait(1))
    assert set(ends) == PARTIES
    assert {(end.attempts, end.bell_state) for end in ends.values()} == {(5, None)}


def test_window_times_scale_with_the_world_and_pause_for_recooling(lab: LabFactory) -> None:
    here = lab(period_ns=100.0, probability=0.0, link=BURST, time_scale=3.0)
    here.arm_all("w", attempts=10)
    world_ns = 10 * 100 + 2 * 600
    assert here.world.next_deadline_ns() == 1_000 + math.ceil(world_ns / 3)


def test_window_that_is_due_ends_in_a_late_submit_of_anyone(lab: LabFactory) -> None:
    here = lab(period_ns=100.0)
    here.arm_all("w")
    here.now_ns += 1_000
    completed = here.submit("bob", here.measure("c"))
    assert [batch.node for batch in completed] == ["alice", "bob", "station", "bob"]


def test_windows_of_two_links_of_one_node_are_apart(lab: LabFactory) -> None:
    here = lab(period_ns=100.0)
    for qubit, window in (("c", "w1"), ("c2", "w2")):
        here.submit("alice", here.arm(window, qubit))
        here.submit("bob", here.arm(window, qubit))
        here.submit("station", here.arm(window, None))
        here.now_ns += 10
    assert {end.window_id for end in here.ends(here.wait(80)).values()} == {"w1"}
    assert {end.window_id for end in here.ends(here.wait(10)).values()} == {"w2"}
    state = here.inspect(("alice", "c"), ("bob", "c"), ("alice", "c2"), ("bob", "c2"))
    assert np.trace(state @ state).real == pytest.approx(1)


def test_failed_attempts_leave_nothing_known_of_the_qubits(lab: LabFactory) -> None:
    here = lab(probability=0.0)
    here.run("alice", here.initialise("c"))
    ends = here.arm_all("w", attempts=3)
    assert {(end.attempts, end.bell_state) for end in ends.values()} == {(3, None)}
    for node in ("alice", "bob"):
        np.testing.assert_allclose(here.inspect((node, "c")), np.eye(2) / 2, atol=1e-12)


def test_window_takes_the_place_of_what_its_qubit_held(lab: LabFactory) -> None:
    here = lab()
    here.arm_all("w1")
    here.run("bob", here.gate(Gate.H, "c"))
    herald = here.arm_all("w2")["station"].bell_state
    state = here.inspect(("alice", "c"), ("bob", "c"))
    assert state[1, 2].real == pytest.approx(-0.5 if herald is BellState.PSI_MINUS else 0.5)


# -- chances ----------------------------------------------------------------------------------------------------------


def test_first_success_follows_the_geometric_distribution() -> None:
    rng, probability, shots = np.random.default_rng(11), 0.03, 20_000
    drawn = [first_success(probability, rng) for _ in range(shots)]
    assert min(drawn) == 1
    sigma = math.sqrt(1 - probability) / probability / math.sqrt(shots)
    assert abs(np.mean(drawn) - 1 / probability) < 3 * sigma
    for attempts in (1, 10, 50):
        expected = 1 - (1 - probability) ** attempts
        got = np.mean([draw <= attempts for draw in drawn])
        assert abs(got - expected) < 3 * math.sqrt(expected * (1 - expected) / shots)


@pytest.mark.parametrize(("probability", "expected"), [(0.0, math.inf), (1.0, 1.0)])
def test_first_success_of_certainty_is_certain(probability: float, expected: float) -> None:
    rng = np.random.default_rng(1)
    assert {first_success(probability, rng) for _ in range(100)} == {expected}


def test_first_success_of_a_tiny_probability_is_finite_or_beyond_any_window() -> None:
    rng = np.random.default_rng(1)
    assert all(first_success(5e-324, rng) > MAX_ATTEMPTS_PER_WINDOW for _ in range(100))


def test_window_over_a_poor_link_succeeds_as_often_as_it_should(lab: LabFactory) -> None:
    here = lab(probability=0.1, seed=4)
    shots, attempts = 2_000, 5
    successes, pluses = 0, 0
    for number in range(shots):
        end = here.arm_all(f"w{number}", attempts=attempts)["station"]
        assert 1 <= end.attempts <= attempts
        successes += end.bell_state is not None
        pluses += end.bell_state is BellState.PSI_PLUS
        assert end.bell_state is not None or end.attempts == attempts
    expected = 1 - 0.9**attempts
    assert abs(successes / shots - expected) < 3 * math.sqrt(expected * (1 - expected) / shots)
    assert abs(pluses / successes - 0.5) < 3 * math.sqrt(0.25 / successes)


def test_window_of_the_most_attempts_costs_no_more_than_one(lab: LabFactory) -> None:
    here = lab(period_ns=1_000.0, probability=1e-10, seed=2)
    here.arm_all("w", attempts=MAX_ATTEMPTS_PER_WINDOW, timeout_ns=2**62)
    deadline_ns = here.world.next_deadline_ns()
    assert deadline_ns is not None
    here.now_ns = deadline_ns
    end = here.ends(here.wait(0))["station"]
    assert end.bell_state is not None
    assert deadline_ns == 1_000 + end.attempts * 1_000
    assert 10**7 < end.attempts < 10**12


# -- timeouts ---------------------------------------------------------------------------------------------------------


def test_party_alone_leaves_at_its_timeout_with_no_attempts(lab: LabFactory) -> None:
    here = lab()
    here.submit("alice", here.arm("w", "c", timeout_ns=300))
    here.submit("bob", here.arm("w", "c", timeout_ns=500))
    assert here.world.next_deadline_ns() == 1_300
    assert {node: end.attempts for node, end in here.ends(here.wait(300)).items()} == {"alice": 0}
    assert here.run("alice", here.measure("c"))  # held, and no longer armed
    assert here.world.next_deadline_ns() == 1_500
    assert refused(here, "station", "w") == "window 'w' of link 'link' will not begin: alice has left it"
    assert {node: end.attempts for node, end in here.ends(here.wait(200)).items()} == {"bob": 0}
    assert here.world.next_deadline_ns() is None
    assert refused(here, "station", "w") == "window 'w' of link 'link' has ended"


def test_window_that_has_not_begun_by_a_timeout_never_begins(lab: LabFactory) -> None:
    here = lab(period_ns=10.0)
    here.submit("alice", here.arm("w", "c", start_in_ns=1_000, timeout_ns=2_000))
    here.submit("bob", here.arm("w", "c", timeout_ns=500))
    here.submit("station", here.arm("w", None, timeout_ns=2_000))
    assert set(here.ends(here.wait(500))) == {"bob"}
    assert here.wait(1_499) == []
    ends = here.ends(here.wait(1))
    assert {node: (end.attempts, end.bell_state) for node, end in ends.items()} == dict.fromkeys(
        ("alice", "station"), (0, None)
    )


def test_window_under_way_ends_for_all_at_the_first_timeout(lab: LabFactory) -> None:
    here = lab(period_ns=100.0, probability=0.0)
    here.submit("alice", here.arm("w", "c", attempts=50, timeout_ns=1_000))
    here.submit("bob", here.arm("w", "c", attempts=50, timeout_ns=750))
    here.submit("station", here.arm("w", None, attempts=50, timeout_ns=2_000))
    ends = here.ends(here.wait(750))
    assert {node: end.attempts for node, end in ends.items()} == dict.fromkeys(PARTIES, 7)
    assert here.world.next_deadline_ns() is None


def test_success_at_the_very_timeout_is_a_success(lab: LabFactory) -> None:
    here = lab(period_ns=100.0)
    here.arm_all("w", timeout_ns=100)
    ends = here.ends(here.wait(100))
    assert {end.attempts for end in ends.values()} == {1}
    assert ends["station"].bell_state is not None


# -- cancels ----------------------------------------------------------------------------------------------------------


def test_cancel_before_the_window_begins_ends_that_party_at_once(lab: LabFactory) -> None:
    here = lab(period_ns=100.0)
    here.submit("alice", here.arm("w", "c", start_in_ns=500))
    arming = here.batches
    here.submit("bob", here.arm("w", "c", timeout_ns=700))
    here.submit("station", here.arm("w", None, timeout_ns=800))
    here.wait(400)
    ended, answered = here.submit("alice", here.cancel("w"))
    assert (ended.node, ended.batch_id) == ("alice", arming)
    assert ended.completions[-1] == WindowEnded(window_id=here.cancel("w").window_id, attempts=0)
    assert answered.completions == (Done(),)
    assert set(here.ends(here.wait(300))) == {"bob"}
    assert set(here.ends(here.wait(100))) == {"station"}


def test_cancel_under_way_ends_the_window_for_all_with_the_attempt_under_way(lab: LabFactory) -> None:
    here = lab(period_ns=100.0, probability=0.0)
    here.arm_all("w", attempts=50)
    here.wait(320)
    assert here.run("bob", here.cancel("w")) == (Done(),)
    assert here.world.next_deadline_ns() == 1_400
    assert here.run("alice", here.cancel("w")) == (Done(),)
    ends = here.ends(here.wait(80))
    assert {node: (end.attempts, end.bell_state) for node, end in ends.items()} == dict.fromkeys(PARTIES, (4, None))


def test_cancel_between_two_attempts_ends_the_window_at_once(lab: LabFactory) -> None:
    here = lab(period_ns=100.0, probability=0.0, link=BURST)
    here.arm_all("w", attempts=50)
    here.wait(700)  # recooling since 400
    completed = here.submit("station", here.cancel("w"))
    ends = {batch.node: batch.completions[-1] for batch in completed[:-1]}
    assert set(ends) == PARTIES
    assert all(isinstance(end, WindowEnded) and end.attempts == 4 for end in ends.values())


def test_cancel_drops_a_success_whose_attempt_has_not_started(lab: LabFactory) -> None:
    here = lab(period_ns=100.0, probability=0.02, seed=1)
    here.arm_all("w", attempts=10_000)
    due_ns = here.world.next_deadline_ns()
    assert due_ns is not None
    assert due_ns > 1_300
    here.wait(110)
    here.run("alice", here.cancel("w"))
    ends = here.ends(here.wait(90))
    assert {(end.attempts, end.bell_state) for end in ends.values()} == {(2, None)}


def test_cancel_after_the_photon_has_left_does_not_unmake_its_success(lab: LabFactory) -> None:
    here = lab(period_ns=100.0)
    here.arm_all("w")
    here.wait(50)
    assert here.run("alice", here.cancel("w")) == (Done(),)
    ends = here.ends(here.wait(50))
    assert ends["station"].bell_state is not None
    assert {end.attempts for end in ends.values()} == {1}


def test_cancel_of_one_window_leaves_the_others(lab: LabFactory) -> None:
    here = lab()
    here.submit("alice", here.arm("w1", "c"))
    here.submit("alice", here.arm("w2", "c2"))
    assert len(here.submit("alice", here.cancel("w1"))) == 2
    assert here.submit("alice", here.cancel("w1"), here.cancel("w3"))[0].completions == (Done(), Done())
    assert here.world.next_deadline_ns() is not None


# -- release ----------------------------------------------------------------------------------------------------------


def test_release_before_the_window_begins_leaves_the_others_to_their_timeouts(lab: LabFactory) -> None:
    here = lab()
    here.submit("alice", here.arm("w", "c"))
    here.submit("bob", here.arm("w", "c", timeout_ns=500))
    here.world.release_all(NodeId("alice"), here.now_ns)
    assert here.held("alice") == set()
    assert refused(here, "alice", "w") == "alice has armed in window 'w' of link 'link' before"
    assert "alice has left it" in refused(here, "station", "w")
    ends = here.ends(here.wait(500))
    assert {node: end.attempts for node, end in ends.items()} == {"bob": 0}
    assert here.submit("alice", here.arm("w2", "c")) == []


def test_release_under_way_ends_the_window_without_a_herald_for_the_others(lab: LabFactory) -> None:
    here = lab(period_ns=100.0)
    here.arm_all("w")
    here.wait(50)
    here.world.release_all(NodeId("alice"), here.now_ns)
    assert here.world.take_completions() == []
    ends = here.ends(here.wait(50))
    assert {node: (end.attempts, end.bell_state) for node, end in ends.items()} == dict.fromkeys(
        ("bob", "station"), (1, None)
    )
    assert here.held("alice") == set()
    np.testing.assert_allclose(here.inspect(("bob", "c")), np.eye(2) / 2, atol=1e-12)


def test_release_of_the_last_party_ends_the_window(lab: LabFactory) -> None:
    here = lab()
    here.submit("alice", here.arm("w", "c"))
    here.world.release_all(NodeId("alice"), here.now_ns)
    assert here.world.next_deadline_ns() is None
    assert "has ended" in refused(here, "bob", "w")


# -- refusals and bounds ----------------------------------------------------------------------------------------------


def test_second_arm_of_a_party_in_a_window_fails(lab: LabFactory) -> None:
    here = lab()
    here.submit("alice", here.arm("w", "c"))
    assert refused(here, "alice", "w") == "alice has armed in window 'w' of link 'link' before"
    assert here.held("alice") == {"c"}


def test_arm_of_a_window_that_has_ended_fails(lab: LabFactory) -> None:
    here = lab()
    here.arm_all("w")
    for node in PARTIES:
        assert refused(here, node, "w") == "window 'w' of link 'link' has ended"


def test_open_windows_of_a_link_are_bounded(lab: LabFactory) -> None:
    here = lab()
    for number in range(MAX_OPEN_WINDOWS_PER_LINK):
        assert here.submit("station", here.arm(f"w{number}", None)) == []
    assert refused(here, "station", "more") == f"link 'link' has {MAX_OPEN_WINDOWS_PER_LINK} open windows"
    here.submit("station", here.cancel("w0"))
    assert here.submit("station", here.arm("more", None)) == []


def test_ended_windows_and_timers_are_remembered_within_bounds(lab: LabFactory) -> None:
    here = lab()
    for number in range(MAX_TOMBSTONES + 10):
        here.arm_all(f"w{number}")
    table = here.world._windows
    assert len(table._ended[LinkId("link")]) == MAX_TOMBSTONES
    assert len(table._timers) < 100
    assert len(table) == 0
    assert here.submit("alice", here.arm("w0", "c")) == []
    for number in range(1_000):
        here.submit("station", here.arm(f"v{number}", None, timeout_ns=10**15))
        here.submit("station", here.cancel(f"v{number}"))
    assert len(table._timers) < 100


# -- a station with a switch ------------------------------------------------------------------------------------------

CHAIN = [(LinkId("one"), (NodeId("alice"), NodeId("bob"))), (LinkId("two"), (NodeId("bob"), NodeId("carol")))]


class Switched:
    """Two links through a hub with one set of detectors, which takes 500 ns to be turned. Attempts take 100 ns."""

    def __init__(self, preset: Preset, time_scale: float = 1.0) -> None:
        qubits = {QubitName("c"): QubitKind.COMMUNICATION, QubitName("d"): QubitKind.COMMUNICATION}
        self.world = World(
            preset=preset,
            nodes=[WorldNode(node=NodeId(n), model="model", qubits=qubits) for n in ("alice", "bob", "carol")],
            links=[WorldLink(link_id=link, ends=ends, station=NodeId("hub"), model="model") for link, ends in CHAIN],
            stations={NodeId("hub"): StationSettings(sets=1, switch_ns=500)},
            seed=1,
            start_ns=0,
            time_scale=time_scale,
        )

    def arm(self, link: LinkId, window: str, now_ns: int, *, timeout_ns: int = 10**6) -> list[BatchCompleted]:
        """Arm all parties of a window, the hub first."""
        ends = dict(CHAIN)[link]
        qubits = {NodeId("hub"): None, ends[0]: QubitName("c"), ends[1]: QubitName("d")}
        for node, qubit in qubits.items():
            arm = Arm(window_id=WindowId(window), link_id=link, qubit=qubit, timeout_ns=timeout_ns)
            self.world.submit(node, 1, [arm], now_ns)
        return self.world.take_completions()

    def until(self, now_ns: int) -> list[BatchCompleted]:
        self.world.handle_deadline(now_ns)
        return self.world.take_completions()


@pytest.mark.parametrize("time_scale", [1.0, 2.0])
def test_station_with_a_switch_takes_its_time_to_turn_and_has_one_window_at_once(
    write_preset: Callable[..., str], time_scale: float
) -> None:
    switched = Switched(parse_preset(write_preset(period_ns=100.0), "p"), time_scale)
    turn_ns, attempt_ns = math.ceil(500 / time_scale), math.ceil(100 / time_scale)
    assert switched.arm(CHAIN[0][0], "w", 0) == []
    refused = switched.arm(CHAIN[1][0], "w", 10)
    assert [(batch.node, type(batch.completions[0])) for batch in refused] == [("hub", Failed)]
    assert "all detectors of hub are in use" in refused[0].completions[0].text  # type: ignore[union-attr]
    assert switched.until(turn_ns + attempt_ns - 1) == []
    assert {batch.node for batch in switched.until(turn_ns + attempt_ns)} == {"hub", "alice", "bob"}
    for node, qubit in (("alice", "c"), ("bob", "d")):
        switched.world.submit(NodeId(node), 2, [Discard(qubit=QubitName(qubit))], 2_000)
    switched.until(2_000)
    switched.arm(CHAIN[0][0], "again", 2_000)
    assert len(switched.until(2_000 + attempt_ns)) == 3, "it is turned to that link already"


def test_station_with_a_switch_that_restarts_has_its_detectors_again(write_preset: Callable[..., str]) -> None:
    switched = Switched(parse_preset(write_preset(period_ns=100.0), "p"))
    switched.arm(CHAIN[0][0], "w", 0)
    switched.world.release_all(NodeId("hub"), 10)
    arm = Arm(window_id=WindowId("v"), link_id=CHAIN[1][0], timeout_ns=100)
    switched.world.submit(NodeId("hub"), 2, [arm], 20)
    assert switched.world.take_completions() == []


def test_switch_at_a_station_that_is_not_there_is_refused(write_preset: Callable[..., str]) -> None:
    with pytest.raises(ConfigError, match="station 'hut' has no link"):
        World(
            preset=parse_preset(write_preset(), "p"),
            nodes=[],
            links=[],
            stations={NodeId("hut"): StationSettings(sets=1)},
            seed=1,
            start_ns=0,
        )
