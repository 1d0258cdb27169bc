"""What a backend reports, as a test reads it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from bellwire.protocols.hardware_clock import ClockClaim
from bellwire.protocols.ids import QubitName
from bellwire.protocols.instructions import AnyCompletion
from bellwire.protocols.node import QubitKind


class RecordingSink:
    """Remembers what a backend reports, in order."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()

    def connected(self, qubits: Iterable[tuple[QubitName, QubitKind]]) -> None:
        self.events.put_nowait(("connected", tuple(qubits)))

    def completed(self, number: int, completions: tuple[AnyCompletion, ...]) -> None:
        self.events.put_nowait(("completed", number, completions))

    def claimed(self, claim: ClockClaim) -> None:
        self.events.put_nowait(("claimed", claim))

    def lost(self, why: str) -> None:
        self.events.put_nowait(("lost", why))

    async def next(self) -> tuple[Any, ...]:
        async with asyncio.timeout(10):
            return await self.events.get()
