"""What other rooms add to the kit: the entry points of the group `bellwire.conformance`.

The kit must not import the rooms that it checks, so a backend is checked by a module of the agent's own room.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol, cast

from bellwire.conformance.catalogue import Case, Result
from bellwire.protocols.errors import BellwireError

GROUP: Final = "bellwire.conformance"


class BackendRunnerCapable(Protocol):
    """What the entry point `backend` names: it has the cases of backends, and runs them."""

    @property
    def cases(self) -> Sequence[Case]:
        """Every case of backends."""

    def __call__(
        self, name: str, config: Path | None, cases: Sequence[Case], strict: bool, told: Callable[[Result], None]
    ) -> list[Result]:
        """Run cases over an installed backend, with the options that an agent's file gives it."""


def backend_runner() -> BackendRunnerCapable:
    """What checks backends.

    Raises:
        BellwireError: when nothing does, or it cannot be loaded.
    """
    entries = set(importlib.metadata.entry_points(group=GROUP, name="backend"))
    if len(entries) != 1:
        raise BellwireError(f"expected one entry point {GROUP}:backend, {len(entries)} are installed")
    entry = entries.pop()
    try:
        return cast(BackendRunnerCapable, entry.load())
    except Exception as error:
        raise BellwireError(f"{entry.value} cannot be loaded: {error}") from error
