"""Hostile frames on real sockets, from keys of every role, for the time of a test: `make fuzz daemons` goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzzed_daemons import TARGETS, fuzz_daemons


@pytest.mark.parametrize("seed", [1, 2])
async def test_daemons_sent_hostile_frames_answer_every_valid_request(tmp_path: Path, seed: int) -> None:
    tenths: list[None] = []
    asked, failures = await fuzz_daemons(tmp_path / "keys", seed, 10_000, lambda: tenths.append(None))
    assert asked == 5 * len(TARGETS)
    assert failures == []
    assert tenths == [None]
