"""Who is at a hub with which key, and how to end their connections: of a revoked key, or of who floods (spec 1 §2.2, §2.7).

The library has no call that ends one connection of a ROUTER. What it has is the descriptor that a frame came from: that one is
shut down, and the library takes it for a peer that has closed. A descriptor's number may have passed to another connection
meanwhile, so the remote address is noted with it and compared.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

import zmq

from bellwire.protocols.ids import NodeId
from bellwire.transport.keys import KeysCapable, PublicKey
from bellwire.transport.once import Once

WATCH_S = 0.4
"""How often the authorized keys are read: the connections of a revoked one end within a second."""

MAX_CONNECTIONS = 8
"""Connections of one key at a hub. A further one ends the oldest: a participant needs one, and two while it reconnects."""


SHUN_NS = 30_000_000_000
"""How long nobody is let in with a key whose connections were ended because it flooded the hub."""


@dataclass(frozen=True, slots=True)
class _Line:
    """A connection's descriptor and remote address."""

    descriptor: int
    address: object


@dataclass(slots=True)
class Guest:
    """A key that was let in: its participant's name, as an id and as a frame, and its connections by routing id."""

    key: PublicKey
    name: NodeId
    frame: bytes
    connections: dict[bytes, _Line] = field(default_factory=dict)

    def hang_up(self) -> None:
        """End every connection."""
        for line in self.connections.values():
            _hang_up(line)


class Guests:
    """The keys that are at a hub. A frame's user id is what the gatekeeper gave its connection: the key in hexadecimal."""

    def __init__(self, authorized: KeysCapable, clock: Callable[[], int]) -> None:
        self._authorized = authorized
        self._clock = clock
        self._guests: dict[str, Guest] = {}
        self._shunned: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._guests)

    def known(self, user: str) -> Guest | None:
        """The guest behind a user id, if its key has been used since it was let in."""
        return self._guests.get(user)

    def admit(self, user: str, frame: zmq.Frame) -> Guest | None:
        """Look up a key that sends for the first time. One that is not authorized any more loses its connection."""
        key = self._authorized.find(bytes.fromhex(user))
        if key is None:
            _hang_up(_line(frame))
            return None
        guest = self._guests[user] = Guest(key, key.name, key.name.encode())
        return guest

    def met(self, guest: Guest, origin: bytes, frame: zmq.Frame) -> None:
        """Note the connection that a frame came on; `origin` is its routing id."""
        if origin in guest.connections:
            return
        if len(guest.connections) >= MAX_CONNECTIONS:
            oldest = next(iter(guest.connections))
            _hang_up(guest.connections.pop(oldest))
        guest.connections[origin] = _line(frame)

    def shun(self, user: str) -> bool:
        """End the connections of a key, and let it in no more for a while. Returns whether it was not so already."""
        guest = self._guests.get(user)
        if guest is None or self.is_shunned(user):
            return False
        now_ns = self._clock()
        self._shunned = {each: until_ns for each, until_ns in self._shunned.items() if until_ns > now_ns}
        self._shunned[user] = now_ns + SHUN_NS
        guest.hang_up()
        guest.connections.clear()
        return True

    def is_shunned(self, user: str) -> bool:
        """Whether nobody is let in with a key for now."""
        return self._clock() < self._shunned.get(user, 0)

    def revoke(self, report: Callable[[str], None]) -> list[Guest]:
        """Read the directory anew, and end the connections of every key that does not stand in it any more.

        Returns those who are no guests any more. While the directory cannot be read nobody is, and `report` is told.
        """
        problem = self._authorized.refresh()
        if problem is not None:
            report(problem)
            return []
        gone = [user for user, guest in self._guests.items() if self._authorized.known(guest.key.public) != guest.key]
        guests = [self._guests.pop(user) for user in gone]
        for guest in guests:
            guest.hang_up()
        return guests


class KeyWatch:
    """Reads the authorized keys again and again, and notices which are not among them any more.

    `show_out` is told of a guest whose connections were ended, `revoked` of a name whose key was taken back or replaced,
    whether its owner is here or was ever, since others may know it.
    """

    def __init__(
        self,
        name: NodeId,
        authorized: KeysCapable,
        guests: Guests,
        show_out: Callable[[Guest], None],
        revoked: Callable[[NodeId], None],
        report: Callable[[str], None] | None = None,
    ) -> None:
        self._name = name
        self._authorized = authorized
        self._names = authorized.names
        self._guests = guests
        self._show_out = show_out
        self._revoked = revoked
        self._tell = Once(report)
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin, on the running loop."""
        self._timer = asyncio.get_running_loop().call_later(WATCH_S, self.look)

    def look(self) -> None:
        """Read the keys, and end the connections of those that are not authorized any more."""
        self.start()
        for guest in self._guests.revoke(self._tell):
            self._tell(f"{self._name} ended the connections of {guest.name}: its key is not authorized any more")
            self._show_out(guest)
        self._compare()

    def admit(self, user: str, frame: zmq.Frame) -> Guest | None:
        """As `Guests.admit`. If the name had another key so far, that one's time ends before this one's begins."""
        guest = self._guests.admit(user, frame)
        self._compare()
        return guest

    def _compare(self) -> None:
        """Notice whose key is gone or another one, by what was read last."""
        former, self._names = self._names, self._authorized.names
        if self._names is not former:
            for name, key in former.items():
                if self._names.get(name) != key:
                    self._revoked(name)

    def tell_shunned(self, name: NodeId) -> None:
        """Report that the connections of who flooded the hub were ended."""
        self._tell(f"{self._name} ended the connections of {name}, which flooded it, for {SHUN_NS // 10**9} s")

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()


def _line(frame: zmq.Frame) -> _Line:
    descriptor = int(frame.get(zmq.SRCFD))
    try:
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            return _Line(descriptor, connection.getpeername())
    except OSError:
        return _Line(-1, None)  # closed already


def _hang_up(line: _Line) -> None:
    """Shut a connection down, if its descriptor is still the one that was noted."""
    if line.descriptor < 0:
        return
    try:
        # A copy of the descriptor stays with this connection, whatever the library does with its own meanwhile.
        with socket.socket(fileno=os.dup(line.descriptor)) as connection:
            if connection.getpeername() == line.address:
                connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # closed by itself
