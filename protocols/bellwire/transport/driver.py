"""The driver: the only part that awaits. It feeds a machine, takes what it has to send, and keeps one timer (spec 1 §2.4)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVarTuple

from bellwire.protocols.driven import DrivenCapable
from bellwire.protocols.ids import NodeId
from bellwire.transport.alarm import Alarm
from bellwire.transport.clock import local_time_ns

Ts = TypeVarTuple("Ts")


class Driver:
    """Drives one machine on the running asyncio loop.

    `failed` is done, with the exception, when the machine raised one: whoever runs the daemon awaits it and stops. A machine
    that failed is fed no more.
    """

    def __init__(
        self,
        driven: DrivenCapable,
        send: Callable[[NodeId, bytes], bool],
        clock: Callable[[], int] = local_time_ns,
        after: Callable[[], None] | None = None,
        *,
        spin_ns: int = 0,
    ) -> None:
        """Drive `driven`; `send` takes its frames, `after` is called at every flush when they have been sent.

        `spin_ns` is as in `Alarm`: what has a deadline happens more exactly then, and costs that much of a core each time.
        """
        self._driven = driven
        self._send = send
        self._clock = clock
        self._after = after
        self._loop = asyncio.get_running_loop()
        self._alarm = Alarm(self._ring, spin_ns)
        self._alarm_ns: int | None = None
        self._soon: asyncio.Handle | None = None
        self._flushing = False
        self._closed = False
        self.failed: asyncio.Future[None] = self._loop.create_future()

    def deliver(self, peer: NodeId, data: bytes) -> None:
        """Feed one frame. What comes of it leaves with the `poke` at the end of the transport's drain."""
        if self._closed:
            return
        try:
            self._driven.receive(peer, data, self._clock())
        except Exception as error:
            self.fail(error)

    def feed(self, stimulus: Callable[[*Ts, int], object], *arguments: *Ts) -> None:
        """Call `stimulus` with the arguments and the time, as `deliver` does with a frame.

        What comes of it leaves with the next `poke`.
        """
        if self._closed:
            return
        try:
            stimulus(*arguments, self._clock())
        except Exception as error:
            self.fail(error)

    def stimulate(self, stimulus: Callable[[int], object]) -> None:
        """Call `stimulus` with the time, and flush soon what comes of it: for completions, commands and the like."""
        self.feed(stimulus)
        if not self._closed:
            self._flush_soon()

    def poke(self) -> None:
        """Flush now: send what there is to send, call `after`, set the timer."""
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        if self._closed:
            return
        if self._flushing:
            self._flush_soon()
            return
        self._flushing = True
        try:
            self._flush()
        except Exception as error:
            self.fail(error)
        finally:
            self._flushing = False

    def fail(self, error: BaseException) -> None:
        """Stop with an error, for `failed` to tell. The first one counts."""
        if not self.failed.done():
            self.failed.set_exception(error)
        self.close()

    def close(self) -> None:
        """Stop driving. What was not flushed is not sent any more."""
        if self._closed:
            return
        self._closed = True
        if self._soon is not None:
            self._soon.cancel()
        self._alarm.close()

    def _flush_soon(self) -> None:
        if self._soon is None:
            self._soon = self._loop.call_soon(self.poke)

    def _flush(self) -> None:
        send = self._send
        for peer, data in self._driven.take_frames():
            send(peer, data)
        if self._after is not None:
            self._after()
            for peer, data in self._driven.take_frames():
                send(peer, data)
        deadline_ns = self._driven.next_deadline_ns()
        # An alarm that rings too early finds nothing due and is set again; that is cheaper than moving it at every frame.
        if deadline_ns is not None and (self._alarm_ns is None or deadline_ns < self._alarm_ns):
            self._alarm_ns = deadline_ns
            self._alarm.set(deadline_ns - self._clock())

    def _ring(self) -> None:
        self._alarm_ns = None
        deadline_ns = self._driven.next_deadline_ns()
        now_ns = self._clock()
        if deadline_ns is not None and deadline_ns <= now_ns:
            try:
                self._driven.handle_deadline(now_ns)
            except Exception as error:
                self.fail(error)
                return
        self.poke()
