"""The exact states of a simulated world, for those who check what the network made of them. Hardware has no oracle."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bellwire.client.config import ClientConfig
from bellwire.client.participant import Participant, SocketParticipant
from bellwire.protocols.errors import ConfigError
from bellwire.protocols.ids import NodeId, QubitName
from bellwire.shell.config import load_config
from bellwire.sim.messages import WORLD_CODEC, WorldInspect, WorldState

WORLD = NodeId("world")


class Oracle:
    """An observer's view of a simulated world. Made by `observe`."""

    def __init__(self, participant: Participant) -> None:
        self._participant = participant

    async def state(self, qubits: Sequence[tuple[str, str]], *, timeout_s: float = 10.0) -> npt.NDArray[np.complex128]:
        """The density matrix of held qubits, each given as (node, hardware qubit): shape (2^n, 2^n), first qubit first.

        Raises:
            RequestError: when one of them is not held, or this key is not an observer's.
        """
        named = tuple((NodeId(node), QubitName(qubit)) for node, qubit in qubits)
        request = WorldInspect(qubits=named)
        answer = await self._participant.ask(WORLD, request, WorldState, timeout_s=timeout_s)
        shape = (answer.dimension, answer.dimension)
        state: npt.NDArray[np.complex128] = (np.array(answer.real) + 1j * np.array(answer.imag)).reshape(shape)
        return state


@asynccontextmanager
async def observe(
    config: ClientConfig | str | os.PathLike[str], *, directory: Path | None = None, timeout_s: float = 5.0
) -> AsyncIterator[Oracle]:
    """Look into the simulated world of a testbed, as `connect` joins its network.

    Raises:
        ConfigError: when the configuration names no world.
        TransportError: when the world does not answer.
    """
    if not isinstance(config, ClientConfig):
        path = Path(config)
        directory = path.parent
        config = load_config(path, ClientConfig)
    if config.world is None:
        raise ConfigError("this client.toml names no [world]: only simulated testbeds have one")
    base = directory or Path()
    participant = SocketParticipant(
        server=WORLD,
        endpoint=config.world.endpoint,
        server_key=base / config.world.key,
        secret_key=base / config.world.secret_key,
        codec=WORLD_CODEC,
    )
    await participant.start(timeout_s)
    try:
        yield Oracle(participant)
    finally:
        await participant.close()
