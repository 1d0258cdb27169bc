"""The network's time as the kit's broker gives it: it grants the target's lease, and exchanges with it (spec 4 §2, §3)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from bellwire.conformance.wire import Message

if TYPE_CHECKING:
    from bellwire.conformance.party import Party

HOUR_NS: Final = 3_600_000_000_000
OWN_CLOCK: Final[Message] = {"priority": 128, "clock_class": 13, "steps_removed": 0}
"""What a grandmaster says of itself."""

NO_PATH: Final[Message] = {"path_id": 0, "path_host": "", "path_port": 0, "path_key": b""}
"""The fields of a `time.grant` that offers no side path."""

_LEASED: Final = ("request_id", "interval_ns", "exchanges", "lease_ns")
"""The fields of a lease that the exchanges are made by: integers."""


class Timekeeper:
    """The source that a target follows while no case plays one. A case may make its exchanges prove less, or the time jump."""

    def __init__(self) -> None:
        self.serves = True
        """Whether it answers by itself: a case that plays the source says no."""
        self.widen_ns = 0
        """How much earlier t1 is told, and how much later t4: no exchange proves more than that."""
        self.uncertainty_ns = 0
        """How far off it says it is itself."""
        self._base_ns = time.time_ns() - time.monotonic_ns()
        self._lease: Message | None = None
        self._due_s = 0.0
        self._sequence = 0
        self._exchange = 0
        self._origin_ns = 0

    @property
    def honest(self) -> bool:
        """Whether nothing about it was changed."""
        return self.serves and not self.widen_ns and not self.uncertainty_ns

    def now_ns(self) -> int:
        """The network's time: the kit's own clock, without steps but for `jump`."""
        return time.monotonic_ns() + self._base_ns

    def jump(self, by_ns: int = HOUR_NS) -> None:
        """From now on the time is another one, which no target can believe to be that of before."""
        self._base_ns += by_ns

    def sequence(self) -> int:
        """The number of the next Sync: they grow."""
        self._sequence += 1
        return self._sequence

    def restore(self) -> None:
        """Be as in the beginning. What was told without proof is disproved by another time."""
        if self.widen_ns or self.uncertainty_ns:
            self.jump()
        self.serves, self.widen_ns, self.uncertainty_ns = True, 0, 0

    def forget(self) -> None:
        """The session with the target is another one: it has no lease."""
        self._lease = None

    def announce(self, party: Party) -> None:
        """Say what kind of clock this is."""
        party.send("time.announce", **OWN_CLOCK, uncertainty_ns=self.uncertainty_ns, grandmaster=party.name)

    def take(self, party: Party, message: Message) -> bool:
        """Answer a lease or an exchange. Returns whether it was one of these, and not for the case to see."""
        if not self.serves or message.get("type") not in ("time.lease", "time.delay_req"):
            return False
        if not party.beats:
            return True  # Whoever is silent gives no time either.
        if message["type"] == "time.lease":
            if any(type(message.get(name)) is not int for name in _LEASED):
                party.refuse(message, "MALFORMED", rule="1 §3.1")
                return True
            self._lease, self._due_s = message, 0.0
            party.reply(message, "time.grant", lease_ns=message["lease_ns"], **NO_PATH)
        elif message.get("sequence") == self._sequence and self._lease is not None:
            received_ns, origin_ns = self.now_ns(), self._origin_ns
            self._exchange += 1
            if self._exchange < self._lease["exchanges"]:
                self._sync(party)
            told: Message = {"sequence": message["sequence"], "uncertainty_ns": self.uncertainty_ns}
            party.send("time.follow_up", origin_ns=origin_ns - self.widen_ns, **told)
            party.send("time.delay_resp", sequence=message["sequence"], received_ns=received_ns + self.widen_ns)
        return True

    def beat(self, party: Party) -> None:
        """Begin a burst when one is due."""
        silent = not (self.serves and party.up and party.beats)
        if self._lease is None or silent or time.monotonic() < self._due_s:
            return
        self._due_s = time.monotonic() + self._lease["interval_ns"] / 1e9
        self.announce(party)
        if self._lease["exchanges"]:
            self._exchange = 0
            self._sync(party)

    def _sync(self, party: Party) -> None:
        self._origin_ns = self.now_ns()
        party.send("time.sync", sequence=self.sequence(), exchange=self._exchange)
