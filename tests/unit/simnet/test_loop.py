"""Virtual time itself: clocks, stalls, frames and deadlines."""

from __future__ import annotations

import gc
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bellwire.protocols.ids import NodeId
from bellwire.simnet.clocks import SkewedClock
from bellwire.simnet.fabric import Fabric, Frame, Rule
from bellwire.simnet.loop import NEW_OBJECTS, Simnet, Stuck

A, B = NodeId("a"), NodeId("b")
MILLISECOND_NS = 1_000_000


class Peer:
    """Writes down what it is given, and when by its own clock; says what it is told to say at its deadline."""

    def __init__(self, says: list[tuple[NodeId, bytes]] | None = None, deadline_ns: int | None = None) -> None:
        self.heard: list[tuple[int, bytes]] = []
        self.woken: list[int] = []
        self._says, self._frames, self._deadline_ns = says or [], [], deadline_ns  # type: ignore[var-annotated]

    def receive(self, _peer: NodeId, data: bytes, now_ns: int) -> None:
        self.heard.append((now_ns, data))

    def next_deadline_ns(self) -> int | None:
        return self._deadline_ns

    def handle_deadline(self, now_ns: int) -> None:
        self.woken.append(now_ns)
        self._deadline_ns = None
        self._frames += self._says

    def take_frames(self) -> list[tuple[NodeId, bytes]]:
        frames, self._frames = self._frames, []
        return frames


def net_of(*rules: Rule, **clocks: SkewedClock) -> Simnet:
    skewed = {NodeId(name): clock for name, clock in clocks.items()}
    return Simnet(Fabric(Random(1), latency_ns=1_000, rules=rules), start_ns=0, clocks=skewed)


@given(
    offset_ns=st.integers(-(10**15), 10**15),
    drift_ppb=st.integers(-(10**8), 10**8),
    since_ns=st.integers(0, 10**15),
    true_ns=st.integers(0, 10**16),
)
def test_clock_is_inverted_to_the_first_moment_that_shows_a_time(
    offset_ns: int, drift_ppb: int, since_ns: int, true_ns: int
) -> None:
    clock = SkewedClock(offset_ns=offset_ns, drift_ppb=drift_ppb, since_ns=since_ns)
    local_ns = clock.local_ns(true_ns)
    first_ns = clock.true_ns(local_ns)
    assert first_ns <= true_ns
    assert clock.local_ns(first_ns) >= local_ns > clock.local_ns(first_ns - 1)


def test_clock_that_would_stand_still_is_refused() -> None:
    with pytest.raises(ValueError, match="forwards"):
        SkewedClock(drift_ppb=-1_000_000_000)


def test_deadline_comes_when_the_own_clock_shows_it() -> None:
    net = net_of(a=SkewedClock(offset_ns=500))
    peer = Peer(deadline_ns=2_000)
    net.add(A, peer)
    assert net.step()
    assert net.now_ns == 1_500
    assert peer.woken == [2_000]
    assert not net.step()


def test_stalled_peer_hears_everything_in_order_when_the_stall_is_over() -> None:
    net = net_of()
    quiet = Peer(deadline_ns=3_000)
    net.add(A, Peer([(B, b"1"), (B, b"2")], deadline_ns=1_000))
    net.add(B, quiet)
    net.stall(B, MILLISECOND_NS)
    net.run_for(2 * MILLISECOND_NS)
    assert quiet.heard == [(MILLISECOND_NS, b"1"), (MILLISECOND_NS, b"2")]
    assert quiet.woken == [MILLISECOND_NS]


def test_frame_to_a_removed_peer_is_lost_and_one_to_its_successor_is_not() -> None:
    net = net_of()
    successor = Peer()
    net.add(A, Peer([(B, b"1")], deadline_ns=1_000))
    net.add(B, Peer())
    net.step()
    net.remove(B)
    net.add(B, successor)
    net.run_for(10_000)
    assert successor.heard == [(2_000, b"1")]


def test_posted_word_is_lost_with_the_incarnation_that_it_was_for() -> None:
    net = net_of()
    heard: list[int] = []
    net.add(A, Peer())
    net.post(A, 5_000, heard.append)
    net.add(A, Peer())
    net.post(A, 6_000, heard.append)
    net.run_for(10_000)
    assert heard == [6_000]


def test_nothing_that_ever_happens_is_stuck() -> None:
    with pytest.raises(Stuck, match="1 s"):
        net_of().run_until(lambda: False, limit_ns=1_000_000_000)


def test_rule_holds_from_its_start_to_its_end_and_draws_from_its_own_chances() -> None:
    def rules() -> list[Rule]:
        return [
            Rule(loss_probability=0.5, start_ns=100, end_ns=300, random=Random(7)),
            Rule(repeat_probability=0.5, random=Random(8)),
        ]

    def fates(chosen: list[Rule]) -> list[int]:
        fabric = Fabric(Random(1), latency_ns=10, rules=chosen)
        return [len(fabric.arrivals(Frame(sender=A, receiver=B, data=b"", sent_ns=at))) for at in range(400)]

    alone = fates(rules()[:1])
    assert alone[:100] == alone[300:] == [1] * 100
    assert set(alone[100:300]) == {0, 1}
    both = fates(rules())
    assert [bool(fate) for fate in both] == [bool(fate) for fate in alone]
    assert set(both) == {0, 1, 2}


def test_frame_tells_its_type_and_junk_has_none() -> None:
    frame = Frame(sender=A, receiver=B, data=b"\x81\xa4type\xadherald.report", sent_ns=0)
    assert frame.type == "herald.report"
    assert Frame(sender=A, receiver=B, data=b"\xff", sent_ns=0).type == ""


@pytest.mark.parametrize("wrong", [{"loss_probability": 1.1}, {"delay_ns": -1}, {"delay_ns": 1, "least_delay_ns": 2}])
def test_rule_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        Rule(**wrong)  # type: ignore[arg-type]


def test_garbage_is_looked_for_less_often_while_time_passes_and_as_before_afterwards() -> None:
    net, seen = net_of(), list[int]()
    before = gc.get_threshold()
    net.at(1_000, lambda: seen.append(gc.get_threshold()[0]))
    net.run_for(2_000)
    with pytest.raises(Stuck):
        net.run_until(lambda: False, limit_ns=1)
    assert seen == [NEW_OBJECTS]
    assert gc.get_threshold() == before


def test_garbage_is_not_looked_for_when_the_caller_wants_none() -> None:
    net, seen = net_of(), list[int]()
    before = gc.get_threshold()
    gc.set_threshold(0)
    try:
        net.at(1_000, lambda: seen.append(gc.get_threshold()[0]))
        net.run_for(2_000)
    finally:
        gc.set_threshold(*before)
    assert seen == [0]
