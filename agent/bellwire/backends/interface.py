"""The interface of a backend: hardware, or what simulates it (spec 2 §7).

Three calls down (`connect`, `submit`, `close`), four up (`connected`, `completed`, `claimed`, `lost`). Nothing above knows
which backend it has.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bellwire.protocols.hardware_clock import ClockClaim
from bellwire.protocols.ids import Epoch, NodeId, QubitName
from bellwire.protocols.instructions import AnyCompletion
from bellwire.protocols.messages import Role
from bellwire.protocols.node import Batch, QubitKind


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendContext:
    """What a backend is told of the agent or station that it serves. Paths in `options` are relative to `directory`."""

    node: NodeId
    role: Role
    epoch: Epoch
    directory: Path
    secret_key: Path | None
    options: Mapping[str, Any]


class BackendSinkCapable(Protocol):
    """Where a backend reports to. Every call is made on the event loop's thread."""

    def connected(self, qubits: Iterable[tuple[QubitName, QubitKind]]) -> None:
        """The hardware is ready, with these qubits, all of them free. Called again after a loss, and when all was reset."""

    def completed(self, number: int, completions: tuple[AnyCompletion, ...]) -> None:
        """A batch was carried out, or has failed: one completion for each of its instructions."""

    def claimed(self, claim: ClockClaim) -> None:
        """A clock of the hardware's own, which disciplines itself, says what the network's time is (spec 4 §3.6).

        To be called about once a second, and at once when its state changes. A backend without such a clock never does: the
        node then takes the time from exchanges. The own clock is `local_time_ns` of `bellwire.transport.clock`.
        """

    def lost(self, why: str) -> None:
        """The hardware cannot be reached any more; batches under way will not be answered. It may come back."""


class NodeBackend(ABC):
    """Executes instructions. A station's backend has no qubits and takes `Arm` and `Cancel` alone."""

    @abstractmethod
    async def connect(self, sink: BackendSinkCapable) -> None:
        """Begin to work for `sink`.

        Returns when the backend is started; `sink.connected` may come later, as soon as the hardware answers.

        Raises:
            BackendError: when it can never work, for instance for want of a device file. The agent stops with the reason.
        """

    @abstractmethod
    def submit(self, batch: Batch) -> None:
        """Execute a batch after those submitted before it, and answer it once, by `sink.completed`. Never blocks."""

    @abstractmethod
    async def close(self) -> None:
        """Stop, and leave every qubit free. No call to the sink is made afterwards."""

    async def broken(self) -> None:
        """Wait until the backend is broken for good, and raise why: the agent stops with it. A sound backend waits for ever.

        A loss that may pass is told by `sink.lost` and is none of this.
        """
        await asyncio.get_running_loop().create_future()


class BackendFactoryCapable(Protocol):
    """What an entry point of the group `bellwire.backends` names.

    Raises:
        ConfigError: when the options are wrong.
        BackendError: when the backend cannot be made.
    """

    def __call__(self, context: BackendContext) -> NodeBackend:
        """Make a backend for one agent or station."""
