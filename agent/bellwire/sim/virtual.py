"""A whole testbed in one process and in virtual time: the brains that the daemons run, over a simulated world."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Protocol

import msgspec

from bellwire.agent.brain import AgentBrain
from bellwire.agent.station import StationBrain
from bellwire.protocols.endpoint import Answer, AnswerHandler, Endpoint
from bellwire.protocols.errors import RequestError
from bellwire.protocols.events import Event, Journal
from bellwire.protocols.ids import BROKER, Epoch, LinkId, NodeId, QubitName
from bellwire.protocols.instructions import WindowEnded
from bellwire.protocols.link_book import LinkSettings
from bellwire.protocols.messages import LinkErr, LinkExpire, LinkOk, Reply, Request, Role, SessionAck
from bellwire.protocols.node import Batch, Node, QubitKind
from bellwire.protocols.session import SessionSettings
from bellwire.protocols.station import StationLink
from bellwire.protocols.time_hub import TimePart
from bellwire.sim.clocks import SimulatedClock
from bellwire.sim.preset import Preset
from bellwire.sim.topology import WorldLink, WorldNode
from bellwire.sim.virtual_clocks import VirtualClocks
from bellwire.sim.world import BatchCompleted, World
from bellwire.simnet.clocks import SkewedClock
from bellwire.simnet.fabric import Fabric, Rule
from bellwire.simnet.loop import Simnet
from bellwire.simnet.trace import Trace

SECOND_NS = 1_000_000_000

_EPOCH_STEP = 1_000
"""Epochs lie apart, so that there are others between them: a clock that was set back gives one that never was before."""


class WatcherCapable(Protocol):
    """Whoever looks over the testbed's shoulder: at instructions, completions and journals, as they come."""

    def attached(self, bed: VirtualTestbed) -> None:
        """It is this testbed, whose nodes are about to be made."""

    def submitted(self, name: NodeId, batch: Batch) -> None:
        """A node has decided on a batch, which is on its way to the world."""

    def completed(self, name: NodeId, batch: BatchCompleted) -> None:
        """The world has answered a batch."""

    def noted(self, name: NodeId, event: Event) -> None:
        """A node has written into its journal."""

    def released(self, name: NodeId) -> None:
        """All that a node held in the world was freed: it crashed, or the world did."""


class _WatchedJournal(Journal):
    def __init__(self, listener: Callable[[Event], None]) -> None:
        super().__init__()
        self._listener = listener

    def note(self, event: Event) -> None:
        super().note(event)
        self._listener(event)


class WatchedEndpoint(Endpoint):
    """An endpoint whose requests can be looked at: `awaited` has the deadline (own clock) and type of each by its number."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.awaited: dict[int, tuple[int, str]] = {}

    def ask(self, peer: NodeId, request: Request, deadline_ns: int, handler: AnswerHandler) -> int:
        """Send a request."""

        def answered(answer: Answer) -> None:
            self.awaited.pop(number, None)
            handler(answer)

        number = super().ask(peer, request, deadline_ns, answered)
        self.awaited[number] = (deadline_ns, str(request.__struct_config__.tag))
        return number

    def abandon(self, number: int) -> None:
        """Stop repeating a request."""
        self.awaited.pop(number, None)
        super().abandon(number)


class WorldHardware:
    """Joins the nodes' batches to the world: the backend of virtual time. A slow one delays both ways, in order."""

    def __init__(self, world: World, net: Simnet) -> None:
        self.world = world
        self.net = net
        self.nodes: dict[NodeId, Node] = {}
        self.watchers: list[WatcherCapable] = []
        self.slowness: list[Callable[[NodeId, int], int]] = []
        """Each gives the delay in nanoseconds that a node's backend has at a time."""
        self.miscounts: list[Callable[[NodeId, int], bool]] = []
        """Each tells whether a node's hardware counts one attempt too many at a time."""
        self.clocks = VirtualClocks(net)
        self._leases: dict[NodeId, int] = {}
        self._last: dict[tuple[NodeId, str], int] = {}
        self._stirred = False

    def join(self, name: NodeId, node: Node, qubits: Mapping[QubitName, QubitKind]) -> None:
        """Give a node a backend in which all of its qubits are free."""
        self.leave(name)
        self.nodes[name] = node
        node.backend_connected(qubits.items(), self.net.local_ns(name))
        info = self.world.clock(name)
        if info is not None:
            lease = self._leases[name]
            self.clocks.begin(name, SimulatedClock(info), lambda: node if self._leases[name] == lease else None)

    def lease(self, name: NodeId) -> int:
        """Which connection of a node's backend this is: another one holds none of the qubits of this."""
        return self._leases.get(name, 0)

    def leave(self, name: NodeId) -> None:
        """Cut a node off: what is under way for it is lost, and what it held is freed."""
        self._leases[name] = self._leases.get(name, 0) + 1
        self.nodes.pop(name, None)
        self._stirred = True
        self.world.release_all(name, self.net.now_ns)
        for watcher in self.watchers:
            watcher.released(name)

    def next_deadline_ns(self) -> int | None:
        """When the world wants to be woken."""
        return self.world.next_deadline_ns()

    def handle_deadline(self, now_ns: int) -> None:
        """Let the world's time pass."""
        self._stirred = True
        self.world.handle_deadline(now_ns)

    def exchange(self, names: Iterable[NodeId]) -> bool:
        """Take batches to the world, and completions to the nodes. Returns whether the world may want to be woken earlier."""
        for name in names:
            node = self.nodes.get(name)
            if node is None:
                continue
            for batch in node.take_batches():
                self._to_world(name, batch)
        for answered in self.world.take_completions():
            self._to_node(self._as_counted(answered) if self.miscounts else answered)
        stirred, self._stirred = self._stirred, False
        return stirred

    def _as_counted(self, answered: BatchCompleted) -> BatchCompleted:
        """An answered batch, its attempts counted as well as the node's hardware can."""
        name, now_ns = answered.node, self.net.now_ns
        ended = answered.completions[-1]
        if not isinstance(ended, WindowEnded) or not any(wrong(name, now_ns) for wrong in self.miscounts):
            return answered
        miscounted = msgspec.structs.replace(ended, attempts=ended.attempts + 1)
        return msgspec.structs.replace(answered, completions=(*answered.completions[:-1], miscounted))

    def _to_world(self, name: NodeId, batch: Batch) -> None:
        for watcher in self.watchers:
            watcher.submitted(name, batch)
        # What went the same way earlier and is due now may still be to come.
        behind = self._last.get((name, "batch")) == self.net.now_ns
        at_ns, lease = self._when(name, "batch"), self._leases[name]
        if behind or at_ns > self.net.now_ns:
            self.net.at(at_ns, partial(self._submit, name, lease, batch))
        else:
            self._submit(name, lease, batch)

    def _to_node(self, answered: BatchCompleted) -> None:
        name = answered.node
        for watcher in self.watchers:
            watcher.completed(name, answered)
        self.net.post(name, self._when(name, "completion"), partial(self._complete, answered, self._leases[name]))

    def _when(self, name: NodeId, way: str) -> int:
        """When something arrives that goes now: after the delay of the node's backend, and not before what went earlier."""
        now_ns = self.net.now_ns
        if not self.slowness:
            return now_ns
        delay_ns = max(slow(name, now_ns) for slow in self.slowness)
        at_ns = self._last[name, way] = max(now_ns + delay_ns, self._last.get((name, way), 0))
        return at_ns

    def _submit(self, name: NodeId, lease: int, batch: Batch) -> None:
        if self._leases[name] == lease:
            self._stirred = True
            self.world.submit(name, batch.number, batch.instructions, self.net.now_ns)

    def _complete(self, answered: BatchCompleted, lease: int, local_ns: int) -> None:
        node = self.nodes.get(answered.node)
        if node is not None and self._leases[answered.node] == lease:
            node.complete(answered.batch_id, answered.completions, local_ns)


class VirtualApplication:
    """An application in virtual time: `call` lets time pass until the answer is there."""

    def __init__(self, testbed: VirtualTestbed, name: NodeId) -> None:
        self._testbed = testbed
        self.endpoint = testbed.endpoint(name, Role.APPLICATION)
        self.oks: list[tuple[NodeId, LinkOk]] = []
        self.errors: list[LinkErr] = []
        self.expired: list[LinkExpire] = []
        self.endpoint.handle(LinkOk, self._ok)
        self.endpoint.handle(LinkErr, self._err)
        self.endpoint.handle(LinkExpire, self._expire)

    def _ok(self, peer: NodeId, message: LinkOk) -> Reply:
        self.oks.append((peer, message))
        return SessionAck()

    def _err(self, _: NodeId, message: LinkErr) -> Reply:
        self.errors.append(message)
        return SessionAck()

    def _expire(self, _: NodeId, message: LinkExpire) -> Reply:
        self.expired.append(message)
        return SessionAck()

    def send(self, peer: NodeId, request: Request, *, limit_ns: int = 60 * SECOND_NS) -> list[Answer]:
        """Send a request; the list that is returned holds its answer once there is one."""
        answers: list[Answer] = []
        now_ns = self._testbed.net.local_ns(self.endpoint.node)
        self.endpoint.begin(now_ns)
        self.endpoint.ask(peer, request, now_ns + limit_ns, answers.append)
        self._testbed.net.flush(self.endpoint.node)
        return answers

    def call(self, peer: NodeId, request: Request, *, limit_ns: int = 60 * SECOND_NS) -> Reply:
        """Send a request and let time pass until it is answered.

        Raises:
            RequestError: when it is refused or fails.
            Stuck: when nothing comes.
        """
        answers = self.send(peer, request, limit_ns=limit_ns)
        self._testbed.net.run_until(lambda: bool(answers), limit_ns=2 * limit_ns)
        if isinstance(answers[0], RequestError):
            raise answers[0]
        return answers[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualNode:
    """A node of a virtual testbed: the preset's model, and how many qubits of each kind."""

    model: str = "ideal"
    communication: int = 1
    storage: int = 2
    reference: int = 0

    def qubits(self) -> dict[QubitName, QubitKind]:
        """The qubits by name: the kind and a number."""
        counts = {
            QubitKind.COMMUNICATION: self.communication,
            QubitKind.STORAGE: self.storage,
            QubitKind.REFERENCE: self.reference,
        }
        return {QubitName(f"{kind}{i}"): kind for kind, count in counts.items() for i in range(count)}


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualLink:
    """A link of a virtual testbed. The first end is primary."""

    link_id: LinkId
    ends: tuple[NodeId, NodeId]
    station: NodeId
    model: str = "ideal"
    scheme: str = "any"
    attempts: int = 1
    goodness: float = 1.0

    def settings(self, end: NodeId) -> LinkSettings:
        """What the agent at an end is told of it."""
        primary, secondary = self.ends
        return LinkSettings(
            link_id=self.link_id,
            peer=secondary if end == primary else primary,
            station=self.station,
            primary=end == primary,
            scheme=self.scheme,
            attempts=self.attempts,
            goodness=self.goodness,
        )

    def served(self) -> StationLink:
        """What its station is told of it."""
        primary, secondary = self.ends
        return StationLink(link_id=self.link_id, primary=primary, secondary=secondary)


class NodeCapable(Protocol):
    """What a virtual testbed is told of a node: the preset's model, and its qubits."""

    @property
    def model(self) -> str:
        """The preset's model of it."""

    @property
    def communication(self) -> int:
        """How many communication qubits it has."""

    def qubits(self) -> dict[QubitName, QubitKind]:
        """Its qubits by name."""


class LinkCapable(Protocol):
    """What a virtual testbed is told of a link. The first end is primary."""

    @property
    def link_id(self) -> LinkId:
        """Its name."""

    @property
    def ends(self) -> tuple[NodeId, NodeId]:
        """The nodes that it joins."""

    @property
    def station(self) -> NodeId:
        """The station between them."""

    @property
    def model(self) -> str:
        """The preset's model of it."""

    def settings(self, end: NodeId) -> LinkSettings:
        """What the agent at an end is told of it."""

    def served(self) -> StationLink:
        """What its station is told of it."""


class VirtualTestbed:
    """Agents, stations and a world in virtual time.

    With `clocks`, participants have clocks of their own and take the network's time from the broker, as daemons do.
    """

    def __init__(
        self,
        *,
        preset: Preset,
        nodes: Mapping[NodeId, NodeCapable],
        links: Sequence[LinkCapable],
        seed: int,
        latency_ns: int = 100_000,
        rules: Sequence[Rule] = (),
        time_scale: float = 1.0,
        start_ns: int = SECOND_NS,
        session: SessionSettings | None = None,
        application_timeout_ns: int = 5 * SECOND_NS,
        clocks: Mapping[NodeId, SkewedClock] | None = None,
        trace: Trace | None = None,
        watchers: Sequence[WatcherCapable] = (),
    ) -> None:
        self.session = session or SessionSettings()
        self._application_timeout_ns = application_timeout_ns
        fabric = Fabric(Random(seed), latency_ns=latency_ns, rules=rules)
        self.net = Simnet(fabric, start_ns=start_ns, clocks=clocks, trace=trace)
        self._clock = None if clocks is None else BROKER
        self._nodes = dict(nodes)
        self._links: dict[NodeId, list[LinkCapable]] = {}
        for link in links:
            for party in (*link.ends, link.station):
                self._links.setdefault(party, []).append(link)
        self._epochs = 0
        self._last_epochs: dict[NodeId, Epoch] = {}
        self._set_back: set[NodeId] = set()
        self.world = World(
            preset=preset,
            nodes=[WorldNode(node=n, model=v.model, qubits=v.qubits()) for n, v in nodes.items()],
            links=[WorldLink(link_id=v.link_id, ends=v.ends, station=v.station, model=v.model) for v in links],
            seed=seed,
            start_ns=self.net.now_ns,
            time_scale=time_scale,
        )
        self.hardware = WorldHardware(self.world, self.net)
        self.hardware.watchers += watchers
        for watcher in watchers:
            watcher.attached(self)
        self.net.attach(self.hardware)
        self.agents: dict[NodeId, AgentBrain] = {}
        self.stations: dict[NodeId, StationBrain] = {}
        self.broker = self.restart_broker()
        self.world_up = True
        for station in dict.fromkeys(link.station for link in links):
            self.start_station(station)
        for name in nodes:
            self.start_agent(name)

    def endpoint(self, name: NodeId, role: Role) -> Endpoint:
        """Make the endpoint of a new incarnation of a participant."""
        self._epochs += _EPOCH_STEP
        epoch = Epoch(self._epochs)
        if name in self._set_back:
            self._set_back.discard(name)
            epoch = Epoch(self._last_epochs[name] - 1)
        else:
            self._last_epochs[name] = epoch
        clock = self._clock if role in (Role.AGENT, Role.STATION) else None
        kind = WatchedEndpoint if self.hardware.watchers else Endpoint
        return kind(name, role, epoch, settings=self.session, clock=clock)

    def set_back(self, name: NodeId) -> None:
        """Give the next incarnation of a participant an earlier epoch than its last one, as a clock that was set back does."""
        self._set_back.add(name)

    def say_goodbye(self, name: NodeId) -> None:
        """Let the broker, an agent or a station say goodbye to everybody."""
        endpoint = self.broker if name == BROKER else self.brain(name).endpoint
        endpoint.begin(self.net.local_ns(name))
        endpoint.close()

    def start_station(self, name: NodeId) -> StationBrain:
        """Start a station, or start it again after `crash`."""
        served = [link.served() for link in self._links[name]]
        brain = StationBrain(self.endpoint(name, Role.STATION), served)
        self.stations[name] = brain
        self._start(name, brain)
        return brain

    def start_agent(self, name: NodeId) -> AgentBrain:
        """Start an agent, or start it again after `crash`."""
        endpoint = self.endpoint(name, Role.AGENT)
        links = [link.settings(name) for link in self._links.get(name, ())]
        brain = AgentBrain(endpoint, links, application_timeout_ns=self._application_timeout_ns)
        self.agents[name] = brain
        self._start(name, brain)
        return brain

    def _start(self, name: NodeId, brain: AgentBrain | StationBrain) -> None:
        if self.hardware.watchers:
            brain.node.journal = _WatchedJournal(partial(self._noted, name))
        if self.world_up:
            self.reconnect(name, flush=False)
        brain.start(self.net.local_ns(name))
        self.net.add(name, brain.node)

    def _noted(self, name: NodeId, event: Event) -> None:
        for watcher in self.hardware.watchers:
            watcher.noted(name, event)

    def communication(self, name: NodeId) -> int:
        """How many communication qubits a node has."""
        return self._nodes[name].communication

    def brain(self, name: NodeId) -> AgentBrain | StationBrain:
        """The brain of an agent or of a station."""
        return self.agents.get(name) or self.stations[name]

    def reconnect(self, name: NodeId, *, flush: bool = True) -> None:
        """Give a node its backend back, after it was lost."""
        qubits = self._nodes[name].qubits() if name in self._nodes else {}
        self.hardware.join(name, self.brain(name).node, qubits)
        if flush:
            self.net.flush()

    def lose_world(self) -> None:
        """Let the world crash: every qubit is gone. The nodes have not noticed yet (`notice_loss`)."""
        self.world_up = False
        for name in (*self.stations, *self.agents):
            self.hardware.leave(name)

    def notice_loss(self, name: NodeId) -> None:
        """Let a node notice that its backend is gone."""
        self.brain(name).node.backend_lost("the world is gone", self.net.local_ns(name))
        self.net.touch(name)

    def restart_broker(self) -> Endpoint:
        """Replace the broker by a later incarnation."""
        self.broker = self.endpoint(BROKER, Role.BROKER)
        TimePart(self.broker)
        self.net.add(BROKER, self.broker)
        return self.broker

    def crash(self, name: NodeId) -> None:
        """End a participant as `kill -9` does. Its qubits are lost when the world notices, which is at once."""
        self.net.remove(name)
        if name in self.agents or name in self.stations:
            self.hardware.leave(name)

    def application(self, name: str = "app") -> VirtualApplication:
        """Let an application in."""
        application = VirtualApplication(self, NodeId(name))
        self.net.add(NodeId(name), application.endpoint)
        return application
