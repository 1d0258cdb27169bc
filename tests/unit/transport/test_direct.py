"""What a participant sends while its path changes: when it left, and whether there was room for it (spec 1 §4.8)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from path_sides import ALICE, BOB, EPOCHS, Side
from tests.unit.transport.conftest import Keys

from bellwire.protocols import path
from bellwire.protocols.arrival import RELAY
from bellwire.protocols.codec import CODEC
from bellwire.protocols.ids import NodeId
from bellwire.protocols.messages import SessionFenced
from bellwire.protocols.path import DirectSettings
from bellwire.transport.direct import Direct


class Held:
    """Alice, whose path to Bob has just gone back to the broker: what she sends waits for his answer."""

    def __init__(self, keys: Keys) -> None:
        self.now_ns = 0
        self.relayed: list[bytes] = []
        self.side = Side(ALICE, BOB, peers=("tcp://h:1",))
        self.direct = Direct(
            self.side.paths,
            self.side.endpoint,
            keys.pair(ALICE),
            DirectSettings(),
            self._relay,
            clock=lambda: self.now_ns,
        )
        self.side.wait(0)
        self.side.paths.stands(self.side.way.dialled, 0)
        self.side.paths.broken(self.side.way.dialled, 0)
        self.side.fences()
        self.side.paths.take_instructions()

    def _relay(self, _peer: NodeId, data: bytes) -> bool:
        self.relayed.append(data)
        return True

    def answer(self) -> None:
        fenced = SessionFenced(epoch=EPOCHS[BOB], peer_epoch=EPOCHS[ALICE], number=self.side.way.number)
        self.side.paths.arrive(RELAY, BOB, CODEC.encode(fenced), self.now_ns)
        self.direct.carry()


@pytest.fixture
async def held(keys: Keys) -> AsyncIterator[Held]:
    held = Held(keys)
    yield held
    await held.direct.close()


async def test_frame_that_had_to_wait_departs_when_it_is_handed_to_the_socket(held: Held) -> None:
    """Spec 4 §3.1."""
    departure = held.side.endpoint.departures.of(b"delay_req", 0)
    held.now_ns = 100
    assert held.direct.send(BOB, b"delay_req")
    assert (held.relayed, departure.at_ns) == ([], 0)
    held.now_ns = 500
    held.answer()
    assert (held.relayed, departure.at_ns) == ([b"delay_req"], 500)
    held.now_ns = 700
    assert held.direct.send(BOB, b"another")
    assert departure.at_ns == 500


async def test_frame_for_which_there_is_no_room_is_not_said_to_be_sent(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(path, "MAX_HELD_MESSAGES", 2)
    assert [held.direct.send(BOB, data) for data in (b"1", b"2", b"3")] == [True, True, False]
    assert held.side.endpoint.counters.unkept == 1
    held.answer()
    assert held.relayed == [b"1", b"2"]
