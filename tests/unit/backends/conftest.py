"""What the tests of backends share: a context, a sink that remembers, and a way to declare entry points."""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from bellwire.backends.interface import BackendContext
from bellwire.protocols.hardware_clock import ClockClaim
from bellwire.protocols.ids import Epoch, NodeId, QubitName
from bellwire.protocols.instructions import AnyCompletion
from bellwire.protocols.messages import Role
from bellwire.protocols.node import QubitKind

Declare = Callable[..., None]


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


@pytest.fixture
def sink() -> RecordingSink:
    return RecordingSink()


@pytest.fixture
def context(tmp_path: Path) -> BackendContext:
    return BackendContext(
        node=NodeId("alice"), role=Role.AGENT, epoch=Epoch(1), directory=tmp_path, secret_key=None, options={}
    )


@pytest.fixture
def declare(monkeypatch: pytest.MonkeyPatch) -> Declare:
    """Give a function that declares backends, as installed packages would: `declare(name="module:attribute")`."""

    def install(*entries: tuple[str, str]) -> None:
        declared = [importlib.metadata.EntryPoint(name, value, "bellwire.backends") for name, value in entries]

        def entry_points(**selected: Any) -> importlib.metadata.EntryPoints:
            return importlib.metadata.EntryPoints(declared).select(**selected)

        monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)

    return install
