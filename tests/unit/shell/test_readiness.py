"""When a node's daemon is ready: while its broker and its backend are both there, and told once for every change."""

from __future__ import annotations

import asyncio
from pathlib import Path

from loopback import ALICE, QUICK, WAIT_S, KeyRing

from bellwire.agent.brain import AgentBrain
from bellwire.agent.driver import NodeDaemon
from bellwire.backends.mock import MockBackend
from bellwire.broker.daemon import BrokerConfig, BrokerDaemon
from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.ids import BROKER
from bellwire.protocols.messages import Role
from bellwire.transport.clock import new_epoch


async def test_node_is_ready_while_broker_and_backend_are_there_and_says_every_change_once(tmp_path: Path) -> None:
    keys = KeyRing(tmp_path)
    alice = keys.make(ALICE, Role.AGENT)
    keys.make(BROKER, Role.BROKER)

    def broker_at(bind: str) -> BrokerDaemon:
        secret = tmp_path / "broker.key_secret"
        return BrokerDaemon(BrokerConfig(bind=bind, secret_key=secret, authorized_keys=tmp_path, session=QUICK))

    broker = broker_at("tcp://127.0.0.1:*")
    await broker.start()
    address = broker.endpoint
    backend = MockBackend(connect_at_once=False)
    told: asyncio.Queue[bool] = asyncio.Queue()
    endpoint = Endpoint(ALICE, Role.AGENT, new_epoch(), settings=QUICK, clock=BROKER)
    greeted = asyncio.Event()
    endpoint.on_peer_up.append(lambda _: greeted.set())
    daemon = NodeDaemon(
        AgentBrain(endpoint, [], application_timeout_ns=1_000_000_000, draw=lambda: 0.0),
        backend,
        broker_endpoint=address,
        broker_key=keys.public(BROKER).public,
        keys=alice,
        on_ready=told.put_nowait,
    )
    await daemon.start()
    try:
        async with asyncio.timeout(WAIT_S):
            # The broker alone is not enough, and the backend makes it whole.
            await greeted.wait()
            assert told.empty()
            backend.come_up()
            assert await told.get() is True
            # The backend goes and comes, and so does the broker, without a goodbye.
            backend.lose("unplugged")
            assert await told.get() is False
            backend.come_up()
            assert await told.get() is True
            await broker.drop()
            assert await told.get() is False
            # With neither, the broker's return changes nothing until the backend is back as well.
            backend.lose("unplugged again")
            greeted.clear()
            broker = broker_at(address)
            await broker.start()
            await greeted.wait()
            assert told.empty()
            backend.come_up()
            assert await told.get() is True
            assert told.empty()
    finally:
        await daemon.close()
        await broker.close()
    assert told.get_nowait() is False
    assert told.empty()
