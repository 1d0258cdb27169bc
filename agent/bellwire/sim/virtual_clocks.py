"""Clocks that discipline themselves, in virtual time: there the network's time is known exactly."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bellwire.protocols.ids import NodeId
from bellwire.protocols.node import Node
from bellwire.sim.clocks import SimulatedClock
from bellwire.simnet.loop import Simnet


class VirtualClocks:
    """Lets nodes' clocks say what the time is, each as often as its preset has it."""

    def __init__(self, net: Simnet) -> None:
        self._net = net
        self.lost: set[NodeId] = set()
        """Nodes whose clocks say nothing."""

    def begin(self, name: NodeId, clock: SimulatedClock, served: Callable[[], Node | None]) -> None:
        """Begin, and go on until `served` gives no node any more."""
        self._net.at(self._net.now_ns + clock.info.interval_ns, partial(self._tick, name, clock, served))

    def _tick(self, name: NodeId, clock: SimulatedClock, served: Callable[[], Node | None]) -> None:
        if served() is None:
            return
        self.begin(name, clock, served)
        if name not in self.lost:
            true_ns = self._net.now_ns
            self._net.post(name, true_ns, partial(self._claim, clock, served, true_ns))

    def _claim(self, clock: SimulatedClock, served: Callable[[], Node | None], true_ns: int, local_ns: int) -> None:
        node = served()
        if node is not None and true_ns == self._net.now_ns:  # who was stalled reads its clock the next time
            node.claimed(clock.claim(local_ns=local_ns, network_ns=true_ns, reading_ns=1), local_ns)
