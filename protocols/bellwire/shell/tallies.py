"""What a daemon counts gets into its log: one line each time that something was dropped, refused or repeated."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Final, Self

import structlog

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PERIOD_S: Final = 10.0
"""A line comes at most this often."""

TRAFFIC: Final = frozenset({"hub.delivered", "hub.relayed", "bridge.sent", "bridge.received"})
"""Counters that stand beside others, and make no line of their own."""

USUAL: Final = frozenset(
    {
        "endpoint.stale",
        "endpoint.strangers",
        "endpoint.repeated",
        "endpoint.retransmitted",
        "hub.ungreeted",
        "hub.unroutable",
        "hub.unsent",
        "connection.refused",
        "direct.refused",
        "bridge.missed",
    }
)
"""Counters of what happens in sound networks too, when somebody comes or goes. All that is in neither set is a warning."""


class TallyLog:
    """While it lasts, what has changed in a daemon's tallies is logged every `period_s` seconds, and at the end."""

    def __init__(self, name: str, tallies: Mapping[str, DataclassInstance], period_s: float = PERIOD_S) -> None:
        """Watch dataclasses of counters and of texts, by what they belong to."""
        self._name = name
        self._tallies = tallies
        self._period_s = period_s
        self._told = self._read()
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._timer = asyncio.get_running_loop().call_later(self._period_s, self._ring)
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.tell()

    def tell(self) -> None:
        """Log what was counted since the last line: how many more of each, and texts that are new, escaped."""
        now = self._read()
        changed = {key: value for key, value in now.items() if value != self._told[key]}
        if not changed.keys() - TRAFFIC:
            return
        log = structlog.get_logger()
        say = log.warning if changed.keys() - TRAFFIC - USUAL else log.info
        say("counted", name=self._name, **{key: self._news(key, value) for key, value in changed.items()})
        self._told = now

    def _news(self, key: str, value: int | str) -> int | str:
        told = self._told[key]
        if isinstance(value, int) and isinstance(told, int):
            return value - told
        return str(value).encode("unicode_escape").decode("ascii")

    def _read(self) -> dict[str, int | str]:
        return {f"{part}.{key}": value for part, tally in self._tallies.items() for key, value in asdict(tally).items()}

    def _ring(self) -> None:
        self.tell()
        self._timer = asyncio.get_running_loop().call_later(self._period_s, self._ring)
