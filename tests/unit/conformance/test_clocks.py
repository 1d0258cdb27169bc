"""What the kit opens for side paths."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from bellwire.conformance.clocks import TO_SOURCE, SidePath


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:7100", "tcp://192.0.2.1:7100", "tcp://[2001:db8::1]:7100"])
def test_side_path_is_opened_wherever_the_target_is(endpoint: str) -> None:
    with ExitStack() as closing:
        stage = SimpleNamespace(lane=SimpleNamespace(endpoint=endpoint), keep=closing.enter_context)
        assert SidePath(stage, 1, b"k" * 32, TO_SOURCE).port  # type: ignore[arg-type]
