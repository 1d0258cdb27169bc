"""A heralding station's brain."""

from __future__ import annotations

from collections.abc import Iterable

from bellwire.protocols.detectors import StationSettings
from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.ids import BROKER
from bellwire.protocols.node import Node
from bellwire.protocols.station import Station, StationLink
from bellwire.protocols.time_hub import TimePart
from bellwire.protocols.time_sources import TimeSettings


class StationBrain:
    """One heralding station, without its sockets and its detectors."""

    def __init__(
        self,
        endpoint: Endpoint,
        links: Iterable[StationLink],
        settings: StationSettings | None = None,
        *,
        time: TimeSettings | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.node = Node(endpoint)
        self.time = TimePart(endpoint, time)
        self.node.on_claim.append(self.time.claimed)
        self.node.on_backend_lost.append(self.time.backend_lost)
        self.station = Station(self.node, links, settings)

    def start(self, now_ns: int) -> None:
        """Begin: greet the broker."""
        self.endpoint.begin(now_ns, f"{self.endpoint.node}:start")
        self.endpoint.keep_session(BROKER)
        self.time.start()
