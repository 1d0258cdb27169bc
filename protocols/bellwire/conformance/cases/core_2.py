"""1 §2: identity, frames and relaying."""

from __future__ import annotations

import zmq

from bellwire.conformance.catalogue import BROKER, ENDS, ON_THE_WIRE, Failed, Role, Section
from bellwire.conformance.keys import Keys
from bellwire.conformance.lanes import ClientLane
from bellwire.conformance.party import Party
from bellwire.conformance.paths import hub
from bellwire.conformance.stage import Stage
from bellwire.conformance.target import APPLICATION, OTHER, PEER, STRANGER
from bellwire.conformance.wire import encode

section = Section()

CONNECTIONS = 32
"""More of one key than anybody would call a few."""


def clients(stage: Stage) -> ClientLane:
    """The lane to a broker."""
    assert isinstance(stage.lane, ClientLane)
    return stage.lane


def greeted(stage: Stage, *names: str) -> list[Party]:
    """Parties that have greeted the broker."""
    parties = [stage.party(name) for name in names]
    for party in parties:
        party.greet()
    return parties


@section.must("CORE-2.2-01", "MUST refuse the handshake of any other key", BROKER)
def refuse_stranger(stage: Stage) -> None:
    """The handshake of a key that nobody authorised is refused."""
    strangers = Keys(stage.folder.path / "unauthorized")
    if not clients(stage).refuses(strangers, STRANGER, stage.patience_s):
        raise Failed("expected the handshake of an unauthorised key to be refused; it was not")


@section.must(
    "CORE-2.2-02",
    "A connecting participant MUST know the public key of the one that it connects to, and MUST NOT talk to another.",
    ENDS,
)
def other_broker(stage: Stage) -> None:
    """A hub at the broker's place with another key hears nothing."""
    lane = hub(stage)
    lane.listen_again(zmq.curve_keypair()[1])
    try:
        stage.broker.up = False
        stage.broker.inbox.clear()
        stage.broker.greets = False
        stage.broker.never(during_s=stage.patience_s / 2)
    finally:
        lane.listen_again()
        stage.broker.greets = True
        stage.meet()


@section.must("CORE-2.2-03", "It is never taken from a ZeroMQ routing id nor from anything in the message.", BROKER)
def name_from_key(stage: Stage) -> None:
    """The receiver sees the name that stands with the sender's key, whatever routing id it has."""
    clients(stage).connect(PEER, routing_id=OTHER.encode())
    peer, application = greeted(stage, PEER, APPLICATION)
    peer.send("session.goodbye", to=application.name, reason="told", sender=OTHER)
    application.expect("session.goodbye", sender=PEER)


def judged(of: Section, case_id: str, requirement: str, roles: frozenset[Role], title: str) -> None:
    """Add a case to a section that runs last, and fails if its rule was seen broken at any time."""

    def judge(stage: Stage) -> None:
        stage.application.greet()
        broken = stage.watch.broken.get(case_id)
        if broken:
            raise Failed(f"{len(broken)} times, such as: {broken[0]}")

    judge.__doc__ = title
    of.must(case_id, requirement, roles, last=True)(judge)


judged(
    section,
    "CORE-2.3-01",
    "A transmission consists of exactly two ZeroMQ frames",
    ON_THE_WIRE,
    "Everything that the target sent had two frames.",
)


@section.must("CORE-2.3-02", "Transmissions with another number of frames MUST be dropped", ON_THE_WIRE)
def other_frames(stage: Stage) -> None:
    """A hello with a third frame behind it is not answered, nor a name alone; the next one is."""
    application = stage.application
    hello = application.message("session.hello", versions=[1], role="application", heartbeat_ns=10**9)
    stage.throw(application, encode(hello), b"more", note="a hello and a third frame")
    stage.throw(application, note="a name alone")
    answered = application.greet()
    if answered["request_id"] == hello["request_id"]:
        raise Failed("a transmission of three frames was taken for one of two")
    application.never("session.welcome", during_s=stage.patience_s / 12, request_id=hello["request_id"])


@section.must("CORE-2.3-03", "A broker MUST NOT relay from a connection to which its sender is not bound.", BROKER)
def unbound(stage: Stage) -> None:
    """What comes before a hello is not relayed, and is answered with NO_SESSION."""
    [application] = greeted(stage, APPLICATION)
    peer = stage.party(PEER)
    peer.send("session.goodbye", to=application.name, reason="too early")
    peer.expect("session.error", code="NO_SESSION")
    application.never("session.goodbye", during_s=stage.patience_s / 12)


@section.must(
    "CORE-2.3-04",
    "the broker answers the sender with `session.error` of code `NO_ROUTE`, naming the receiver in `peer`",
    BROKER,
)
def no_route(stage: Stage) -> None:
    """A message for somebody who is not there is answered with NO_ROUTE."""
    [peer] = greeted(stage, PEER)
    peer.send("session.goodbye", to=APPLICATION, reason="to nobody")
    peer.expect("session.error", code="NO_ROUTE", peer=APPLICATION)


@section.must(
    "CORE-2.3-05",
    "it replaces the first frame by the sender's name and sends both on to the receiver, without decoding the message",
    BROKER,
)
def not_decoded(stage: Stage) -> None:
    """A message that the broker can make nothing of arrives as it was."""
    peer, application = greeted(stage, PEER, APPLICATION)
    odd = {"type": 7, "x": [None, b"\xff", {"y": 1.5}], "z": "é" * 30_000}
    peer.put(odd, to=application.name)
    if application.expect(sender=PEER) != odd:
        raise Failed("the message was changed on its way")


@section.must(
    "CORE-2.3-06", "When a broker loses the session with a participant (§4.5, §4.6) it relays to it no more.", BROKER
)
def lost_receiver(stage: Stage) -> None:
    """Nothing is relayed to a participant that has said goodbye to the broker."""
    peer, application = greeted(stage, PEER, APPLICATION)
    application.leave()
    stage.pause(stage.patience_s / 20)
    peer.send("session.goodbye", to=APPLICATION, reason="too late")
    peer.expect("session.error", code="NO_ROUTE")


@section.must("CORE-2.3-07", "the accepting one MUST NOT derive a name from it", BROKER)
def routing_id(stage: Stage) -> None:
    """A routing id of another participant's name does not get what is meant for that one."""
    clients(stage).connect(PEER, routing_id=OTHER.encode())
    peer, other, application = greeted(stage, PEER, OTHER, APPLICATION)
    application.send("session.goodbye", to=OTHER, reason="for the other one")
    other.expect("session.goodbye", sender=APPLICATION)
    if peer.maybe("session.goodbye", within_s=0, sender=APPLICATION) is not None:
        raise Failed(f"{PEER} with the routing id {OTHER} got what was meant for {OTHER}")


@section.must("CORE-2.3-08", "What is sent to a name goes to the connection that it is bound to.", BROKER)
def bound_anew(stage: Stage) -> None:
    """After a hello on a new connection, messages arrive there."""
    peer, application = greeted(stage, PEER, APPLICATION)
    clients(stage).connect(APPLICATION)
    application.greet()
    peer.send("session.goodbye", to=application.name, reason="to the new connection")
    application.expect("session.goodbye", sender=PEER)


@section.should("CORE-2.3-09", "A connecting participant SHOULD NOT set a routing id", ENDS)
def no_routing_id(stage: Stage) -> None:
    """The routing id of the target's connection is one that ZeroMQ gave it: those begin with a zero."""
    stage.application.greet()
    if not hub(stage).routing_id.startswith(b"\0"):
        raise Failed(f"expected no routing id to be set; it is {hub(stage).routing_id!r}")


@section.should(
    "CORE-2.2-06",
    "A connection that has not proved its key within a few seconds, and all but the latest few connections of one key,"
    " SHOULD be ended too.",
    BROKER,
)
def many_connections(stage: Stage) -> None:
    """Of 32 connections of one key, on each of which it said hello, most are ended, and the latest is not."""
    application = stage.application
    for _ in range(CONNECTIONS):
        application.line = clients(stage).dial(APPLICATION)
        stage.lines.append(application.line)
        application.greet()
    lines = stage.lines
    stage.wait(lambda: sum(line.ended > 0 for line in lines) > CONNECTIONS / 2 or None)
    ended = [number for number, line in enumerate(lines, 1) if line.ended]
    if len(ended) <= CONNECTIONS / 2 or CONNECTIONS in ended:
        raise Failed(f"expected all but the latest few of {CONNECTIONS} connections to be ended; these were: {ended}")
