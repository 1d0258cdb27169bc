from __future__ import annotations

import pytest
from scene import Tap

from bellwire.protocols.messages import GateOutcome, HeraldReport


@pytest.fixture
def outcomes() -> Tap:
    """What the ends measured and the station saw, as it crossed the wire."""
    return Tap((GateOutcome, HeraldReport))
