"""Family `world`: what a simulated backend asks of the world that owns its qubits.

These messages are no part of the signaling protocol: nobody but simulated backends, observers and worlds speaks them. They
travel in sessions as the protocol's own do, so repeats are absorbed and a lost party is noticed in the same way.

A node executes under a *lease*: the promise that its qubits are as it left them. When the world has released a node's qubits,
for instance because the node was silent for too long, the lease is over and nothing is executed under it any more.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from bellwire.protocols.codec import Codec
from bellwire.protocols.ids import NodeId
from bellwire.protocols.instructions import AnyCompletion, AnyInstruction, Qubit
from bellwire.protocols.limits import MAX_BATCH_INSTRUCTIONS
from bellwire.protocols.messages import SESSION_MESSAGES, Message, Reply, Request
from bellwire.protocols.messages.base import Natural, Node, Positive
from bellwire.sim.clocks import ClockInfo
from bellwire.sim.topology import LinkInfo, QubitInfo

WORLD: Final = NodeId("world")
"""The name that a world has on the wire, unless it was given another."""

MAX_BATCHES_UNDER_WAY: Final = 1_536
"""Batches of one node that the world has and has not answered: executing, or held back because an earlier one is missing."""

MAX_INSPECTED_QUBITS: Final = 5
"""The exact state of more qubits does not fit into one message."""

_ENTRIES: Final = 4**MAX_INSPECTED_QUBITS

Entries = Annotated[tuple[float, ...], Meta(min_length=4, max_length=_ENTRIES)]


class WorldDescription(Reply, frozen=True, kw_only=True, tag="world.description"):
    """The node's qubits, its links, and the lease under which it may submit.

    `time_scale` is world nanoseconds per nanosecond of the wall's clock; `clock` the node's own that disciplines itself.
    """

    lease: Positive
    qubits: tuple[QubitInfo, ...]
    links: tuple[LinkInfo, ...]
    time_scale: float
    clock: ClockInfo | None = None


class WorldDescribe(Request, frozen=True, kw_only=True, tag="world.describe"):
    """A node asks what it has. When `lease` is not its present lease, all of its qubits are freed and a new one begins."""

    answered_by = (WorldDescription,)

    lease: Natural = 0


class WorldComplete(Reply, frozen=True, kw_only=True, tag="world.complete"):
    """A batch was carried out. When an instruction failed its `failed` comes last: nothing after it was executed."""

    completions: Annotated[tuple[AnyCompletion, ...], Meta(max_length=MAX_BATCH_INSTRUCTIONS)]


class WorldSubmit(Request, frozen=True, kw_only=True, tag="world.submit"):
    """A batch to be executed after the one numbered `number - 1` of the same lease; the first has number 1."""

    answered_by = (WorldComplete,)

    lease: Positive
    number: Positive
    instructions: Annotated[tuple[AnyInstruction, ...], Meta(max_length=MAX_BATCH_INSTRUCTIONS)]


class WorldState(Reply, frozen=True, kw_only=True, tag="world.state"):
    """A density matrix of `dimension` rows, row by row: the real parts and the imaginary parts of its entries."""

    dimension: Annotated[int, Meta(ge=2, le=2**MAX_INSPECTED_QUBITS)]
    real: Entries
    imag: Entries


class WorldInspect(Request, frozen=True, kw_only=True, tag="world.inspect"):
    """An observer looks at the true joint state of held qubits, each given as (node, qubit), first one slowest.

    No node and no application may.
    """

    answered_by = (WorldState,)

    qubits: Annotated[tuple[tuple[Node, Qubit], ...], Meta(min_length=1, max_length=MAX_INSPECTED_QUBITS)]


WORLD_MESSAGES: tuple[type[Message], ...] = (
    *SESSION_MESSAGES,
    WorldDescribe,
    WorldDescription,
    WorldSubmit,
    WorldComplete,
    WorldInspect,
    WorldState,
)

WORLD_CODEC = Codec(WORLD_MESSAGES)
