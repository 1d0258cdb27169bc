"""The application's side: connect to a network of agents, make pairs, run local programs, teleport gates."""

from __future__ import annotations

from bellwire.client.config import ClientConfig, ObserverConfig, ServerConfig
from bellwire.client.creates import MeasuredPair, Pair
from bellwire.client.net import Network, connect
from bellwire.client.oracle import Oracle, observe
from bellwire.client.steps import gate, initialise, measure, release
from bellwire.protocols.readout import Basis, Readout

__all__ = [
    "Basis",
    "ClientConfig",
    "MeasuredPair",
    "Network",
    "ObserverConfig",
    "Oracle",
    "Pair",
    "Readout",
    "ServerConfig",
    "connect",
    "gate",
    "initialise",
    "measure",
    "observe",
    "release",
]
