"""An application's view of the network: pairs, local programs and teleported gates, as coroutines."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bellwire.client.config import ClientConfig
from bellwire.client.participant import Participant, SocketParticipant
from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.ids import BROKER, CreateId, NodeId, PairId, node_id
from bellwire.protocols.instructions import BellState
from bellwire.protocols.messages import (
    GateKind,
    GateRequest,
    GateResult,
    GateStatus,
    GateVariant,
    LinkCreate,
    LinkCreated,
    LinkErr,
    LinkExpire,
    LinkOk,
    ProgramResult,
    ProgramRun,
    Reply,
    SessionAck,
    SessionReport,
    SessionStatus,
    Step,
    TimeReport,
    TimeStatus,
)
from bellwire.shell.config import load_config
from bellwire.shell.operand import check_fidelity, duration_ns, operand

GRACE_S = 2.0
"""How much longer the client waits than it gave the network, so that the network's own answer comes first."""

MAX_HALVES = 4_096
"""Pairs of one request of which only one end has spoken."""

MAX_EARLY_ERRORS = 8
"""Errors of a request that came before it was known whose they may be."""

MAX_EARLY_CREATES = 64
"""Requests of which an OK came before they were known to exist, that are remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A pair that both of its ends hold for this application, until `expires_ns` (the network's clock).

    `confirmation_ns` is how long it took from the herald at the first end until that end knew of both.
    """

    pair_id: PairId
    nodes: tuple[NodeId, NodeId]
    bell_state: BellState
    sequence_number: int
    goodness: float
    expires_ns: int
    confirmation_ns: int


@dataclass(slots=True)
class _Create:
    """What is said of one request. Before its `nodes` are known, anybody may have spoken; afterwards only they are heard."""

    halves: dict[PairId, dict[NodeId, LinkOk]] = field(default_factory=dict)
    arrived: asyncio.Queue[Pair | RequestError] = field(default_factory=asyncio.Queue)
    nodes: tuple[NodeId, NodeId] | None = None
    early_errors: dict[NodeId, RequestError] = field(default_factory=dict)

    def claim(self, nodes: tuple[NodeId, NodeId]) -> None:
        """Say whose request it is: what they have said takes effect, and what others have said is dropped."""
        self.nodes = nodes
        early, self.halves = self.halves, {}
        for pair_id, halves in early.items():
            own = {node: ok for node, ok in halves.items() if node in nodes}
            if own:
                self.halves[pair_id] = own
                self._match(pair_id)
        errors, self.early_errors = self.early_errors, {}
        for node, error in errors.items():
            if node in nodes:
                self.arrived.put_nowait(error)

    def ok(self, peer: NodeId, message: LinkOk) -> None:
        """Take one end's word that a pair is confirmed.

        Raises:
            RequestError: DENIED when `peer` is no end of the link, LIMIT when too many pairs await their other half.
        """
        self._check(peer)
        if message.pair_id not in self.halves and len(self.halves) >= MAX_HALVES:
            raise RequestError(ErrorCode.LIMIT, f"more than {MAX_HALVES} pairs await their other half")
        self.halves.setdefault(message.pair_id, {})[peer] = message
        self._match(message.pair_id)

    def err(self, peer: NodeId, error: RequestError) -> None:
        """Take one end's word that the request has failed. Raises as `ok`."""
        self._check(peer)
        if self.nodes is not None:
            self.arrived.put_nowait(error)
        elif peer in self.early_errors or len(self.early_errors) < MAX_EARLY_ERRORS:
            self.early_errors[peer] = error
        else:
            raise RequestError(ErrorCode.LIMIT, f"more than {MAX_EARLY_ERRORS} errors came before their request")

    def expire(self, peer: NodeId, pair_id: PairId) -> None:
        """Forget what one end has said of a pair that is no more. Raises as `ok`."""
        self._check(peer)
        halves = self.halves.get(pair_id, {})
        halves.pop(peer, None)
        if not halves:
            self.halves.pop(pair_id, None)

    def _check(self, peer: NodeId) -> None:
        if self.nodes is not None and peer not in self.nodes:
            raise RequestError(ErrorCode.DENIED, f"{peer} is no end of this link")

    def _match(self, pair_id: PairId) -> None:
        """Hand a pair on when both ends have spoken of it."""
        halves = self.halves[pair_id]
        if self.nodes is None or any(node not in halves for node in self.nodes):
            return
        del self.halves[pair_id]
        first, second = (halves[node] for node in self.nodes)
        if first.bell_state is not second.bell_state:
            error = RequestError(ErrorCode.PROTOCOL, f"the ends of {pair_id} disagree on its Bell state")
            self.arrived.put_nowait(error)
            return
        self.arrived.put_nowait(
            Pair(
                pair_id=pair_id,
                nodes=self.nodes,
                bell_state=first.bell_state,
                sequence_number=first.sequence_number,
                goodness=min(first.goodness, second.goodness),
                expires_ns=min(first.expires_ns, second.expires_ns),
                confirmation_ns=first.confirmed_ns - first.time_of_goodness_ns,
            )
        )


class Network:
    """What an application can do. Made by `connect`."""

    def __init__(self, participant: Participant) -> None:
        self._participant = participant
        self._creates: dict[CreateId, _Create] = {}
        self._creating = 0
        endpoint = participant.endpoint
        endpoint.handle(LinkOk, self._ok)
        endpoint.handle(LinkErr, self._err)
        endpoint.handle(LinkExpire, self._expire)

    @property
    def name(self) -> NodeId:
        """The application's own name."""
        return self._participant.endpoint.node

    async def entangle(
        self, first: str, second: str, *, fidelity: float = 0.0, timeout_s: float = 10.0, priority: int = 0
    ) -> Pair:
        """Make one pair between two neighbouring nodes.

        Raises:
            RequestError: UNSUPP when the link cannot give the fidelity, TIMEOUT, or what else the network refuses with.
        """
        asked = self.pairs(first, second, fidelity=fidelity, timeout_s=timeout_s, priority=priority)
        async with aclosing(asked) as pairs:
            async for pair in pairs:
                return pair
        raise RequestError(ErrorCode.OTHER, "the request ended without a pair")

    async def pairs(
        self,
        first: str,
        second: str,
        *,
        number: int = 1,
        fidelity: float = 0.0,
        timeout_s: float = 10.0,
        priority: int = 0,
    ) -> AsyncGenerator[Pair]:
        """Make `number` pairs with one request; each comes as soon as both ends have confirmed it.

        Raises:
            RequestError: as `entangle`, after the pairs that were made.
        """
        nodes = (node_id(first), node_id(second))
        create = LinkCreate(
            peer=nodes[1],
            number=number,
            min_fidelity=check_fidelity(fidelity),
            max_time_ns=duration_ns(timeout_s),
            priority=priority,
        )
        self._creating += 1
        try:
            created = await self._participant.ask(nodes[0], create, LinkCreated, timeout_s=timeout_s + GRACE_S)
            waiting = self._creates.setdefault(created.create_id, _Create())
            waiting.claim(nodes)
        finally:
            self._creating -= 1
            self._forget_early()
        try:
            for _ in range(number):
                try:
                    arrived = await asyncio.wait_for(waiting.arrived.get(), timeout_s + GRACE_S)
                except TimeoutError:
                    raise RequestError(ErrorCode.TIMEOUT, f"{first} and {second} gave no pair in time") from None
                if isinstance(arrived, RequestError):
                    raise arrived
                yield arrived
        finally:
            self._creates.pop(created.create_id, None)

    async def run(self, node: str, steps: Sequence[Step], *, timeout_s: float = 10.0) -> ProgramResult:
        """Run a local program on one node: the bits of its measurements, and the hardware qubits that it took.

        Raises:
            RequestError: when a step is malformed, an operand cannot be used or the hardware fails.
        """
        program = ProgramRun(steps=tuple(steps))
        duration_ns(timeout_s)
        return await self._participant.ask(node_id(node), program, ProgramResult, timeout_s=timeout_s)

    async def cz(
        self,
        source: str,
        target: str,
        *,
        variant: str = "symmetric",
        pair: Pair | None = None,
        fidelity: float = 0.0,
        timeout_s: float = 10.0,
    ) -> GateResult:
        """Teleport a CZ between two qubits, each written `node:qubit`. Without a pair the agents make one.

        Raises:
            RequestError: INDETERMINATE when it is not known whether the gate acted; any other code promises that nothing
                touched the qubits.
        """
        return await self._gate(GateKind.CZ, source, target, variant, pair, fidelity, timeout_s)

    async def cnot(
        self,
        source: str,
        target: str,
        *,
        variant: str = "symmetric",
        pair: Pair | None = None,
        fidelity: float = 0.0,
        timeout_s: float = 10.0,
    ) -> GateResult:
        """Teleport a CNOT, with the control at `source`. Otherwise as `cz`."""
        return await self._gate(GateKind.CNOT, source, target, variant, pair, fidelity, timeout_s)

    async def teleport(
        self,
        source: str,
        target: str,
        *,
        pair: Pair | None = None,
        fidelity: float = 0.0,
        timeout_s: float = 10.0,
    ) -> GateResult:
        """Teleport the state of `source` into `target`, whose own state is lost. Otherwise as `cz`."""
        return await self._gate(GateKind.STATE, source, target, "sequential", pair, fidelity, timeout_s)

    async def _gate(
        self,
        kind: GateKind,
        source: str,
        target: str,
        variant: str,
        pair: Pair | None,
        fidelity: float,
        timeout_s: float,
    ) -> GateResult:
        node, qubit = operand(source)
        peer, peer_qubit = operand(target)
        request = GateRequest(
            kind=kind,
            variant=GateVariant(variant),
            qubit=qubit,
            peer=peer,
            peer_qubit=peer_qubit,
            pair_id=pair.pair_id if pair is not None else PairId(""),
            min_fidelity=check_fidelity(fidelity),
            max_time_ns=duration_ns(timeout_s),
        )
        result = await self._participant.ask(node, request, GateResult, timeout_s=timeout_s + GRACE_S)
        if result.status is GateStatus.INDETERMINATE:
            raise RequestError(ErrorCode.INDETERMINATE, f"gate {result.gate_id}: {result.text}")
        if result.status is not GateStatus.DONE:
            raise RequestError(result.code or ErrorCode.OTHER, result.text)
        return result

    async def clocks(self, nodes: Sequence[str] = (), *, timeout_s: float = 5.0) -> dict[NodeId, TimeReport | None]:
        """Ask participants what they believe of the network's time; `None` of those that do not answer.

        Without `nodes` the broker and all that follow it are asked.

        Raises:
            RequestError: when the broker, asked for its followers, does not answer.
        """
        reports: dict[NodeId, TimeReport | None] = {}
        asked = [node_id(name) for name in nodes]
        if not asked:
            reports[BROKER] = broker = await self._clock(BROKER, timeout_s)
            asked = list(broker.followers)
        answers = await asyncio.gather(*(self._clock(node, timeout_s) for node in asked), return_exceptions=True)
        for node, answer in zip(asked, answers, strict=True):
            if isinstance(answer, BaseException) and not isinstance(answer, RequestError):
                raise answer
            reports[node] = answer if isinstance(answer, TimeReport) else None
        return reports

    async def peers(self, node: str, *, timeout_s: float = 5.0) -> SessionReport:
        """Ask an agent or a station with whom it is in session, and which way its messages to each of them go.

        Raises:
            RequestError: when it does not answer, or cannot say.
        """
        return await self._participant.ask(node_id(node), SessionStatus(), SessionReport, timeout_s=timeout_s)

    async def _clock(self, node: NodeId, timeout_s: float) -> TimeReport:
        return await self._participant.ask(node, TimeStatus(), TimeReport, timeout_s=timeout_s)

    # What the agents say.

    def _create(self, create_id: CreateId) -> _Create:
        """The request that an OK or ERR is about; one that is not known is refused, and the agent takes its pair back."""
        known = self._creates.get(create_id)
        if known is None:
            early = sum(create.nodes is None for create in self._creates.values())
            if not self._creating or early >= MAX_EARLY_CREATES + self._creating:
                raise RequestError(ErrorCode.UNKNOWN_ID, f"{self.name} awaits nothing of {create_id}")
            known = self._creates[create_id] = _Create()
        return known

    def _forget_early(self) -> None:
        """With no request on its way nothing can be early: forget what nobody claimed."""
        if not self._creating:
            for create_id, create in list(self._creates.items()):
                if create.nodes is None:
                    del self._creates[create_id]

    def _ok(self, peer: NodeId, message: LinkOk) -> Reply:
        self._create(message.create_id).ok(peer, message)
        return SessionAck()

    def _err(self, peer: NodeId, message: LinkErr) -> Reply:
        self._create(message.create_id).err(peer, RequestError(message.code, message.text))
        return SessionAck()

    def _expire(self, peer: NodeId, message: LinkExpire) -> Reply:
        """A pair of a request that has ended is the application's own: that it expires needs no more than a receipt."""
        create = self._creates.get(message.create_id)
        if create is not None:
            create.expire(peer, message.pair_id)
        return SessionAck()


@asynccontextmanager
async def connect(
    config: ClientConfig | str | os.PathLike[str], *, directory: Path | None = None, timeout_s: float = 5.0
) -> AsyncIterator[Network]:
    """Join the network as an application; everything that it holds is given back at the end of the block.

    Args:
        config: a `client.toml`, or its content; then `directory` is the folder that its paths are relative to.
        timeout_s: how long the broker may take to answer.

    Raises:
        ConfigError: when the file or a key cannot be used.
        TransportError: when the broker does not answer.
    """
    if not isinstance(config, ClientConfig):
        path = Path(config)
        directory = path.parent
        config = load_config(path, ClientConfig)
    base = directory or Path()
    participant = SocketParticipant(
        server=BROKER,
        endpoint=config.broker.endpoint,
        server_key=base / config.broker.key,
        secret_key=base / config.secret_key,
        direct=config.direct,
    )
    network = Network(participant)
    await participant.start(timeout_s)
    try:
        yield network
    finally:
        await participant.close()
