"""A testbed in virtual time between whose nodes an unruly network lies, with every checker looking on."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule
from scene import ALICE, BOB, HUB, LINK
from unruly import UnrulyNetwork

from bellwire.protocols.endpoint import Answer
from bellwire.protocols.ids import NodeId, PairId
from bellwire.protocols.messages import LinkOk, Reply, Request, SessionAck
from bellwire.sim.preset import Preset
from bellwire.sim.virtual import SECOND_NS, VirtualLink, VirtualNode, VirtualTestbed
from bellwire.simnet.fabric import Fabric, Frame
from bellwire.virtual.checker import Checker
from bellwire.virtual.endings import Termination
from bellwire.virtual.gate_checkers import ExactCorrection
from bellwire.virtual.oracle import Oracle
from bellwire.virtual.pair_checkers import OneFrame
from bellwire.virtual.run import CHECKERS

MS_NS = 1_000_000
NODES = (ALICE, BOB, HUB)
PAUSES_NS = [MS_NS, 150 * MS_NS, 600 * MS_NS, SECOND_NS]
SILENCES_NS = {"silence": 4 * SECOND_NS, "long silence": 6 * SECOND_NS}
"""More than the liveness of a session, and more than the lifetime of a pair."""

DELAYS_NS = {"quick": 0, "slow": MS_NS, "very slow": 300 * MS_NS}

REQUEST_NS = 6 * SECOND_NS
"""What every request of the application may take."""

REST_NS = 12 * SECOND_NS
"""What leases, sessions and repeats may take to run out, and any two nodes to meet again."""

agents = st.sampled_from([ALICE, BOB])
nodes = st.sampled_from(NODES)


class _HandedFabric(Fabric):
    """Hands the frames that are unruly to the state machine, and lets the others through at once."""

    def __init__(self, unruly: Callable[[Frame], bool], send: Callable[[Frame], None]) -> None:
        self._unruly, self._send = unruly, send

    def arrivals(self, frame: Frame) -> list[int]:
        if not self._unruly(frame):
            return [frame.sent_ns]
        self._send(frame)
        return []


class Ends(UnrulyNetwork):
    """Two agents and the station between them over an exact world. The application's own frames fare well."""

    def __init__(self) -> None:
        super().__init__()
        self.told: dict[PairId, dict[NodeId, LinkOk]] = {}
        self.delays_ns = dict.fromkeys(NODES, 0)
        self.left = 0
        """How often the application has left."""

    def begin(self, preset: Preset, *, seed: int, node: VirtualNode, attempts: int = 1) -> None:
        """Let them begin. To be called before anything else."""
        self.oracle = Oracle()
        link = VirtualLink(link_id=LINK, ends=(ALICE, BOB), station=HUB, attempts=attempts)
        self.bed = VirtualTestbed(
            preset=preset, nodes={ALICE: node, BOB: node}, links=[link], seed=seed, watchers=[self.oracle]
        )
        self.checkers: dict[type[Checker], Checker] = {kind: kind(self.oracle) for kind in CHECKERS}
        self.bed.hardware.slowness.append(lambda node, _: self.delays_ns[node])
        self.bed.net.fabric = _HandedFabric(self.unruly, self.send)
        self.application = self.bed.application()
        self.application.endpoint.handle(LinkOk, self.ok)
        self.bed.net.run_for(MS_NS)

    def ok(self, peer: NodeId, message: LinkOk) -> Reply:
        """The application is told of a pair: what it is told by the two ends has to agree."""
        told = self.told.setdefault(message.pair_id, {})
        told[peer] = message
        for other in told.values():
            assert (other.create_id, other.bell_state) == (message.create_id, message.bell_state)
            assert (other.sequence_number, other.expires_ns) == (message.sequence_number, message.expires_ns)
        return SessionAck()

    def unruly(self, frame: Frame) -> bool:
        return frame.sender in NODES and frame.receiver in NODES

    @property
    def now_ns(self) -> int:
        return self.bed.net.now_ns

    @property
    def frames(self) -> OneFrame:
        checker = self.checkers[OneFrame]
        assert isinstance(checker, OneFrame)
        return checker

    @property
    def gates(self) -> ExactCorrection:
        checker = self.checkers[ExactCorrection]
        assert isinstance(checker, ExactCorrection)
        return checker

    def arrive(self, frame: Frame) -> None:
        actor = self.bed.net.actors[frame.receiver]
        actor.receive(frame.sender, frame.data, self.bed.net.local_ns(frame.receiver))
        self.bed.net.flush(frame.receiver)
        self.bed.net.run_for(0)

    def asks(self, node: NodeId, request: Request) -> list[Answer]:
        """Let the application ask. The list that is returned holds the answer once there is one."""
        answers = self.application.send(node, request, limit_ns=2 * REQUEST_NS)
        self.bed.net.run_for(0)
        return answers

    def asked(self, node: NodeId, request: Request) -> Answer:
        """Let the application ask, and wait for the answer."""
        answers = self.asks(node, request)
        self.bed.net.run_until(lambda: bool(answers), limit_ns=3 * REQUEST_NS)
        return answers[0]

    @rule(pause_ns=st.sampled_from(PAUSES_NS))
    def wait(self, pause_ns: int) -> None:
        self.bed.net.run_for(pause_ns)

    @rule(node=nodes, change=st.sampled_from([*DELAYS_NS, *SILENCES_NS, "restart", "lose the backend", "leave"]))
    def change(self, node: NodeId, change: str) -> None:
        """Something that ends much at once, or makes a node's hardware slow, both ways."""
        self.delays_ns[node] = DELAYS_NS.get(change, self.delays_ns[node])
        if change == "leave":
            self.leave()
        elif change == "restart":
            self.bed.crash(node)
            self.bed.net.run_for(0)
            if node == HUB:
                self.bed.start_station(node)
            else:
                self.bed.start_agent(node)
        elif change == "lose the backend":
            self.bed.hardware.leave(node)
            self.bed.notice_loss(node)
            self.bed.reconnect(node)
        self.bed.net.run_for(SILENCES_NS.get(change, 0))

    def leave(self) -> None:
        """Let the application say goodbye: only its gates hold its qubits on. It is back as soon as it asks for something."""
        self.left += 1
        self.application.endpoint.begin(self.now_ns)
        self.application.endpoint.close()
        self.bed.net.flush(self.application.endpoint.node)
        self.bed.net.run_for(0)
        for brain in self.bed.agents.values():
            assert brain.gates.gates or brain.gates.unanswered or not brain.registers.left()

    @invariant()
    def nothing_is_violated(self) -> None:
        for checker in self.checkers.values():
            checker.sample()
        assert not self.oracle.violations, self.oracle.violations

    def rest(self, rest_ns: int) -> None:
        """Let time pass on a perfect network."""
        for _ in range(rest_ns // (100 * MS_NS)):
            self.settle()
            self.bed.net.run_for(100 * MS_NS)
        self.settle()

    def finish(self) -> None:
        """All that was asked has ended: let the application leave, and look for what is left."""
        termination = self.checkers[Termination]
        assert isinstance(termination, Termination)
        termination.calm_down()
        self.leave()
        self.rest(REST_NS)
        for checker in self.checkers.values():
            checker.finish()
        self.nothing_is_violated()
