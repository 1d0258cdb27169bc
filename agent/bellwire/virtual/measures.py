"""The invariants that are numbers: bounds of what a node keeps, and times of windows and clocks."""

from __future__ import annotations

from typing import Final

from bellwire.protocols import limits
from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.ids import BROKER, NodeId, WindowId
from bellwire.protocols.instructions import Arm
from bellwire.protocols.node import Node, QubitKind
from bellwire.protocols.session import MAX_HELLOS
from bellwire.protocols.time_hub import TimePart
from bellwire.simnet.clocks import TRUE_CLOCK
from bellwire.virtual.checker import Checker

CLOCK_TICK_NS: Final = 2
"""What rounding to whole nanoseconds may add to an error."""

MAX_DRIFT_PPM: Final = 100
"""By how much a node's own clock is fast or slow at most, as it promises (spec 4 §1.4)."""


class Bounds(Checker):
    """Every queue, table and log has a declared limit and holds it."""

    name = "bounds"

    def sample(self) -> None:
        """Compare everything with its limit."""
        bed = self.oracle.bed
        self._endpoint(BROKER, bed.broker)
        self._time(BROKER, bed.broker_time)
        for node, station in bed.stations.items():
            self._node(node, station.node)
            self._time(node, station.time)
            self._hold(node, "windows", len(station.station.windows), limits.MAX_GATES)
        for node, brain in bed.agents.items():
            self._node(node, brain.node)
            self._time(node, brain.time)
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

    def _time(self, name: NodeId, part: TimePart) -> None:
        if part.hub is not None:
            leases = len(part.hub.followers)
            self._hold(name, "leases of time", leases, limits.MAX_TIME_LEASES)
            self._hold(name, "side paths, one for each lease", part.hub.paths, leases)

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
    """Who takes part in a window is sure of the time, and both ends begin it then; no two are on the same qubit.

    Clocks are as right as they claim.
    """

    name = "time"

    def watch(self) -> None:
        """Register with the oracle."""
        self._begins: dict[WindowId, tuple[NodeId, int, int]] = {}
        """Of windows with a lead for which one end has armed: that end, when it begins, and how far off it says that is."""
        self.oracle.listeners.armed.append(self._armed)

    def _armed(self, node: NodeId, arm: Arm) -> None:
        link = self.oracle.bed.links[arm.link_id]
        guard_ns = link.served().guard_ns if arm.qubit is None else link.settings(node).guard_ns
        clock = self.oracle.bed.brain(node).endpoint.clock
        unsure_ns = clock.uncertainty_ns(self.oracle.bed.net.local_ns(node))
        if not clock.known or unsure_ns is None:
            self.violate(f"{node} arms for {arm.window_id} and does not know the network's time")
        elif unsure_ns > guard_ns:
            self.violate(
                f"{node} arms for {arm.window_id} and is off by up to {unsure_ns} ns, the guard is {guard_ns} ns"
            )
        if arm.qubit is None:
            return
        if link.settings(node).lead_ns:
            self._begin(node, arm)
        other = self.oracle.armed.get((node, arm.qubit))
        if other is not None:
            self.violate(f"{node} arms {arm.qubit} for {arm.window_id}, while it is armed for {other}")
        pair = self.oracle.half_at(node, arm.qubit)
        if pair is not None:
            self.violate(f"{node} arms {arm.qubit} for {arm.window_id}, while it holds a half of {pair.pair_id}")

    def _begin(self, node: NodeId, arm: Arm) -> None:
        """Compare when both ends begin a window with what they claim of their clocks."""
        net = self.oracle.bed.net
        claimed_ns = self._claimed_ns(node, net.local_ns(node) + arm.start_in_ns)
        if claimed_ns is None:
            return
        claimed_ns += CLOCK_TICK_NS + arm.start_in_ns * MAX_DRIFT_PPM // 1_000_000
        begins_ns = net.now_ns + arm.start_in_ns
        first = self._begins.pop(arm.window_id, None)
        if first is None:
            self._begins[arm.window_id] = (node, begins_ns, claimed_ns)
            return
        other, other_ns, other_claimed_ns = first
        if abs(begins_ns - other_ns) > claimed_ns + other_claimed_ns:
            self.violate(
                f"{node} begins {arm.window_id} {begins_ns - other_ns} ns after {other}, "
                f"they claim at most {claimed_ns} and {other_claimed_ns} ns"
            )

    def _claimed_ns(self, node: NodeId, local_ns: int) -> int | None:
        """How far off a node's idea of the time is at most, as it says.

        `None` when it says nothing, or concludes it in part from before its clock was changed, against its promise: that it
        says something false cannot be known yet.
        """
        brain, clock = self.oracle.bed.brain(node), self.oracle.bed.net.clocks.get(node, TRUE_CLOCK)
        oldest_ns = None if brain.time.node is None else brain.time.node.servo.oldest_ns
        if oldest_ns is None or clock.true_ns(oldest_ns) <= clock.since_ns:
            return None
        return brain.endpoint.clock.uncertainty_ns(local_ns)

    def sample(self) -> None:
        """Compare what nodes claim of their clocks with true time."""
        net = self.oracle.bed.net
        for node in (*self.oracle.bed.agents, *self.oracle.bed.stations):
            claimed_ns = self._claimed_ns(node, net.local_ns(node))
            if claimed_ns is None or not net.is_seated(node, self.oracle.bed.brain(node).node):
                continue
            error_ns = self.oracle.read_clock(node)
            if abs(error_ns) > claimed_ns + CLOCK_TICK_NS:
                self.violate(f"the clock of {node} is wrong by {error_ns} ns, it claims at most {claimed_ns} ns")
