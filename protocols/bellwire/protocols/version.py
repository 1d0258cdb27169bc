"""Versions of the signaling protocol (spec 1 §4.1). They count apart from the version of this package."""

from __future__ import annotations

from collections.abc import Sequence

PROTOCOL_VERSION = 1
SUPPORTED_VERSIONS: tuple[int, ...] = (1,)


def negotiate(offered: Sequence[int]) -> int | None:
    """Return the highest version that both sides speak, or `None` when there is none (spec 1 §4.1)."""
    common = set(offered) & set(SUPPORTED_VERSIONS)
    return max(common) if common else None
