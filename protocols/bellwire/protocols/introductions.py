"""Who is who, on the broker's word: authenticated roles, public keys and endpoints (spec 1 §4.7). Sans I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bellwire.protocols.errors import ErrorCode, RemoteProtocolError
from bellwire.protocols.ids import BROKER, NodeId
from bellwire.protocols.limits import MAX_PEERS, MAX_REPORTED_PEERS
from bellwire.protocols.messages import (
    INTRODUCTIONS,
    Acquaintance,
    Role,
    SessionAck,
    SessionIntroduction,
    SessionKnown,
    SessionRevocation,
)
from bellwire.protocols.session import SessionInput, SessionState

if TYPE_CHECKING:
    from bellwire.protocols.endpoint import Answer, Endpoint


PATIENCE = 10
"""How long the broker is asked whether it knows whom this participant knows: so many times `liveness`."""


def _do_nothing(_answer: Answer) -> None:
    """What the broker does not stand for it has said before it answers."""


class Introductions:
    """What a participant was told of others by its broker."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._known: dict[NodeId, SessionIntroduction] = {}
        self._names: dict[bytes, NodeId] = {}
        self.on_introduced: list[Callable[[SessionIntroduction], None]] = []
        self.on_revoked: list[Callable[[NodeId], None]] = []
        self._asked: list[int] = []
        endpoint.on_peer_up.append(self._peer_up)
        endpoint.hear(SessionIntroduction, self._take)
        endpoint.hear(SessionRevocation, self._revocation)

    def __len__(self) -> int:
        return len(self._known)

    def get(self, peer: NodeId) -> SessionIntroduction | None:
        """What is known of a peer."""
        return self._known.get(peer)

    def of_key(self, public_key: bytes) -> SessionIntroduction | None:
        """Whose key (32 bytes) it is."""
        name = self._names.get(public_key)
        return None if name is None else self._known[name]

    def role_of(self, peer: NodeId) -> Role | None:
        """The authenticated role of a peer, or `None` when nobody vouches for one."""
        known = self._known.get(peer)
        return self._endpoint.known_roles.by_key(peer) if known is None else known.role

    def offer(self, endpoints: tuple[str, ...]) -> None:
        """Have the broker told where others may connect to: anew, when it was told otherwise."""
        if endpoints == self._endpoint.endpoints:
            return
        self._endpoint.endpoints = endpoints
        broker = self._endpoint.sessions.get(BROKER)
        if broker is not None and broker.state is not SessionState.DOWN:
            greeting = broker.state is SessionState.GREETING
            broker.step(SessionInput.RETRY if greeting else SessionInput.DISOWNED)

    def check(self, peer: NodeId, role: Role) -> None:
        """Check the role that a peer gives itself in a greeting.

        Raises:
            RemoteProtocolError: DENIED when it is another one; NO_SESSION when the peer should have been introduced before.
        """
        authentic = self.role_of(peer)
        if authentic is role:
            return
        if authentic is not None:
            raise RemoteProtocolError(f"{peer} is a {authentic}, not a {role}", "1 §4.7", ErrorCode.DENIED)
        broker = self._endpoint.sessions.get(BROKER)
        if peer == BROKER or broker is None or INTRODUCTIONS not in broker.capabilities:
            return
        if broker.state is SessionState.UP:
            # Greeted anew, the broker introduces everybody anew.
            broker.step(SessionInput.DISOWNED)
        raise RemoteProtocolError(f"{peer} has not been introduced yet", "1 §4.7", ErrorCode.NO_SESSION)

    def revoke(self, peer: NodeId) -> None:
        """A peer's key is not authorized any more: forget it, and lose it without a word to it."""
        known = self._known.pop(peer, None)
        if known is not None:
            self._names.pop(known.public_key, None)
        session = self._endpoint.sessions.get(peer)
        if session is not None:
            session.drop(f"the key of {peer} is not authorized any more")
        for listener in self.on_revoked:
            listener(peer)

    def _revocation(self, teller: NodeId, message: SessionRevocation) -> None:
        if teller != BROKER or message.node in (BROKER, self._endpoint.node):
            raise RemoteProtocolError(f"{teller} cannot revoke {message.node}", "1 §4.7", ErrorCode.DENIED)
        self.revoke(message.node)

    def _peer_up(self, peer: NodeId) -> None:
        """Tell the broker whom a former one has introduced: of those whose key was taken back meanwhile nobody was told."""
        if peer != BROKER or INTRODUCTIONS not in self._endpoint.sessions[peer].capabilities:
            return
        for number in self._asked:
            self._endpoint.abandon(number)
        known = [Acquaintance(node=each.node, public_key=each.public_key) for each in self._known.values()]
        deadline_ns = self._endpoint.now_ns + PATIENCE * self._endpoint.settings.liveness_ns
        self._asked = [
            self._endpoint.ask(peer, SessionKnown(known=tuple(part)), deadline_ns, _do_nothing)
            for part in (
                known[begin : begin + MAX_REPORTED_PEERS] for begin in range(0, len(known), MAX_REPORTED_PEERS)
            )
        ]

    def _take(self, teller: NodeId, message: SessionIntroduction) -> None:
        known = self._known.get(message.node)
        if teller != BROKER or message.node in (BROKER, self._endpoint.node):
            raise RemoteProtocolError(f"{teller} cannot introduce {message.node}", "1 §4.7", ErrorCode.DENIED)
        if known is None and len(self._known) >= MAX_PEERS:
            self._forget_one()
        if known is not None:
            self._names.pop(known.public_key, None)
        self._known[message.node] = message
        self._names[message.public_key] = message.node
        for listener in self.on_introduced:
            listener(message)

    def _forget_one(self) -> None:
        """Forget who was introduced first, of those with whom there is no session if there are any."""
        idle = (name for name in self._known if not self._endpoint.is_up(name))
        self._names.pop(self._known.pop(next(idle, next(iter(self._known)))).public_key, None)


class Introducer:
    """A broker's part: it tells two participants of each other. `key_of` gives the public key (32 bytes) of a name."""

    def __init__(self, endpoint: Endpoint, key_of: Callable[[NodeId], bytes | None]) -> None:
        self._endpoint = endpoint
        self._key_of = key_of
        self.elsewhere: Callable[[NodeId], SessionIntroduction | None] = lambda _: None
        """Says who a participant is that another broker has a session with (spec 1 §2.8)."""
        self.has_others = False
        """Whether there are participants of other sites: of these it knows only who is bound at a broker there now."""
        endpoint.introductions.on_revoked.append(self.tell_revoked)
        endpoint.handle(SessionKnown, self._check)

    def introduce(self, sender: NodeId, receiver: NodeId) -> None:
        """Tell the receiver who the sender is, and the other way round."""
        self._tell(receiver, sender)
        self._tell(sender, receiver)

    def tell_revoked(self, name: NodeId) -> None:
        """Tell everybody that a key is not authorized any more, since anybody may have a direct connection with its owner."""
        for peer in self._endpoint.sessions:
            if self._endpoint.is_up(peer):
                self._endpoint.tell(peer, SessionRevocation(node=name))

    def _tell(self, listener: NodeId, about: NodeId) -> None:
        introduction = self.of(about) if self._endpoint.is_up(about) else self.elsewhere(about)
        if introduction is not None and self._endpoint.is_up(listener):
            self._endpoint.tell(listener, introduction)

    def _check(self, peer: NodeId, message: SessionKnown) -> SessionAck:
        """Tell a participant of whom it knows, by another broker or long ago, that their keys are not authorized any more."""
        for each in message.known:
            if not self._stands(each):
                self._endpoint.tell(peer, SessionRevocation(node=each.node))
        return SessionAck()

    def _stands(self, known: Acquaintance) -> bool:
        key = self._key_of(known.node)
        if key is None:
            bound = self.elsewhere(known.node)
            if bound is None:
                return self.has_others
            key = bound.public_key
        return key == known.public_key

    def of(self, name: NodeId) -> SessionIntroduction | None:
        """What the broker itself knows of a participant that has greeted it."""
        session, key, role = self._endpoint.sessions.get(name), self._key_of(name), self._endpoint.role_of(name)
        if session is None or key is None or role is None or not session.epoch:
            return None
        return SessionIntroduction(
            node=name, role=role, public_key=key, incarnation=session.epoch, endpoints=session.endpoints
        )
