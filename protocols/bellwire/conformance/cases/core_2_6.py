"""1 §2.6 and §2.7: who may send what, and what one participant may take of a broker. Keys that are taken back (§2.2)."""

from __future__ import annotations

import time
from collections.abc import Iterator

from bellwire.conformance import spec
from bellwire.conformance.cases.core_2 import clients, greeted
from bellwire.conformance.catalogue import BROKER, NODE, ON_THE_WIRE, Failed, Role, Section, Skipped
from bellwire.conformance.party import Party
from bellwire.conformance.plays import SECOND_NS, Link, created
from bellwire.conformance.stage import TURN_S, Stage
from bellwire.conformance.target import APPLICATION, FAR, GUEST, OTHER, PEER, STATION, WIRE_ROLES
from bellwire.conformance.target import BROKER as HUB
from bellwire.conformance.wire import Message, brief

section = Section()

PORTION = 1_000
PORTIONS = 16
OCTETS = 8_000
"""At most so many portions of messages so long: by then no more can wait for one connection, the kernel's buffers included."""

REVOKED_S = 1.0


def parties(stage: Stage) -> list[Party]:
    """One of every role that greets the target."""
    names = [APPLICATION, PEER, STATION] + ([] if stage.folder.role is Role.BROKER else [HUB])
    return [stage.party(name) for name in names]


def refusals(stage: Stage, code: str) -> Iterator[tuple[Party, str]]:
    """Whoever may not send a message to the target, and what, where the table says that it is refused with a code."""
    own = WIRE_ROLES[stage.folder.role]
    for party in parties(stage):
        for kind, (senders, receivers) in spec.access().items():
            told = "UNKNOWN_TYPE" if own not in receivers else "DENIED" if party.role not in senders else ""
            if told == code:
                yield party, kind


def refused(stage: Stage, code: str) -> None:
    """See that all of it is refused, requests with their own number."""
    for party in parties(stage):
        party.greet()
    for party, kind in stage.paced(refusals(stage, code)):
        common = party.message(kind)
        common.setdefault("request_id", 0)
        sent = party.put(spec.example(kind) | common)
        answer = party.expect("session.error", fresh=False)
        if (answer["code"], answer["request_id"]) != (code, sent["request_id"]):
            raise Failed(f"expected {kind} of the role {party.role} to be refused with {code}; came: {brief(answer)}")


@section.must("CORE-2.6-01", "one that its sender may not send with `DENIED`", ON_THE_WIRE)
def denied(stage: Stage) -> None:
    """Every message that the target takes is refused with DENIED to every role that may not send it."""
    refused(stage, "DENIED")


@section.must(
    "CORE-2.6-02",
    "A message of a session (§4) that its receiver does not take in its role is refused with `UNKNOWN_TYPE`",
    ON_THE_WIRE,
)
def not_taken(stage: Stage) -> None:
    """Every message that the target's role does not take is refused with UNKNOWN_TYPE, whoever sends it."""
    refused(stage, "UNKNOWN_TYPE")


@section.must(
    "CORE-2.6-03",
    "A participant that knows a peer's role otherwise MUST refuse a greeting with another one with `DENIED`",
    ON_THE_WIRE,
)
def other_role(stage: Stage) -> None:
    """A neighbour that says it is an application, and an application that says it is a broker, are refused with DENIED."""
    for name, role in ((PEER, "application"), (APPLICATION, "broker")):
        party = stage.party(name)
        sent = party.hello(role=role)
        party.expect("session.error", code="DENIED", request_id=sent["request_id"])
        party.greet()


@section.must(
    "CORE-2.6-04", "each message about a link counts only from that one of its parties that may send it", NODE
)
def other_neighbour(stage: Stage) -> None:
    """A neighbour at another link cannot report on a window, though its role may."""
    far = stage.party(FAR)
    far.greet()
    fields = {"link_id": "kit-link", "window_id": "w", "attempt": 1, "bell_state": None}
    far.refused("DENIED", "herald.report", **fields)


@section.must(
    "CORE-2.6-05",
    "An agent MAY be told which applications may use it. It then refuses the requests of others with `DENIED`",
    NODE,
    needs="applications",
)
def guest(stage: Stage) -> None:
    """An application that may not use the node is refused with DENIED, for pairs, gates and programs; it may ask the time."""
    guest = stage.party(GUEST)
    guest.greet()
    for kind in ("link.create", "gate.request", "program.run"):
        guest.refused("DENIED", kind, **_own(spec.example(kind)))
    guest.ask("time.status")
    created(stage)


def _own(message: Message) -> Message:
    """The fields of a message that not all have."""
    return {name: value for name, value in message.items() if name not in spec.common()}


@section.must(
    "CORE-2.6-06",
    "and so what a neighbour asks for another's sake: a `link.add` or a `gate.open` that names it",
    NODE,
    needs="applications",
)
def for_a_guest(stage: Stage) -> None:
    """What a neighbour asks for an application that may not use the node is refused with DENIED: pairs, and gates."""
    link = Link(stage, application="")
    answer = link.add(application=GUEST)
    if answer.get("code") != "DENIED":
        raise Failed(f"expected link.add for {GUEST} to be refused with DENIED; came: {brief(answer)}")
    link.herald()
    link.confirm()
    fields = _own(spec.example("gate.open")) | {"application": GUEST, "pair_id": link.pair_id}
    link.primary.refused("DENIED", "gate.open", **(fields | {"deadline_ns": stage.network_ns() + SECOND_NS}))


def flood(stage: Stage) -> Party:
    """Have a participant send to one that reads nothing until it is told that there is no room, and give the sender.

    Raises:
        Failed: when it is never told.
    """
    lane = clients(stage)
    lane.connect(APPLICATION, little=True)
    peer, _ = greeted(stage, PEER, APPLICATION)
    peer.send("session.goodbye", to=APPLICATION, reason="the first message, which both are introduced for")
    stage.application.expect("session.goodbye", sender=PEER)
    lane.deafen(APPLICATION)
    for _ in range(PORTIONS):
        for _ in range(PORTION):
            stage.throw(peer, bytes(OCTETS), note="one of many", to=APPLICATION)
        if peer.maybe("session.error", code="LIMIT", peer=APPLICATION, request_id=0, within_s=stage.patience_s / 12):
            return peer
    raise Failed(f"expected LIMIT after {PORTION * PORTIONS} messages to one that reads nothing; it did not come")


@section.must("CORE-2.7-01", "A broker MUST NOT let one participant hold up others", BROKER)
def held_up(stage: Stage) -> None:
    """When one has sent more than there is room for to another that reads nothing, others are greeted, and reach each other."""
    flood(stage)
    other, station = greeted(stage, OTHER, STATION)
    other.send("session.goodbye", to=STATION, reason="past the flood")
    station.expect("session.goodbye", sender=OTHER)


@section.must("CORE-2.7-02", "`peer` names the receiver, if it was for another participant", BROKER)
def full(stage: Stage) -> None:
    """Whoever sends more than waits for a connection is told LIMIT, and to whom it was; it is not disowned by that."""
    flood(stage).greet()


@section.must(
    "CORE-2.7-03",
    "What is over a bound is dropped and counted, and the sender is told with `session.error` of code `LIMIT` and a"
    " `request_id` of 0",
    BROKER,
)
def own_rate(stage: Stage) -> None:
    """Whoever sends the broker thrice what it takes in a second is told LIMIT, and is served again afterwards."""
    [application] = greeted(stage, APPLICATION)
    for _ in range(3 * spec.bounds()["own rate"]):
        application.send("session.heartbeat")
    application.expect("session.error", code="LIMIT", peer="", request_id=0)
    stage.pause(stage.patience_s / 4)
    application.greet()


@section.must("CORE-2.7-04", "Errors over the error rate are counted and not told.", BROKER)
def error_rate(stage: Stage) -> None:
    """Of a thousand messages to somebody who is not there, a hundred in a second are answered."""
    [peer] = greeted(stage, PEER)
    began_s = time.monotonic()
    for _ in range(1_000):
        peer.send("session.goodbye", to=APPLICATION, reason="to nobody")
    stage.pause(stage.patience_s / 4)
    told = sum(message.get("code") == "NO_ROUTE" for _, _, message in peer.inbox)
    most = spec.bounds()["error rate"] * (time.monotonic() - began_s + TURN_S)
    if not 0 < told <= most:
        raise Failed(f"expected 1 to {most:.0f} errors; came: {told}")


@section.must(
    "CORE-2.2-04",
    "Within a second after a key was revoked, or another one stands for its name, its connections MUST be ended, whoever it"
    " belonged to MUST NOT be reached nor relayed from",
    BROKER,
)
def revoked(stage: Stage) -> None:
    """A participant whose key is taken away is not reached a second later, nor relayed from, nor welcomed."""
    if stage.process is None:
        raise Skipped("needs --start: the kit has to know where the target's authorized keys are")
    peer, other = greeted(stage, PEER, OTHER)
    key = stage.folder.authorized / f"{OTHER}.key"
    kept = key.read_bytes()
    key.unlink()
    try:
        stage.pause(REVOKED_S)
        peer.send("session.goodbye", to=OTHER, reason="to one who was shown out")
        peer.expect("session.error", code="NO_ROUTE", peer=OTHER)
        other.inbox.clear()
        other.send("session.goodbye", to=PEER, reason="from one who was shown out")
        other.hello()
        other.never(during_s=stage.patience_s / 4)
        if peer.maybe("session.goodbye", within_s=0, sender=OTHER) is not None:
            raise Failed(f"expected nothing of {OTHER} to be relayed; came: session.goodbye")
    finally:
        key.write_bytes(kept)
