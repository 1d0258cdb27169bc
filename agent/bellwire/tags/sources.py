"""Where a station's tags come from: a source gives them part by part, for as long as there are any.

A source is asked for its tags again after it was lost. Its first part says that it is there, and may be empty.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from itertools import pairwise
from typing import Final

import numpy as np

from bellwire.protocols.ids import WindowId
from bellwire.protocols.instructions import Arm
from bellwire.tags.files import TagReader
from bellwire.tags.format import Header
from bellwire.tags.simulate import SimulatedTagger, SimulationSettings
from bellwire.tags.stream import NO_TAGS, Tags
from bellwire.transport.clock import local_time_ns

STEP_NS: Final = 10_000_000
"""Tags that are given back at a pace come so often, as those of a tagger do."""

SIMULATED_WINDOW: Final = 2**40
"""Attempts of a simulated tagger that runs by itself: at a microsecond each, twelve days."""

Clock = Callable[[], int]
Wait = Callable[[int], Awaitable[None]]


async def wait_ns(delay_ns: int) -> None:
    """Let so much time pass."""
    await asyncio.sleep(delay_ns / 1e9)


class TagSource(ABC):
    """A stream of tags for a station."""

    waits: bool = False
    """Whether it is to be read only while a window is open, and no tag of it may be dropped in between."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What people call it, for messages."""

    @property
    @abstractmethod
    def header(self) -> Header:
        """What is known of its tags, once the first part has come."""

    @abstractmethod
    def chunks(self) -> AsyncGenerator[Tags]:
        """Give the tags, from now on. The first part may be empty; it says that the source is there.

        Raises:
            TransportError: when it is lost, and may come back.
            ConfigError, BackendError: when it is broken for good.
        """

    def armed(self, arm: Arm) -> None:  # noqa: B027
        """The station has armed for a window: for sources that act on it."""

    def ended(self, window_id: WindowId) -> None:  # noqa: B027
        """The station's window has ended."""

    async def close(self) -> None:  # noqa: B027
        """Give everything back. The tags are not asked for any more."""


class ReaderSource(TagSource):
    """The tags of a file, at `speed` times their own pace; with a speed of 0 as fast as windows take them."""

    def __init__(self, reader: TagReader, speed: float) -> None:
        self.reader = reader
        self.waits = speed == 0
        self._speed = speed

    @property
    def name(self) -> str:
        """The file."""
        return str(self.reader.path)

    @property
    def header(self) -> Header:
        """The file's."""
        return self.reader.header

    async def chunks(self) -> AsyncGenerator[Tags]:
        """Give the file's tags, from its beginning."""
        yield NO_TAGS
        async for tags in paced(self.reader.chunks(), self._speed):
            yield tags


class SimulatedSource(TagSource):
    """The tags of a simulated tagger whose attempts never stop."""

    def __init__(self, settings: SimulationSettings, seed: int, speed: float) -> None:
        self.settings = settings
        self.waits = speed == 0
        self._seed = seed
        self._speed = speed

    @property
    def name(self) -> str:
        """That it is simulated."""
        return "the simulated tagger"

    @property
    def header(self) -> Header:
        """Its channels."""
        return self.settings.header()

    async def chunks(self) -> AsyncGenerator[Tags]:
        """Give its tags, the same every time."""
        yield NO_TAGS
        tagger = SimulatedTagger(self.settings, np.random.default_rng(self._seed))
        async for tags in paced((tags for tags, _ in tagger.window(SIMULATED_WINDOW)), self._speed):
            yield tags


async def paced(
    parts: Iterable[Tags], speed: float, *, clock: Clock = local_time_ns, wait: Wait = wait_ns
) -> AsyncGenerator[Tags]:
    """Give tags back at `speed` times the pace at which their own clock went, or without waiting when it is 0.

    The pace begins with the first tag. Where there are none for a while, the clock's progress is given instead.

    Args:
        parts: tags nearly in order of time.
        clock: nanoseconds.
        wait: lets so many nanoseconds pass.
    """
    if speed == 0:
        for tags in parts:
            yield tags
            await wait(0)
        return
    begin_ns, begin_ps, step = clock(), None, 0
    step_ps = max(1, round(STEP_NS * 1_000 * speed))
    for tags in parts:
        if begin_ps is None and len(tags):
            begin_ps = int(tags.times_ps[0])
        for steps, part in _steps(tags, begin_ps or 0, step_ps):
            while step < steps:
                step += 1
                await wait(max(0, begin_ns + step * STEP_NS - clock()))
                if step < steps:
                    yield Tags.clock((begin_ps or 0) + step * step_ps)
            yield part


def _steps(tags: Tags, begin_ps: int, step_ps: int) -> Iterator[tuple[int, Tags]]:
    """Cut tags where steps end; each part comes with the number of steps that have to have passed."""
    reached = np.maximum.accumulate((tags.times_ps - begin_ps) // step_ps)
    cuts = [0, *(np.flatnonzero(np.diff(reached)) + 1).tolist(), len(tags)] if len(tags) else [0]
    for first, last in pairwise(cuts):
        yield int(reached[first]) + 1, tags.part(first, last)
