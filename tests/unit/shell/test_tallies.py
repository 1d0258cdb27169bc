"""What daemons count gets into their logs: once for each change, at a level that says whether something was dropped."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from structlog.testing import capture_logs

from bellwire.broker.bridge import BridgeCounters
from bellwire.protocols.counters import Counters
from bellwire.shell.daemon import Supervision, serve_async
from bellwire.shell.tallies import TRAFFIC, USUAL, TallyLog
from bellwire.transport.connection import ConnectionCounters
from bellwire.transport.members import HubCounters

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PARTS = {
    "endpoint": Counters,
    "hub": HubCounters,
    "connection": ConnectionCounters,
    "direct": ConnectionCounters,
    "bridge": BridgeCounters,
}


@dataclass
class Busy:
    """A daemon that drops something while it runs, and ends."""

    counters: HubCounters = field(default_factory=HubCounters)

    @property
    def tallies(self) -> dict[str, DataclassInstance]:
        return {"hub": self.counters}

    async def start(self) -> None:
        self.counters.hasty = 5

    async def run(self) -> None:
        self.counters.hasty += 2

    async def close(self) -> None:
        pass


def lines(logged: list[Any]) -> list[dict[str, Any]]:
    return [entry for entry in logged if entry["event"] == "counted"]


def test_counters_that_are_told_apart_by_name_are_counters() -> None:
    known = {f"{part}.{each.name}" for part, counters in PARTS.items() for each in fields(counters)}
    assert known >= TRAFFIC | USUAL
    assert not TRAFFIC & USUAL


@pytest.mark.parametrize(
    ("counters", "level"),
    [
        ({"delivered": 3, "relayed": 4}, None),
        ({"delivered": 3, "unroutable": 1}, "info"),
        ({"delivered": 3, "unroutable": 1, "full": 2}, "warning"),
    ],
)
async def test_line_is_a_warning_if_something_was_dropped_and_none_if_all_was_well(
    counters: dict[str, int], level: str | None
) -> None:
    hub = HubCounters(delivered=10, full=1)
    with capture_logs() as logged, TallyLog("broker", {"hub": hub}) as log:
        for name, more in counters.items():
            setattr(hub, name, getattr(hub, name) + more)
        log.tell()
        log.tell()
    told = {f"hub.{name}": more for name, more in counters.items()}
    wanted = [] if level is None else [{"event": "counted", "log_level": level, "name": "broker", **told}]
    assert lines(logged) == wanted


async def test_last_error_is_told_when_it_is_another_and_escaped() -> None:
    endpoint = Counters()
    with capture_logs() as logged, TallyLog("alice", {"endpoint": endpoint}) as log:
        endpoint.errors, endpoint.last_error = 1, "broker: LIMIT: \x1b[31mno\nmore"
        log.tell()
        endpoint.errors = 3
    first, second = lines(logged)
    assert first["endpoint.last_error"] == r"broker: LIMIT: \x1b[31mno\nmore"
    assert (first["endpoint.errors"], second["endpoint.errors"]) == (1, 2)
    assert "endpoint.last_error" not in second


async def test_changes_are_told_as_time_goes_on() -> None:
    hub, told = HubCounters(), asyncio.Queue[int]()

    def keep(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
        told.put_nowait(event["hub.full"])
        raise structlog.DropEvent

    structlog.configure(processors=[keep])
    try:
        with TallyLog("broker", {"hub": hub}, period_s=0.0):
            for more in (1, 2):
                hub.full += more
                assert await asyncio.wait_for(told.get(), 10) == more
    finally:
        structlog.reset_defaults()


async def test_daemon_that_ends_tells_what_it_dropped_while_it_ran() -> None:
    async def make(_readiness: object) -> Busy:
        return Busy()

    with capture_logs() as logged:
        await serve_async("busy", make, Supervision())
    assert [(line["name"], line["hub.hasty"]) for line in lines(logged)] == [("busy", 2)]
