"""Two sites, and what carries envelopes between them."""

from __future__ import annotations

import pytest
from bridged import ALICE, BOB, Local, Net


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.fixture
def sites(net: Net) -> tuple[Local, Local]:
    """Alice at north and Bob at south, who know of each other."""
    north, south = net.add("north"), net.add("south")
    north.bind(ALICE)
    south.bind(BOB)
    net.beat()
    assert north.bridge.find(BOB) is not None
    assert south.bridge.find(ALICE) is not None
    return north, south
