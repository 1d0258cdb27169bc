"""The bridge between brokers, without any network: what it knows, carries, and forgets (spec 1 §2.8)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
from bridged import ALICE, BOB, CAROL, RATE, Local, Net

from bellwire.broker.bridge import ANSWERS_PER_BEAT, BEAT_NS, MAX_BROKERS, SILENCE_NS
from bellwire.broker.bridge_wire import (
    MAX_ENTRIES,
    MAX_ENVELOPE_BYTES,
    TOKEN_BYTES,
    AnyBody,
    Entries,
    Entry,
    Header,
    Missed,
    Packet,
)
from bellwire.protocols.errors import ErrorCode
from bellwire.protocols.ids import NodeId
from bellwire.protocols.messages import Role
from bellwire.transport.connection import PATIENCE_MS


def test_spec_has_the_bodies_and_bounds_of_the_code() -> None:
    """Spec 1 §2.8."""
    text = (Path(__file__).resolve().parents[3] / "protocols" / "spec" / "1-core-and-session.md").read_text()
    section = text[text.index("### 2.8") : text.index("## 3 Messages")]
    rows = {
        cells[1].strip(" `"): cells[2] for cells in (row.split("|") for row in section.splitlines()) if len(cells) > 3
    }
    for kind in get_args(AnyBody):
        given = set(re.findall(r"`(\w+)`", rows[kind.__struct_config__.tag]))
        inner = set(Entry.__struct_fields__) if kind is Entries else set()
        assert given == set(kind.__struct_fields__) | inner
    for said in (
        f"at most {MAX_ENVELOPE_BYTES} octets",
        f"*token* is {TOKEN_BYTES}",
        f"not more than {ANSWERS_PER_BEAT} times per beat",
        f"silent for {SILENCE_NS // BEAT_NS} s",
        f"no connection for {2 * PATIENCE_MS / 1_000:g} s",
    ):
        assert said in section, said
    assert BEAT_NS == 1_000_000_000


def test_message_for_a_participant_of_another_site_is_handed_over_there(net: Net, sites: tuple[Local, Local]) -> None:
    north, south = sites
    assert north.bridge.forward(ALICE, BOB, b"hello") is None
    net.run()
    assert south.taken == [(ALICE, BOB, b"hello")]
    site, entry = north.bridge.find(BOB) or pytest.fail("bob is not known")
    assert (site, entry.role, entry.public_key) == ("south", Role.AGENT, b"k" * 32)


def test_nothing_that_is_relayed_can_be_read_on_the_way(net: Net, sites: tuple[Local, Local]) -> None:
    sites[0].bridge.forward(ALICE, BOB, b"a very private message")
    net.run()
    assert not any(word in data for _, data in net.carried for word in (b"private", b"alice", b"bob"))


def test_participant_that_comes_and_goes_is_known_and_forgotten(net: Net, sites: tuple[Local, Local]) -> None:
    north, south = sites
    south.bind(CAROL)
    assert north.bridge.forward(ALICE, CAROL, b"") is None
    south.unbind(CAROL)
    assert north.bridge.forward(ALICE, CAROL, b"") is ErrorCode.NO_ROUTE


def test_site_that_dies_is_forgotten_after_its_silence(net: Net, sites: tuple[Local, Local]) -> None:
    north, south = sites
    net.kill(south)
    net.beat(SILENCE_NS // BEAT_NS - 1)
    assert north.bridge.find(BOB) is not None
    net.beat(1)
    assert north.bridge.find(BOB) is None
    assert north.bridge.forward(ALICE, BOB, b"") is ErrorCode.NO_ROUTE


def test_site_that_says_goodbye_is_forgotten_at_once(net: Net, sites: tuple[Local, Local]) -> None:
    north, south = sites
    south.bridge.close()
    net.run()
    assert north.bridge.find(BOB) is None


def test_site_without_a_carrier_is_forgotten_at_once_and_found_again(net: Net, sites: tuple[Local, Local]) -> None:
    north, _ = sites
    north.bridge.lose_site("south", "no carrier")
    assert north.bridge.forward(ALICE, BOB, b"") is ErrorCode.NO_ROUTE
    net.beat(2)
    assert north.bridge.forward(ALICE, BOB, b"") is None


def test_own_pause_loses_nobody(net: Net, sites: tuple[Local, Local]) -> None:
    north, _ = sites
    net.now_ns += 10 * SILENCE_NS
    north.bridge.tick(net.now_ns)
    assert north.bridge.find(BOB) is not None


def test_site_whose_key_is_taken_away_is_lost_with_the_next_beat(net: Net, sites: tuple[Local, Local]) -> None:
    north, south = sites
    north.seals.know({"north": net.keys["north"][0]})
    net.beat()
    assert north.bridge.find(BOB) is None
    south.bridge.forward(BOB, ALICE, b"")
    net.run()
    assert north.taken == []


def test_entries_that_were_lost_on_the_way_are_asked_for(net: Net, sites: tuple[Local, Local]) -> None:
    north, south = sites
    net.drop = lambda _: True
    south.bind(CAROL)
    net.drop = lambda _: False
    south.bind(NodeId("dave"))
    assert north.bridge.find(CAROL) is None
    net.beat()
    assert north.bridge.find(CAROL) is not None
    assert north.bridge.find(NodeId("dave")) is not None


def test_directory_of_many_comes_in_parts(net: Net, sites: tuple[Local, Local]) -> None:
    north, south = sites
    names = [NodeId(f"node{number}") for number in range(2 * MAX_ENTRIES + 1)]
    for name in names:
        south.bridge.bound(Entry(name=name, role=Role.AGENT))
    net.run()
    north.bridge.lose_site("south", "to begin anew")
    net.beat(2)
    assert all(north.bridge.find(name) for name in (*names, BOB))


# Loops, bounds and what cannot be delivered.


def test_message_for_somebody_who_has_left_does_not_go_on_but_back(net: Net, sites: tuple[Local, Local]) -> None:
    """West has not told of it yet: two envelopes are all that comes of it, and its sender is told."""
    north, _ = sites
    west = net.add("west")
    west.bind(CAROL)
    net.beat(2)
    west.members.clear()
    before = len(net.carried)
    assert north.bridge.forward(ALICE, CAROL, b"") is None
    net.run()
    assert north.missed == [(ALICE, CAROL, ErrorCode.NO_ROUTE)]
    assert len(net.carried) == before + 2


def test_site_cannot_say_of_others_participants_that_they_are_not_there(net: Net, sites: tuple[Local, Local]) -> None:
    """South says it of Carol, who is at north as Alice is, of nobody, and of Bob, who is its own."""
    north, south = sites
    north.bind(CAROL)
    header = Header(network="net", site="south", broker=south.bridge.token, to_site="north", to=north.bridge.token)
    for number, name in enumerate((CAROL, NodeId("nobody"), BOB)):
        body = Missed(sender=ALICE, receiver=name, code=ErrorCode.NO_ROUTE)
        north.bridge.receive(south.seals.seal(header, Packet(number=10**6 + number, body=body)), net.now_ns)
    assert north.missed == [(ALICE, BOB, ErrorCode.NO_ROUTE)]


def test_receiver_that_takes_no_more_is_told_to_the_sender(net: Net, sites: tuple[Local, Local]) -> None:
    north, south = sites
    south.handed = ErrorCode.LIMIT
    north.bridge.forward(ALICE, BOB, b"")
    net.run()
    assert north.missed == [(ALICE, BOB, ErrorCode.LIMIT)]


def test_site_over_its_rate_is_limited_and_others_are_not(net: Net, sites: tuple[Local, Local]) -> None:
    north, south = sites
    west = net.add("west")
    west.bind(CAROL)
    net.beat(2)
    for _ in range(RATE):
        north.bridge.forward(ALICE, BOB, b"")
    west.bridge.forward(CAROL, BOB, b"")
    net.run()
    assert len([each for each in south.taken if each[0] == ALICE]) == RATE // 10
    assert len([each for each in south.taken if each[0] == CAROL]) == 1
    assert south.bridge.counters.hasty == RATE - RATE // 10
    assert set(north.missed) == {(ALICE, BOB, ErrorCode.LIMIT)}


def test_carrier_that_is_full_is_told_to_the_sender(net: Net, sites: tuple[Local, Local]) -> None:
    north, _ = sites
    net.full = True
    assert north.bridge.forward(ALICE, BOB, b"") is ErrorCode.LIMIT


def test_site_has_only_so_many_brokers(net: Net, sites: tuple[Local, Local]) -> None:
    north, _ = sites
    for number in range(MAX_BROKERS + 3):
        net.add(f"more{number}", "south")
    net.beat(2)
    assert len(north.bridge.peers) == MAX_BROKERS


# A hot standby: two brokers of one site.


def test_participant_that_moves_to_the_standby_is_reached_there(net: Net, sites: tuple[Local, Local]) -> None:
    """The broker that it left is alive, and lets go of it though it has heard no goodbye."""
    north, south = sites
    standby = net.add("standby", "south")
    net.beat(2)
    standby.bind(BOB)
    assert south.members == set()
    assert north.bridge.forward(ALICE, BOB, b"there") is None
    net.run()
    assert (south.taken, standby.taken) == ([], [(ALICE, BOB, b"there")])
    standby.bridge.forward(BOB, ALICE, b"and back")
    net.run()
    assert north.taken == [(BOB, ALICE, b"and back")]
    south.bind(BOB)
    assert standby.members == set()


def test_death_of_the_former_broker_takes_nothing_from_the_standby(net: Net, sites: tuple[Local, Local]) -> None:
    north, south = sites
    standby = net.add("standby", "south")
    net.beat(2)
    net.kill(south)
    standby.bind(BOB)
    assert north.bridge.forward(ALICE, BOB, b"there") is None
    net.run()
    assert standby.taken == [(ALICE, BOB, b"there")]
    net.beat(SILENCE_NS // BEAT_NS + 1)
    assert north.bridge.find(BOB) is not None
