"""Who may send which message, and to whom (spec 1 §2.6). What has no row in the table is allowed to nobody."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from bellwire.protocols.errors import ErrorCode, RemoteProtocolError
from bellwire.protocols.ids import BROKER, NodeId
from bellwire.protocols.messages import (
    EventNotice,
    EventPublish,
    EventSubscribe,
    EventUnsubscribe,
    GateDone,
    GateOpen,
    GateOutcome,
    GateReady,
    GateRequest,
    GateResult,
    HeraldClose,
    HeraldOpen,
    HeraldReady,
    HeraldReport,
    HeraldWait,
    LinkAccept,
    LinkAdd,
    LinkCreate,
    LinkCreated,
    LinkErr,
    LinkExpire,
    LinkMeasured,
    LinkOk,
    Message,
    PairCompared,
    PairConfirm,
    PairConfirmed,
    PairOutcome,
    PairRelease,
    ProgramResult,
    ProgramRun,
    Role,
    SessionAck,
    SessionError,
    SessionFence,
    SessionFenced,
    SessionGoodbye,
    SessionHeartbeat,
    SessionHello,
    SessionIntroduction,
    SessionKnown,
    SessionReport,
    SessionRevocation,
    SessionStatus,
    SessionWelcome,
    TimeAnnounce,
    TimeDelayReq,
    TimeDelayResp,
    TimeFollowUp,
    TimeGrant,
    TimeLease,
    TimeReport,
    TimeStatus,
    TimeSync,
)

Roles = frozenset[Role]


@dataclass(frozen=True, slots=True)
class Access:
    """The roles that may send a message, and the roles that take it."""

    senders: Roles
    receivers: Roles


AccessTable = Mapping[type[Message], Access]

EVERYBODY: Final = frozenset(Role)
AGENT: Final = frozenset({Role.AGENT})
STATION: Final = frozenset({Role.STATION})
BROKERS: Final = frozenset({Role.BROKER})
APPLICATION: Final = frozenset({Role.APPLICATION})
NODES: Final = AGENT | STATION
USERS: Final = NODES | APPLICATION
CLOCKS: Final = NODES | BROKERS
"""Those that follow the network's time, each of which may be a source of it."""

ACCESS: Final[AccessTable] = {
    SessionHello: Access(EVERYBODY, EVERYBODY),
    SessionWelcome: Access(EVERYBODY, EVERYBODY),
    SessionHeartbeat: Access(EVERYBODY, EVERYBODY),
    SessionGoodbye: Access(EVERYBODY, EVERYBODY),
    SessionAck: Access(EVERYBODY, EVERYBODY),
    SessionError: Access(EVERYBODY, EVERYBODY),
    SessionIntroduction: Access(BROKERS, EVERYBODY),
    SessionRevocation: Access(BROKERS, EVERYBODY),
    SessionKnown: Access(EVERYBODY, BROKERS),
    SessionFence: Access(EVERYBODY, EVERYBODY),
    SessionFenced: Access(EVERYBODY, EVERYBODY),
    SessionStatus: Access(APPLICATION, CLOCKS),
    SessionReport: Access(CLOCKS, APPLICATION),
    LinkCreate: Access(APPLICATION, AGENT),
    LinkCreated: Access(AGENT, APPLICATION),
    LinkAdd: Access(AGENT, AGENT),
    LinkAccept: Access(AGENT, AGENT),
    LinkOk: Access(AGENT, APPLICATION),
    LinkMeasured: Access(AGENT, APPLICATION),
    LinkErr: Access(AGENT, APPLICATION),
    LinkExpire: Access(AGENT, APPLICATION),
    HeraldOpen: Access(AGENT, NODES),
    HeraldClose: Access(AGENT, NODES),
    HeraldReady: Access(NODES, AGENT),
    HeraldReport: Access(NODES, AGENT),
    HeraldWait: Access(STATION, AGENT),
    PairConfirm: Access(AGENT, AGENT),
    PairConfirmed: Access(AGENT, AGENT),
    PairRelease: Access(AGENT, AGENT),
    PairOutcome: Access(AGENT, AGENT),
    PairCompared: Access(AGENT, AGENT),
    EventSubscribe: Access(USERS, BROKERS),
    EventUnsubscribe: Access(USERS, BROKERS),
    EventPublish: Access(USERS, BROKERS),
    EventNotice: Access(BROKERS, USERS),
    GateRequest: Access(APPLICATION, AGENT),
    GateResult: Access(AGENT, APPLICATION),
    GateOpen: Access(AGENT, AGENT),
    GateReady: Access(AGENT, AGENT),
    GateOutcome: Access(AGENT, AGENT),
    GateDone: Access(AGENT, AGENT),
    ProgramRun: Access(APPLICATION, AGENT),
    ProgramResult: Access(AGENT, APPLICATION),
    TimeLease: Access(CLOCKS, CLOCKS),
    TimeGrant: Access(CLOCKS, CLOCKS),
    TimeAnnounce: Access(CLOCKS, CLOCKS),
    TimeSync: Access(CLOCKS, CLOCKS),
    TimeDelayReq: Access(CLOCKS, CLOCKS),
    TimeFollowUp: Access(CLOCKS, CLOCKS),
    TimeDelayResp: Access(CLOCKS, CLOCKS),
    TimeStatus: Access(CLOCKS | APPLICATION, CLOCKS),
    TimeReport: Access(CLOCKS, CLOCKS | APPLICATION),
}
"""The access rules of this version of the protocol. Who of a role may speak of which link is the link's own rule (2 §5)."""


def check_access(table: AccessTable, message: Message, sender: Role | None, receiver: Role) -> None:
    """Check that a participant of the role `sender` may send a message to one of the role `receiver`.

    Raises:
        RemoteProtocolError: UNKNOWN_TYPE when the receiver does not take it in its role, DENIED when the sender may not.
    """
    access = table.get(type(message))
    if access is not None and receiver in access.receivers and sender in access.senders:
        return
    tag = message.__struct_config__.tag
    if access is not None and receiver not in access.receivers:
        raise RemoteProtocolError(f"the role {receiver} does not take {tag}", "1 §3.5", ErrorCode.UNKNOWN_TYPE)
    raise RemoteProtocolError(f"{tag} is not for the role {sender} to send", "1 §2.6", ErrorCode.DENIED)


class KnownRoles:
    """The roles that peers are known to have, apart from what they say. The broker's is its name's alone.

    `authority` knows the roles that stand with keys, where this side holds the authorized ones.
    """

    def __init__(self) -> None:
        self.authority: Callable[[NodeId], Role | None] | None = None
        self._roles: dict[NodeId, Role] = {BROKER: Role.BROKER}

    def expect(self, peer: NodeId, role: Role) -> None:
        """From now on, `peer` is a `role` and nothing else."""
        self._roles[peer] = role

    def by_key(self, peer: NodeId) -> Role | None:
        """The role that stands with a peer's key, where this side holds the authorized ones."""
        return None if self.authority is None else self.authority(peer)

    def check(self, peer: NodeId, claimed: Role) -> None:
        """Check the role that a peer claims in its hello or welcome.

        Raises:
            RemoteProtocolError: DENIED, when it is known to have another, or is a broker that is not called so.
        """
        known = self._roles.get(peer) or self.by_key(peer)
        if claimed is not known and (known is not None or claimed is Role.BROKER or self.authority is not None):
            text = f"{peer} says that its role is {claimed}, but it is {known or 'another'}"
            raise RemoteProtocolError(text, "1 §2.6", ErrorCode.DENIED)
