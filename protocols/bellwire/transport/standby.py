"""A participant that goes from a broker to its hot standby when the broker is gone (spec 1 §2.8)."""

from __future__ import annotations

from collections.abc import Callable

from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.ids import NodeId
from bellwire.protocols.moves import meet_anew
from bellwire.protocols.session import Loss
from bellwire.transport.connection import Connection
from bellwire.transport.driver import Driver


def follow_standby(
    connection: Connection,
    endpoint: Endpoint,
    driver: Driver,
    server: NodeId,
    moved: Callable[[str], None] | None = None,
) -> None:
    """Meet the server anew wherever the connection goes, and have it go on from a server that is silent.

    `moved` is told the endpoint that it went to.
    """

    def lost(peer: NodeId, loss: Loss, _why: str) -> None:
        # Without a connection it is on its way already, and this loss comes of that.
        if peer == server and loss is Loss.SILENT and connection.connected:
            connection.turn()

    def meet(now_ns: int) -> None:
        endpoint.begin(now_ns)
        meet_anew(endpoint, server, f"on to {connection.endpoint}")
        if moved is not None:
            moved(connection.endpoint)

    endpoint.on_peer_lost.append(lost)
    connection.moved = lambda: driver.stimulate(meet)
