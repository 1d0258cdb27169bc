"""The backend `tags`: a heralding station whose detectors are a time tagger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

from msgspec import Meta

from bellwire.backends.interface import BackendContext, BackendSinkCapable, NodeBackend
from bellwire.protocols.errors import BackendError, ConfigError, TransportError
from bellwire.protocols.ids import NodeId
from bellwire.protocols.instructions import Arm, WindowEnded
from bellwire.protocols.messages import Role
from bellwire.protocols.node import Batch
from bellwire.shell.config import Milliseconds, Table, Text, convert
from bellwire.tags.files import open_tags
from bellwire.tags.settings import FinderSettings
from bellwire.tags.simulate import SimulationSettings
from bellwire.tags.sources import ReaderSource, SimulatedSource, TagSource
from bellwire.tags.station import TagStation
from bellwire.tags.stream import Tags
from bellwire.tags.wire import SocketSource
from bellwire.transport.addresses import TCP
from bellwire.transport.clock import local_time_ns
from bellwire.transport.driver import Driver

SIMULATED: Final = "simulated"
WORLD: Final = "world"
RETRY_S: Final = 0.5
"""After so long a source that was lost is asked again."""

Speed = Annotated[float, Meta(ge=0.0, le=1e6)]


class TagOptions(Table, frozen=True, kw_only=True):
    """The options of the backend `tags`.

    Attributes:
        source: `tcp://host:port`, a file of tags, `simulated`, or `world`.
        finder: what a coincidence is; for simulated tags it is known.
        simulation: how tags are simulated, for `simulated` and `world`.
        seed: of the simulation.
        speed: how many times faster than recorded a file is given back, or simulated tags; 0: as fast as windows take them.
        silence_ms: a server that sends no whole chunk for so long is lost.
        world: how the world is reached, as the options of the backend `sim`.
    """

    source: Text
    finder: FinderSettings | None = None
    simulation: SimulationSettings = SimulationSettings()
    seed: Annotated[int, Meta(ge=0)] = 1
    speed: Speed = 1.0
    silence_ms: Milliseconds = 3_000.0
    world: dict[str, Any] = {}


class TagBackend(NodeBackend):
    """Looks for the heralds of a station's windows in the tags of a source, and asks a lost source again for ever."""

    def __init__(
        self,
        source: TagSource,
        finder: FinderSettings,
        *,
        clock: Callable[[], int] = local_time_ns,
        retry_s: float = RETRY_S,
    ) -> None:
        self.source = source
        self.station = TagStation(finder, waits=source.waits)
        self._clock = clock
        self._retry_s = retry_s
        self._sink: BackendSinkCapable | None = None
        self._driver: Driver | None = None
        self._reading: asyncio.Task[None] | None = None
        self._flushed = asyncio.Event()
        self._is_up = False
        self._why = ""

    async def connect(self, sink: BackendSinkCapable) -> None:
        """Begin to read the source. It may come later."""
        self._sink = sink
        self._driver = Driver(_Driven(self.station), lambda *_: True, self._clock, self._report)
        self._reading = asyncio.ensure_future(self._read(self._driver))

    def submit(self, batch: Batch) -> None:
        """Carry out a batch. It is answered soon, or when its window has ended."""
        if self._driver is not None and self._is_up:
            self._driver.stimulate(lambda now_ns: self._execute(batch, now_ns))

    async def close(self) -> None:
        """Stop, and leave the source."""
        self._sink = None
        if self._driver is not None:
            self._driver.close()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        await self.source.close()

    async def broken(self) -> None:
        """Wait for a source that is broken for good."""
        if self._driver is None:
            raise BackendError("the backend of time tags was not connected")
        await asyncio.shield(self._driver.failed)

    def _execute(self, batch: Batch, now_ns: int) -> None:
        self.station.submit(batch, now_ns)
        last = batch.instructions[-1] if batch.instructions else None
        if isinstance(last, Arm) and self.station.is_armed(last.window_id):
            self.source.armed(last)

    def _report(self) -> None:
        """Give the answers that there are; called by the driver when something has happened."""
        for number, completions in self.station.take_answers():
            if completions and isinstance(completions[-1], WindowEnded):
                self.source.ended(completions[-1].window_id)
            if self._sink is not None:
                self._sink.completed(number, completions)
        self._flushed.set()

    async def _read(self, driver: Driver) -> None:
        """Feed the station with the source's tags, for as long as there are any."""
        while True:
            try:
                await self._feed(driver)
                self._go_down(f"{self.source.name} has no more tags")
                return
            except TransportError as error:
                self._go_down(str(error))
            except Exception as error:
                driver.fail(error)
                return
            await asyncio.sleep(self._retry_s)

    async def _feed(self, driver: Driver) -> None:
        async with aclosing(self.source.chunks()) as chunks:
            async for tags in chunks:
                self._come_up()
                if self.source.waits:
                    await self._flushed_until(lambda: self.station.looking)
                driver.stimulate(_feeding(self.station, tags))
                driver.poke()
        driver.stimulate(self.station.finish)
        driver.poke()
        if self.source.waits:
            await self._flushed_until(lambda: not self.station.unread)

    async def _flushed_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._flushed.clear()
            await self._flushed.wait()

    def _come_up(self) -> None:
        if not self._is_up:
            self._is_up = True
            self._why = ""
            if self._sink is not None:
                self._sink.connected(())

    def _go_down(self, why: str) -> None:
        """Tell of a loss, and of a source that cannot be reached once for each reason."""
        told = not self._is_up and why == self._why
        self._is_up = False
        self._why = why
        self.station.reset()
        if self._sink is not None and not told:
            self._sink.lost(why)


class _Driven:
    """The station as a driver drives it: there are no frames."""

    def __init__(self, station: TagStation) -> None:
        self.next_deadline_ns = station.next_deadline_ns
        self.handle_deadline = station.handle_deadline

    def receive(self, peer: NodeId, data: bytes, now_ns: int) -> None:  # noqa: ARG002
        raise BackendError(f"a station of time tags takes no frames, and {peer} sent one of {len(data)} octets")

    def take_frames(self) -> list[tuple[NodeId, bytes]]:
        return []


def _feeding(station: TagStation, tags: Tags) -> Callable[[int], None]:
    return lambda now_ns: station.feed(tags, now_ns)


def create_backend(context: BackendContext) -> NodeBackend:
    """Make a station's backend of time tags. Its options are `TagOptions`.

    Raises:
        ConfigError: when an option is wrong, a file of tags cannot be read, or the node is no station.
    """
    place = f"backend tags of {context.node}"
    if context.role is not Role.STATION:
        raise ConfigError(f"{place}: it is for stations, and {context.node} is an {context.role}")
    options = convert(context.options, TagOptions, place)
    finder = options.finder
    if options.source in (SIMULATED, WORLD):
        finder = finder or options.simulation.finder()
    elif finder is None:
        raise ConfigError(f"{place}: missing key `finder`: what a coincidence is")
    if finder.period_ps is not None and finder.start is None:
        raise ConfigError(f"{place}: finder: with period_ps a station needs start, the channel that begins its windows")
    if options.source != WORLD:
        return TagBackend(make_source(options, context.directory), finder)
    from bellwire.sim.backend import create_backend as create_sim
    from bellwire.tags.world import WorldSource

    world = create_sim(replace(context, options=options.world))
    return TagBackend(WorldSource(world, options.simulation, finder, options.seed), finder)


def make_source(options: TagOptions, directory: Path) -> TagSource:
    """Make a source that needs nothing but itself. Files are relative to `directory`.

    Raises:
        ConfigError: when an address is none, or a file of tags cannot be read.
    """
    if options.source == SIMULATED:
        return SimulatedSource(options.simulation, options.seed, options.speed)
    if options.source.startswith(TCP):
        return SocketSource(options.source, options.silence_ms / 1_000)
    return ReaderSource(open_tags(directory / options.source), options.speed)
