"""Brokers of several sites around bridges, without any network between them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest
import zmq
from zmq.utils import z85

from bellwire.broker.bridge import BEAT_NS, Bridge
from bellwire.broker.bridge_wire import TOKEN_BYTES, Beat, Entries, Entry, Header, Hello, Packet, Relayed, Seals
from bellwire.protocols.errors import ErrorCode
from bellwire.protocols.ids import NodeId
from bellwire.protocols.messages import Role

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
        self.changes: list[NodeId] = []
        self.revocations: list[NodeId] = []
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

    def publish(self, site: str, to: bytes, data: bytes, sender: str = "") -> bool:
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

    def changed(self, name: NodeId) -> None:
        self.changes.append(name)

    def revoked(self, name: NodeId) -> None:
        self.revocations.append(name)

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
