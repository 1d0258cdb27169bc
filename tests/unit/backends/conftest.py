"""What the tests of backends share: a context, a sink that remembers, and a way to declare entry points."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recording import RecordingSink

from bellwire.backends.interface import BackendContext
from bellwire.protocols.ids import Epoch, NodeId
from bellwire.protocols.messages import Role

Declare = Callable[..., None]


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
