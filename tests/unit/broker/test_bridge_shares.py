"""What one participant, and one site, may take of a bridge; and who a name stands for when its holder goes (spec 1 §2.8)."""

from __future__ import annotations

from bridged import ALICE, BOB, CAROL, RATE, Local, Net

from bellwire.broker.bridge import SHARES
from bellwire.broker.bridge_wire import Entry
from bellwire.protocols.errors import ErrorCode
from bellwire.protocols.ids import NodeId
from bellwire.protocols.messages import Role
from bellwire.transport.rates import TURN_NS, TURNS_PER_S


def test_participant_that_floods_leaves_the_others_of_its_site_their_messages(
    net: Net, sites: tuple[Local, Local]
) -> None:
    north, south = sites
    north.bind(CAROL)
    for _ in range(RATE):
        north.bridge.forward(ALICE, BOB, b"flood")
    for _ in range(10):
        north.bridge.forward(CAROL, BOB, b"word")
    net.run()
    assert [sender for sender, _, _ in south.taken] == [ALICE] * (RATE // TURNS_PER_S) + [CAROL] * 10
    assert set(north.missed) == {(ALICE, BOB, ErrorCode.LIMIT)}
    net.now_ns += TURN_NS
    north.bridge.forward(ALICE, BOB, b"calm")
    net.run()
    assert south.taken[-1] == (ALICE, BOB, b"calm")


def test_site_of_many_that_flood_has_its_share_and_no_more(net: Net, sites: tuple[Local, Local]) -> None:
    north, south = sites
    names = [NodeId(f"n{number}") for number in range(SHARES + 2)]
    for name in names:
        north.bind(name)
    for name in names:
        for _ in range(RATE // TURNS_PER_S):
            north.bridge.forward(name, BOB, b"flood")
    net.run()
    assert len(south.taken) == SHARES * RATE // TURNS_PER_S
    assert south.bridge.counters.hasty == 2 * RATE // TURNS_PER_S


def test_envelope_names_the_participant_whose_message_is_in_it_to_its_carrier(
    net: Net, sites: tuple[Local, Local]
) -> None:
    """What brokers say themselves is nobody's: no flood of a participant may crowd it out."""
    north, _ = sites
    senders: list[str] = []
    publish = north.publish

    def noting(site: str, to: bytes, data: bytes, sender: str = "") -> bool:
        senders.append(sender)
        return publish(site, to, data, sender)

    north.publish = noting  # type: ignore[method-assign]
    north.bridge.forward(ALICE, BOB, b"")
    north.bridge.tick(net.now_ns)
    assert senders[0] == ALICE
    assert set(senders[1:]) == {""}


def test_name_that_another_claim_takes_over_is_introduced_anew(net: Net, sites: tuple[Local, Local]) -> None:
    north, south = sites
    west = net.add("west")
    net.beat(2)
    west.bridge.bound(Entry(name=BOB, role=Role.AGENT))
    net.run()
    north.changes.clear()
    south.unbind(BOB)
    assert north.changes == [BOB]
