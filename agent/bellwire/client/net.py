"""An application's view of the network: pairs, local programs and teleported gates, as coroutines."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from bellwire.client.config import ClientConfig
from bellwire.client.creates import Create, HeraldedPair, MeasuredPair, Pair, readout
from bellwire.client.participant import Participant, SocketParticipant
from bellwire.protocols.endpoint import Answer
from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.ids import BROKER, CreateId, NodeId, PairId, node_id
from bellwire.protocols.messages import (
    Delivered,
    EventNotice,
    EventPublish,
    GateKind,
    GateRequest,
    GateResult,
    GateStatus,
    GateVariant,
    LinkCreate,
    LinkCreated,
    LinkErr,
    LinkExpire,
    LinkMeasured,
    LinkOk,
    ProgramResult,
    ProgramRun,
    Reply,
    RequestType,
    SessionAck,
    SessionReport,
    SessionStatus,
    Step,
    TimeReport,
    TimeStatus,
)
from bellwire.protocols.readout import Readout
from bellwire.protocols.topics import Subscriptions
from bellwire.shell.config import load_config
from bellwire.shell.operand import check_fidelity, duration_ns, operand

GRACE_S = 2.0
"""How much longer the client waits than it gave the network, so that the network's own answer comes first."""

MAX_WAITING_EVENTS = 1_024

MAX_EARLY_CREATES = 64
"""Requests of which an OK came before they were known to exist, that are remembered."""


class Network:
    """What an application can do. Made by `connect`."""

    def __init__(self, participant: Participant) -> None:
        self._participant = participant
        self._creates: dict[CreateId, Create] = {}
        self._creating = 0
        endpoint = participant.endpoint
        self._subscriptions = Subscriptions(endpoint)
        endpoint.handle(LinkOk, self._ok)
        endpoint.handle(LinkMeasured, self._ok)
        endpoint.handle(LinkErr, self._err)
        endpoint.handle(LinkExpire, self._expire)

    @property
    def name(self) -> NodeId:
        """The application's own name."""
        return self._participant.endpoint.node

    async def publish(self, topic: str, text: str = "", *, about: str = "", timeout_s: float = 10.0) -> None:
        """Tell everybody who hears a topic that something has happened; `about` is the id that it is about, if any.

        Raises:
            RequestError: LIMIT when that is too much for a second, or what else the broker refuses with.
        """
        request = EventPublish(topic=topic, about=about, text=text)
        await self._participant.ask(BROKER, request, SessionAck, timeout_s=timeout_s)

    @asynccontextmanager
    async def events(self, topic: str, *, timeout_s: float = 10.0) -> AsyncIterator[AsyncIterator[EventNotice]]:
        """Hear the events of a topic while the context lasts. Of those that wait to be taken the latest 1,024 are kept.

        Raises:
            RequestError: LIMIT when there are too many topics.
            TimeoutError: when the broker does not answer in time.
        """
        heard: asyncio.Queue[EventNotice] = asyncio.Queue(MAX_WAITING_EVENTS)
        subscribed: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def listen(notice: EventNotice) -> None:
            if heard.full():
                heard.get_nowait()
            heard.put_nowait(notice)

        def answered(answer: Answer) -> None:
            if not subscribed.done():
                subscribed.set_result(answer)

        self._participant.act(lambda: self._subscriptions.subscribe(topic, listen, answered))
        try:
            answer = await asyncio.wait_for(subscribed, timeout_s)
            if isinstance(answer, RequestError):
                raise answer
            yield _each(heard)
        finally:
            self._participant.act(lambda: self._subscriptions.unsubscribe(topic))

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
        atomic: bool = False,
        consecutive: bool = False,
    ) -> AsyncGenerator[Pair]:
        """Make `number` pairs with one request (type K); each comes as soon as both ends have confirmed it.

        Args:
            fidelity: the least expected fidelity that will do.
            timeout_s: how long the whole request may take.
            priority: 0 to 7; the link serves greater ones first.
            atomic: all pairs are there at the same time, and come at once, or none comes.
            consecutive: the link makes no pair for anybody else between these.

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
            atomic=atomic,
            consecutive=consecutive,
        )
        async with aclosing(self._asked(nodes, create, timeout_s)) as asked:
            async for pair in asked:
                if isinstance(pair, Pair):
                    yield pair

    async def measured(
        self,
        first: str,
        second: str,
        *,
        number: int = 1,
        basis: str | Readout = "z",
        other_basis: str | Readout | None = None,
        fidelity: float = 0.0,
        timeout_s: float = 10.0,
        priority: int = 0,
        consecutive: bool = False,
    ) -> AsyncGenerator[MeasuredPair]:
        """Make `number` pairs that both ends measure at once (type M): bits come, no qubit is kept.

        Args:
            basis: what the first node measures in: `z`, `x`, `y`; `xz`, `xyz` or `chsh` for one of several that it draws for
                every pair; or a `Readout` with other odds or a rotation of its own.
            other_basis: what the second node measures in; as the first, when it is not given.

        Raises:
            RequestError: as `entangle`, after the pairs that were made.
            ConfigError: when there is no such basis, or no such fidelity.
        """
        nodes = (node_id(first), node_id(second))
        local = readout(basis)
        create = LinkCreate(
            peer=nodes[1],
            number=number,
            min_fidelity=check_fidelity(fidelity),
            max_time_ns=duration_ns(timeout_s),
            priority=priority,
            request_type=RequestType.MEASURE,
            consecutive=consecutive,
            local=local,
            remote=local if other_basis is None else readout(other_basis),
        )
        async with aclosing(self._asked(nodes, create, timeout_s)) as asked:
            async for pair in asked:
                if isinstance(pair, MeasuredPair):
                    yield pair

    async def _asked(
        self, nodes: tuple[NodeId, NodeId], create: LinkCreate, timeout_s: float
    ) -> AsyncGenerator[HeraldedPair]:
        """What comes of a CREATE, pair for pair."""
        self._creating += 1
        try:
            created = await self._participant.ask(nodes[0], create, LinkCreated, timeout_s=timeout_s + GRACE_S)
            waiting = self._creates.setdefault(created.create_id, Create())
            waiting.claim(nodes)
        finally:
            self._creating -= 1
            self._forget_early()
        try:
            for _ in range(create.number):
                try:
                    arrived = await asyncio.wait_for(waiting.arrived.get(), timeout_s + GRACE_S)
                except TimeoutError:
                    text = f"{nodes[0]} and {nodes[1]} gave no pair in time"
                    raise RequestError(ErrorCode.TIMEOUT, text) from None
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

        Without `nodes` the broker and all agents and stations are asked.

        Raises:
            RequestError: when the broker, asked for these, does not answer.
        """
        reports: dict[NodeId, TimeReport | None] = {}
        asked = [node_id(name) for name in nodes]
        if not asked:
            reports[BROKER] = broker = await self._clock(BROKER, timeout_s)
            # It names more followers than sessions, but only sessions tell of who takes the time from elsewhere.
            asked = sorted({*broker.followers, *await self.nodes(timeout_s=timeout_s)})
        answers = await asyncio.gather(*(self._clock(node, timeout_s) for node in asked), return_exceptions=True)
        for node, answer in zip(asked, answers, strict=True):
            if isinstance(answer, BaseException) and not isinstance(answer, RequestError):
                raise answer
            reports[node] = answer if isinstance(answer, TimeReport) else None
        return reports

    async def nodes(self, *, timeout_s: float = 5.0) -> list[NodeId]:
        """Name the agents and stations that are in session with the broker, in order; of very many, the first 256.

        Raises:
            RequestError: when the broker does not answer.
        """
        report = await self.peers(BROKER, timeout_s=timeout_s)
        return sorted((*report.direct, *report.relayed))

    async def peers(self, node: str, *, timeout_s: float = 5.0) -> SessionReport:
        """Ask a participant with whom it is in session, and which way its messages to each of them go.

        The broker names agents and stations alone.

        Raises:
            RequestError: when it does not answer, or cannot say.
        """
        return await self._participant.ask(node_id(node), SessionStatus(), SessionReport, timeout_s=timeout_s)

    async def _clock(self, node: NodeId, timeout_s: float) -> TimeReport:
        return await self._participant.ask(node, TimeStatus(), TimeReport, timeout_s=timeout_s)

    # What the agents say.

    def _create(self, create_id: CreateId) -> Create:
        """The request that an OK or ERR is about; one that is not known is refused, and the agent takes its pair back."""
        known = self._creates.get(create_id)
        if known is None:
            early = sum(create.nodes is None for create in self._creates.values())
            if not self._creating or early >= MAX_EARLY_CREATES + self._creating:
                raise RequestError(ErrorCode.UNKNOWN_ID, f"{self.name} awaits nothing of {create_id}")
            known = self._creates[create_id] = Create()
        return known

    def _forget_early(self) -> None:
        """With no request on its way nothing can be early: forget what nobody claimed."""
        if not self._creating:
            for create_id, create in list(self._creates.items()):
                if create.nodes is None:
                    del self._creates[create_id]

    def _ok(self, peer: NodeId, message: Delivered) -> Reply:
        self._create(message.create_id).ok(peer, message)
        return SessionAck()

    def _err(self, peer: NodeId, message: LinkErr) -> Reply:
        self._create(message.create_id).err(peer, RequestError(message.code, message.text))
        return SessionAck()

    def _expire(self, peer: NodeId, message: LinkExpire) -> Reply:
        """A pair of a request that has ended is the application's own: that it expires needs no more than a receipt."""
        create = self._creates.get(message.create_id)
        if create is not None:
            create.expire(peer, message.sequence_low, message.sequence_high)
        return SessionAck()


async def _each(heard: asyncio.Queue[EventNotice]) -> AsyncIterator[EventNotice]:
    while True:
        yield await heard.get()


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
        insecure=config.broker.insecure,
        direct=config.direct,
    )
    network = Network(participant)
    await participant.start(timeout_s)
    try:
        yield network
    finally:
        await participant.close()
