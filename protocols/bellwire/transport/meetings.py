"""Who has met whom at a hub: two clients are introduced before the first message between them is relayed (spec 1 §4.7)."""

from __future__ import annotations

from collections.abc import Callable

from bellwire.protocols.ids import NodeId
from bellwire.protocols.limits import MAX_MEETINGS


class Meetings:
    """The clients that have met since either was bound. `meet(sender, receiver)` introduces them, unless it returns false."""

    def __init__(self, meet: Callable[[NodeId, NodeId], bool]) -> None:
        self._meet = meet
        self._met: dict[bytes, set[bytes]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def note(self, sender: bytes, receiver: bytes) -> None:
        """Something is about to be relayed from one client to another."""
        met = self._met.get(sender)
        if (met is not None and receiver in met) or sender == receiver:
            return
        if not self._meet(NodeId(sender.decode("ascii")), NodeId(receiver.decode("ascii"))):
            return
        if self._count >= MAX_MEETINGS:
            # To be introduced again costs two messages, and is all the same to everybody.
            self._met.clear()
            self._count = 0
        self._met.setdefault(sender, set()).add(receiver)
        self._met.setdefault(receiver, set()).add(sender)
        self._count += 1

    def forget(self, client: NodeId) -> None:
        """A client begins anew: nobody has met it."""
        name = client.encode()
        others = self._met.pop(name, set())
        for other in others:
            self._met[other].discard(name)
            if not self._met[other]:
                del self._met[other]
        self._count -= len(others)
