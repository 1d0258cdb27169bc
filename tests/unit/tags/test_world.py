"""Tags of a simulated world, scripted here: windows become tags in the order of arming, and only while they are wanted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import msgspec
import pytest

from bellwire.backends.mock import MockBackend
from bellwire.protocols.errors import ConfigError, TransportError
from bellwire.protocols.ids import LinkId, WindowId
from bellwire.protocols.instructions import Arm, BellState, Cancel, Failed, WindowEnded
from bellwire.tags.finder import STATES, Search
from bellwire.tags.simulate import CHUNK_ATTEMPTS, TRIGGER, SimulationSettings
from bellwire.tags.stream import Tags
from bellwire.tags.world import WorldSource

SETTINGS = SimulationSettings(efficiencies=(0.5, 0.5), dark_hz=0.0)
FINDER = msgspec.structs.replace(SETTINGS.finder(), horizon_ps=30_000_000)
WAIT_S = 20.0


def ended(window: str, attempts: int, state: BellState | None = BellState.PSI_PLUS) -> WindowEnded:
    return WindowEnded(window_id=WindowId(window), attempts=attempts, bell_state=state)


def arm(window: str) -> Arm:
    return Arm(window_id=WindowId(window), link_id=LinkId("link"), attempts=1_000, timeout_ns=10**12)


class Rig:
    def __init__(self) -> None:
        self.world = MockBackend({})
        self.source = WorldSource(self.world, SETTINGS, FINDER, 1)
        self.chunks = self.source.chunks()

    async def next(self) -> Tags:
        async with asyncio.timeout(WAIT_S):
            return await anext(self.chunks)

    async def idle(self) -> None:
        """Let everything happen that is about to."""
        for _ in range(10):
            await asyncio.sleep(0)

    async def window(self) -> tuple[int, BellState | None]:
        """The attempts and the herald of the next window, as a finder sees it."""
        search = Search(FINDER)
        found = [search.feed(await self.next()), search.feed(await self.next())]
        states = [STATES[state] for one in found for state in one.states]
        return search.counts.attempts, states[0] if states else None


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    async with aclosing(rig.chunks):
        assert len(await rig.next()) == 0
        yield rig
    await rig.source.close()
    assert rig.world.closed


async def test_windows_become_tags_in_the_order_of_arming(rig: Rig) -> None:
    rig.world.script(Arm, ended("a", 7), ended("b", 3, BellState.PSI_MINUS), ended("c", 4, None))
    rig.world.hold()
    for window in ("a", "b", "c"):
        rig.source.armed(arm(window))
    rig.world.release()
    assert await rig.window() == (7, BellState.PSI_PLUS)
    for window, expected in (("a", (3, BellState.PSI_MINUS)), ("b", (4, None))):
        following = asyncio.ensure_future(rig.window())
        await rig.idle()
        assert not following.done()
        rig.source.ended(WindowId(window))
        assert await following == expected


async def test_window_that_the_station_ends_while_its_tags_are_made_makes_no_more(rig: Rig) -> None:
    rig.world.script(Arm, ended("a", 1_000_000), ended("b", 2))
    rig.source.armed(arm("a"))
    rig.source.armed(arm("b"))
    assert (await rig.next()).channels.tolist().count(TRIGGER) == CHUNK_ATTEMPTS
    rig.source.ended(WindowId("a"))
    assert await rig.window() == (2, BellState.PSI_PLUS)


async def test_window_that_the_station_has_ended_is_cancelled_and_makes_no_tags(rig: Rig) -> None:
    rig.world.script(Arm, ended("a", 7), ended("b", 2))
    rig.world.hold()
    rig.source.armed(arm("a"))
    rig.source.armed(arm("b"))
    rig.source.ended(WindowId("a"))
    assert rig.world.batches[-1].instructions == (Cancel(window_id=WindowId("a")),)
    rig.world.release()
    assert await rig.window() == (2, BellState.PSI_PLUS)


async def test_window_that_the_world_refuses_has_no_attempts(rig: Rig) -> None:
    rig.world.script(Arm, Failed(text="the window has ended"), ended("b", 5))
    rig.source.armed(arm("a"))
    rig.source.armed(arm("b"))
    assert (await rig.next()).channels.tolist().count(0) == 0
    rig.source.ended(WindowId("a"))
    assert await rig.window() == (5, BellState.PSI_PLUS)


async def test_world_that_heralds_what_two_clicks_cannot_breaks_the_source(rig: Rig) -> None:
    rig.world.script(Arm, ended("a", 7, BellState.PHI_MINUS))
    rig.source.armed(arm("a"))
    with pytest.raises(ConfigError, match=r"a double click heralds psi\+ or psi-, not phi-"):
        await rig.next()


async def test_world_that_is_lost_loses_the_source_until_it_is_found(rig: Rig) -> None:
    rig.source.armed(arm("a"))
    rig.world.lose("the world is gone")
    with pytest.raises(TransportError, match="the world is gone"):
        await rig.next()
    rig.chunks = rig.source.chunks()
    async with aclosing(rig.chunks):
        rig.world.come_up()
        assert len(await rig.next()) == 0
        rig.world.script(Arm, ended("b", 2))
        rig.source.armed(arm("b"))
        assert await rig.window() == (2, BellState.PSI_PLUS)


async def test_world_that_began_anew_between_two_looks_is_a_loss(rig: Rig) -> None:
    rig.world.come_up()
    with pytest.raises(TransportError, match="the world began anew"):
        await rig.next()


async def test_world_that_breaks_breaks_the_source() -> None:
    class Breaking(MockBackend):
        async def broken(self) -> None:
            raise RuntimeError("a bug")

    source = WorldSource(Breaking({}), SETTINGS, FINDER, 1)
    async with aclosing(source.chunks()) as chunks:
        assert len(await anext(chunks)) == 0
        with pytest.raises(RuntimeError, match="a bug"):
            await anext(chunks)
    await source.close()
