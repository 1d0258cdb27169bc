"""Notes when frames whose departure matters are handed to the socket (spec 4 §3.1)."""

from __future__ import annotations

from collections.abc import Callable

from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.ids import NodeId


def noting_departures(
    send: Callable[[NodeId, bytes], bool], endpoint: Endpoint, clock: Callable[[], int]
) -> Callable[[NodeId, bytes], bool]:
    """Give a `send` that tells the endpoint when its awaited frames leave, just before they do."""
    departures = endpoint.departures
    departures.noted = True
    awaited = departures.awaited

    def noting(peer: NodeId, data: bytes) -> bool:
        if awaited:
            departures.note(data, clock())
        return send(peer, data)

    return noting
