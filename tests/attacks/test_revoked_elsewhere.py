"""Keys that are taken back where, or while, nobody looks: everybody who may know their owner is told (spec 1 §2.2, §4.7)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from direct_net import DirectNet, Peer

from bellwire.protocols.ids import NodeId
from bellwire.protocols.introductions import Introducer
from bellwire.protocols.messages import GateDone, Role, SessionRevocation
from bellwire.transport.keys import authorize, generate, revoke

if TYPE_CHECKING:
    from tests.unit.transport.conftest import Keys, Yard

ALICE, BOB = NodeId("alice"), NodeId("bob")


@pytest.fixture
async def direct(tmp_path: Path) -> AsyncIterator[DirectNet]:
    net = DirectNet(tmp_path)
    await net.open()
    yield net
    await net.close()


async def met(net: DirectNet) -> tuple[Peer, Peer]:
    """Alice and Bob, connected directly."""
    alice, bob = await net.join(ALICE), await net.join(BOB)
    assert isinstance(await alice.ask(BOB), GateDone)
    await alice.directly(BOB)
    await bob.directly(ALICE)
    return alice, bob


async def test_key_of_who_never_was_at_this_broker_is_told_to_those_who_are(yard: Yard, keys: Keys) -> None:
    """As at a standby: Bob has been at the other broker, and Alice has met him there."""
    host = await yard.host()
    Introducer(host.core, lambda _: None)
    keys.pair("bob")
    alice = await yard.greeted(host, "alice")
    revoke(BOB, keys.authorized)
    message = await alice.hear_message()
    assert isinstance(message, SessionRevocation)
    assert message.node == BOB


async def test_replaced_key_is_told_before_its_new_owner_is_heard(yard: Yard, keys: Keys) -> None:
    host = await yard.host()
    Introducer(host.core, lambda _: None)
    alice = await yard.greeted(host, "alice")
    thief = yard.client(host, keys.pair("bob"))
    await thief.greet(1)
    new = keys.pair("bob", stranger=True)
    revoke(BOB, keys.authorized)
    authorize(keys.authorized.parent / "others" / "bob.key", keys.authorized)
    bob = yard.client(host, new)
    await bob.greet(2)
    assert isinstance(await alice.hear_message(), SessionRevocation)
    assert host.core.is_up(BOB), "the new one is not sent away with the old one"
    bob.say("alice", b"it is me")
    assert await alice.hear() == ("bob", b"it is me")


@pytest.mark.parametrize("replaced", [False, True])
async def test_key_that_was_taken_back_while_the_broker_was_away_is_told_by_the_next_one(
    direct: DirectNet, replaced: bool
) -> None:
    """The direct connection went on without a broker, and ends when there is one again."""
    alice, _bob = await met(direct)
    await direct.broker.drop()
    revoke(BOB, direct.keys)
    if replaced:
        (direct.keys / "bob.key_secret").unlink()
        generate(direct.keys, BOB, Role.AGENT)
    await direct.open()
    await alice.until(lambda: not alice.core.is_up(BOB))
    assert alice.core.introductions.get(BOB) is None
    assert not alice.paths.is_direct(BOB)


async def test_key_that_stands_is_not_taken_for_another_by_the_next_broker(direct: DirectNet) -> None:
    alice, bob = await met(direct)
    await direct.broker.drop()
    await direct.open()
    for each in (alice, bob):
        await each.until(lambda each=each: each.core.is_up("broker"))  # type: ignore[misc]
    assert isinstance(await alice.ask(BOB), GateDone)
    assert not [peer for peer, _ in alice.losses + bob.losses if peer in (ALICE, BOB)]
    assert alice.core.asks.requests() == []
