"""Shots: what the application asks of the network, one shot after the other.

A shot initialises the circuit qubit of either module, teleports gates between them, each over a pair that is made while
the circuit qubits wait, and reads them. Local gates travel with the next program that has to be sent anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

from bellwire.client import gate, initialise, measure, release
from bellwire.protocols.errors import RequestError
from bellwire.protocols.ids import PairId
from bellwire.protocols.instructions import BellState
from bellwire.protocols.messages import GateResult, ProgramResult, Step
from bellwire.sim.states import ComplexArray
from oxford.circuits import PREPARATIONS, ROTATIONS, Circuit, Gates, Layer
from oxford.tomography import Setting

ALICE, BOB = "alice", "bob"
CIRCUIT, REFERENCE, SPARE = "circuit", "reference", "spare"
NETWORK_QUBIT: Final = "network0"
"""How a testbed calls a node's one communication qubit."""
MOST_LOST_SHOTS: Final = 20

_Result = TypeVar("_Result")


class PairCapable(Protocol):
    """What a shot needs of a pair."""

    @property
    def pair_id(self) -> PairId:
        """How its halves are named."""

    @property
    def bell_state(self) -> BellState:
        """What the herald saw."""


class NetworkCapable(Protocol):
    """What a shot needs of `bellwire.client.Network`."""

    async def run(self, node: str, steps: Sequence[Step]) -> ProgramResult:
        """Run a local program."""

    async def cz(self, source: str, target: str) -> GateResult:
        """Teleport a CZ."""

    async def entangle(self, first: str, second: str) -> PairCapable:
        """Make a pair."""


class OracleCapable(Protocol):
    """What a shot needs of `bellwire.client.Oracle`."""

    async def state(self, qubits: Sequence[tuple[str, str]]) -> ComplexArray:
        """The exact density matrix of hardware qubits."""


@dataclass(kw_only=True)
class Timings:
    """How long requests took, in seconds of the loop's clock: the wall's, or virtual time."""

    gates: list[float] = field(default_factory=list)
    pairs: list[float] = field(default_factory=list)
    programs: list[float] = field(default_factory=list)


class Lab:
    """The two modules, as the application has them, on daemons or in virtual time.

    Attributes:
        time_scale: how much faster world time runs than the clock that the timings are of.
        timings: of every request so far.
        lost: shots that ended in an error and were made again.
    """

    def __init__(self, net: NetworkCapable, oracle: OracleCapable, time_scale: float = 1.0) -> None:
        self._net = net
        self._oracle = oracle
        self.time_scale = time_scale
        self.timings = Timings()
        self.lost = 0

    async def shot(self, circuit: Circuit, setting: Setting) -> tuple[int, int]:
        """Prepare, run a circuit and measure: Alice's bit and Bob's."""
        alice, bob = (PREPARATIONS[state] for state in setting.inputs)

        async def once() -> tuple[int, int]:
            await self._both(
                [initialise(CIRCUIT), *_gates(alice + circuit.layers[0].alice)],
                [initialise(CIRCUIT), *_gates(bob + circuit.layers[0].bob)],
            )
            rotations = [[*_gates(ROTATIONS[pauli]), measure(CIRCUIT)] for pauli in setting.basis]
            first, second = await self._teleport(circuit, *rotations)
            return first.bits[0], second.bits[0]

        return await self._again(once)

    async def choi_state(self, circuit: Circuit) -> ComplexArray:
        """Run a circuit on halves of perfect Φ+ and look at what it left. Shape (16, 16).

        The order is Alice's and Bob's circuit qubit, then their references. A spare reference qubit carries each half into
        the circuit qubit, so that no initialisation error gets into it.
        """

        async def once() -> ComplexArray:
            steps = [
                *(initialise(name, reference=True) for name in (REFERENCE, SPARE)),
                initialise(CIRCUIT),
                gate("h", REFERENCE),
                gate("cx", REFERENCE, SPARE),
                gate("swap", SPARE, CIRCUIT),
            ]
            results = await self._both(steps + _gates(circuit.layers[0].alice), steps + _gates(circuit.layers[0].bob))
            await self._teleport(circuit)
            named = zip((ALICE, BOB), results, strict=True)
            hardware = {
                node: dict(zip((REFERENCE, SPARE, CIRCUIT), result.qubits, strict=True)) for node, result in named
            }
            return await self._oracle.state(
                [(node, hardware[node][name]) for name in (CIRCUIT, REFERENCE) for node in hardware]
            )

        return await self._again(once)

    async def final_state(self, circuit: Circuit) -> ComplexArray:
        """Run a circuit on |00⟩ and look at both circuit qubits. Shape (4, 4)."""

        async def once() -> ComplexArray:
            results = await self._both(
                [initialise(CIRCUIT), *_gates(circuit.layers[0].alice)],
                [initialise(CIRCUIT), *_gates(circuit.layers[0].bob)],
            )
            await self._teleport(circuit)
            return await self._oracle.state(
                [(node, result.qubits[0]) for node, result in zip((ALICE, BOB), results, strict=True)]
            )

        return await self._again(once)

    async def pair(self, basis: str) -> tuple[BellState, tuple[int, int]]:
        """Make a pair and measure it: what its herald said, Alice's bit and Bob's."""

        async def once() -> tuple[BellState, tuple[int, int]]:
            async with self._pair() as pair:
                half = str(pair.pair_id)
                alice, bob = ([*_gates(ROTATIONS[pauli], half), measure(half)] for pauli in basis)
                first, second = await self._both([*alice, release(half)], [*bob, release(half)])
            return pair.bell_state, (first.bits[0], second.bits[0])

        return await self._again(once)

    async def pair_state(self) -> tuple[BellState, ComplexArray]:
        """Make a pair and look at it. Shape (4, 4)."""

        async def once() -> tuple[BellState, ComplexArray]:
            async with self._pair() as pair:
                state = await self._oracle.state([(node, NETWORK_QUBIT) for node in (ALICE, BOB)])
                await self._both(*([release(str(pair.pair_id))] for _ in range(2)))
            return pair.bell_state, state

        return await self._again(once)

    @asynccontextmanager
    async def _pair(self) -> AsyncIterator[PairCapable]:
        """Make a pair. When what is done with it fails, its halves are given back, as far as they are still there."""
        pair = await self._timed(self._net.entangle(ALICE, BOB), self.timings.pairs)
        try:
            yield pair
        except RequestError:
            for node in (ALICE, BOB):
                with suppress(RequestError):
                    await self._run(node, [release(str(pair.pair_id))])
            raise

    async def _teleport(
        self, circuit: Circuit, alice: Sequence[Step] = (), bob: Sequence[Step] = ()
    ) -> tuple[ProgramResult, ProgramResult]:
        """Run a circuit from its first teleported gate on, and then these steps."""
        *middle, last = circuit.layers[1:]
        for layer in middle:
            await self._gate()
            await self._both(*_layer(layer))
        await self._gate()
        steps = _layer(last)
        return await self._both([*steps[0], *alice], [*steps[1], *bob])

    async def _gate(self) -> None:
        await self._timed(self._net.cz(f"{ALICE}:{CIRCUIT}", f"{BOB}:{CIRCUIT}"), self.timings.gates)

    async def _both(self, alice: Sequence[Step], bob: Sequence[Step]) -> tuple[ProgramResult, ProgramResult]:
        """Run a program on either module at the same time; an empty one takes no time."""
        if not alice and not bob:
            return _NOTHING, _NOTHING
        begun = _now_s()
        programs = [self._run(node, steps) for node, steps in ((ALICE, alice), (BOB, bob))]
        first, second = await asyncio.gather(*programs)
        self.timings.programs.append(_now_s() - begun)
        return first, second

    async def _run(self, node: str, steps: Sequence[Step]) -> ProgramResult:
        return await self._net.run(node, steps) if steps else _NOTHING

    async def _timed(self, request: Awaitable[_Result], into: list[float]) -> _Result:
        begun = _now_s()
        result = await request
        into.append(_now_s() - begun)
        return result

    async def _again(self, once: Callable[[], Awaitable[_Result]]) -> _Result:
        """Make a shot; one that ends in an error is discarded and made again, as a laboratory would.

        Raises:
            RequestError: the error, when too many shots ended in one.
        """
        while True:
            try:
                return await once()
            except RequestError:
                self.lost += 1
                if self.lost > MOST_LOST_SHOTS:
                    raise


def _now_s() -> float:
    return asyncio.get_running_loop().time()


_NOTHING = ProgramResult(bits=(), qubits=())


def _gates(gates: Gates, qubit: str = CIRCUIT) -> list[Step]:
    return [gate(name.value, qubit) for name in gates]


def _layer(layer: Layer) -> tuple[list[Step], list[Step]]:
    return _gates(layer.alice), _gates(layer.bob)
