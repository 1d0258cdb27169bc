"""What a hub keeps of its clients, and how much each may take of it (spec 1 §2.7)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from bellwire.protocols.errors import ConfigError
from bellwire.protocols.ids import NodeId
from bellwire.protocols.limits import MAX_PEERS
from bellwire.transport.rates import TURNS_PER_S, Rate

FLOOD = 10_000
"""Messages within a stretch that are a flood, where they are twice a client's rate too: dropping them takes a hub's time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubLimits:
    """What one client may take of a hub; per second, as far as it is a rate. What is more is dropped and counted.

    `queue` messages wait at most towards and from one connection, `rate` messages are relayed for one sender, `own_rate` are
    delivered from one sender to the hub's owner, and `error_rate` errors are told to one sender.
    """

    queue: int = 2_048
    rate: int = 50_000
    own_rate: int = 50_000
    error_rate: int = 100

    def __post_init__(self) -> None:
        if self.queue < 1:
            raise ValueError("queue must be at least 1")
        if min(self.rate, self.own_rate, self.error_rate) < TURNS_PER_S:
            raise ValueError(f"rates must be at least {TURNS_PER_S} per second")


BROKER_LIMITS = HubLimits(own_rate=1_000)
"""A broker is there to relay: what is for itself is little, and decoded."""


@dataclass(slots=True)
class HubCounters:
    """What passed through a hub, and what it refused."""

    delivered: int = 0
    relayed: int = 0
    malformed: int = 0
    oversize: int = 0
    ungreeted: int = 0
    unroutable: int = 0
    full: int = 0
    hasty: int = 0
    """Messages of senders that were over their rate."""
    untold: int = 0
    """Errors that were not told, since their receiver had been told enough."""
    unsent: int = 0
    revoked: int = 0
    """Messages of keys that are not authorized any more."""
    floods: int = 0
    """Clients whose connections were ended because they flooded the hub."""


@dataclass(slots=True, eq=False)
class Member:
    """One client by its name.

    `origin` is the connection that it is bound to, empty when it is bound to none, and `user` is what was proved there; `odd`
    says that it has sent a wrong number of frames. `relayed`, `delivered` and `told` count what it wants relayed, what it
    sends to the owner, and the errors that it is told.
    """

    node: NodeId
    name: bytes
    relayed: Rate
    delivered: Rate
    told: Rate
    user: str = ""
    origin: bytes = b""
    odd: bool = False


@dataclass(slots=True)
class Members:
    """The clients of a hub: by the name that was proved, by the connection that they are bound to, and by whom to reach.

    One that is leaving is bound still, and reached no more.
    """

    limits: HubLimits
    users: dict[NodeId, Member] = field(default_factory=dict)
    bound: dict[bytes, Member] = field(default_factory=dict)
    reached: dict[bytes, Member] = field(default_factory=dict)

    def of(self, node: NodeId) -> Member:
        """The client of a proved name.

        Raises:
            ConfigError: when there are too many.
        """
        member = self.users.get(node)
        if member is None:
            if len(self.users) >= MAX_PEERS:
                self._make_room()
            limits = self.limits
            rates = Rate(limits.rate), Rate(limits.own_rate), Rate(limits.error_rate)
            member = self.users[node] = Member(node, node.encode(), *rates)
        return member

    def bind(self, member: Member, origin: bytes, user: str) -> None:
        """From now on a client is reached on this connection and heard on no other. `user` is what was proved there."""
        self.bound.pop(member.origin, None)
        member.origin, member.user = origin, user
        self.bound[origin] = member
        self.reached[member.name] = member

    def unbind(self, member: Member, *, leaving: bool = False) -> None:
        """Reach a client no more, and, unless it is leaving, hear it no more."""
        self.reached.pop(member.name, None)
        if not leaving:
            self.bound.pop(member.origin, None)
            member.origin = b""

    def lose(self, origin: bytes) -> None:
        """A connection is gone, and with it what was bound to it."""
        member = self.bound.get(origin)
        if member is not None:
            self.unbind(member)

    def _make_room(self) -> None:
        for node in list(self._strangers()):
            del self.users[node]
        if len(self.users) >= MAX_PEERS:
            raise ConfigError(f"{MAX_PEERS} clients are bound already")

    def _strangers(self) -> Iterator[NodeId]:
        return (node for node, member in self.users.items() if not member.origin)

    def is_flooding(self, member: Member) -> bool:
        """Whether so much came from a client in this stretch that dropping it is what holds up the others."""
        rates = (member.relayed, member.delivered, member.told)
        turn = max(rate.turn for rate in rates)
        came = sum(rate.count for rate in rates if rate.turn == turn)
        return came > max(FLOOD, 2 * self.limits.rate // TURNS_PER_S)
