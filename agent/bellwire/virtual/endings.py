"""The invariants of endings: everything ends in time and by name, what can be done is done, and nothing is left."""

from __future__ import annotations

from typing import Final

from bellwire.agent.brain import AgentBrain
from bellwire.protocols.ids import NodeId
from bellwire.protocols.session import SessionState
from bellwire.sim.virtual import SECOND_NS, WatchedEndpoint
from bellwire.virtual.checker import Checker

GRACE_NS: Final = 2 * SECOND_NS
"""How much later than its time something may end, on a node that is awake."""

DONE: Final = ("OK", "done", "all pairs")
"""What applications count as done."""

MAX_FRAMES_PER_S: Final = 10
"""Frames that a side of a session sends in a second in which nothing happens: heartbeats, and what is repeated."""


class Termination(Checker):
    """Every request ends in OK or a named error by its deadline."""

    name = "termination"

    def watch(self) -> None:
        """Register with the oracle."""
        self._calm = False
        self._frames = 0
        self._sampled_ns = 0

    def calm_down(self) -> None:
        """From now on nothing goes wrong and nothing is asked: all that is left to say is that one is there."""
        self._calm = True
        self._sampled_ns = 0

    def _quiet(self) -> None:
        """Each side of a session may send a few frames a second, whatever it says; more is an argument without an end."""
        bed = self.oracle.bed
        if not self._calm:
            return
        frames, self._frames = bed.net.frames - self._frames, bed.net.frames
        passed_ns, self._sampled_ns = self.now_ns - self._sampled_ns, self.now_ns
        if passed_ns >= self.now_ns:
            return
        endpoints = [bed.brain(name).endpoint for name in (*bed.agents, *bed.stations)]
        sides = sum(len(endpoint.sessions) for endpoint in (*endpoints, bed.broker))
        if frames * SECOND_NS > MAX_FRAMES_PER_S * 2 * sides * max(passed_ns, SECOND_NS):
            self.violate(f"{frames} frames in {passed_ns / 1e9:g} s, when nothing is asked any more")

    def sample(self) -> None:
        """Look for what should have ended."""
        self._quiet()
        for node, brain in self.awake():
            now_ns = brain.endpoint.network_time_ns(self.oracle.bed.net.local_ns(node))
            for gate in brain.gates.gates.values():
                self._late(node, f"gate {gate.gate_id} in {gate.state.upper()}", now_ns - gate.deadline_ns)
            for link in brain.links.values():
                for request in link.book.requests.values():
                    self._late(node, f"request {request.create_id}", now_ns - request.spec.deadline_ns)
                for pair in link.book.pairs.values():
                    self._late(node, f"pair {pair.pair_id} in {pair.state.upper()}", now_ns - pair.expires_ns)

            self._silent(node, brain)
            self._overdue(node, brain)

    def _overdue(self, node: NodeId, brain: AgentBrain) -> None:
        """A request that nobody answers ends at its deadline."""
        now_ns = self.oracle.bed.net.local_ns(node)
        assert isinstance(brain.endpoint, WatchedEndpoint)
        for deadline_ns, what in brain.endpoint.awaited.values():
            if now_ns > deadline_ns:
                late_s = (now_ns - deadline_ns) / 1e9
                self.violate(f"{node} awaits the answer to a {what}, {late_s:.1f} s after its deadline")

    def _silent(self, node: NodeId, brain: AgentBrain) -> None:
        """A peer that has been silent for too long is lost."""
        endpoint, net = brain.endpoint, self.oracle.bed.net
        awake_ns = net.now_ns - net.stalled_ns(node)
        limit_ns = endpoint.settings.liveness_ns + endpoint.settings.heartbeat_ns + GRACE_NS
        for peer, session in endpoint.sessions.items():
            silent_ns = min(net.local_ns(node) - session.heard_ns, awake_ns)
            if session.state is SessionState.UP and silent_ns > limit_ns:
                self.violate(f"{node} takes {peer} for present, which was silent for {silent_ns / 1e9:.1f} s")

    def _late(self, node: NodeId, what: str, late_ns: int) -> None:
        if late_ns > GRACE_NS:
            self.violate(f"{node} still has {what}, {late_ns / 1e9:.1f} s after its time")

    def answered(self, what: str, late_ns: int, *, calm: bool) -> None:
        """An application has its answer, so much later than its request might take; `calm`: no fault excuses that."""
        if calm and late_ns > GRACE_NS:
            self.violate(f"{what} was answered {late_ns / 1e9:.1f} s after its deadline")

    def unnamed(self, what: str, answer: str) -> None:
        """A request has ended, and nobody says how."""
        self.violate(f"{what} ended without a name: {answer}")


class Progress(Checker):
    """Where faults are too small to excuse anything, everything that is asked for is done."""

    name = "progress"

    def watch(self) -> None:
        """Register with the oracle."""
        self.expected = False

    def answered(self, what: str, how: str) -> None:
        """An application has its answer."""
        if self.expected and how not in DONE:
            self.violate(f"{what} was asked and not done: {how}")


class NoLeak(Checker):
    """When every request has ended and every application has left, nobody holds anything."""

    name = "no-leak"

    def finish(self) -> None:
        """Look for what is left."""
        bed = self.oracle.bed
        for node, brain in bed.agents.items():
            left: dict[str, object] = {
                "qubits": sorted(brain.node.qubits.held),
                "qubits in the world": sorted(bed.world.held(node)),
                "gates": [*brain.gates.gates],
                "requests of its own": [type(request).__name__ for request in brain.endpoint.asks.requests()],
                "unanswered requests": len(brain.endpoint.duties),
                "instructions": brain.node.waiting,
            }
            left["unanswered gates"] = brain.gates.unanswered
            left |= {f"registers of {name}": held for name, held in brain.registers.left().items()}
            for link_id, link in brain.links.items():
                left[f"requests of {link_id}"] = [*link.book.requests]
                left[f"windows of {link_id}"] = [*link.book.windows]
                left[f"pairs of {link_id}"] = [*link.book.pairs]
                left[f"deferred windows of {link_id}"] = link.windows.deferred
            self._report(node, left)
        for node, station in bed.stations.items():
            detectors = station.station.detectors
            left = {
                "windows": [*station.station.windows],
                "turns": detectors.taken,
                "waiting windows": detectors.waiting,
            }
            self._report(node, left)
        self._report(NodeId("world"), {"windows": bed.world.open_windows})

    def _report(self, node: NodeId, left: dict[str, object]) -> None:
        for what, value in left.items():
            if value:
                self.violate(f"{node} still has {what}: {value}")
