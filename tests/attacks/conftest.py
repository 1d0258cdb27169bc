"""A hub and its clients, and a whole testbed on loopback, for attackers to attack."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from slice_of_network import Slice
from tests.unit.transport.conftest import keys, yard

__all__ = ["keys", "net", "yard"]


@pytest.fixture
async def net(tmp_path: Path) -> AsyncIterator[Slice]:
    async with Slice(tmp_path / "keys") as net:
        yield net
