"""An agent's brain: stimuli in, frames and instructions out. It decides everything and does nothing.

It joins the machines of one node: links, pairs, gates and programs, over one endpoint and one backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from bellwire.agent.programs import run_program
from bellwire.protocols.endpoint import Answer, Endpoint
from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.gates import Gates
from bellwire.protocols.ids import BROKER, CreateId, LinkId, NetworkTimeNs, NodeId, PairId
from bellwire.protocols.limits import MAX_TEXT_CHARS
from bellwire.protocols.link import LinkEnd
from bellwire.protocols.link_book import LinkSettings
from bellwire.protocols.messages import (
    GateOpen,
    GateOutcome,
    GateRequest,
    HeraldClose,
    HeraldOpen,
    HeraldReport,
    HeraldWait,
    LinkAdd,
    LinkCreate,
    LinkCreated,
    LinkErr,
    LinkExpire,
    LinkMeasured,
    LinkOk,
    PairConfirm,
    PairOutcome,
    PairRelease,
    ProgramRun,
    Reply,
    RequestType,
    Role,
)
from bellwire.protocols.node import Node
from bellwire.protocols.pairs import PairEnd
from bellwire.protocols.queue import CreateSpec, LinkRequest
from bellwire.protocols.registers import Registers
from bellwire.protocols.session import Loss
from bellwire.protocols.time_hub import TimePart
from bellwire.protocols.time_sources import TimeSettings


class AgentBrain:
    """One node's agent, without its sockets and its hardware."""

    def __init__(
        self,
        endpoint: Endpoint,
        links: Iterable[LinkSettings],
        *,
        application_timeout_ns: int,
        draw: Callable[[], float],
        pair_storage: int = 0,
        time: TimeSettings | None = None,
        applications: frozenset[NodeId] | None = None,
    ) -> None:
        """Make the brain of a node with these links.

        `draw` gives numbers drawn evenly from 0 (included) to 1 (excluded): they choose bases. `applications` may use the node;
        all that reach it when not given.
        """
        self.endpoint = endpoint
        self.node = Node(endpoint)
        self.node.pair_storage = pair_storage
        self.links: dict[LinkId, LinkEnd] = {}
        self._by_peer: dict[NodeId, LinkEnd] = {}
        self._application_timeout_ns = application_timeout_ns
        self._expired: dict[tuple[NodeId, CreateId], list[tuple[int, str]]] = {}
        """The pairs that have ended in this stimulus: number and reason, by application and request."""
        self._applications = applications
        for settings in links:
            link = LinkEnd(self.node, settings, self._announce, draw=draw)
            link.pairs.on_pair_ended = self._pair_ended
            endpoint.known_roles.expect(settings.peer, Role.AGENT)
            if settings.station not in (settings.peer, endpoint.node):
                endpoint.known_roles.expect(settings.station, Role.STATION)
            self.links[settings.link_id] = link
            self._by_peer[settings.peer] = link
        self.time = TimePart(endpoint, time)
        self.node.on_claim.append(self.time.claimed)
        self.node.on_backend_lost.append(self.time.backend_lost)
        self.registers = Registers(self.node, self.find_pair)
        self.registers.on_pair_used = self._pair_used
        self.gates = Gates(self.node, self.registers, self.link_to, self.find_pair)
        self._register()
        endpoint.on_peer_lost.append(self._peer_lost)
        self.node.on_backend_lost.append(self._backend_lost)

    def start(self, now_ns: int) -> None:
        """Begin: greet the broker."""
        self.endpoint.begin(now_ns, f"{self.endpoint.node}:start")
        self.endpoint.keep_session(BROKER)
        self.time.start()

    def find_pair(self, pair_id: PairId) -> PairEnd | None:
        """This node's half of a pair, if it holds one."""
        for link in self.links.values():
            pair = link.book.pairs.get(pair_id)
            if pair is not None:
                return pair
        return None

    def link_to(self, peer: NodeId) -> LinkEnd:
        """The link that joins this node to a neighbour.

        Raises:
            RequestError: UNSUPP when there is none.
        """
        link = self._by_peer.get(peer)
        if link is None:
            raise RequestError(ErrorCode.UNSUPP, f"{self.endpoint.node} has no link to {peer}")
        return link

    # What messages come to.

    def _register(self) -> None:
        handle = self.endpoint.handle
        handle(LinkCreate, self._create)
        handle(LinkAdd, self._add)
        handle(
            HeraldOpen,
            lambda peer, message: self._link(message.link_id).windows.open(peer, message, message.request_id),
        )
        handle(HeraldReport, lambda peer, message: self._link(message.link_id).windows.report(peer, message))
        handle(HeraldWait, lambda peer, message: self._link(message.link_id).windows.wait(peer, message))
        handle(HeraldClose, lambda peer, message: self._link(message.link_id).windows.close(peer, message))
        handle(
            PairConfirm,
            lambda peer, message: self._link(message.link_id).pairs.confirm(peer, message, message.request_id),
        )
        handle(PairRelease, lambda peer, message: self._link(message.link_id).pairs.released(peer, message))
        handle(
            PairOutcome,
            lambda peer, message: self._link(message.link_id).tests.outcome(peer, message, message.request_id),
        )
        handle(GateRequest, self._gate)
        handle(GateOpen, self._open)
        handle(GateOutcome, lambda peer, message: self.gates.outcome(peer, message, message.request_id))
        handle(ProgramRun, self._program)

    def _link(self, link_id: LinkId) -> LinkEnd:
        link = self.links.get(link_id)
        if link is None:
            raise RequestError(ErrorCode.UNKNOWN_ID, f"{self.endpoint.node} has no link {link_id}")
        return link

    def _check_application(self, application: NodeId) -> None:
        """Check that an application may use this node, for itself or by way of a neighbour.

        Raises:
            RequestError: DENIED, when it may not.
        """
        if self._applications is not None and application not in self._applications:
            raise RequestError(ErrorCode.DENIED, f"{application} may not use {self.endpoint.node}")

    def _add(self, peer: NodeId, message: LinkAdd) -> Reply:
        if message.application:
            self._check_application(message.application)
        return self._link(message.link_id).add(peer, message)

    def _open(self, peer: NodeId, message: GateOpen) -> Reply:
        self._check_application(message.application)
        return self.gates.open(peer, message)

    def _create(self, application: NodeId, message: LinkCreate) -> Reply | None:
        self._check_application(application)
        link = self.link_to(message.peer)
        deadline_ns = NetworkTimeNs(self.endpoint.network_time_ns() + message.max_time_ns)
        spec = CreateSpec.of(message, deadline_ns, application)
        request = link.create(spec)
        created = LinkCreated(create_id=request.create_id)
        self.endpoint.reply(application, message.request_id, created)
        request.on_failed = lambda error: self._create_failed(request, error)
        return None

    def _create_failed(self, request: LinkRequest, error: RequestError) -> None:
        message = LinkErr(create_id=request.create_id, code=error.code, text=error.text)
        self._inform(request.spec.application, message)

    def _gate(self, application: NodeId, message: GateRequest) -> Reply | None:
        self._check_application(application)
        self.gates.request(application, message, message.request_id)
        return None

    def _program(self, application: NodeId, message: ProgramRun) -> Reply | None:
        self._check_application(application)
        run_program(self.node, self.registers, application, message)
        return None

    # What applications are told.

    def _announce(self, request: LinkRequest, pair: PairEnd) -> None:
        """A pair is confirmed: hand it to whoever asked for it."""
        if request.on_pair is not None:
            request.on_pair(pair)
        if not pair.owner:
            return
        if request.spec.request_type is RequestType.MEASURE:
            self._announce_outcome(request, pair)
            return
        pair.announced = True
        link = self.link_to(pair.peer)
        ok = LinkOk(expires_ns=pair.expires_ns, **self._delivered(request, pair))

        def answered(answer: Answer) -> None:
            if isinstance(answer, RequestError) and pair.pair_id in link.book.pairs:
                link.pairs.release(pair, f"the application did not take it: {answer}")

        self.endpoint.ask(pair.owner, ok, self.endpoint.now_ns + self._application_timeout_ns, answered)

    def _announce_outcome(self, request: LinkRequest, pair: PairEnd) -> None:
        """A half was measured for an application, or could not be."""
        if pair.outcome is None:
            self._pair_ended(pair, "it could not be measured")
            return
        outcome = pair.outcome
        ok = LinkMeasured(basis=outcome.basis, outcome=outcome.bit, **self._delivered(request, pair))
        self.endpoint.ask(pair.owner, ok, self.endpoint.now_ns + self._application_timeout_ns, lambda _: None)

    def _delivered(self, request: LinkRequest, pair: PairEnd) -> dict[str, Any]:
        """What both forms of OK say."""
        goodness = self.link_to(pair.peer).book.goodness(request.spec.min_fidelity)
        return {
            "create_id": pair.create_id,
            "pair_id": pair.pair_id,
            "sequence_number": pair.sequence_number,
            "purpose_id": request.spec.purpose_id,
            "peer": pair.peer,
            "originator": request.originator,
            "bell_state": pair.bell_state,
            "goodness": goodness.value,
            "goodness_low": goodness.low,
            "goodness_high": goodness.high,
            "goodness_estimated": goodness.estimated,
            "time_of_goodness_ns": self.endpoint.network_time_ns(pair.heralded_ns),
            "confirmed_ns": self.endpoint.network_time_ns(pair.confirmed_ns),
        }

    def _pair_used(self, pair: PairEnd) -> None:
        """An application has begun to use its half: from now on it is one of its registers."""
        self.link_to(pair.peer).pairs.forget(pair)

    def _pair_ended(self, pair: PairEnd, why: str) -> None:
        """A pair is no more: its application is told right after this stimulus, of all that ended in it at once."""
        if not self._expired:
            self.endpoint.timers.at(self.endpoint.now_ns, self._tell_expired)
        self._expired.setdefault((pair.owner, pair.create_id), []).append((pair.sequence_number, why))

    def _tell_expired(self) -> None:
        expired, self._expired = self._expired, {}
        for (application, create_id), ended in expired.items():
            for low, high, why in _runs(ended):
                message = LinkExpire(
                    create_id=create_id, sequence_low=low, sequence_high=high, text=why[:MAX_TEXT_CHARS]
                )
                self._inform(application, message)

    def _inform(self, application: NodeId, message: LinkErr | LinkExpire) -> None:
        if self.endpoint.is_up(application):
            deadline_ns = self.endpoint.now_ns + self._application_timeout_ns
            self.endpoint.ask(application, message, deadline_ns, lambda _: None)

    # Losses.

    def _peer_lost(self, peer: NodeId, loss: Loss, why: str) -> None:
        self.node.note("PeerLost", peer, detail=f"{loss}: {why}")
        self.gates.peer_lost(peer, loss, why)
        for link in self.links.values():
            link.peer_lost(peer, loss, why)
            for request in list(link.book.requests.values()):
                if request.originator and request.spec.application == peer:
                    link.fail_request(request, RequestError(ErrorCode.PEER_LOST, why))
            for pair in list(link.book.pairs.values()):
                if pair.owner == peer:
                    link.pairs.release(pair, f"its application is gone: {why}")
        self.registers.release_all(peer)

    def _backend_lost(self, why: str) -> None:
        self.gates.backend_lost(why)
        for link in self.links.values():
            link.backend_lost(why)
        self.registers.clear()


def _runs(ended: Iterable[tuple[int, str]]) -> list[tuple[int, int, str]]:
    """Numbers without gaps and with one reason, as ranges: from the first (included) to the last (excluded)."""
    runs: list[tuple[int, int, str]] = []
    for number, why in sorted(ended):
        if runs and runs[-1][1:] == (number, why):
            runs[-1] = (runs[-1][0], number + 1, why)
        else:
            runs.append((number, number + 1, why))
    return runs
