"""The invariants that are numbers: bounds of what a node keeps, and times of windows and clocks."""

from __future__ import annotations

from typing import Final

from bellwire.protocols import limits
from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.ids import BROKER, NodeId
from bellwire.protocols.instructions import Arm
from bellwire.protocols.node import Node, QubitKind
from bellwire.protocols.session import MAX_HELLOS
from bellwire.simnet.clocks import TRUE_CLOCK
from bellwire.virtual.checker import Checker

CLOCK_TICK_NS: Final = 2
"""What rounding to whole nanoseconds may add to an error."""


class Bounds(Checker):
    """Every queue, table and log has a declared limit and holds it."""

    name = "bounds"

    def sample(self) -> None:
        """Compare everything with its limit."""
        bed = self.oracle.bed
        self._endpoint(BROKER, bed.broker)
        for node, station in bed.stations.items():
            self._node(node, station.node)
            self._hold(node, "windows", len(station.station.windows), limits.MAX_GATES)
        for node, brain in bed.agents.items():
            self._node(node, brain.node)
            self._hold(node, "gates", len(brain.gates.gates), limits.MAX_GATES)
            qubits = bed.communication(node)
            held = 0
            for link_id, link in brain.links.items():
                book = link.book
                self._hold(node, f"requests of {link_id}", len(book.requests), limits.MAX_LINK_REQUESTS)
                self._hold(node, f"deferred windows of {link_id}", link.windows.deferred, limits.MAX_LINK_REQUESTS)
                self._hold(node, f"tombstones of {link_id}", len(book.ended), limits.MAX_TOMBSTONES)
                self._hold(node, f"test rounds of {link_id}", len(book.rounds), limits.MAX_TEST_ROUNDS)
                pairs = len(book.pairs)
                self._hold(node, f"windows charged for on {link_id}", book.turns.outstanding, len(book.windows) + pairs)
                self._hold(node, f"outcomes to compare on {link_id}", link.tests.owed, pairs)
                held += len(book.windows)
            self._hold(node, "windows, one for each communication qubit", held, qubits)

    def _node(self, name: NodeId, node: Node) -> None:
        self._endpoint(name, node.endpoint)
        self._hold(name, "journal entries", len(node.journal), limits.MAX_JOURNAL_ENTRIES)
        free = sum(node.qubits.free(kind) for kind in QubitKind)
        self._hold(name, "free and held qubits", free + len(node.qubits.held), node.qubits.total)

    def _endpoint(self, name: NodeId, endpoint: Endpoint) -> None:
        self._hold(name, "sessions", len(endpoint.sessions), limits.MAX_PEERS)
        self._hold(name, "pending requests", len(endpoint.asks), limits.MAX_PENDING_REQUESTS)
        owed = 0
        for peer, session in endpoint.sessions.items():
            kept = len(session.owed) + len(session.answered)
            self._hold(name, f"requests kept of {peer}", kept, limits.MAX_ANSWERED_REQUESTS)
            self._hold(name, f"hellos to {peer}", len(session.hellos), MAX_HELLOS)
            owed += len(session.owed)
        self._hold(name, "answers owed", len(endpoint.duties), owed)

    def _hold(self, node: NodeId, what: str, number: int, limit: int) -> None:
        if number > limit:
            self.violate(f"{node} keeps {number} {what}, at most {limit} are allowed")


class Times(Checker):
    """No window lies in the past or overlaps another on the same qubit; clocks are as right as they claim."""

    name = "time"

    def watch(self) -> None:
        """Register with the oracle."""
        self.oracle.listeners.armed.append(self._armed)

    def _armed(self, node: NodeId, arm: Arm) -> None:
        if arm.start_in_ns < 0:
            self.violate(f"{node} arms for {arm.window_id}, which began {-arm.start_in_ns} ns ago")
        if arm.qubit is None:
            return
        other = self.oracle.armed.get((node, arm.qubit))
        if other is not None:
            self.violate(f"{node} arms {arm.qubit} for {arm.window_id}, while it is armed for {other}")
        pair = self.oracle.half_at(node, arm.qubit)
        if pair is not None:
            self.violate(f"{node} arms {arm.qubit} for {arm.window_id}, while it holds a half of {pair.pair_id}")

    def sample(self) -> None:
        """Compare what nodes claim of their clocks with true time."""
        net = self.oracle.bed.net
        for node in (*self.oracle.bed.agents, *self.oracle.bed.stations):
            brain = self.oracle.bed.brain(node)
            oldest_ns = None if brain.time.node is None else brain.time.node.servo.oldest_ns
            claimed_ns = brain.endpoint.clock.uncertainty_ns(net.local_ns(node))
            if oldest_ns is None or claimed_ns is None or not net.is_seated(node, brain.node):
                continue
            clock = net.clocks.get(node, TRUE_CLOCK)
            if clock.true_ns(oldest_ns) <= clock.since_ns:
                continue  # concluded in part from before the clock was changed, against its promise: that cannot be known yet
            error_ns = self.oracle.read_clock(node)
            if abs(error_ns) > claimed_ns + CLOCK_TICK_NS:
                self.violate(f"the clock of {node} is wrong by {error_ns} ns, it claims at most {claimed_ns} ns")
