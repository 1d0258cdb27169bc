"""Daemons behind real sockets that are sent hostile frames by participants with keys of every role."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import zmq
from fuzzed_network import recorded
from fuzzing import Mutator
from loopback import ALICE, BOB, STATION, Application
from slice_of_network import Slice

from bellwire.protocols.codec import CODEC
from bellwire.protocols.errors import RequestError
from bellwire.protocols.ids import BROKER, Epoch, NodeId
from bellwire.protocols.messages import Role, SessionHello, TimeReport, TimeStatus
from bellwire.transport.clock import new_epoch
from bellwire.transport.keys import KeyPair, revoke

TARGETS: Final = (BROKER, ALICE, BOB, STATION)
ROLES: Final = (Role.AGENT, Role.STATION, Role.APPLICATION, Role.OBSERVER)
PROBING: Final = 2_000
"""Inputs between two valid requests to each daemon."""
LIFE: Final = 20_000
"""Inputs of one set of attackers: some lock their own names out, with an epoch from the far future."""


class Attacker:
    """A plain socket with a key that is let in, which greets everybody before it misbehaves."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: KeyPair, net: Slice) -> None:
        self.name = keys.name
        self.epoch = new_epoch()
        self._socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
        self._socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
        self._socket.setsockopt(zmq.CURVE_SERVERKEY, net.keys.public(BROKER).public)
        self._socket.connect(net.broker.endpoint)
        hello = SessionHello(epoch=self.epoch, request_id=1, versions=(1,), role=keys.role, heartbeat_ns=10**9)
        for target in TARGETS:
            self.send([target.encode(), CODEC.encode(hello)])

    def send(self, frames: list[bytes]) -> None:
        """Send a transmission."""
        self._socket.send_multipart(frames, zmq.NOBLOCK)

    def drain(self) -> None:
        """Take what came."""
        while True:
            try:
                self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return

    def close(self) -> None:
        """Vanish."""
        self._socket.close()


def transmission(mutator: Mutator, data: bytes, attacker: Attacker, epochs: Mapping[NodeId, Epoch]) -> list[bytes]:
    """A hostile message to somebody, mostly in two frames and mostly of the session that there is."""
    random = mutator.random
    if random.random() < 0.05:
        return [random.randbytes(random.randrange(80)) for _ in range(random.randrange(1, 5))]
    target = random.choice(TARGETS)
    hostile = mutator.mutate(data)
    if random.random() < 0.9:
        hostile = mutator.stamp(hostile, epoch=attacker.epoch, peer_epoch=epochs[target])
    return [target.encode(), hostile]


class _Siege:
    """The attackers of a testbed, and an honest application that sees whether it holds."""

    def __init__(self, net: Slice, probe: Application, seed: int) -> None:
        self.asked = 0
        self.failures: list[str] = []
        self._net, self._probe, self._seed = net, probe, seed
        self._frames = recorded(seed)
        self._mutator = Mutator(seed)
        for frame in self._frames:
            self._mutator.show(frame)
        self._epochs = {name: node.brain.endpoint.epoch for name, node in net.nodes.items()}
        self._epochs[BROKER] = net.broker.core.epoch
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._attackers: list[Attacker] = []

    def renew(self, place: int) -> None:
        """Take the attackers' keys back, and let others in."""
        for attacker in self._attackers:
            attacker.close()
            revoke(attacker.name, self._net.keys.directory)
        names = [(NodeId(f"mallory-{role}-{place}"), role) for role in ROLES]
        self._attackers = [Attacker(self._context, self._net.keys.make(*each), self._net) for each in names]

    def attack(self, number: int) -> None:
        """Send so many hostile transmissions."""
        random = self._mutator.random
        for _ in range(number):
            attacker, data = random.choice(self._attackers), random.choice(self._frames)
            attacker.send(transmission(self._mutator, data, attacker, self._epochs))
        for attacker in self._attackers:
            attacker.drain()

    async def look(self, place: int) -> None:
        """Ask every daemon something valid: what was sent to the broker before has been taken in when it answers."""
        for target in TARGETS:
            self.asked += 1
            try:
                await self._probe.ask(target, TimeStatus(), TimeReport)
            except RequestError as error:
                self.failures.append(f"seed {self._seed}, input {place}: {target} did not answer: {error}")

    def close(self) -> None:
        """Close every socket."""
        for attacker in self._attackers:
            attacker.close()
        self._context.term()


async def fuzz_daemons(
    directory: Path, seed: int, number: int, a_tenth: Callable[[], None] = lambda: None
) -> tuple[int, list[str]]:
    """Send so many hostile transmissions. Returns how many valid requests were asked, and which were not answered.

    `a_tenth` is called once, when a tenth of them has been taken in.

    Raises:
        Exception: what a daemon failed of.
    """
    early = False
    async with Slice(directory) as net:
        keys = net.keys.make(NodeId("probe"), Role.APPLICATION)
        async with Application(keys, net.broker.endpoint, net.keys.public(BROKER)) as probe:
            siege = _Siege(net, probe, seed)
            try:
                for place in range(0, number, PROBING):
                    if place % LIFE == 0:
                        siege.renew(place)
                    siege.attack(min(PROBING, number - place))
                    await siege.look(place)
                    if not early and place + PROBING >= number / 10:
                        early = True
                        a_tenth()
            finally:
                siege.close()
        for node in net.nodes.values():
            assert node._driver is not None
            if node._driver.failed.done():
                node._driver.failed.result()
    return siege.asked, siege.failures
