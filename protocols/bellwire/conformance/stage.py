"""What a case plays on: the target, the parties that the kit plays, and time."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

from bellwire.conformance import spec
from bellwire.conformance.catalogue import Failed, Role, Skipped
from bellwire.conformance.lanes import ClientLane, HubLane, Lane
from bellwire.conformance.lines import Delivery, Line
from bellwire.conformance.party import Party
from bellwire.conformance.target import APPLICATION, BROKER, PARTIES, Folder, Process
from bellwire.conformance.timekeeper import Timekeeper
from bellwire.conformance.watch import FRAMES, KEYS, MAP, Watch
from bellwire.conformance.wire import Arrow, KeyTwice, Message, NoMessage, decode

T = TypeVar("T")

TURN_S: Final = 0.1
"""Rates may be held by counting within stretches of this length."""

_TICK_S: Final = 0.02
_LINES_TICK_S: Final = 0.002
_MOST_ARROWS: Final = 400


class Stage:
    """The target and everybody around it. Cases ask it for parties; `wait` is where time passes."""

    def __init__(self, lane: Lane, folder: Folder, process: Process | None, patience_s: float) -> None:
        self.lane = lane
        self.folder = folder
        self.process = process
        self.times = folder.times
        self.target = folder.target
        self.patience_s = patience_s
        self.watch = Watch()
        self.clock = Timekeeper()
        self.target_epoch = 0
        self.target_endpoints: tuple[str, ...] = ()
        """Where the target listens, as it told the broker."""
        self.late_s = 0.0
        """How late the kit itself came back, at worst, from waiting for nothing: so long it stood still in the present case."""
        self.lines: list[Line] = []
        """The direct connections of the present case."""
        self.introduced: set[str] = set()
        """Whom the kit's broker has introduced in the present case: when it ends, it takes that back."""
        self._sockets: list[socket.socket] = []
        self.trace: list[Arrow] = []
        self._parties: dict[str, Party] = {}
        self._began_s = time.monotonic()
        self._latest_epoch = 0

    # Parties and time.

    def party(self, name: str) -> Party:
        """A participant of the present case, new in it: every case has its own incarnations."""
        if name not in self._parties:
            self._parties[name] = Party(self, name, PARTIES[name], self.new_epoch())
        return self._parties[name]

    def again(self, name: str, *, epoch: int | None = None) -> Party:
        """A later incarnation of a participant, which remembers nothing."""
        self._parties[name] = Party(self, name, PARTIES[name], epoch or self.new_epoch())
        if name == BROKER:
            self.clock.forget()
        return self._parties[name]

    def new_epoch(self) -> int:
        """An epoch greater than all before it."""
        self._latest_epoch = max(self._latest_epoch + 1, time.time_ns())
        return self._latest_epoch

    @property
    def broker(self) -> Party:
        """The broker that the kit plays for nodes and stations."""
        return self.party(BROKER)

    @property
    def application(self) -> Party:
        """An application, that every target talks to."""
        return self.party(APPLICATION)

    def network_ns(self) -> int:
        """The network's time, which the kit gives."""
        return self.clock.now_ns()

    @property
    def guard_ns(self) -> int:
        """How far off the network's time the target may be for its links."""
        return round(self.times.guard_ms * 1e6)

    @property
    def at_once(self) -> int:
        """How many messages for itself a broker surely takes in one turn, half of what it may; 0 for any number."""
        return round(spec.bounds()["own rate"] * TURN_S / 2) if self.folder.role is Role.BROKER else 0

    def paced(self, items: Iterable[T]) -> Iterator[T]:
        """Give one item after the other, for each of which a message is sent: no faster than a broker takes them."""
        for number, item in enumerate(items):
            if self.at_once and not number % self.at_once:
                self.pause(TURN_S)
            yield item

    def seconds(self, milliseconds: float) -> float:
        """Seconds, as waits take them, of a time that a target is configured with."""
        return milliseconds / 1000.0

    def wait(self, look: Callable[[], T | None], within_s: float | None = None) -> T | None:
        """Let time pass until `look` finds something, at most `within_s` (the kit's patience, when it is not given)."""
        deadline = time.monotonic() + (self.patience_s if within_s is None else within_s)
        while True:
            found = look()
            if found is not None:
                return found
            left = deadline - time.monotonic()
            if left <= 0:
                self._step(0.0)
                return look()
            self._step(min(left, _TICK_S))

    def pause(self, seconds: float) -> None:
        """Let time pass."""
        self.wait(lambda: None, seconds)

    def _step(self, timeout_s: float) -> None:
        most_s = min(timeout_s, _LINES_TICK_S) if self.lines else timeout_s
        began_s = time.monotonic()
        deliveries = self.lane.receive(most_s)
        if not deliveries:
            self.late_s = max(self.late_s, time.monotonic() - began_s - most_s)
        for delivery in deliveries:
            self._take(delivery)
        for line in self.lines:
            for delivery in line.receive():
                self._take(delivery, line)
        self._beat()

    def _beat(self) -> None:
        now_s = time.monotonic()
        for party in self._parties.values():
            if party.up and party.beats and now_s - party.spoke_s >= self.seconds(self.times.heartbeat_ms) * 0.7:
                party.send("session.heartbeat")
        if BROKER in self._parties:
            self.clock.beat(self._parties[BROKER])

    # The wire.

    def transmit(self, party: Party, receiver: str, message: Message, data: bytes) -> None:
        """Send a message of a party."""
        party.spoke_s = time.monotonic()
        direct = party.line is not None
        self._draw(Arrow(at_s=self._at_s(), sender=party.name, receiver=receiver, message=message, direct=direct))
        if party.line is not None:
            party.line.send(data)
        else:
            self.lane.send(party.name, receiver, data)

    def throw(self, party: Party, *frames: bytes, note: str, to: str = "") -> None:
        """Send frames as they are, behind the frame with the name."""
        receiver = to or self.target
        self._draw(Arrow(at_s=self._at_s(), sender=party.name, receiver=receiver, note=note))
        self.lane.send(party.name, receiver, *frames)

    def _take(self, delivery: Delivery, line: Line | None = None) -> None:
        ours = delivery.sender == self.target
        if len(delivery.frames) != 1:
            self.watch.note(FRAMES, f"a transmission of {1 + len(delivery.frames)} frames")
            return
        data = delivery.frames[0]
        arrow = Arrow(at_s=self._at_s(), sender=delivery.sender, receiver=delivery.receiver, direct=line is not None)
        try:
            message = arrow.message = decode(data)
        except NoMessage as error:
            arrow.note = f"no message: {error}"
            self._draw(arrow)
            if ours:
                self.watch.note(KEYS if isinstance(error, KeyTwice) else MAP, f"{error} to {delivery.receiver}")
            return
        self._draw(arrow)
        if ours:
            self.watch.see(message, data, delivery.receiver)
            epoch = message.get("epoch")
            if message.get("type") in ("session.hello", "session.welcome") and isinstance(epoch, int):
                self.target_epoch = max(self.target_epoch, epoch)
            if message.get("type") == "session.hello" and delivery.receiver == BROKER:
                self.target_endpoints = tuple(message.get("endpoints", ()))
        party = self._parties.get(delivery.receiver)
        if party is not None:
            party.take(delivery.sender, message, data, line)

    def _draw(self, arrow: Arrow) -> None:
        """Keep what was sent, but for heartbeats, and exchanges that no case plays: pictures are not about them."""
        kind = str(arrow.message.get("type"))
        of_broker = BROKER in (arrow.sender, arrow.receiver)
        if kind == "session.heartbeat" or (kind.startswith("time.") and of_broker and self.clock.honest):
            return
        self.trace.append(arrow)
        del self.trace[:-_MOST_ARROWS]

    def missed(self, party: Party, what: str) -> None:
        """Note in the picture that something was expected and did not come."""
        self._draw(Arrow(at_s=self._at_s(), sender=self.target, receiver=party.name, note=f"expected: {what}"))

    def judged(self, text: str) -> None:
        """Note in the picture why the case does not pass, where that was seen."""
        self.trace.append(Arrow(at_s=self._at_s(), sender=self.target, receiver=self.target, note=text))

    def _at_s(self) -> float:
        return time.monotonic() - self._began_s

    # The life of a case, and of the target.

    def begin(self) -> None:
        """Begin a case: new incarnations of all parties but the broker, and a target that answers.

        Raises:
            Failed: when the target does not answer.
            BellwireError: when its process has ended.
        """
        broker = self._parties.get(BROKER)
        self._parties = {BROKER: broker} if broker is not None else {}
        self.trace = []
        self.late_s = 0.0
        self._began_s = time.monotonic()
        if isinstance(self.lane, HubLane):
            if not self.clock.serves:
                self.broker.leave()
                self.again(BROKER)
            self.clock.restore()
            known = self.broker
            known.greets = known.beats = True
            known.answers.clear()
            self.meet()
            known.inbox.clear()

    def meet(self) -> None:
        """Wait until the target has greeted the broker, answers it, and is sure of the time. Raises as `begin`."""
        broker = self.broker
        if self.wait(self._greeted, 5 * self.patience_s) is None:
            raise Failed(f"the target has not greeted the broker within {5 * self.patience_s:g} s")
        hello = broker.hello()
        answer = broker.maybe("session.welcome", within_s=3 * self.patience_s, request_id=hello["request_id"])
        if answer is None:
            broker.up = False
            raise Failed("the target does not answer the broker's hello")
        self.agree_on_time()

    def agree_on_time(self) -> None:
        """Wait until the target is sure of the network's time (4 §3.4). Raises `Failed` when it never is."""
        report = self.reported(self.is_sure)
        if report is None:
            raise Failed(f"the target was not sure of the network's time within {5 * self.patience_s:g} s")

    def is_sure(self, report: Message) -> bool:
        """Whether a `time.report` is of one who may take part in windows."""
        unsure_ns = report.get("uncertainty_ns")
        known = report.get("state") in ("locked", "holdover")
        return known and unsure_ns is not None and unsure_ns <= self.guard_ns

    def reported(self, wanted: Callable[[Message], bool], within_s: float | None = None) -> Message | None:
        """Ask the target again and again how its clock is, until the answer is as wanted; `None` when it never is."""
        deadline = time.monotonic() + (5 * self.patience_s if within_s is None else within_s)
        while time.monotonic() < deadline:
            report = self.broker.ask("time.status", within_s=3 * self.patience_s)
            if report["type"] == "time.report" and wanted(report):
                return report
            self.pause(self.patience_s / 50)
        return None

    def _greeted(self) -> bool | None:
        if self.process is not None:
            self.process.check()
        return self.broker.up or None

    def end(self) -> None:
        """End a case: everybody but the broker leaves, so that the target forgets them and gives up what it shared.

        Introductions of the case are taken back.
        """
        for name, party in self._parties.items():
            if name != BROKER:
                party.leave()
                if isinstance(self.lane, ClientLane):
                    self.lane.disconnect(name)
        try:
            self._step(0.0)
            for name in sorted(self.introduced):
                self.broker.send("session.revocation", node=name)
        finally:
            self.introduced.clear()
            while self.lines:
                self.lines.pop().close()
            while self._sockets:
                self._sockets.pop().close()

    def keep(self, opened: socket.socket) -> socket.socket:
        """Close a socket of the present case when that ends."""
        self._sockets.append(opened)
        return opened

    def restart(self, number: int = signal.SIGKILL) -> None:
        """End the target's process and start it again.

        Raises:
            Skipped: when the kit has not started it.
        """
        if self.process is None:
            raise Skipped("needs --start: the target has to be restarted")
        self.process.end(number)
        if isinstance(self.lane, HubLane):
            self.clock.forget()
            self._drain()
            self.broker.up = False
        self.process.start()

    def _drain(self) -> None:
        """Take what the former process has sent still, so that it is not taken for the next one's."""
        while deliveries := self.lane.receive(_TICK_S):
            for delivery in deliveries:
                self._take(delivery)
