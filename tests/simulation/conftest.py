from __future__ import annotations

from pathlib import Path

import pytest
from scene import Tap

from bellwire.protocols.messages import GateOutcome, HeraldReport


@pytest.fixture
def outcomes() -> Tap:
    """What the ends measured and the station saw, as it crossed the wire."""
    return Tap((GateOutcome, HeraldReport))


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A scenario of which many seeds run in a second."""
    path = tmp_path / "tiny.toml"
    path.write_text('duration_s = 1.0\n[topology]\nkind = "two-nodes"\n[faults]\nframes = 2\n', encoding="utf-8")
    return path
