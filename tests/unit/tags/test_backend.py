"""The backend of time tags over a source that a test holds in its hand; and what is said of options that are wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from recording import RecordingSink

from bellwire.backends.contract import check_backend
from bellwire.backends.interface import BackendContext, NodeBackend
from bellwire.protocols.errors import BackendError, ConfigError, TransportError
from bellwire.protocols.ids import Epoch, LinkId, NodeId, WindowId
from bellwire.protocols.instructions import Arm, BellState, Cancel, Done, WindowEnded
from bellwire.protocols.messages import Role
from bellwire.protocols.node import Batch
from bellwire.tags.backend import TagBackend, create_backend
from bellwire.tags.files import Recorder
from bellwire.tags.format import Header
from bellwire.tags.settings import FinderSettings
from bellwire.tags.sources import TagSource
from bellwire.tags.stream import NO_TAGS, Tags

PATTERNS = ((1, 2, BellState.PSI_PLUS), (1, 4, BellState.PSI_MINUS))
FINDER = FinderSettings(trigger=0, gates_ps=((10, 30),), patterns=PATTERNS, horizon_ps=0)
WAIT_S = 20.0


class HandSource(TagSource):
    """Gives what a test puts in: tags, an error to raise, or None for the end."""

    def __init__(self, *, waits: bool = False) -> None:
        self.waits = waits
        self.put: asyncio.Queue[Tags | Exception | None] = asyncio.Queue()
        self.windows: list[tuple[str, WindowId]] = []
        self.closed = False
        self.read = 0

    @property
    def name(self) -> str:
        return "the hand"

    @property
    def header(self) -> Header:
        return Header()

    async def chunks(self) -> AsyncGenerator[Tags]:
        while (one := await self.put.get()) is not None:
            if isinstance(one, Exception):
                raise one
            self.read += 1
            yield one

    def armed(self, arm: Arm) -> None:
        self.windows.append(("armed", arm.window_id))

    def ended(self, window_id: WindowId) -> None:
        self.windows.append(("ended", window_id))

    async def close(self) -> None:
        self.closed = True


class Rig:
    """A backend, its source and its sink."""

    def __init__(self, *, waits: bool = False) -> None:
        self.source, self.sink = HandSource(waits=waits), RecordingSink()
        self.backend = TagBackend(self.source, FINDER, retry_s=0.0)

    def put(self, *tags: tuple[int, int]) -> None:
        self.source.put.put_nowait(Tags.of(tags))

    async def up(self) -> None:
        self.source.put.put_nowait(NO_TAGS)
        assert await self.sink.next() == ("connected", ())

    def arm(self, number: int, window: str = "w", timeout_ns: int = 10**12) -> None:
        arm = Arm(window_id=WindowId(window), link_id=LinkId("link"), attempts=100, timeout_ns=timeout_ns)
        self.backend.submit(Batch(number=number, instructions=(arm,)))


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    await rig.backend.connect(rig.sink)
    yield rig
    await rig.backend.close()
    assert rig.source.closed


async def test_backend_reports_what_it_finds(rig: Rig) -> None:
    await rig.up()
    rig.arm(1)
    await settled(rig)
    rig.put((100, 0), (200, 0), (215, 1), (220, 4), (300, 0), (301, 7))
    ended = WindowEnded(window_id=WindowId("w"), attempts=2, bell_state=BellState.PSI_MINUS)
    assert await rig.sink.next() == ("completed", 1, (ended,))
    assert rig.source.windows == [("armed", "w"), ("ended", "w")]


async def test_backend_window_times_out_by_itself(rig: Rig) -> None:
    await rig.up()
    rig.arm(1, timeout_ns=1_000)
    assert await rig.sink.next() == ("completed", 1, (WindowEnded(window_id=WindowId("w"), attempts=0),))


async def test_backend_lost_and_found_again_forgets_its_windows(rig: Rig) -> None:
    await rig.up()
    rig.arm(1)
    rig.source.put.put_nowait(TransportError("the cable is out"))
    assert await rig.sink.next() == ("lost", "the cable is out")
    rig.arm(2, "nobody takes it")
    await rig.up()
    rig.backend.submit(Batch(number=3, instructions=(Cancel(window_id=WindowId("w")),)))
    assert await rig.sink.next() == ("completed", 3, (Done(),))


async def test_backend_that_cannot_reach_its_source_says_so_once_for_each_reason(rig: Rig) -> None:
    for why in ("refused", "refused", "no route"):
        rig.source.put.put_nowait(TransportError(why))
    assert await rig.sink.next() == ("lost", "refused")
    assert await rig.sink.next() == ("lost", "no route")
    await rig.up()


async def test_backend_whose_source_has_ended_is_lost_after_its_last_herald(rig: Rig) -> None:
    await rig.up()
    rig.arm(1)
    await settled(rig)
    rig.put((100, 0), (115, 1), (120, 2))
    rig.source.put.put_nowait(None)
    ended = WindowEnded(window_id=WindowId("w"), attempts=1, bell_state=BellState.PSI_PLUS)
    assert await rig.sink.next() == ("completed", 1, (ended,))
    assert await rig.sink.next() == ("lost", "the hand has no more tags")


async def settled(rig: Rig) -> None:
    """Wait until what was submitted has been looked at: a batch after it is answered."""
    rig.backend.submit(Batch(number=99, instructions=()))
    assert await rig.sink.next() == ("completed", 99, ())


@pytest.mark.parametrize("error", [ConfigError("run.tags: corrupt"), ValueError("a bug")])
async def test_backend_whose_source_is_broken_stops_its_daemon(rig: Rig, error: Exception) -> None:
    await rig.up()
    rig.source.put.put_nowait(error)
    with pytest.raises(type(error), match=str(error)):
        await rig.backend.broken()


async def test_backend_that_was_not_connected_is_broken_and_can_be_closed() -> None:
    backend = TagBackend(HandSource(), FINDER)
    with pytest.raises(BackendError, match="not connected"):
        await backend.broken()
    await backend.close()


@pytest.fixture
async def waiting_rig() -> AsyncIterator[Rig]:
    rig = Rig(waits=True)
    await rig.backend.connect(rig.sink)
    yield rig
    await rig.backend.close()


async def test_backend_source_that_waits_is_not_read_on_without_a_window(waiting_rig: Rig) -> None:
    rig = waiting_rig
    await rig.up()
    for _ in range(3):
        rig.put((1, 7))
    await settled(rig)
    assert rig.source.read == 1
    rig.arm(1)
    rig.put((100, 0), (115, 1), (120, 2), (200, 0), (201, 7))
    assert (await rig.sink.next())[0] == "completed"
    assert rig.source.read == 5


async def test_backend_source_that_waits_serves_windows_from_its_last_part_until_that_is_read(waiting_rig: Rig) -> None:
    rig = waiting_rig
    await rig.up()
    rig.put((100, 0), (115, 1), (120, 2), (200, 0), (300, 0), (315, 1), (320, 4), (400, 0))
    rig.source.put.put_nowait(None)
    for number, (attempts, state) in enumerate([(1, BellState.PSI_PLUS), (2, BellState.PSI_MINUS)], 1):
        rig.arm(number)
        ended = WindowEnded(window_id=WindowId("w"), attempts=attempts, bell_state=state)
        assert await rig.sink.next() == ("completed", number, (ended,))
    assert rig.sink.events.empty()
    rig.arm(3)
    assert await rig.sink.next() == ("lost", "the hand has no more tags")


async def test_backend_over_a_quiet_source_keeps_the_contract_of_backends() -> None:
    def backend() -> NodeBackend:
        source = HandSource()
        source.put.put_nowait(NO_TAGS)
        return TagBackend(source, FINDER)

    report = await check_backend(backend, link_id=LinkId("link"))
    assert not report.skipped
    assert {"arm-times-out", "cancel-ends-a-window", "arm-comes-last", "close-is-silent"} <= set(report.held)


# Options.


def context(tmp_path: Path, **options: Any) -> BackendContext:
    return BackendContext(
        node=NodeId("hub"), role=Role.STATION, epoch=Epoch(1), directory=tmp_path, secret_key=None, options=options
    )


TABLE: dict[str, Any] = {"trigger": 0, "gates_ps": [[10, 30]], "patterns": [[1, 2, "psi+"]]}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in TABLE.items() if key != name}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "missing key `source`"),
        ({"source": "simulated", "sourec": 1}, "unknown key `sourec`, did you mean `source`?"),
        ({"source": "run.tags"}, "missing key `finder`: what a coincidence is"),
        ({"source": "none.tags", "finder": TABLE}, "none.tags: cannot be read"),
        ({"source": "tcp://here", "finder": TABLE}, "'tcp://here' is not of the form tcp://host:port"),
        ({"source": "tcp://here:99999", "finder": TABLE}, "is not of the form tcp://host:port"),
        ({"source": "simulated", "speed": -1.0}, "speed"),
        ({"source": "simulated", "simulation": {"photon_ps": 1}}, "photon_ps: 1: a gate of 20000"),
        ({"source": "world"}, "missing option 'endpoint'"),
        ({"source": "simulated", "finder": without("gates_ps")}, "finder: missing key `gates_ps`"),
        ({"source": "simulated", "finder": without("trigger")}, "expected one of trigger and period_ps"),
        ({"source": "simulated", "finder": {**TABLE, "period_ps": 100}}, "expected one of trigger and period_ps"),
        ({"source": "simulated", "finder": {**TABLE, "gates_ps": [[30, 10]]}}, "gates_ps: [30, 10] is empty"),
        ({"source": "simulated", "finder": {**TABLE, "gates_ps": [[5, 9], [8, 12]]}}, "the one before it ends after 9"),
        ({"source": "simulated", "finder": {**TABLE, "gates_ps": [[-5, 9]]}}, "gates_ps"),
        ({"source": "simulated", "finder": {**TABLE, "patterns": []}}, "patterns"),
        ({"source": "simulated", "finder": {**TABLE, "patterns": [[1, 2, "psi"]]}}, "patterns"),
        ({"source": "simulated", "finder": {**TABLE, "patterns": [[1, 1, "psi+"]]}}, "two detectors have to click"),
        (
            {"source": "simulated", "finder": {**TABLE, "patterns": [[1, 2, "psi+"], [2, 1, "psi-"]]}},
            "patterns: there are two for the channels 2 and 1",
        ),
        ({"source": "simulated", "finder": {**TABLE, "patterns": [[1, 0, "psi+"]]}}, "have to differ from each other"),
        ({"source": "simulated", "finder": {**TABLE, "start": 0}}, "have to differ from each other"),
        (
            {"source": "simulated", "finder": {**TABLE, "origin_ps": 5}},
            "origin_ps is where attempts by period_ps begin",
        ),
        (
            {"source": "simulated", "finder": {**without("trigger"), "period_ps": 20}},
            "they end after 30 ps, when the next attempt has begun",
        ),
        (
            {"source": "simulated", "finder": {**without("trigger"), "period_ps": 100}},
            "with period_ps a station needs start",
        ),
        ({"source": "simulated", "finder": {**TABLE, "delays_ps": [[1, 5], [1, 6]]}}, "there are two for one channel"),
        ({"source": "simulated", "finder": {**TABLE, "horizon_ps": 10**13}}, "horizon_ps"),
        (
            {
                "source": "simulated",
                "finder": {**TABLE, "patterns": [[2 * n + 1, 2 * n + 2, "psi+"] for n in range(40)]},
            },
            "they name 80 channels, at most 64",
        ),
    ],
)
def test_options_that_are_wrong_are_one_line_with_the_place(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    if "run.tags" in options.values():
        Recorder(tmp_path / "run.tags", Header()).close()
    with pytest.raises(ConfigError) as error:
        create_backend(context(tmp_path, **options))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_backend_is_for_stations_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="backend tags of hub: it is for stations, and hub is an agent"):
        create_backend(replace(context(tmp_path, source="simulated"), role=Role.AGENT))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"source": "simulated"}, "the simulated tagger"),
        ({"source": "tcp://[::1]:7300", "finder": TABLE}, "tcp://[::1]:7300"),
        ({"source": "run.tags", "finder": TABLE}, "run.tags"),
    ],
)
def test_options_that_are_right_make_a_backend(tmp_path: Path, options: dict[str, Any], name: str) -> None:
    Recorder(tmp_path / "run.tags", Header()).close()
    backend = create_backend(context(tmp_path, **options))
    assert isinstance(backend, TagBackend)
    assert backend.source.name.endswith(name)
