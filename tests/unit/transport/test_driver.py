"""The driver and its alarm: one flush for many frames, one timer, and no error lost."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import zmq

from bellwire.protocols.ids import NodeId
from bellwire.transport import alarm as alarm_module
from bellwire.transport.alarm import Alarm
from bellwire.transport.clock import local_time_ns, new_epoch
from bellwire.transport.driver import Driver
from bellwire.transport.reader import Reader

MILLISECOND = 1_000_000
PATIENCE_S = 10
BOB = NodeId("bob")


class Machine:
    """Echoes, keeps deadlines, and breaks when it is told to."""

    def __init__(self) -> None:
        self.frames: list[tuple[NodeId, bytes]] = []
        self.deadlines: list[int] = []
        self.fired: asyncio.Queue[int] = asyncio.Queue()
        self.takes = 0

    def receive(self, peer: NodeId, data: bytes, now_ns: int) -> None:
        if data == b"break":
            raise ValueError("broken")
        self.frames.append((peer, data))

    def next_deadline_ns(self) -> int | None:
        return min(self.deadlines, default=None)

    def handle_deadline(self, now_ns: int) -> None:
        due = [deadline for deadline in self.deadlines if deadline <= now_ns]
        assert due, "called before anything was due"
        self.deadlines = [deadline for deadline in self.deadlines if deadline > now_ns]
        if -1 in due:
            raise ValueError("late and broken")
        for _ in due:
            self.fired.put_nowait(now_ns)

    def take_frames(self) -> list[tuple[NodeId, bytes]]:
        self.takes += 1
        frames, self.frames = self.frames, []
        return frames


class Bench:
    """A driver, its machine and what it sent."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.sent: list[bytes] = []
        self.driver = Driver(self.machine, self._send, after=self._after)
        self.afters = 0

    def _send(self, peer: NodeId, data: bytes) -> bool:
        self.sent.append(data)
        return True

    def _after(self) -> None:
        self.afters += 1


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def turn() -> None:
    """Let what is scheduled on the loop happen."""
    done = asyncio.Event()
    asyncio.get_running_loop().call_soon(done.set)
    await done.wait()


async def test_many_frames_of_one_drain_are_flushed_once(bench: Bench) -> None:
    for number in range(5):
        bench.driver.deliver(BOB, b"%d" % number)
    await turn()
    assert not bench.sent, "nothing but the end of a drain flushes it"
    bench.driver.poke()
    assert bench.sent == [b"0", b"1", b"2", b"3", b"4"]
    assert bench.afters == 1
    bench.driver.close()


async def test_poke_flushes_at_once_and_cancels_the_flush_that_was_scheduled(bench: Bench) -> None:
    bench.driver.stimulate(lambda now_ns: bench.machine.receive(BOB, b"data", now_ns))
    bench.driver.poke()
    assert bench.sent == [b"data"]
    await turn()
    assert bench.afters == 1
    bench.driver.close()


async def test_frames_that_after_sets_off_are_sent_too(bench: Bench) -> None:
    driver = Driver(bench.machine, bench._send, after=lambda: bench.machine.frames.append((BOB, b"more")))
    driver.poke()
    assert bench.sent == [b"more"]
    driver.close()
    bench.driver.close()


async def test_poke_within_a_flush_is_done_after_it(bench: Bench) -> None:
    calls: list[int] = []

    def after() -> None:
        calls.append(len(bench.sent))
        if len(calls) < 3:
            driver.deliver(BOB, b"nested")
            driver.poke()

    driver = Driver(bench.machine, bench._send, after=after)
    driver.poke()
    while len(calls) < 3:
        await turn()
    assert bench.sent == [b"nested", b"nested"]
    driver.close()
    bench.driver.close()


async def test_stimulus_is_given_the_time_and_flushed(bench: Bench) -> None:
    times: list[int] = []
    before = local_time_ns()
    bench.driver.stimulate(times.append)
    await turn()
    assert before <= times[0] <= local_time_ns()
    assert bench.afters == 1
    bench.driver.close()


async def test_deadlines_are_handled_when_due_and_in_order(bench: Bench) -> None:
    start = local_time_ns()
    bench.machine.deadlines = [start + 20 * MILLISECOND, start + 5 * MILLISECOND]
    bench.driver.poke()
    first = await asyncio.wait_for(bench.machine.fired.get(), PATIENCE_S)
    second = await asyncio.wait_for(bench.machine.fired.get(), PATIENCE_S)
    assert first >= start + 5 * MILLISECOND
    assert second >= start + 20 * MILLISECOND
    bench.driver.close()


async def test_earlier_deadline_set_later_is_handled_first(bench: Bench) -> None:
    start = local_time_ns()
    bench.machine.deadlines = [start + 3_600_000 * MILLISECOND]
    bench.driver.poke()
    bench.machine.deadlines.append(start + MILLISECOND)
    bench.driver.poke()
    await asyncio.wait_for(bench.machine.fired.get(), PATIENCE_S)
    assert bench.machine.deadlines == [start + 3_600_000 * MILLISECOND]
    bench.driver.close()


async def test_deadline_in_the_past_is_handled_soon(bench: Bench) -> None:
    bench.machine.deadlines = [1]
    bench.driver.poke()
    await asyncio.wait_for(bench.machine.fired.get(), PATIENCE_S)
    bench.driver.close()


async def test_deadline_that_moved_away_is_not_handled_early(bench: Bench) -> None:
    """The machine asserts that something is due whenever it is called."""
    start = local_time_ns()
    bench.machine.deadlines = [start + MILLISECOND]
    bench.driver.poke()
    bench.machine.deadlines = [start + 20 * MILLISECOND]
    assert await asyncio.wait_for(bench.machine.fired.get(), PATIENCE_S) >= start + 20 * MILLISECOND
    bench.driver.close()


async def test_error_of_the_machine_ends_the_driver_and_is_told(bench: Bench) -> None:
    bench.driver.deliver(BOB, b"break")
    bench.driver.deliver(BOB, b"after the end")
    with pytest.raises(ValueError, match="broken"):
        await bench.driver.failed
    assert not bench.sent
    assert not bench.machine.frames


@pytest.mark.parametrize("where", ["deadline", "stimulus", "after", "send"])
async def test_error_anywhere_is_told(where: str) -> None:
    machine = Machine()

    def broken(*_: object) -> bool:
        raise ValueError("broken")

    driver = Driver(
        machine,
        broken if where == "send" else lambda *_: True,
        after=broken if where == "after" else None,  # type: ignore[arg-type]
    )
    if where == "deadline":
        machine.deadlines = [-1]
    if where == "stimulus":
        driver.stimulate(broken)
    driver.deliver(BOB, b"data")
    driver.poke()
    with pytest.raises(ValueError, match="broken"):
        await asyncio.wait_for(driver.failed, PATIENCE_S)


async def test_closed_driver_does_nothing_more(bench: Bench) -> None:
    bench.machine.deadlines = [local_time_ns()]
    bench.driver.poke()
    bench.driver.deliver(BOB, b"data")
    bench.driver.close()
    bench.driver.deliver(BOB, b"data")
    bench.driver.stimulate(lambda _: bench.sent.append(b"stimulated"))
    bench.driver.poke()
    bench.driver.close()
    await turn()
    assert not bench.sent
    assert bench.machine.fired.empty()


@pytest.mark.parametrize("exact", [True, False])
async def test_alarm_rings_once_at_the_time_that_was_set_last(monkeypatch: pytest.MonkeyPatch, exact: bool) -> None:
    if not exact:
        monkeypatch.setattr(alarm_module, "_timer_descriptor", lambda: (None, -1))
    rung: asyncio.Queue[int] = asyncio.Queue()
    alarm = Alarm(lambda: rung.put_nowait(local_time_ns()))
    start = local_time_ns()
    alarm.set(MILLISECOND)
    alarm.set(10 * MILLISECOND)
    assert await asyncio.wait_for(rung.get(), PATIENCE_S) >= start + 9 * MILLISECOND
    alarm.set(-5)
    await asyncio.wait_for(rung.get(), PATIENCE_S)
    alarm.set(MILLISECOND)
    alarm.close()
    alarm.close()
    later = Alarm(lambda: rung.put_nowait(0))
    later.set(5 * MILLISECOND)
    assert await asyncio.wait_for(rung.get(), PATIENCE_S) == 0, "the closed alarm did not ring before"
    later.close()


def test_clock_never_goes_back_and_epochs_grow() -> None:
    times = [local_time_ns() for _ in range(1_000)]
    assert times == sorted(times)
    assert new_epoch() > 10**18
    assert new_epoch() <= new_epoch()


async def test_alarm_that_spins_never_rings_early_and_spins_no_longer_than_it_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rung: asyncio.Queue[int] = asyncio.Queue()
    armed: list[int] = []
    alarm = Alarm(lambda: rung.put_nowait(time.monotonic_ns()), 10 * alarm_module.MAX_SPIN_NS)
    assert alarm._libc is not None
    settime = alarm._libc.timerfd_settime

    def noted(descriptor: int, flags: int, spec: Any, old: None) -> int:
        armed.append(spec._obj.first_s * 10**9 + spec._obj.first_ns)
        return int(settime(descriptor, flags, spec, old))

    monkeypatch.setattr(alarm._libc, "timerfd_settime", noted)
    due_ns = time.monotonic_ns() + 5 * MILLISECOND
    alarm.set(5 * MILLISECOND)
    assert await asyncio.wait_for(rung.get(), PATIENCE_S) >= due_ns
    assert armed == [5 * MILLISECOND - alarm_module.MAX_SPIN_NS]
    alarm.close()


async def test_reader_takes_what_came_before_a_send_that_swallowed_its_signal() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    near, far = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    near.bind("inproc://swallowed")
    far.connect("inproc://swallowed")
    taken: list[bytes] = []

    def receive(limit: int) -> int:
        for count in range(limit):
            try:
                taken.append(near.recv(zmq.NOBLOCK))
            except zmq.Again:
                return count
        return limit

    def answer() -> None:
        """Two more come while the first is answered, and the socket has heard of them before it is looked at."""
        if taken == [b"0"]:
            far.send(b"1")
            far.send(b"2")
            assert int(near.getsockopt(zmq.EVENTS)) & zmq.POLLIN
            reader.again()

    reader = Reader(near, receive, answer)
    await turn()
    far.send(b"0")
    while len(taken) < 3:
        await turn()
    assert taken == [b"0", b"1", b"2"]
    far.send(b"3")
    assert int(near.getsockopt(zmq.EVENTS)) & zmq.POLLIN
    reader.again()
    await turn()
    assert taken[3:] == [b"3"]
    reader.close()
    near.close()
    far.close()
    context.term()


async def test_reader_of_an_empty_socket_does_not_ask_again_and_again() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.PULL)
    asked: list[int] = []
    reader = Reader(socket, lambda _: asked.append(1) or 0, lambda: None)  # type: ignore[func-returns-value]
    for _ in range(10):
        await turn()
    assert len(asked) <= 2, "once at the start, and once for the signal that a new socket gives"
    reader.close()
    socket.close()
    context.term()
