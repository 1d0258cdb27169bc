"""The world as a participant: sessions with its nodes, in front of the simulated world. Sans I/O.

It executes every node's batches strictly in order, whatever order they come in, and frees all that a node holds as soon as
the node is lost in any way: restarted, left or silent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.errors import BackendError, ErrorCode, RequestError
from bellwire.protocols.ids import NodeId
from bellwire.protocols.instructions import AnyCompletion, AnyInstruction, Failed
from bellwire.protocols.messages import Reply, Role
from bellwire.protocols.session import Loss
from bellwire.sim.clocks import ClockInfo
from bellwire.sim.messages import (
    MAX_BATCHES_UNDER_WAY,
    WorldComplete,
    WorldDescribe,
    WorldDescription,
    WorldInspect,
    WorldState,
    WorldSubmit,
)
from bellwire.sim.world import World
from bellwire.transport.clock import HostClock


@dataclass(slots=True)
class _Tenant:
    """A node that executes in the world, under one lease. `early` and `open` are by the batch's number."""

    lease: int
    next: int = 1
    early: dict[int, tuple[int, tuple[AnyInstruction, ...]]] = field(default_factory=dict)
    open: dict[int, int] = field(default_factory=dict)
    """The requests that await the end of a batch."""


class WorldServer:
    """Joins a world and its endpoint, whose codec has to be `WORLD_CODEC`.

    `role_of` gives the role that a participant was authorised for; without it the role of its hello is believed. `host_clock`
    is what nodes with a clock of their own may read the world's by; without it they have none.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        world: World,
        role_of: Callable[[NodeId], Role | None] | None = None,
        *,
        host_clock: HostClock | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.world = world
        self._role_of = role_of
        self._host_clock = host_clock
        self._tenants: dict[NodeId, _Tenant] = {}
        self._leases = int(endpoint.epoch)
        endpoint.handle(WorldDescribe, self._describe)
        endpoint.handle(WorldSubmit, self._submit)
        endpoint.handle(WorldInspect, self._inspect)
        endpoint.on_peer_lost.append(self._peer_lost)

    # What a driver calls.

    def receive(self, peer: NodeId, data: bytes, now_ns: int) -> None:
        """Take one message frame that came from `peer`."""
        self.endpoint.receive(peer, data, now_ns)
        self._settle()

    def next_deadline_ns(self) -> int | None:
        """When `handle_deadline` wants to be called next."""
        deadlines = (self.endpoint.next_deadline_ns(), self.world.next_deadline_ns())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def handle_deadline(self, now_ns: int) -> None:
        """Do what has come due, in the sessions and in the world."""
        self.endpoint.handle_deadline(now_ns)
        self.world.handle_deadline(now_ns)
        self._settle()

    def take_frames(self) -> list[tuple[NodeId, bytes]]:
        """Take the frames to be sent, in order, each with the participant that it is for."""
        return self.endpoint.take_frames()

    def close(self, now_ns: int) -> None:
        """Say goodbye to everybody."""
        self.endpoint.begin(now_ns)
        self.endpoint.close()

    # What nodes ask.

    def _admit(self, peer: NodeId, *roles: Role) -> None:
        """Check what a participant is, by its key and by its own word.

        Raises:
            RequestError: DENIED when either is not among `roles`.
        """
        claimed = self.endpoint.sessions[peer].role
        role = claimed if self._role_of is None else self._role_of(peer)
        if role not in roles or claimed not in roles:
            names = " or ".join(roles)
            text = f"only for the role {names}: {peer} is {role or 'unknown'} and says it is {claimed}"
            raise RequestError(ErrorCode.DENIED, text)

    def _describe(self, peer: NodeId, message: WorldDescribe) -> Reply:
        self._admit(peer, Role.AGENT, Role.STATION)
        qubits, links = self.world.qubits(peer), self.world.links(peer)
        if not qubits and not links:
            raise RequestError(ErrorCode.UNSUPP, f"there is no node {peer} in this world")
        tenant = self._tenants.get(peer)
        if tenant is None or tenant.lease != message.lease:
            self._release(peer)
            self._leases += 1
            tenant = self._tenants[peer] = _Tenant(self._leases)
        return WorldDescription(
            lease=tenant.lease, qubits=qubits, links=links, time_scale=self._time_scale(), clock=self._clock(peer)
        )

    def _clock(self, peer: NodeId) -> ClockInfo | None:
        clock, host = self.world.clock(peer), self._host_clock
        if clock is None or host is None:
            return None
        return msgspec.structs.replace(clock, host=host.host, host_offset_ns=host.offset_ns)

    def _time_scale(self) -> float:
        now_ns, span_ns = self.endpoint.now_ns, 10**15
        return (self.world.world_time_ns(now_ns + span_ns) - self.world.world_time_ns(now_ns)) / span_ns

    def _submit(self, peer: NodeId, message: WorldSubmit) -> Reply | None:
        tenant = self._tenants.get(peer)
        if tenant is None or tenant.lease != message.lease:
            raise RequestError(ErrorCode.UNKNOWN_ID, f"lease {message.lease} of {peer} is over: its qubits were freed")
        number = message.number
        if number < tenant.next or number in tenant.early:
            raise RequestError(ErrorCode.REJECTED, f"there was a batch {number} of lease {tenant.lease} before")
        held = tenant.open if number == tenant.next else tenant.early
        if len(held) >= MAX_BATCHES_UNDER_WAY:
            raise RequestError(ErrorCode.LIMIT, f"{MAX_BATCHES_UNDER_WAY} batches of {peer} are under way")
        tenant.early[number] = (message.request_id, message.instructions)
        while tenant.next in tenant.early:
            request, instructions = tenant.early.pop(tenant.next)
            tenant.open[tenant.next] = request
            self.world.submit(peer, tenant.next, instructions, self.endpoint.now_ns)
            tenant.next += 1
        return None

    def _inspect(self, peer: NodeId, message: WorldInspect) -> Reply:
        self._admit(peer, Role.OBSERVER)
        try:
            state = self.world.inspect(message.qubits, self.endpoint.now_ns)
        except BackendError as error:
            raise RequestError(ErrorCode.BACKEND, str(error)) from None
        real, imag = state.real.ravel().tolist(), state.imag.ravel().tolist()
        return WorldState(dimension=state.shape[0], real=tuple(real), imag=tuple(imag))

    # What follows.

    def _peer_lost(self, peer: NodeId, _loss: Loss, _why: str) -> None:
        self._release(peer)

    def _release(self, peer: NodeId) -> None:
        """End a node's lease. What it still waits for is answered, so that no request stays open in its session."""
        tenant = self._tenants.pop(peer, None)
        if tenant is None:
            return
        self.world.release_all(peer, self.endpoint.now_ns)
        over = RequestError(ErrorCode.UNKNOWN_ID, f"lease {tenant.lease} of {peer} is over: its qubits were freed")
        for request in (*tenant.open.values(), *(request for request, _ in tenant.early.values())):
            self.endpoint.fail(peer, request, over)

    def _settle(self) -> None:
        """At the end of a stimulus: answer the batches that the world has completed."""
        for batch in self.world.take_completions():
            tenant = self._tenants.get(batch.node)
            if tenant is not None:
                request = tenant.open.pop(batch.batch_id)
                reply = WorldComplete(completions=_until_failure(batch.completions))
                self.endpoint.reply(batch.node, request, reply)


def _until_failure(completions: tuple[AnyCompletion, ...]) -> tuple[AnyCompletion, ...]:
    """Leave out what follows the first failure, so that the failure of a long batch fits into a message."""
    for place, completion in enumerate(completions, start=1):
        if isinstance(completion, Failed):
            return completions[:place]
    return completions
