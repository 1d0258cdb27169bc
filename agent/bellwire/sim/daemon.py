"""The world's daemon: a simulated world behind a socket, for the nodes that execute in it and for observers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.ids import Epoch, NodeId
from bellwire.protocols.messages import Role
from bellwire.protocols.session import SessionSettings
from bellwire.sim.messages import WORLD_CODEC
from bellwire.sim.server import WorldServer
from bellwire.sim.world import World
from bellwire.transport.clock import host_clock, local_time_ns, new_epoch
from bellwire.transport.driver import Driver
from bellwire.transport.hub import Hub
from bellwire.transport.keys import AuthorizedKeys, KeyPair

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class WorldDaemon:
    """Serves a world, which has to count its time on `clock`. To be made, started and closed within one running loop.

    Args:
        world: the simulated world.
        bind: the endpoint to listen on, as `tcp://127.0.0.1:*`.
        keys: the world's own; its name is the world's.
        authorized: the public keys of nodes (agents, stations) and observers.
        report: told in one line what a person may want to know.
    """

    def __init__(
        self,
        world: World,
        *,
        bind: str,
        keys: KeyPair,
        authorized: AuthorizedKeys,
        settings: SessionSettings | None = None,
        epoch: Epoch | None = None,
        clock: Callable[[], int] = local_time_ns,
        report: Callable[[str], None] | None = None,
    ) -> None:
        epoch = epoch or new_epoch()
        endpoint = Endpoint(keys.name, Role.WORLD, epoch, codec=WORLD_CODEC, settings=settings)
        endpoint.known_roles.authority = authorized.role_of
        self.hub = Hub(
            keys.name, bind, keys, authorized, self._deliver, drained=self._drained, epoch=epoch, report=report
        )
        self.hub.follow(endpoint)
        self.server = WorldServer(endpoint, world, host_clock=host_clock())
        self.driver = Driver(self.server, self.hub.send, clock)
        self._core = endpoint
        self._closing = asyncio.Event()

    @property
    def endpoint(self) -> str:
        """The address that nodes connect to, once started."""
        return self.hub.endpoint

    @property
    def tallies(self) -> dict[str, DataclassInstance]:
        """What is counted, by whose it is."""
        return {"endpoint": self._core.counters, "hub": self.hub.counters}

    async def start(self) -> None:
        """Listen.

        Raises:
            TransportError: when the endpoint cannot be bound.
        """
        with ExitStack() as undo:
            undo.callback(self.driver.close)
            await self.hub.start()
            undo.pop_all()
        self.driver.poke()

    async def run(self) -> None:
        """Serve until closed.

        Raises:
            Exception: what broke the daemon.
        """
        failed = self.driver.failed
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            waited: set[asyncio.Future[Any]] = {failed, closing}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if failed.done():
                failed.result()
        finally:
            closing.cancel()
            await asyncio.gather(closing, return_exceptions=True)

    async def close(self) -> None:
        """Say goodbye to everybody and stop."""
        if self._closing.is_set():
            return
        self._closing.set()
        self.driver.stimulate(self.server.close)
        self.driver.poke()
        self.driver.close()
        await self.hub.close()

    def _deliver(self, peer: NodeId, data: bytes) -> None:
        self.driver.deliver(peer, data)

    def _drained(self) -> None:
        self.driver.poke()
