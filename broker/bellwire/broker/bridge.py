"""Several brokers as one: each knows who is bound to the others, and hands them the messages for those. Sans I/O.

A broker is one run of the program, named by a random token, at one of the network's sites. It believes nothing but packets
that are sealed by a site it knows, meant for its own token, and numbered higher than the last: so nothing that was recorded
earlier counts (spec 1 §2.8).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Final, Protocol

from bellwire.broker.bridge_wire import (
    MAX_ENTRIES,
    AnyBody,
    Beat,
    Bye,
    Entries,
    Entry,
    Header,
    Hello,
    Missed,
    Packet,
    Refused,
    Relayed,
    Revoked,
    Seals,
    Want,
    read,
)
from bellwire.protocols.errors import ErrorCode
from bellwire.protocols.ids import BROKER, NodeId
from bellwire.protocols.limits import MAX_PEERS
from bellwire.protocols.messages import Role
from bellwire.transport.once import Once
from bellwire.transport.rates import TURN_NS, Rate

BEAT_NS: Final = 1_000_000_000
"""How often a broker says that it is there."""

SILENCE_NS: Final = 3 * BEAT_NS
"""A broker that was silent for this long is gone, and those who are bound to it are not reached any more."""

MAX_BROKERS: Final = 8
"""Brokers of one site at a time. Two are usual: one, and a hot standby."""

MAX_FORMER: Final = 4_096
"""Brokers that are gone and whose last number is remembered, and participants of whom it is remembered where they were."""

ANSWERS_PER_BEAT: Final = 32
"""Hellos of unknown brokers that are answered."""

COMPLAINTS_PER_BEAT: Final = 4
"""Reports of what others did wrong. All of it is counted."""

SHARES: Final = 8
"""What one other broker may relay: so many times the rate of one participant. One that floods leaves the others the rest."""

_LOST_COUNT: Final = -1
_FAILURES: Final = (ErrorCode.NO_ROUTE, ErrorCode.LIMIT)


class LocalCapable(Protocol):
    """What a bridge needs of its own broker and of what carries envelopes."""

    def publish(self, site: str, to: bytes, data: bytes, sender: str = "") -> bool:
        """Carry an envelope to the brokers of a site, or to one of them. Returns whether there was room for it.

        `sender` is the participant whose message is in it, if one is: it may take a part of the room, and not all.
        """

    def owns(self, name: NodeId) -> bool:
        """Whether a participant belongs to this site, whether it is here or not."""

    def hand_over(self, sender: NodeId, receiver: NodeId, data: bytes) -> ErrorCode | None:
        """Give a message to a participant that is bound here: `None`, or NO_ROUTE or LIMIT."""

    def tell_missed(self, sender: NodeId, receiver: NodeId, code: ErrorCode) -> None:
        """Tell a participant that is bound here that its message did not get there."""

    def changed(self, name: NodeId) -> None:
        """Something else than before is known of a participant elsewhere: whoever has met it is to meet it anew."""

    def revoked(self, name: NodeId) -> None:
        """The key of a participant elsewhere is not authorized any more: whoever is bound here is to be told."""

    def moved(self, name: NodeId) -> None:
        """A participant has come to another broker of this site just now: whatever is bound here is not it any more."""


@dataclass(slots=True)
class BridgeCounters:
    """What passed through a bridge, and what it refused."""

    sent: int = 0
    received: int = 0
    refused: int = 0
    """Envelopes that are none, or were not sealed by whom they say."""
    replayed: int = 0
    forged: int = 0
    """Messages in the name of somebody who is not at the site that sent them."""
    claims: int = 0
    """Names that another site claimed and may not have."""
    hasty: int = 0
    full: int = 0
    missed: int = 0


@dataclass(slots=True, eq=False)
class Peer:
    """Another broker. `told` and `heard` count the parts of a directory that were sent to it and came from it.

    `share` is the rate of all that it relays, and `senders` has that of each participant in the present turn.
    """

    site: str
    token: bytes
    heard_ns: int
    number: int
    share: Rate
    told: int = 0
    heard: int = 0
    entries: dict[NodeId, Entry] = field(default_factory=dict)
    senders: dict[NodeId, Rate] = field(default_factory=dict)


class Bridge:
    """This broker's part of a network of several brokers."""

    def __init__(
        self,
        *,
        network: str,
        site: str,
        token: bytes,
        seals: Seals,
        local: LocalCapable,
        rate: int,
        report: Callable[[str], None] | None = None,
    ) -> None:
        """Make the part of a broker at `site`. `rate` messages per second are taken from one participant elsewhere."""
        self.network = network
        self.site = site
        self.token = token
        self.counters = BridgeCounters()
        self.peers: dict[bytes, Peer] = {}
        self._seals = seals
        self._own = local
        self._rate = rate
        self._tell_problem = Once(report)
        self._numbers = count(1)
        self._bound: dict[NodeId, Entry] = {}
        self._where: dict[NodeId, Peer] = {}
        self._left: OrderedDict[NodeId, str] = OrderedDict()
        """At which site those were who are nowhere now."""
        self._former: OrderedDict[bytes, int] = OrderedDict()
        self._answers = 0
        self._ticked_ns: int | None = None
        self._closed = False
        self._complaints = 0

    # What the owner calls.

    def tick(self, now_ns: int) -> None:
        """Say that this broker is there, and notice who is not any more. To be called every `BEAT_NS`."""
        if self._ticked_ns is not None and now_ns - self._ticked_ns >= 2 * BEAT_NS:
            for peer in self.peers.values():
                peer.heard_ns = now_ns  # this broker was asleep, not the others
        self._ticked_ns = now_ns
        self._answers = self._complaints = 0
        for peer in list(self.peers.values()):
            if peer.site not in self._seals.sites:
                self._lose(peer, "its key is not among the sites' any more")
            elif now_ns - peer.heard_ns >= SILENCE_NS:
                self._lose(peer, "it is silent")
            else:
                self._send(peer, Beat(number=peer.told))
        for site in self._seals.sites:
            self.look_for(site)

    def look_for(self, site: str) -> None:
        """Ask for the brokers of a site."""
        self._seal(site, b"", Hello())

    def lose_site(self, site: str, why: str) -> None:
        """A site is not reached any more: so are none of those who are there."""
        for peer in list(self.peers.values()):
            if peer.site == site:
                self._lose(peer, why)

    def bound(self, entry: Entry) -> None:
        """A participant has greeted this broker."""
        name = NodeId(entry.name)
        if self._bound.get(name) != entry:
            self._bound[name] = entry
            for peer in self.peers.values():
                self._tell(peer, added=(entry,))

    def unbound(self, name: NodeId) -> None:
        """A participant is not bound to this broker any more."""
        if self._bound.pop(name, None) is not None:
            for peer in self.peers.values():
                self._tell(peer, removed=(name,))

    def revoked(self, name: NodeId) -> None:
        """The key of a participant of this site is not authorized any more."""
        for peer in self.peers.values():
            self._send(peer, Revoked(name=name))

    def find(self, name: NodeId) -> tuple[str, Entry] | None:
        """The site of a participant that is bound to another broker, and what is known of it."""
        peer = self._where.get(name)
        return None if peer is None else (peer.site, peer.entries[name])

    def forward(self, sender: NodeId, receiver: NodeId, data: bytes) -> ErrorCode | None:
        """Carry a message of a participant that is bound here: `None`, or NO_ROUTE or LIMIT.

        What came from another broker must not be given to this: it would go round in circles.
        """
        peer = self._where.get(receiver)
        if peer is None:
            return ErrorCode.NO_ROUTE
        if not self._send(peer, Relayed(sender=sender, receiver=receiver, message=data), sender):
            return ErrorCode.LIMIT
        self.counters.sent += 1
        return None

    def close(self) -> None:
        """Say goodbye to the other brokers, and take nothing more from them."""
        self._closed = True
        for peer in self.peers.values():
            self._send(peer, Bye())
        self.peers.clear()
        self._where.clear()

    def receive(self, data: bytes, now_ns: int) -> None:
        """Take an envelope, whoever it came from."""
        if self._closed:
            return
        try:
            header, envelope = read(data)
            meant = header.network == self.network and header.to_site == self.site and header.to in (b"", self.token)
            if not meant or header.broker == self.token:
                return
            packet = self._seals.open(header, envelope)
        except Refused as error:
            self.counters.refused += 1
            self._complain(f"the bridge of {self.site} refused an envelope: {error}")
            return
        peer = self.peers.get(header.broker)
        last = self._former.get(header.broker, 0) if peer is None else peer.number
        if packet.number <= last or (peer is not None and peer.site != header.site):
            self.counters.replayed += 1
            return
        if header.to:
            self._take(header, packet, now_ns)
        elif isinstance(packet.body, Hello) and peer is None and self._answers < ANSWERS_PER_BEAT:
            # Anybody may play an old one again, so it opens nothing; who answers with this broker's token is there now.
            self._answers += 1
            self._seal(header.site, header.broker, Hello())

    # Incoming, proved to be from that broker and for this run of this one.

    def _take(self, header: Header, packet: Packet, now_ns: int) -> None:
        body = packet.body
        peer = self.peers.get(header.broker)
        if isinstance(body, Bye):
            if peer is not None:
                peer.number = packet.number
                self._lose(peer, "it has said goodbye")
            return
        if peer is None:
            peer = self._meet(header, now_ns)
            if peer is None:
                return
        peer.number, peer.heard_ns = packet.number, now_ns
        if isinstance(body, Relayed):
            self._relayed(peer, body, now_ns)
        elif isinstance(body, Missed):
            self._missed(peer, body)
        elif isinstance(body, Entries):
            self._entries(peer, body)
        elif isinstance(body, Revoked):
            self._take_revoked(peer, NodeId(body.name))
        elif isinstance(body, Beat):
            if body.number != peer.heard:
                self._send(peer, Want())
        elif isinstance(body, Want):
            self._tell_all(peer)

    def _meet(self, header: Header, now_ns: int) -> Peer | None:
        if sum(peer.site == header.site for peer in self.peers.values()) >= MAX_BROKERS:
            self._complain(f"{header.site} has more than {MAX_BROKERS} brokers")
            return None
        self._former.pop(header.broker, None)
        peer = self.peers[header.broker] = Peer(header.site, header.broker, now_ns, 0, Rate(SHARES * self._rate))
        self._tell_problem(f"the bridge of {self.site} reaches {self._called(peer)}")
        self._tell_all(peer)
        return peer

    def _relayed(self, peer: Peer, body: Relayed, now_ns: int) -> None:
        sender, receiver = NodeId(body.sender), NodeId(body.receiver)
        holder = self._where.get(sender)
        if holder is None or holder.site != peer.site or not self._may_have(peer, sender):
            self.counters.forged += 1
            self._complain(f"{self._called(peer)} sent a message in the name of {sender}, who is not there")
            return
        code: ErrorCode | None = ErrorCode.LIMIT
        if self._may_relay(peer, sender, now_ns):
            code = self._own.hand_over(sender, receiver, body.message)
        else:
            self.counters.hasty += 1
        if code is None:
            self.counters.received += 1
        else:
            self.counters.missed += 1
            self._send(peer, Missed(sender=sender, receiver=receiver, code=code))

    def _missed(self, peer: Peer, body: Missed) -> None:
        holder = self._where.get(NodeId(body.receiver))
        if body.code in _FAILURES and holder is not None and holder.site == peer.site:
            self._own.tell_missed(NodeId(body.sender), NodeId(body.receiver), body.code)

    def _may_relay(self, peer: Peer, sender: NodeId, now_ns: int) -> bool:
        """Count a message: what is over its sender's rate takes nothing of what the others there have."""
        turn = now_ns // TURN_NS
        if peer.share.turn != turn:
            peer.senders.clear()
        rate = peer.senders.get(sender)
        if rate is None:
            rate = peer.senders[sender] = Rate(self._rate)
        return rate.allows(turn) and peer.share.allows(turn)

    # The directory.

    def _entries(self, peer: Peer, body: Entries) -> None:
        if body.first:
            for name in list(peer.entries):
                self._release(peer, name)
        elif body.number != peer.heard + 1:
            peer.heard = _LOST_COUNT  # so that the next beat shows that something is missing
            return
        peer.heard = body.number
        for removed in body.removed:
            self._release(peer, NodeId(removed))
        for entry in body.added:
            self._claim(peer, entry, news=body.news)

    def _claim(self, peer: Peer, entry: Entry, *, news: bool) -> None:
        name = NodeId(entry.name)
        allowed = self._may_have(peer, name) and entry.role is not Role.BROKER
        if not allowed or (len(peer.entries) >= MAX_PEERS and name not in peer.entries):
            self.counters.claims += 1
            self._complain(f"{self._called(peer)} says that {name} is there, which cannot be")
            return
        if peer.entries.get(name) != entry:
            peer.entries[name] = entry
            self._own.changed(name)
        holder = self._where.get(name)
        if holder is not None and holder.site != peer.site:
            self.counters.claims += 1
            self._complain(f"{self._called(peer)} says that {name} is there, who is at {holder.site}")
            return
        self._where[name] = peer
        if news and peer.site == self.site and name in self._bound:
            self._own.moved(name)

    def _take_revoked(self, peer: Peer, name: NodeId) -> None:
        holder = self._where.get(name)
        site = self._left.get(name, peer.site) if holder is None else holder.site
        if site == peer.site and self._may_have(peer, name):
            self._own.revoked(name)
        else:
            self.counters.claims += 1
            self._complain(f"{self._called(peer)} says that the key of {name} is revoked, who is not its own")

    def _may_have(self, peer: Peer, name: NodeId) -> bool:
        """Whether somebody of that name may be there: not the broker, and nobody of this site at another."""
        return name != BROKER and (peer.site == self.site or not self._own.owns(name))

    def _release(self, peer: Peer, name: NodeId) -> None:
        if peer.entries.pop(name, None) is None or self._where.get(name) is not peer:
            return
        del self._where[name]
        self._left[name] = peer.site
        self._left.move_to_end(name)
        while len(self._left) > MAX_FORMER:
            self._left.popitem(last=False)
        others = [other for other in self.peers.values() if name in other.entries]
        if others:
            # Another broker of the same site has it still, before a site whose claim did not count so far.
            self._where[name] = max(others, key=lambda other: other.site == peer.site)
            self._own.changed(name)

    def _lose(self, peer: Peer, why: str) -> None:
        del self.peers[peer.token]
        for name in list(peer.entries):
            self._release(peer, name)
        self._former[peer.token] = peer.number
        while len(self._former) > MAX_FORMER:
            self._former.popitem(last=False)
        self._tell_problem(f"the bridge of {self.site} has lost {self._called(peer)}: {why}")

    # Outgoing.

    def _tell_all(self, peer: Peer) -> None:
        entries = tuple(self._bound.values())
        for begin in range(0, max(1, len(entries)), MAX_ENTRIES):
            part = entries[begin : begin + MAX_ENTRIES]
            peer.told += 1
            self._send(peer, Entries(first=not begin, number=peer.told, added=part))

    def _tell(self, peer: Peer, *, added: tuple[Entry, ...] = (), removed: tuple[NodeId, ...] = ()) -> None:
        peer.told += 1
        self._send(peer, Entries(news=True, number=peer.told, added=added, removed=removed))

    def _send(self, peer: Peer, body: AnyBody, sender: str = "") -> bool:
        return self._seal(peer.site, peer.token, body, sender)

    def _seal(self, site: str, to: bytes, body: AnyBody, sender: str = "") -> bool:
        if site not in self._seals.sites:
            return False
        header = Header(network=self.network, site=self.site, broker=self.token, to_site=site, to=to)
        data = self._seals.seal(header, Packet(number=next(self._numbers), body=body))
        if self._own.publish(site, to, data, sender):
            return True
        self.counters.full += 1
        return False

    def _called(self, peer: Peer) -> str:
        return f"{peer.site} ({peer.token.hex()[:8]})"

    def _complain(self, text: str) -> None:
        """Report what strangers and other sites can set off, and not more of it than people read."""
        self._complaints += 1
        if self._complaints <= COMPLAINTS_PER_BEAT:
            self._tell_problem(text)
