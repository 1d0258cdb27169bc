"""Time tags of a simulated world: a station's detectors for testbeds in which nodes have the backend `sim`.

The station takes part in the world's windows as one with the backend `sim` does. But the world's word on how a window ended
goes to a simulated tagger, which makes the tags of such a window, lost photons and dark counts included; and what the station
reports is what it finds in these.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator

import numpy as np

from bellwire.backends.interface import NodeBackend
from bellwire.protocols.errors import TransportError
from bellwire.protocols.hardware_clock import ClockClaim
from bellwire.protocols.ids import QubitName, WindowId
from bellwire.protocols.instructions import AnyCompletion, Arm, Cancel, Done, WindowEnded
from bellwire.protocols.node import Batch, QubitKind
from bellwire.tags.format import Header
from bellwire.tags.settings import FinderSettings
from bellwire.tags.simulate import SimulatedTagger, SimulationSettings
from bellwire.tags.sources import TagSource
from bellwire.tags.stream import NO_TAGS, Tags


class WorldSource(TagSource):
    """Tags of the windows that a station has armed for, in the order of arming.

    Args:
        world: the station's backend in the world.
        simulation: how windows become tags.
        finder: how they are read: so much of the clock's progress follows a window that its end is certain.
        seed: of the tags.
    """

    def __init__(self, world: NodeBackend, simulation: SimulationSettings, finder: FinderSettings, seed: int) -> None:
        delays_ps = [delay_ps for _, delay_ps in finder.delays_ps]
        self._certain_ps = finder.horizon_ps + finder.attempt_ps + max(0, *delays_ps, 0) + 1
        self._world = world
        self._tagger = SimulatedTagger(simulation, np.random.default_rng(seed))
        self._broken: asyncio.Future[None] | None = None
        self._changed = asyncio.Event()
        self._lease = 0
        """Counts connections and losses: odd while the world is there."""

        self._why = ""
        self._number = 0
        self._windows: dict[int, WindowId] = {}
        """Windows by the batches that were sent to the world."""

        self._armed: dict[WindowId, WindowEnded | None] = {}
        """Windows that the station is armed for, in order, and how they have ended in the world."""

        self._made: WindowId | None = None
        """The window whose tags were given, and which the station has not ended yet."""

    @property
    def name(self) -> str:
        """That it is simulated."""
        return "the simulated world"

    @property
    def header(self) -> Header:
        """The tagger's channels."""
        return self._tagger.settings.header()

    async def chunks(self) -> AsyncGenerator[Tags]:
        """Give the tags of windows.

        Raises:
            TransportError: when the world is lost.
            BackendError: when it cannot be reached at all.
            ConfigError: when it heralds a state that two clicks cannot.
        """
        if self._broken is None:
            await self._world.connect(self)
            self._broken = asyncio.ensure_future(self._world.broken())
            self._broken.add_done_callback(lambda _: self._changed.set())
        while not self._lease % 2:
            await self._change(self._lease)
        lease = self._lease
        yield NO_TAGS
        while True:
            window_id = next(iter(self._armed), None)
            ended = None if window_id is None else self._armed[window_id]
            if window_id is None or ended is None or window_id == self._made:
                await self._change(lease)
                continue
            for tags in self._tags(ended):
                if window_id not in self._armed:
                    break
                yield tags
            else:
                self._made = window_id

    def _tags(self, ended: WindowEnded) -> Iterator[Tags]:
        yield from self._tagger.window_with(ended.attempts, ended.bell_state)
        yield self._tagger.quiet(self._certain_ps)

    async def _change(self, lease: int) -> None:
        """Wait until something happens. Raises what is to be raised when the world was lost meanwhile."""
        if self._lease == lease:
            self._changed.clear()
            await self._changed.wait()
        if self._broken is not None and self._broken.done():
            self._broken.result()
        if self._lease != lease and lease % 2:
            raise TransportError(self._why)

    # What the station tells.

    def armed(self, arm: Arm) -> None:
        """Take part in the window."""
        self._armed[arm.window_id] = None
        self._submit(arm)

    def ended(self, window_id: WindowId) -> None:
        """Leave the window, if it still goes on in the world."""
        if window_id in self._armed and self._armed.pop(window_id) is None:
            self._submit(Cancel(window_id=window_id))
        self._changed.set()

    def _submit(self, instruction: Arm | Cancel) -> None:
        self._number += 1
        self._windows[self._number] = instruction.window_id
        self._world.submit(Batch(number=self._number, instructions=(instruction,)))

    async def close(self) -> None:
        """Leave the world."""
        if self._broken is not None:
            self._broken.cancel()
        await self._world.close()

    # What the world reports.

    def connected(self, qubits: Iterable[tuple[QubitName, QubitKind]]) -> None:
        """The world is there. A station has no qubits."""
        assert not tuple(qubits)
        if self._lease % 2:
            self._lose("the world began anew")
        self._lease += 1
        self._changed.set()

    def completed(self, number: int, completions: tuple[AnyCompletion, ...]) -> None:
        """A window has ended, or was cancelled."""
        window_id = self._windows.pop(number, None)
        last = completions[-1]
        if window_id in self._armed and not isinstance(last, Done):
            self._armed[window_id] = (
                last if isinstance(last, WindowEnded) else WindowEnded(window_id=window_id, attempts=0)
            )
            self._changed.set()

    def claimed(self, _claim: ClockClaim) -> None:
        """A station of tags takes the time from exchanges: a simulated world gives none to a station."""

    def lost(self, why: str) -> None:
        """The world is lost, and its windows with it."""
        if self._lease % 2:
            self._lose(why)
            self._changed.set()

    def _lose(self, why: str) -> None:
        self._why = why
        self._lease += 1
        self._armed.clear()
        self._windows.clear()
        self._made = None
