"""A station that serves several links: no end of one of them has a say in another (spec 2 §3.1, §3.5)."""

from __future__ import annotations

import msgspec
from tests.unit.protocols.conftest import ALICE, BOB, CODEC, SECOND

from bellwire.agent.station import StationBrain
from bellwire.protocols.detectors import StationSettings
from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.errors import ErrorCode
from bellwire.protocols.ids import CreateId, Epoch, LinkId, NetworkTimeNs, NodeId, WindowId
from bellwire.protocols.instructions import Cancel, WindowEnded
from bellwire.protocols.limits import MAX_LINK_WINDOWS, MAX_STATION_WINDOWS
from bellwire.protocols.messages import (
    HeraldClose,
    HeraldOpen,
    HeraldReady,
    HeraldWait,
    Message,
    Request,
    Role,
    SessionAck,
    SessionError,
    SessionHello,
)
from bellwire.protocols.station import StationLink

CAROL, HUB, ONE = NodeId("carol"), NodeId("hub"), Epoch(1)
OURS, THEIRS = LinkId("alice-bob"), LinkId("carol-bob")


class Hub:
    """The station of two links, hand-fed with what their primaries say."""

    def __init__(self, detectors: StationSettings | None = None) -> None:
        self.number = 1
        links = [
            StationLink(link_id=OURS, primary=ALICE, secondary=BOB),
            StationLink(link_id=THEIRS, primary=CAROL, secondary=BOB),
        ]
        self.brain = StationBrain(Endpoint(HUB, Role.STATION, ONE), links, detectors)
        self.brain.node.backend_connected((), SECOND)
        for peer in (ALICE, CAROL):
            self.says(peer, SessionHello(versions=(1,), role=Role.AGENT, heartbeat_ns=SECOND))

    def says(self, peer: NodeId, message: Request) -> Message:
        self.number += 1
        stamped = msgspec.structs.replace(message, epoch=ONE, peer_epoch=ONE, request_id=self.number)
        self.brain.node.receive(peer, CODEC.encode(stamped), SECOND)
        (answer,) = [CODEC.decode(data) for to, data in self.brain.node.take_frames() if to == peer]
        return answer

    def cancels(self) -> list[WindowId]:
        batches = self.brain.node.take_batches()
        return [each.window_id for batch in batches for each in batch.instructions if isinstance(each, Cancel)]


def opening(link_id: LinkId, window_id: str) -> HeraldOpen:
    return HeraldOpen(
        link_id=link_id,
        window_id=WindowId(window_id),
        create_id=CreateId("c"),
        scheme="double-click",
        start_ns=NetworkTimeNs(SECOND),
        attempts=1,
        timeout_ns=SECOND,
    )


def test_window_of_another_link_is_not_closed_by_naming_ones_own_link() -> None:
    hub = Hub()
    assert isinstance(hub.says(CAROL, opening(THEIRS, "w")), HeraldReady)
    assert isinstance(hub.says(ALICE, HeraldClose(link_id=OURS, window_id=WindowId("w"))), SessionAck)
    assert hub.cancels() == []
    refusal = hub.says(ALICE, HeraldClose(link_id=THEIRS, window_id=WindowId("w")))
    assert isinstance(refusal, SessionError)
    assert refusal.code is ErrorCode.DENIED
    hub.says(CAROL, HeraldClose(link_id=THEIRS, window_id=WindowId("w")))
    assert hub.cancels() == ["w"]


def test_link_with_all_its_windows_open_leaves_room_for_the_others() -> None:
    """Spec 1 §3.4."""
    hub = Hub()
    for number in range(MAX_LINK_WINDOWS):
        assert isinstance(hub.says(ALICE, opening(OURS, f"w{number}")), HeraldReady)
    refusal = hub.says(ALICE, opening(OURS, "one more"))
    assert isinstance(refusal, SessionError)
    assert refusal.code is ErrorCode.NORES
    assert isinstance(hub.says(CAROL, opening(THEIRS, "w")), HeraldReady)
    assert MAX_LINK_WINDOWS < MAX_STATION_WINDOWS


def test_window_whose_turn_comes_when_the_clock_was_lost_is_refused_and_the_next_one_has_its_turn() -> None:
    """4 §3.4: who arms has to be sure of the time then, not when the window was asked for."""
    hub = Hub(StationSettings(sets=1))
    assert isinstance(hub.says(CAROL, opening(THEIRS, "first")), HeraldReady)
    assert isinstance(hub.says(ALICE, opening(OURS, "second")), HeraldWait)
    node = hub.brain.node
    (armed,) = node.take_batches()
    node.endpoint.clock.known = False
    node.complete(armed.number, (WindowEnded(window_id=WindowId("first"), attempts=1),), SECOND)
    (refusal,) = [CODEC.decode(data) for to, data in node.take_frames() if to == ALICE]
    assert isinstance(refusal, SessionError)
    assert refusal.code is ErrorCode.UNSYNCED
    node.endpoint.clock.known = True
    assert isinstance(hub.says(CAROL, opening(THEIRS, "third")), HeraldReady)
