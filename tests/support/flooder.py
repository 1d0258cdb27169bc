"""A member that floods: `python flooder.py ENDPOINT SECRET_KEY BROKER_KEY VICTIM`, in a process of its own.

It sends as fast as its socket takes it to the victim and to the broker, in turn, until its standard input ends. On standard
output it says `{"limited": PEER}` once of each, when the broker has told it that it dropped something.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import zmq

from bellwire.protocols.codec import CODEC
from bellwire.protocols.errors import ErrorCode
from bellwire.protocols.ids import BROKER, Epoch
from bellwire.protocols.messages import SessionError, SessionHeartbeat, SessionHello, SessionWelcome
from bellwire.transport.keys import load_public, load_secret

UNANSWERED = CODEC.encode(SessionError(epoch=Epoch(1), code=ErrorCode.OTHER, text="flood"))
"""Nobody answers an error: what comes back is the broker's own."""


def flood(endpoint: str, secret: Path, broker: Path, victim: str) -> None:
    """Flood until standard input ends."""
    keys = load_secret(secret)
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
        socket.setsockopt(zmq.CURVE_SERVERKEY, load_public(broker).public)
        socket.connect(endpoint)
        hello = SessionHello(epoch=Epoch(1), request_id=1, versions=(1,), role=keys.role, heartbeat_ns=10**9)
        socket.send_multipart([BROKER.encode(), CODEC.encode(hello)])
        while not isinstance(welcome := CODEC.decode(socket.recv_multipart()[1]), SessionWelcome):
            pass
        heartbeat = CODEC.encode(SessionHeartbeat(epoch=Epoch(1), peer_epoch=welcome.epoch))
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN | zmq.POLLOUT)
        poller.register(sys.stdin.fileno(), zmq.POLLIN)
        limited: set[str] = set()
        while True:
            ready = dict(poller.poll())
            if sys.stdin.fileno() in ready:
                return
            if ready.get(socket, 0) & zmq.POLLIN:
                listen(socket, limited)
            if ready.get(socket, 0) & zmq.POLLOUT:
                send_some(socket, [victim.encode(), UNANSWERED], [BROKER.encode(), heartbeat])


def send_some(socket: zmq.Socket[bytes], *transmissions: list[bytes]) -> None:
    """Send these in turn until there is no room, but not for so long that nothing is heard."""
    for _ in range(256):
        try:
            for transmission in transmissions:
                socket.send_multipart(transmission, zmq.NOBLOCK)
        except zmq.Again:
            return


def listen(socket: zmq.Socket[bytes], limited: set[str]) -> None:
    """Take what has come, and say of whom it is the first that a limit is told."""
    while socket.poll(0, zmq.POLLIN):
        message = CODEC.decode(socket.recv_multipart()[1])
        if isinstance(message, SessionError) and message.code is ErrorCode.LIMIT:
            peer = message.peer or BROKER
            if peer not in limited:
                limited.add(peer)
                sys.stdout.write(json.dumps({"limited": peer}) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    flood(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
