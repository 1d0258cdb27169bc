"""The client in virtual time: `connect_virtual`, `VirtualOracle` and `run_virtual` for `connect`, `Oracle` and `asyncio.run`.

    bed = virtual_testbed(*load_testbed(Path("testbed.toml")))

    async def main() -> None:
        async with connect_virtual(bed) as network:
            pair = await network.entangle("alice", "bob")

    run_virtual(bed, main())

Whatever of asyncio waits for time or for another task works as it does on daemons, and the same seed gives the same run. There
are no files, sockets and threads in virtual time: a task that waits for one of those waits until everything is `Stuck`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from contextvars import Context
from functools import partial
from selectors import SelectorKey, SelectSelector
from typing import Any, Final, TypeVar, TypeVarTuple, Unpack

from bellwire.client.net import Network
from bellwire.client.participant import SECOND_NS, Participant
from bellwire.protocols.errors import BackendError, ConfigError, ErrorCode, RequestError, TransportError
from bellwire.protocols.ids import BROKER, NodeId, QubitName
from bellwire.protocols.messages import Role
from bellwire.shell.operand import MAX_TIMEOUT_S
from bellwire.sim.states import ComplexArray
from bellwire.sim.virtual import VirtualTestbed
from bellwire.simnet.loop import Simnet, Stuck

PATIENCE_S: Final = 2 * MAX_TIMEOUT_S
"""How much virtual time may pass while every task waits: more than any request may take."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class _TimePasses(SelectSelector):
    """A selector that looks at no file. A loop with nothing to do lets the next event of virtual time happen instead."""

    def __init__(self, net: Simnet, patience_s: float) -> None:
        super().__init__()
        self._net = net
        self._patience_s = patience_s
        self._busy_ns = net.now_ns

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        """Let the next event happen, unless the loop has something to do and asks with a timeout of 0.

        Raises:
            Stuck: when nothing will ever happen again, or the loop has had nothing to do for too long.
        """
        if timeout == 0:
            self._busy_ns = self._net.now_ns
        elif not self._net.step() or self._net.now_ns - self._busy_ns > self._patience_s * SECOND_NS:
            raise Stuck(f"what is waited for has not happened in {self._patience_s:g} s of virtual time")
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop whose time is a network's in virtual time. Its timers are events there, among all others."""

    def __init__(self, net: Simnet, patience_s: float = PATIENCE_S) -> None:
        super().__init__(_TimePasses(net, patience_s))
        self._net = net

    def time(self) -> float:
        """The network's time in seconds."""
        return self._net.now_ns / SECOND_NS

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Call `callback` at a time on the network's clock."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)

        def ring() -> None:
            # The network's time goes on after this loop has ended, for the next one.
            if not (timer.cancelled() or self.is_closed()):
                self.call_soon(call, context=context)

        def call() -> None:
            if not timer.cancelled():
                callback(*args)

        self._net.at(round(when * SECOND_NS), ring)
        return timer


def run_virtual(bed: VirtualTestbed, main: Coroutine[Any, Any, T], *, patience_s: float = PATIENCE_S) -> T:
    """Run a coroutine to its end in a testbed's time, as `asyncio.run` does in the wall's.

    Raises:
        Stuck: when `patience_s` of virtual time pass while it waits.
    """
    with asyncio.Runner(loop_factory=partial(VirtualLoop, bed.net, patience_s)) as runner:
        return runner.run(main)


class _VirtualParticipant(Participant):
    """An application in a virtual testbed."""

    def __init__(self, bed: VirtualTestbed, name: NodeId) -> None:
        super().__init__(BROKER, bed.endpoint(name, Role.APPLICATION))
        self._net = bed.net
        self._net.add(name, self.endpoint)

    def _now_ns(self) -> int:
        return self._net.local_ns(self.endpoint.node)

    def _flush(self) -> None:
        self._net.flush(self.endpoint.node)

    async def start(self, timeout_s: float) -> None:
        """Greet the broker.

        Raises:
            TransportError: when it does not answer in time.
        """
        try:
            await self._greet(timeout_s)
        except TimeoutError:
            self.close()
            raise TransportError(f"no broker answers within {timeout_s:g} s of virtual time") from None

    def close(self) -> None:
        """Say goodbye to everybody and leave."""
        self._part()
        self._net.remove(self.endpoint.node)


@asynccontextmanager
async def connect_virtual(
    bed: VirtualTestbed, name: str = "client", *, timeout_s: float = 5.0
) -> AsyncIterator[Network]:
    """Join a virtual testbed as an application, as `connect` joins a network. To be used within `run_virtual`.

    Raises:
        ConfigError: when somebody of this name takes part already.
        TransportError: when the broker does not answer.
    """
    if NodeId(name) in bed.net.actors:
        raise ConfigError(f"there is a {name!r} in this testbed already")
    participant = _VirtualParticipant(bed, NodeId(name))
    network = Network(participant)
    await participant.start(timeout_s)
    try:
        yield network
    finally:
        participant.close()


class VirtualOracle:
    """The exact states of a virtual testbed's world, as `Oracle` has them of a world of its own process."""

    def __init__(self, bed: VirtualTestbed) -> None:
        self._bed = bed

    async def state(self, qubits: Sequence[tuple[str, str]]) -> ComplexArray:
        """The density matrix of held qubits, as `Oracle.state`. It takes no time.

        Raises:
            RequestError: when one of them is not held.
        """
        named = [(NodeId(node), QubitName(qubit)) for node, qubit in qubits]
        try:
            return self._bed.world.inspect(named, self._bed.net.now_ns)
        except BackendError as error:
            raise RequestError(ErrorCode.BACKEND, str(error)) from None
