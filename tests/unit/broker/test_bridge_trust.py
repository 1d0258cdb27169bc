"""What a bridge between brokers does not believe: replays, strangers, spoilt envelopes and claims (spec 1 §2.8)."""

from __future__ import annotations

import msgspec
import pytest
import zmq
from bridged import ALICE, BOB, CAROL, Local, Net
from zmq.utils import z85

from bellwire.broker.bridge import ANSWERS_PER_BEAT, BEAT_NS, COMPLAINTS_PER_BEAT, SILENCE_NS
from bellwire.broker.bridge_wire import Entries, Entry, Envelope, Relayed, Seals, read
from bellwire.protocols.ids import BROKER, NodeId
from bellwire.protocols.messages import Role


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


def test_key_that_is_none_keeps_no_other_one_in_force(net: Net, sites: tuple[Local, Local]) -> None:
    """South is taken out while what is there for west can be shared with nobody."""
    north, _ = sites
    with pytest.raises(ValueError, match="the key of west is none"):
        north.seals.know({"north": net.keys["north"][0], "west": bytes(32)})
    assert north.seals.sites == ("north",)


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
