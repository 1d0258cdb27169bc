"""What can be driven, by a driver or by another layer (spec 1 §2.4)."""

from __future__ import annotations

from typing import Protocol

from bellwire.protocols.ids import NodeId


class DrivenCapable(Protocol):
    """An endpoint, a node, or whatever joins several of them."""

    def receive(self, peer: NodeId, data: bytes, now_ns: int) -> None:
        """Take one message frame that came from `peer`."""

    def next_deadline_ns(self) -> int | None:
        """When `handle_deadline` wants to be called next."""

    def handle_deadline(self, now_ns: int) -> None:
        """Do what has come due."""

    def take_frames(self) -> list[tuple[NodeId, bytes]]:
        """Take the frames to be sent."""
