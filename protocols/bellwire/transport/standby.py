"""A participant that goes from a broker to its hot standby when the broker is gone (spec 1 §2.8)."""

from __future__ import annotations

from collections.abc import Callable

from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.ids import NodeId
from bellwire.protocols.moves import meet_anew
from bellwire.protocols.session import Loss
from bellwire.protocols.timers import Timer
from bellwire.transport.connection import Connection
from bellwire.transport.driver import Driver


def follow_standby(
    connection: Connection,
    endpoint: Endpoint,
    driver: Driver,
    server: NodeId,
    moved: Callable[[str], None] | None = None,
) -> None:
    """Meet the server anew wherever the connection goes, and have it go on from a server that is silent or takes nobody.

    `moved` is told the endpoint that it went to.
    """
    patience: Timer | None = None

    def wait(now_ns: int) -> None:
        nonlocal patience
        if patience is not None:
            patience.cancel()
        patience = endpoint.timers.at(now_ns + endpoint.settings.liveness_ns, look) if connection.connected else None

    def look() -> None:
        # It was greeted all the while, and did not answer or refused every time.
        if connection.connected and not endpoint.is_up(server):
            connection.turn()

    def lost(peer: NodeId, loss: Loss, _why: str) -> None:
        # Without a connection it is on its way already, and this loss comes of that.
        if peer != server or not connection.connected:
            return
        if loss is Loss.SILENT:
            connection.turn()
        else:
            wait(endpoint.now_ns)

    def meet(now_ns: int) -> None:
        endpoint.begin(now_ns)
        meet_anew(endpoint, server, f"on to {connection.endpoint}")
        if moved is not None:
            moved(connection.endpoint)

    endpoint.on_peer_lost.append(lost)
    connection.on_changed.append(lambda _stands: driver.stimulate(wait))
    connection.moved = lambda: driver.stimulate(meet)
