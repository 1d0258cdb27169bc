"""What cases about time play: a source that the target follows, a follower of the target, and side paths (spec 4 §3)."""

from __future__ import annotations

import hmac
import os
import socket
import struct
import time
from typing import Any, Final

from bellwire.conformance.catalogue import Failed, Role
from bellwire.conformance.stage import Stage
from bellwire.conformance.target import BROKER, PEER
from bellwire.conformance.timekeeper import NO_PATH, OWN_CLOCK
from bellwire.conformance.wire import Message, NoMessage, brief, decode, encode

HEAD: Final = struct.Struct(">BBQQ")
TAG_BYTES: Final = 16
KEY_BYTES: Final = 32
TO_SOURCE: Final = 0
TO_NODE: Final = 1
LONG_NS: Final = 30_000_000_000


def host_of(endpoint: str) -> str:
    """The host in an endpoint such as `tcp://127.0.0.1:7100`."""
    return endpoint.rpartition("//")[2].rpartition(":")[0].strip("[]")


class SidePath:
    """One end of a side path: a UDP socket, and datagrams that are right or wrong in one respect."""

    def __init__(self, stage: Stage, path_id: int, key: bytes, sending: int) -> None:
        self.stage = stage
        self.path_id, self.key, self.sending = path_id, key, sending
        self.counter = 0
        self.came_from: Any = None
        host = host_of(stage.lane.endpoint)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = stage.keep(socket.socket(family, socket.SOCK_DGRAM))
        self._socket.setblocking(False)
        self._socket.bind(("", 0))  # Of a broker, the endpoint is that one's own, and may be of another machine.

    @property
    def port(self) -> int:
        """Where datagrams are taken."""
        return int(self._socket.getsockname()[1])

    def seal(self, message: Message | None, **wrong: Any) -> bytes:
        """The next datagram. `wrong` replaces `version`, `direction`, `path_id`, `counter` or `key`."""
        if "counter" not in wrong:
            self.counter += 1
        known = {
            "version": 1,
            "direction": self.sending,
            "path_id": self.path_id,
            "counter": self.counter,
            "key": self.key,
        }
        head: dict[str, Any] = known | wrong
        data = HEAD.pack(head["version"], head["direction"], head["path_id"], head["counter"])
        data += b"" if message is None else encode(message)
        return data + hmac.digest(bytes(head["key"]), data, "sha256")[:TAG_BYTES]

    def send(self, data: bytes, port: int = 0) -> None:
        """Send a datagram to a port of the target's host, or where the last one came from."""
        address = (host_of(self.stage.lane.endpoint), port) if port else self.came_from
        self._socket.sendto(data, address)

    def receive(self, within_s: float | None = None) -> Message | None:
        """Wait for a datagram of the target, and give its message: empty when it has none; `None` when no datagram comes.

        Raises:
            Failed: when it is not as spec 4 §3.5 says.
        """
        data = self.stage.wait(self._take, within_s)
        if data is None:
            return None
        body, tag = data[:-TAG_BYTES], data[-TAG_BYTES:]
        if len(body) < HEAD.size or hmac.digest(self.key, body, "sha256")[:TAG_BYTES] != tag:
            raise Failed(f"a datagram of {len(data)} octets has a wrong tag")
        version, direction, path_id, counter = HEAD.unpack_from(body)
        if (version, direction, path_id) != (1, 1 - self.sending, self.path_id) or counter < 1:
            raise Failed(
                f"a datagram has the head {(version, direction, path_id, counter)}, expected path {self.path_id}"
            )
        try:
            return decode(body[HEAD.size :]) if len(body) > HEAD.size else {}
        except NoMessage as error:
            raise Failed(f"a datagram has no message: {error}") from None

    def _take(self) -> bytes | None:
        try:
            data, self.came_from = self._socket.recvfrom(65_535)
        except OSError:
            return None  # Nothing there yet, or the other side's port was closed.
        return data

    def expect(self, kind: str, **match: Any) -> Message:
        """Wait for a message by datagram; others before it are passed over. Raises `Failed` when it does not come."""
        deadline_s = time.monotonic() + self.stage.patience_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            message = self.receive(left_s)
            if (
                message
                and message.get("type") == kind
                and all(message.get(name) == each for name, each in match.items())
            ):
                return message
        raise Failed(f"expected {kind} {match or ''} by datagram")

    def never(self, kind: str, during_s: float) -> None:
        """See that no message of a type comes by datagram. Raises `Failed` when one does."""
        deadline_s = time.monotonic() + during_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            message = self.receive(left_s)
            if message and message.get("type") == kind:
                raise Failed(f"expected no {kind} by datagram; came: {brief(message)}")


def padded(message: Message, octets: int) -> Message:
    """A message with a field more that nobody knows, which makes it so many octets long."""
    whole = message | {"padding": b""}
    whole["padding"] = bytes(octets - len(encode(whole)))
    while len(encode(whole)) > octets:
        whole["padding"] = whole["padding"][:-1]
    return whole


def wrong_datagrams(path: SidePath, message: Message, most: int) -> list[tuple[str, bytes]]:
    """Datagrams with a message that a receiver drops, each with what is wrong with it."""
    room = most - HEAD.size - TAG_BYTES
    longest = path.seal(padded(message, room))
    if len(longest) != most:
        raise ValueError(f"a datagram of {len(longest)} octets, expected {most}")
    return [
        ("another key", path.seal(message, key=os.urandom(KEY_BYTES))),
        ("a spoiled tag", path.seal(message)[:-1] + b"\x00"),
        ("version 2", path.seal(message, version=2)),
        ("the other direction", path.seal(message, direction=1 - path.sending)),
        ("another path", path.seal(message, path_id=path.path_id + 1)),
        ("counter 0", path.seal(message, counter=0)),
        ("one octet too many", path.seal(padded(message, room + 1))),
        ("one octet behind the longest", longest + b"\x00"),
        ("no head", b"\x01"),
    ]


class Source:
    """The kit's broker as a source that does nothing by itself: a lease is granted, and exchanged on as the case says."""

    def __init__(self, stage: Stage, *, announce: bool = True, path: bool = False, **grant: Any) -> None:
        self.stage = stage
        stage.broker.leave()
        stage.clock.serves = False
        self.broker = stage.again(BROKER)
        self.path = SidePath(stage, 71, os.urandom(KEY_BYTES), TO_NODE) if path else None
        self._grant = NO_PATH | grant
        if self.path is not None:
            self._grant |= {"path_id": 71, "path_port": self.path.port, "path_key": self.path.key}
        # One of before, for the broker that has left, may still be under way.
        self.lease = self.broker.expect("time.lease", within_s=5 * stage.patience_s, peer_epoch=self.broker.epoch)
        self.broker.inbox.clear()  # Answers to the Syncs of before.
        self.give(self.lease)
        if announce:
            self.follow()

    def give(self, lease: Message) -> None:
        """Grant a lease for the time that was asked."""
        self.broker.reply(lease, "time.grant", **({"lease_ns": lease["lease_ns"]} | self._grant))

    def follow(self) -> None:
        """Announce until the target asks for exchanges, and grant them; from then on every lease that it asks for."""
        while not self.lease["exchanges"]:
            self.announce()
            self.lease = self.broker.expect("time.lease", peer_epoch=self.broker.epoch)
            self.give(self.lease)

        def again(lease: Message) -> Message:
            return self.broker.message(
                "time.grant", request_id=lease["request_id"], **({"lease_ns": lease["lease_ns"]} | self._grant)
            )

        self.broker.answers["time.lease"] = again

    def announce(self, **fields: Any) -> None:
        """Say what kind of clock this is."""
        known = OWN_CLOCK | {"uncertainty_ns": 0, "grandmaster": BROKER}
        self.broker.send("time.announce", **(known | fields))

    def sync(self, exchange: int, *, sequence: int = 0) -> tuple[int, int]:
        """Send a Sync, and give its sequence number and t1."""
        number, origin_ns = sequence or self.stage.clock.sequence(), self.stage.network_ns()
        self.broker.send("time.sync", sequence=number, exchange=exchange)
        return number, origin_ns

    def exchange(self, exchange: int, *, widen_ns: int = 0) -> None:
        """One exchange, which proves no more than `widen_ns`. Raises `Failed` when the target does not answer the Sync."""
        number, origin_ns = self.sync(exchange)
        self.broker.expect("time.delay_req", sequence=number)
        received_ns = self.stage.network_ns() + widen_ns
        self.broker.send("time.follow_up", sequence=number, origin_ns=origin_ns - widen_ns, uncertainty_ns=0)
        self.broker.send("time.delay_resp", sequence=number, received_ns=received_ns)

    def burst(self, *widen_ns: int) -> None:
        """A burst, its exchanges widened by so much each; honest without any."""
        self.announce()
        number = self.lease["exchanges"]
        for exchange, widen in zip(range(number), widen_ns or (0,) * number, strict=True):
            self.exchange(exchange, widen_ns=widen)

    def report(self) -> Message:
        """How the target's clock is."""
        return self.broker.ask("time.status")


class Follower:
    """An agent that takes time from the target, one message at a time."""

    def __init__(self, stage: Stage, **lease: Any) -> None:
        self.stage = stage
        self.party = stage.party(PEER)
        if not self.party.up:
            self.party.greet()
        self.grant: Message = {}
        self.lease(**lease)

    def lease(self, **fields: Any) -> None:
        """Ask for a lease. Raises `Failed` when it is refused."""
        known = {"interval_ns": round(self.stage.patience_s * 0.25e9), "exchanges": 3, "lease_ns": LONG_NS}
        self.grant = self.party.ask("time.lease", **(known | fields))
        if self.grant["type"] != "time.grant":
            raise Failed(f"expected time.grant; came: {brief(self.grant)}")

    def path(self) -> SidePath:
        """The side path that was offered. Raises `Failed` when there is none."""
        if not self.grant["path_port"]:
            raise Failed(f"expected a side path; came: {brief(self.grant)}")
        return SidePath(self.stage, self.grant["path_id"], self.grant["path_key"], TO_SOURCE)

    def answer(self, sync: Message, *, after_s: float = 0.0) -> tuple[int, Message, Message]:
        """Answer a Sync a while after it came: for how long that was, in nanoseconds, and the two times that are told."""
        came_ns = time.monotonic_ns()
        self.stage.pause(after_s)
        left_ns = time.monotonic_ns()
        self.party.send("time.delay_req", sequence=sync["sequence"])
        match = {"sequence": sync["sequence"]}
        return (
            left_ns - came_ns,
            self.party.expect("time.follow_up", **match),
            self.party.expect("time.delay_resp", **match),
        )


def jumped(stage: Stage, *, widen_ns: int = 0, by_ns: int | None = None) -> None:
    """Have the kit's source give another time, of which its exchanges prove little, and wait until the target has noticed.

    Raises:
        Failed: when it goes on believing the old time.
    """
    stage.clock.widen_ns = widen_ns
    if by_ns is None:
        stage.clock.jump()
    else:
        stage.clock.jump(by_ns)
    if stage.reported(lambda report: not stage.is_sure(report)) is None:
        raise Failed("expected a target that is not sure of the time any more; it is")


def refused_unsure(answer: Message, stage: Stage) -> None:
    """Check that an answer is a refusal with UNSYNCED that says who is unsure, and by how much."""
    text = str(answer.get("text", ""))
    if answer.get("code") != "UNSYNCED" or stage.target not in text or not any(each.isdigit() for each in text):
        raise Failed(f"expected UNSYNCED, with {stage.target} and its uncertainty in the text; came: {brief(answer)}")


def is_station(stage: Stage) -> bool:
    """Whether the target is a station."""
    return stage.folder.role is Role.STATION
