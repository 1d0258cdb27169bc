"""When a peer's name stands for another one: a participant that has gone from a broker to its hot standby (spec 1 §2.8)."""

from __future__ import annotations

from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.ids import Epoch, NodeId


def meet_anew(endpoint: Endpoint, peer: NodeId, why: str) -> None:
    """Lose a peer, and forget which incarnation it was: who answers to its name next may have begun earlier."""
    session = endpoint.sessions.get(peer)
    if session is None:
        return
    session.drop(why)
    endpoint.duties.forget(session)
    session.forget_answers()
    session.epoch = Epoch(0)
