"""The application's side: connect to a network of agents, make pairs, run local programs, teleport gates."""

from __future__ import annotations

from bellwire.client.config import ClientConfig, ObserverConfig, ServerConfig
from bellwire.client.net import Network, Pair, connect
from bellwire.client.oracle import Oracle, observe
from bellwire.client.steps import gate, initialise, measure, release

__all__ = [
    "ClientConfig",
    "Network",
    "ObserverConfig",
    "Oracle",
    "Pair",
    "ServerConfig",
    "connect",
    "gate",
    "initialise",
    "measure",
    "observe",
    "release",
]
