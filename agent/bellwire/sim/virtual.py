"""A whole testbed in one process and in virtual time: the brains that the daemons run, over a simulated world."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Protocol

from bellwire.agent.brain import AgentBrain
from bellwire.agent.station import StationBrain
from bellwire.protocols.detectors import StationSettings
from bellwire.protocols.endpoint import Answer, AnswerHandler, Endpoint
from bellwire.protocols.errors import RequestError
from bellwire.protocols.events import Event, Journal
from bellwire.protocols.herald import BrightStates
from bellwire.protocols.ids import BROKER, Epoch, LinkId, NodeId, QubitName
from bellwire.protocols.limits import PATH_KEY_BYTES
from bellwire.protocols.link_book import LinkSettings
from bellwire.protocols.messages import LinkErr, LinkExpire, LinkMeasured, LinkOk, Reply, Request, Role, SessionAck
from bellwire.protocols.node import QubitKind
from bellwire.protocols.paths import serve_status
from bellwire.protocols.session import SessionSettings
from bellwire.protocols.station import StationLink
from bellwire.protocols.time_hub import TimePart
from bellwire.protocols.time_sources import TimeSettings
from bellwire.protocols.topics import Topics
from bellwire.sim.hardware import WatcherCapable, WorldHardware
from bellwire.sim.preset import Preset
from bellwire.sim.topology import WorldLink, WorldNode
from bellwire.sim.world import World
from bellwire.simnet.clocks import SkewedClock
from bellwire.simnet.fabric import Fabric, Rule
from bellwire.simnet.loop import Simnet
from bellwire.simnet.trace import Trace

SECOND_NS = 1_000_000_000

GRANDMASTER = TimeSettings(sources=())

GUARD_NS = 10_000_000
"""How far off the network's time the parties of a window may be, unless a link says otherwise."""

_EPOCH_STEP = 1_000
"""Epochs lie apart, so that there are others between them: a clock that was set back gives one that never was before."""


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


class VirtualApplication:
    """An application in virtual time: `call` lets time pass until the answer is there."""

    def __init__(self, testbed: VirtualTestbed, name: NodeId) -> None:
        self._testbed = testbed
        self.endpoint = testbed.endpoint(name, Role.APPLICATION)
        self.oks: list[tuple[NodeId, LinkOk]] = []
        self.measured: list[tuple[NodeId, LinkMeasured]] = []
        self.errors: list[LinkErr] = []
        self.expired: list[LinkExpire] = []
        self.endpoint.handle(LinkOk, self._ok)
        self.endpoint.handle(LinkMeasured, self._measured)
        self.endpoint.handle(LinkErr, self._err)
        self.endpoint.handle(LinkExpire, self._expire)

    def _measured(self, peer: NodeId, message: LinkMeasured) -> Reply:
        self.measured.append((peer, message))
        return SessionAck()

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
    pair_storage: int = 0

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
    pair_time_ns: int = 0
    test_every: int = 0
    bright_states: BrightStates | None = None
    lead_ns: int = 0
    guard_ns: int = GUARD_NS
    shared_detectors: bool = False

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
            pair_time_ns=self.pair_time_ns,
            test_every=self.test_every,
            bright_states=self.bright_states,
            lead_ns=self.lead_ns,
            guard_ns=self.guard_ns,
            shared_detectors=self.shared_detectors,
        )

    def served(self) -> StationLink:
        """What its station is told of it."""
        primary, secondary = self.ends
        return StationLink(link_id=self.link_id, primary=primary, secondary=secondary, guard_ns=self.guard_ns)


class NodeCapable(Protocol):
    """What a virtual testbed is told of a node: the preset's model, and its qubits."""

    @property
    def model(self) -> str:
        """The preset's model of it."""

    @property
    def communication(self) -> int:
        """How many communication qubits it has."""

    @property
    def pair_storage(self) -> int:
        """How many of its storage qubits may hold halves of pairs."""

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

    With `clocks`, participants have clocks of their own and take the network's time from the broker, as daemons do, or as
    `time` says: who has no sources there is a grandmaster, as the broker is unless it says otherwise.
    """

    def __init__(
        self,
        *,
        preset: Preset,
        nodes: Mapping[NodeId, NodeCapable],
        links: Sequence[LinkCapable],
        seed: int,
        stations: Mapping[NodeId, StationSettings] | None = None,
        latency_ns: int = 100_000,
        rules: Sequence[Rule] = (),
        time_scale: float = 1.0,
        start_ns: int = SECOND_NS,
        session: SessionSettings | None = None,
        application_timeout_ns: int = 5 * SECOND_NS,
        clocks: Mapping[NodeId, SkewedClock] | None = None,
        time: Mapping[NodeId, TimeSettings] | None = None,
        trace: Trace | None = None,
        watchers: Sequence[WatcherCapable] = (),
    ) -> None:
        self.session = session or SessionSettings()
        self._application_timeout_ns = application_timeout_ns
        self._seed = seed
        fabric = Fabric(Random(seed), latency_ns=latency_ns, rules=rules)
        self.net = Simnet(fabric, start_ns=start_ns, clocks=clocks, trace=trace)
        self._clocked = clocks is not None
        self._time = {BROKER: GRANDMASTER} | dict(time or {})
        self._nodes = dict(nodes)
        self._links: dict[NodeId, list[LinkCapable]] = {}
        for link in links:
            for party in dict.fromkeys((*link.ends, link.station)):
                self._links.setdefault(party, []).append(link)
        self.links = {link.link_id: link for link in links}
        self._stations = dict(stations or {})
        self._epochs = 0
        self._last_epochs: dict[NodeId, Epoch] = {}
        self._set_back: set[NodeId] = set()
        self.world = World(
            preset=preset,
            nodes=[WorldNode(node=n, model=v.model, qubits=v.qubits()) for n, v in nodes.items()],
            links=[WorldLink(link_id=v.link_id, ends=v.ends, station=v.station, model=v.model) for v in links],
            stations=self._stations,
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
        for station in dict.fromkeys(link.station for link in links if link.station not in link.ends):
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
        follows = (
            self._clocked and role is not Role.APPLICATION and (name not in self._time or self._time[name].sources)
        )
        clock = BROKER if follows else None
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
        brain = StationBrain(
            self.endpoint(name, Role.STATION), served, self._stations.get(name), time=self._time.get(name)
        )
        self.stations[name] = brain
        self._start(name, brain)
        return brain

    def start_agent(self, name: NodeId) -> AgentBrain:
        """Start an agent, or start it again after `crash`."""
        endpoint = self.endpoint(name, Role.AGENT)
        brain = AgentBrain(
            endpoint,
            [link.settings(name) for link in self._links.get(name, ())],
            application_timeout_ns=self._application_timeout_ns,
            draw=Random(f"{name}/{endpoint.epoch}/{self._seed}").random,
            pair_storage=self._nodes[name].pair_storage,
            time=self._time.get(name),
        )
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

    def station_of(self, link_id: LinkId) -> NodeId:
        """The station of a link, or the end that receives."""
        return self.links[link_id].station

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
        self.broker_time = TimePart(self.broker, self._time[BROKER])
        if self.broker_time.hub is not None:
            # Nobody takes a side path in virtual time, but the broker keeps account of those that it offers.
            self.broker_time.hub.offer_path(1, lambda: bytes(PATH_KEY_BYTES))
        Topics(self.broker)
        serve_status(self.broker)
        self.broker.begin(self.net.local_ns(BROKER), f"{BROKER}:start")
        self.broker_time.start()
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
