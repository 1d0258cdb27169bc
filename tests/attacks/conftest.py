"""A hub and its clients, and a whole testbed on loopback, for attackers to attack."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from slice_of_network import Slice
from tests.unit.transport.conftest import Keys, Yard


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


@pytest.fixture
async def yard(keys: Keys) -> AsyncIterator[Yard]:
    yard = Yard(keys)
    yield yard
    await yard.close()


@pytest.fixture
async def net(tmp_path: Path) -> AsyncIterator[Slice]:
    async with Slice(tmp_path / "keys") as net:
        yield net
