"""The nodes' backends in virtual time: what their brains have for hardware, over a simulated world."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Protocol

import msgspec

from bellwire.protocols.events import Event
from bellwire.protocols.ids import NodeId, QubitName
from bellwire.protocols.instructions import WindowEnded
from bellwire.protocols.node import Batch, Node, QubitKind
from bellwire.sim.clocks import SimulatedClock
from bellwire.sim.virtual_clocks import VirtualClocks
from bellwire.sim.world import BatchCompleted, World
from bellwire.simnet.loop import Simnet

if TYPE_CHECKING:
    from bellwire.sim.virtual import VirtualTestbed


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
