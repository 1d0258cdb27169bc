"""Keys that are taken back at one site are told at all (spec 1 §2.8)."""

from __future__ import annotations

import pytest
from bridged import ALICE, BOB, CAROL, Local, Net

from bellwire.broker.bridge import BEAT_NS, SILENCE_NS
from bellwire.protocols.ids import BROKER, NodeId


def revoked(broker: Local, name: NodeId) -> None:
    """A key is taken off the authorized ones of a site."""
    broker.authorized.discard(name)
    broker.unbind(name)
    broker.bridge.revoked(name)
    broker.net.run()


def test_revoked_key_is_told_at_other_sites_and_at_the_standby(net: Net, sites: tuple[Local, Local]) -> None:
    north, south = sites
    standby, west = net.add("standby", "south"), net.add("west")
    net.beat(2)
    revoked(south, BOB)
    assert [broker.revocations for broker in (north, standby, west, south)] == [[BOB], [BOB], [BOB], []]
    net.beat(2)
    assert north.revocations == [BOB], "once"


def test_key_of_who_is_bound_nowhere_is_told_too(net: Net, sites: tuple[Local, Local]) -> None:
    """It may have direct connections still."""
    north, south = sites
    south.unbind(BOB)
    revoked(south, BOB)
    assert north.revocations == [BOB]


@pytest.mark.parametrize("name", [ALICE, BOB, BROKER])
def test_site_cannot_revoke_who_is_not_its_own(net: Net, sites: tuple[Local, Local], name: NodeId) -> None:
    """Alice belongs to north, Bob is at south, and nobody revokes the broker."""
    north, _ = sites
    west = net.add("west")
    net.beat(2)
    revoked(west, name)
    assert north.revocations == []
    assert north.bridge.counters.claims == 1


def test_site_cannot_revoke_who_was_at_another_one_last(net: Net, sites: tuple[Local, Local]) -> None:
    """South is away, and its participants' direct connections last."""
    north, south = sites
    west = net.add("west")
    net.beat(2)
    net.kill(south)
    net.beat(SILENCE_NS // BEAT_NS + 1)
    assert north.bridge.find(BOB) is None
    revoked(west, BOB)
    assert north.revocations == []
    revoked(west, CAROL)
    assert north.revocations == [CAROL], "of whom nobody has heard"
