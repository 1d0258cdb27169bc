"""What must always hold, each watched by a checker of its own. They know nothing of faults but their excuses.

An excuse is always narrow: a node that crashed has lost its memory; a peer that is silent cannot be told before the lease is
over; and nobody can obey a message that is still on its way.
"""

from __future__ import annotations

from typing import ClassVar, Final

from bellwire.agent.brain import AgentBrain
from bellwire.protocols.ids import NodeId
from bellwire.virtual.oracle import Oracle

EXACT: Final = 1e-9
"""How far a noiseless world's state may be from ideal."""


class Checker:
    """Base of all checkers. It registers for what it watches; `sample` is called now and then, `finish` at the end."""

    name: ClassVar[str]

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle
        self.watch()

    def watch(self) -> None:
        """Register with the oracle."""

    def sample(self) -> None:
        """Look at everything, in the middle of a run."""

    def finish(self) -> None:
        """Look at everything, when all has ended."""

    def violate(self, text: str) -> None:
        """Say that the invariant does not hold."""
        self.oracle.violate(self.name, text)

    @property
    def now_ns(self) -> int:
        """True time."""
        return self.oracle.bed.net.now_ns

    def awake(self) -> list[tuple[NodeId, AgentBrain]]:
        """The agents that run and are not stalled."""
        net = self.oracle.bed.net
        return [
            (name, brain)
            for name, brain in self.oracle.bed.agents.items()
            if net.is_seated(name, brain.node) and not net.is_stalled(name)
        ]
