"""A station whose detectors serve many links in turn, by a switch (spec 2 §3.6)."""

from __future__ import annotations

import pytest
from scene import Tap, leaks, leave

from bellwire.protocols.detectors import StationSettings
from bellwire.protocols.errors import ErrorCode
from bellwire.protocols.events import Event
from bellwire.protocols.ids import CreateId, LinkId, NodeId, WindowId
from bellwire.protocols.instructions import Arm
from bellwire.protocols.messages import HeraldClose, HeraldOpen, HeraldReady, HeraldWait, LinkCreate, SessionAck
from bellwire.protocols.node import Batch
from bellwire.sim.preset import load_preset
from bellwire.sim.virtual import SECOND_NS, VirtualLink, VirtualNode, VirtualTestbed
from bellwire.sim.world import BatchCompleted
from bellwire.simnet.fabric import Rule

HUB, CENTRE = NodeId("hub"), NodeId("n0")
RAYS = [NodeId(f"n{number}") for number in range(1, 5)]
SWITCH_NS = 400_000


class Turns:
    """Which windows the station's hardware had, from when to when; and that it never had more than it can."""

    def __init__(self, sets: int) -> None:
        self.sets = sets
        self.links: list[LinkId] = []
        self.switched_ns: list[int] = []
        self.failed: list[str] = []
        self.noted_names: set[str] = set()
        self._open: set[int] = set()

    def attached(self, bed: VirtualTestbed) -> None: ...

    def submitted(self, name: NodeId, batch: Batch) -> None:
        for each in batch.instructions:
            if name == HUB and isinstance(each, Arm):
                self.links.append(each.link_id)
                self.switched_ns.append(each.start_in_ns)
                self._open.add(batch.number)
                assert len(self._open) <= self.sets

    def completed(self, name: NodeId, batch: BatchCompleted) -> None:
        if name == HUB:
            self._open.discard(batch.batch_id)
        self.failed += [str(each) for each in batch.completions if type(each).__name__ == "Failed"]

    def noted(self, name: NodeId, event: Event) -> None:
        self.noted_names.add(event.name)

    def released(self, name: NodeId) -> None:
        if name == HUB:
            self._open.clear()


def star(turns: Turns, *, rules: list[Rule] | None = None, communication: int = 8) -> VirtualTestbed:
    """Four nodes around a fifth, all links through one station; every ray is the primary end of its link."""
    node = VirtualNode(communication=communication, storage=1)
    return VirtualTestbed(
        preset=load_preset("ideal"),
        nodes=dict.fromkeys([CENTRE, *RAYS], node),
        links=[
            VirtualLink(
                link_id=LinkId(f"to-{ray}"),
                ends=(ray, CENTRE),
                station=HUB,
                model="lossy",
                attempts=64,
                shared_detectors=True,
            )
            for ray in RAYS
        ],
        stations={HUB: StationSettings(sets=turns.sets, switch_ns=SWITCH_NS)},
        seed=41,
        rules=rules or [],
        watchers=[turns],
    )


@pytest.mark.parametrize("sets", [1, 2])
def test_links_of_a_star_take_turns_and_all_are_served(sets: int) -> None:
    turns, told = Turns(sets), Tap((HeraldWait, HeraldReady))
    bed = star(turns, rules=[told.rule()])
    application = bed.application()
    for ray in RAYS:
        application.send(ray, LinkCreate(peer=CENTRE, number=2, max_time_ns=20 * SECOND_NS))
    bed.net.run_until(lambda: len(application.oks) == 2 * 2 * len(RAYS), limit_ns=20 * SECOND_NS)
    assert application.errors == []
    assert turns.failed == []
    assert set(turns.links) == {LinkId(f"to-{ray}") for ray in RAYS}
    assert SWITCH_NS in turns.switched_ns
    waits = [message for sender, message in told.seen if isinstance(message, HeraldWait) and sender == HUB]
    assert waits
    assert all(message.ahead >= sets for message in waits)
    ready = [message for sender, message in told.seen if isinstance(message, HeraldReady)]
    assert {message.start_ns is None for message in ready} == {True, False}
    assert turns.noted_names >= {"WindowWaits", "WindowStarts"}
    leave(application, bed)
    assert leaks(bed, [CENTRE, *RAYS]) == []
    assert bed.stations[HUB].station.detectors.waiting == 0


def test_links_of_a_star_with_one_qubit_in_the_middle_do_not_wait_for_each_other_in_a_circle() -> None:
    """Who waits for detectors holds both qubits: the station is asked last. Nothing here waits for a timeout."""
    turns = Turns(1)
    bed = star(turns, communication=1)
    application = bed.application()
    began_ns = bed.net.now_ns
    for _ in range(5):
        for ray in RAYS:
            application.send(ray, LinkCreate(peer=CENTRE, max_time_ns=20 * SECOND_NS))
    while len(application.oks) < 2 * 5 * len(RAYS):
        seen = len(application.oks)
        bed.net.run_until(lambda seen=seen: len(application.oks) > seen, limit_ns=SECOND_NS)  # type: ignore[misc]
        for node, ok in application.oks[seen:]:
            half = bed.agents[node].find_pair(ok.pair_id)
            if half is not None and half.announced:
                bed.agents[node].link_to(half.peer).pairs.release(half, "seen")
        bed.net.flush()
    assert application.errors == []
    assert bed.net.now_ns - began_ns < SECOND_NS
    leave(application, bed)
    assert leaks(bed, [CENTRE, *RAYS]) == []


def opening(name: str, *, timeout_ns: int = SECOND_NS) -> HeraldOpen:
    return HeraldOpen(
        link_id=LinkId(f"to-{name[:2]}"),
        window_id=WindowId(name),
        create_id=CreateId("c"),
        scheme="any",
        start_ns=0,  # type: ignore[arg-type]
        attempts=1,
        timeout_ns=timeout_ns,
    )


def test_window_whose_time_is_over_before_its_turn_is_refused_and_one_that_is_closed_too() -> None:
    bed = star(Turns(1))
    first, second, third = (bed.agents[ray].endpoint for ray in RAYS[:3])
    answers: dict[str, object] = {}

    def ask(endpoint, message) -> None:  # type: ignore[no-untyped-def]
        endpoint.begin(bed.net.now_ns)
        name = getattr(message, "reason", "") or message.window_id
        endpoint.ask(HUB, message, bed.net.now_ns + 5 * SECOND_NS, lambda answer: answers.setdefault(name, answer))
        bed.net.flush()
        bed.net.run_for(SECOND_NS // 100)

    ask(first, opening("n1-a", timeout_ns=3 * SECOND_NS))
    ask(second, opening("n2-b"))
    ask(third, opening("n3-c", timeout_ns=2 * SECOND_NS))
    assert list(answers) == ["n1-a"], "nobody else has armed, so that the detectors are in use"
    close = HeraldClose(link_id=LinkId("to-n3"), window_id=WindowId("n3-c"), reason="closing")
    ask(third, close)
    assert getattr(answers["n3-c"], "code", None) is ErrorCode.EXPIRE
    assert isinstance(answers["closing"], SessionAck)
    bed.net.run_for(SECOND_NS)
    assert getattr(answers["n2-b"], "code", None) is ErrorCode.NORES
    assert set(bed.stations[HUB].station.windows) == {"n1-a"}
    ask(third, HeraldClose(link_id=LinkId("to-n3"), window_id=WindowId("n3-d"), reason="closing early"))
    ask(third, opening("n3-d"))
    assert getattr(answers["n3-d"], "code", None) is ErrorCode.EXPIRE


def test_end_that_is_lost_gives_its_turn_to_the_next() -> None:
    bed = star(Turns(1))
    application = bed.application()
    bed.net.run_for(SECOND_NS)
    gone = bed.agents[RAYS[0]].endpoint
    gone.begin(bed.net.now_ns)
    gone.ask(HUB, opening("n1-a", timeout_ns=1_000 * SECOND_NS), bed.net.now_ns + 1_000 * SECOND_NS, lambda _: None)
    bed.net.flush()
    bed.net.run_for(SECOND_NS // 100)
    application.call(RAYS[1], LinkCreate(peer=CENTRE, max_time_ns=30 * SECOND_NS))
    bed.net.run_for(SECOND_NS // 2)
    assert application.oks == []
    bed.crash(RAYS[0])
    bed.net.run_until(lambda: len(application.oks) == 2, limit_ns=20 * SECOND_NS)
    assert application.errors == []


def test_station_whose_hardware_is_lost_ends_the_windows_that_wait_too() -> None:
    bed = star(Turns(1))
    application = bed.application()
    for ray in RAYS:
        application.send(ray, LinkCreate(peer=CENTRE, number=50, max_time_ns=3 * SECOND_NS))
    bed.net.run_until(lambda: bed.stations[HUB].station.detectors.waiting > 2, limit_ns=SECOND_NS)
    bed.hardware.leave(HUB)
    bed.notice_loss(HUB)
    bed.net.flush()
    station = bed.stations[HUB].station
    assert station.detectors.waiting == 0
    assert station.detectors.free
    bed.reconnect(HUB)
    bed.net.run_until(lambda: len(application.oks) > 8, limit_ns=10 * SECOND_NS)
    leave(application, bed)
    assert leaks(bed, [CENTRE, *RAYS]) == []
