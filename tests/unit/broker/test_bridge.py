"""The bridge between brokers, without any network: what it believes, what it refuses, and what it forgets (spec 1 §2.8)."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import get_args

import msgspec
import pytest
import zmq
from zmq.utils import z85

from bellwire.broker.bridge import ANSWERS_PER_BEAT, BEAT_NS, COMPLAINTS_PER_BEAT, MAX_BROKERS, SILENCE_NS, Bridge
from bellwire.broker.bridge_wire import (
    MAX_ENTRIES,
    MAX_ENVELOPE_BYTES,
    TOKEN_BYTES,
    AnyBody,
    Beat,
    Entries,
    Entry,
    Envelope,
    Header,
    Hello,
    Missed,
    Packet,
    Relayed,
    Seals,
    read,
)
from bellwire.protocols.errors import ErrorCode
from bellwire.protocols.ids import BROKER, NodeId
from bellwire.protocols.messages import Role
from bellwire.transport.connection import PATIENCE_MS

ALICE, BOB, CAROL = NodeId("alice"), NodeId("bob"), NodeId("carol")
RATE = 1_000


class Local:
    """A broker around a bridge: who is bound to it, and what reached them."""

    def __init__(self, net: Net, name: str, site: str, secret: bytes, sites: dict[str, bytes]) -> None:
        self.net, self.name = net, name
        self.members: set[NodeId] = set()
        self.authorized: set[NodeId] = set()
        self.taken: list[tuple[NodeId, NodeId, bytes]] = []
        self.missed: list[tuple[NodeId, NodeId, ErrorCode]] = []
        self.reports: list[str] = []
        self.handed: ErrorCode | None = None
        self.seals = Seals(secret)
        self.seals.know(sites)
        self.bridge = Bridge(
            network="net",
            site=site,
            token=next(net.tokens).to_bytes(TOKEN_BYTES, "big"),
            seals=self.seals,
            local=self,
            rate=RATE,
            report=self.reports.append,
        )

    def bind(self, name: NodeId) -> None:
        self.members.add(name)
        self.authorized.add(name)
        self.bridge.bound(Entry(name=name, role=Role.AGENT, public_key=b"k" * 32))
        self.net.run()

    def unbind(self, name: NodeId) -> None:
        self.members.discard(name)
        self.bridge.unbound(name)
        self.net.run()

    def publish(self, site: str, to: bytes, data: bytes) -> bool:
        if self.net.full:
            return False
        self.net.waiting.append((site, data))
        return True

    def owns(self, name: NodeId) -> bool:
        return name in self.authorized

    def hand_over(self, sender: NodeId, receiver: NodeId, data: bytes) -> ErrorCode | None:
        if receiver not in self.members:
            return ErrorCode.NO_ROUTE
        self.taken.append((sender, receiver, data))
        return self.handed

    def tell_missed(self, sender: NodeId, receiver: NodeId, code: ErrorCode) -> None:
        self.missed.append((sender, receiver, code))

    def changed(self, name: NodeId) -> None: ...

    def moved(self, name: NodeId) -> None:
        self.unbind(name)

    def forged(self, to: Local, body: Hello | Entries | Beat | Relayed, *, site: str, seals: Seals) -> bytes:
        """An envelope of somebody who says that it is this broker."""
        bridge = self.bridge
        header = Header(network="net", site=site, broker=bridge.token, to_site=to.bridge.site, to=to.bridge.token)
        return seals.seal(header, Packet(number=10**6, body=body))


class Net:
    """Brokers of sites, and what carries their envelopes to everybody: each takes what is for its site."""

    def __init__(self) -> None:
        self.tokens = count(1)
        self.now_ns = 0
        self.waiting: list[tuple[str, bytes]] = []
        self.carried: list[tuple[str, bytes]] = []
        self.brokers: list[Local] = []
        self.drop: Callable[[bytes], bool] = lambda _: False
        self.full = False
        self.keys: dict[str, tuple[bytes, bytes]] = {}

    def add(self, name: str, site: str | None = None, *, known: tuple[str, ...] = ("north", "south", "west")) -> Local:
        site = site or name
        for each in (*known, site):
            if each not in self.keys:
                public, secret = zmq.curve_keypair()
                self.keys[each] = z85.decode(public), z85.decode(secret)
        sites = {each: self.keys[each][0] for each in known}
        broker = Local(self, name, site, self.keys[site][1], sites)
        self.brokers.append(broker)
        return broker

    def run(self) -> None:
        """Carry envelopes until there are none."""
        for _ in range(10_000):
            if not self.waiting:
                return
            site, data = self.waiting.pop(0)
            self.carried.append((site, data))
            if not self.drop(data):
                for broker in list(self.brokers):
                    if broker.bridge.site == site:
                        broker.bridge.receive(data, self.now_ns)
        pytest.fail("envelopes go round in circles")

    def beat(self, number: int = 1) -> None:
        for _ in range(number):
            self.now_ns += BEAT_NS
            for broker in list(self.brokers):
                broker.bridge.tick(self.now_ns)
            self.run()

    def kill(self, broker: Local) -> None:
        self.brokers.remove(broker)


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


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.fixture
def sites(net: Net) -> tuple[Local, Local]:
    """Alice at north and Bob at south, who know of each other."""
    north, south = net.add("north"), net.add("south")
    north.bind(ALICE)
    south.bind(BOB)
    net.beat()
    assert north.bridge.find(BOB) is not None
    assert south.bridge.find(ALICE) is not None
    return north, south


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


# What is not believed.


def test_envelope_played_again_is_refused(net: Net, sites: tuple[Local, Local]) -> None:
    north, south = sites
    north.bridge.forward(ALICE, BOB, b"once")
    net.run()
    for site, data in list(net.carried):
        if site == "south":
            south.bridge.receive(data, net.now_ns)
    assert south.taken == [(ALICE, BOB, b"once")]
    assert south.bridge.counters.replayed > 0


def test_dead_site_played_again_does_not_come_to_life(net: Net, sites: tuple[Local, Local]) -> None:
    north, south = sites
    south.bridge.forward(BOB, ALICE, b"once")
    net.run()
    net.kill(south)
    recorded = [data for site, data in net.carried if site == "north"]
    net.beat(SILENCE_NS // BEAT_NS)
    assert north.bridge.find(BOB) is None
    for data in recorded:
        north.bridge.receive(data, net.now_ns)
    net.run()
    assert north.bridge.find(BOB) is None
    assert len(north.taken) == 1


def test_broker_that_restarts_does_not_take_what_was_for_the_one_before(net: Net, sites: tuple[Local, Local]) -> None:
    north, south = sites
    north.bridge.forward(ALICE, BOB, b"once")
    net.run()
    recorded = [data for site, data in net.carried if site == "south"]
    net.kill(south)
    again = net.add("south")
    again.members = {BOB}
    for data in recorded:
        again.bridge.receive(data, net.now_ns)
    net.run()
    assert again.taken == []
    assert again.bridge.find(ALICE) is not None, "north still is there, and answers the new one itself"


def test_old_hellos_are_answered_only_so_often(net: Net, sites: tuple[Local, Local]) -> None:
    north, _ = sites
    gone = net.add("gone", "south")
    net.kill(gone)
    for _ in range(3 * ANSWERS_PER_BEAT):
        gone.bridge.look_for("north")
    hellos = list(net.waiting)
    north.bridge.tick(net.now_ns)
    net.waiting.clear()
    for _, data in hellos:
        north.bridge.receive(data, net.now_ns)
    assert len(net.waiting) == ANSWERS_PER_BEAT
    assert gone.bridge.token not in north.bridge.peers


@pytest.mark.parametrize("says", ["south", "west", "nowhere"])
def test_stranger_without_a_key_is_refused(net: Net, sites: tuple[Local, Local], says: str) -> None:
    north, south = sites
    _public, secret = (z85.decode(key) for key in zmq.curve_keypair())
    seals = Seals(secret)
    seals.know({"north": net.keys["north"][0]})
    body = Relayed(sender=BOB, receiver=ALICE, message=b"forged")
    north.bridge.receive(south.forged(north, body, site=says, seals=seals), net.now_ns)
    assert north.taken == []
    assert north.bridge.counters.refused == 1


def test_header_that_was_changed_is_refused(net: Net, sites: tuple[Local, Local]) -> None:
    """The token in the header is what makes an envelope count, and the seal covers it."""
    north, south = sites
    body = Relayed(sender=BOB, receiver=ALICE, message=b"meant for somebody else")
    data = south.forged(net.add("other", "north"), body, site="south", seals=south.seals)
    header, envelope = read(data)
    changed = msgspec.structs.replace(header, to=north.bridge.token)
    head = msgspec.msgpack.encode(changed)
    north.bridge.receive(msgspec.msgpack.encode(Envelope(header=head, sealed=envelope.sealed)), net.now_ns)
    assert north.taken == []
    assert north.bridge.counters.refused == 1


def test_own_envelope_sent_back_is_not_taken(net: Net) -> None:
    """A site's brokers share their key, so a seal alone does not say which of them it was."""
    first, second = net.add("first", "north"), net.add("second", "north")
    first.bind(ALICE)
    second.bind(BOB)
    net.beat()
    first.bridge.forward(ALICE, BOB, b"once")
    net.run()
    for _, data in list(net.carried):
        first.bridge.receive(data, net.now_ns)
        second.bridge.receive(data, net.now_ns)
    assert (first.taken, len(second.taken)) == ([], 1)


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x81", b"\xc1" * 100, b"\x91" * 5_000, bytes(200_000)])
def test_what_is_no_envelope_is_refused_and_counted(net: Net, sites: tuple[Local, Local], data: bytes) -> None:
    north, _ = sites
    north.bridge.receive(data, net.now_ns)
    assert north.bridge.counters.refused == 1


def test_stranger_cannot_fill_the_log(net: Net, sites: tuple[Local, Local]) -> None:
    north, _ = sites
    before = len(north.reports)
    for number in range(100):
        north.bridge.receive(bytes([number]) * 10, net.now_ns)
    assert len(north.reports) - before <= COMPLAINTS_PER_BEAT
    assert north.bridge.counters.refused == 100


def test_every_spoilt_octet_of_an_envelope_is_noticed(net: Net, sites: tuple[Local, Local]) -> None:
    north, south = sites
    body = Relayed(sender=BOB, receiver=ALICE, message=b"spoilt")
    data = south.forged(north, body, site="south", seals=south.seals)
    for index in range(len(data)):
        north.bridge.receive(data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :], net.now_ns)
    assert north.taken == []
    north.bridge.receive(data, net.now_ns)
    assert len(north.taken) == 1


def test_site_cannot_send_in_the_name_of_another_sites_participant(net: Net, sites: tuple[Local, Local]) -> None:
    north, _ = sites
    west = net.add("west")
    west.bind(CAROL)
    net.beat(2)
    for name in (BOB, ALICE, BROKER, NodeId("nobody")):
        body = Relayed(sender=name, receiver=ALICE, message=b"forged")
        north.bridge.receive(west.forged(north, body, site="west", seals=west.seals), net.now_ns)
        west.bridge.forward(name, ALICE, b"forged")
    net.run()
    assert north.taken == []
    assert north.bridge.counters.forged > 0
    assert any("in the name of" in report for report in north.reports)


@pytest.mark.parametrize("name", [ALICE, BROKER])
def test_site_cannot_claim_who_belongs_here(net: Net, sites: tuple[Local, Local], name: NodeId) -> None:
    """Alice's key is authorized at north: she is nobody else's, whether she is connected or not."""
    north, south = sites
    north.unbind(ALICE)
    south.bridge.bound(Entry(name=name, role=Role.AGENT))
    net.run()
    assert north.bridge.find(name) is None
    assert north.bridge.counters.claims == 1


def test_name_claimed_by_two_sites_stays_with_the_first(net: Net, sites: tuple[Local, Local]) -> None:
    north, south = sites
    west = net.add("west")
    net.beat(2)
    west.bridge.bound(Entry(name=BOB, role=Role.AGENT))
    net.run()
    assert (north.bridge.find(BOB) or pytest.fail("nobody"))[0] == "south"
    west.bridge.forward(BOB, ALICE, b"forged")
    net.run()
    assert north.taken == []
    south.unbind(BOB)
    assert (north.bridge.find(BOB) or pytest.fail("nobody"))[0] == "west"


def test_broker_is_never_a_participant_of_another_site(net: Net, sites: tuple[Local, Local]) -> None:
    north, south = sites
    entries = Entries(first=True, number=1, added=(Entry(name="eve", role=Role.BROKER),))
    north.bridge.receive(south.forged(north, entries, site="south", seals=south.seals), net.now_ns)
    assert north.bridge.find(NodeId("eve")) is None


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
