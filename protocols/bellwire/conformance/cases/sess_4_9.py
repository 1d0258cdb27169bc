"""1 §4.9: events, at a broker."""

from __future__ import annotations

import math
import time
from typing import Any

from bellwire.conformance import spec
from bellwire.conformance.cases.core_2 import clients, greeted
from bellwire.conformance.catalogue import BROKER, Failed, Section, Skipped
from bellwire.conformance.party import Party
from bellwire.conformance.stage import Stage
from bellwire.conformance.target import APPLICATION, CROWD, PEER
from bellwire.conformance.wire import brief

section = Section()

TOPIC = "kit.door"


def acked(party: Party, kind: str, /, **fields: Any) -> None:
    """Ask for something about a topic. Raises `Failed` when it is refused."""
    answer = party.ask(kind, **({"topic": TOPIC} | fields))
    if answer["type"] != "session.ack":
        raise Failed(f"expected {kind} to be answered with session.ack; came: {brief(answer)}")


def publish(party: Party, text: str = "open") -> None:
    """Publish an event."""
    acked(party, "event.publish", about="door/1", text=text)


@section.must(
    "SESS-4.9-01",
    "the broker sends an `event.notice` of it to every subscriber of its topic, the publisher included if it is one",
    BROKER,
)
def notices(stage: Stage) -> None:
    """A subscriber and a publisher that is one are told of an event, one who is none is not."""
    peer, application = greeted(stage, PEER, APPLICATION)
    acked(application, "event.subscribe")
    publish(peer, "for one")
    acked(peer, "event.subscribe")
    publish(peer, "for both")
    for text in ("for one", "for both"):
        application.expect("event.notice", topic=TOPIC, about="door/1", text=text)
    peer.expect("event.notice", topic=TOPIC, text="for both")
    peer.never("event.notice", during_s=stage.patience_s / 12)


@section.must("SESS-4.9-02", "`publisher` is the publisher's name as authenticated.", BROKER)
def publisher(stage: Stage) -> None:
    """A notice names who published, whatever its fields say."""
    peer, application = greeted(stage, PEER, APPLICATION)
    acked(application, "event.subscribe")
    acked(peer, "event.publish", about="", text="", publisher=APPLICATION)
    application.expect("event.notice", publisher=PEER)


@section.must(
    "SESS-4.9-03", "`number` counts a topic's events for as long as the broker has a subscriber to it", BROKER
)
def numbers(stage: Stage) -> None:
    """Events of a topic are counted from 1, those of another one apart."""
    [application] = greeted(stage, APPLICATION)
    acked(application, "event.subscribe")
    acked(application, "event.subscribe", topic="kit.window")
    for number in (1, 2, 3):
        publish(application)
        application.expect("event.notice", topic=TOPIC, number=number)
    acked(application, "event.publish", topic="kit.window", about="", text="")
    application.expect("event.notice", topic="kit.window", number=1)


@section.must(
    "SESS-4.9-04", "A subscription ends with `event.unsubscribe` and when the broker loses the subscriber", BROKER
)
def ends(stage: Stage) -> None:
    """Nobody is told who has unsubscribed, or has left and come back."""
    peer, application = greeted(stage, PEER, APPLICATION)
    acked(application, "event.subscribe")
    acked(application, "event.unsubscribe")
    publish(peer)
    acked(application, "event.subscribe")
    application.leave()
    later = stage.again(APPLICATION)
    later.greet()
    publish(peer)
    for party in (application, later):
        party.never("event.notice", during_s=stage.patience_s / 12)


@section.must("SESS-4.9-05", "A notice is sent once and not repeated.", BROKER)
def once(stage: Stage) -> None:
    """A notice that is not answered comes no second time; nor does a publication that is repeated set off another."""
    [application] = greeted(stage, APPLICATION)
    acked(application, "event.subscribe")
    sent = application.send("event.publish", topic=TOPIC, about="", text="")
    application.put(sent)
    application.expect("event.notice", number=1)
    application.never("event.notice", fresh=False, during_s=stage.seconds(stage.times.retry_limit_ms) * 2)


@section.must(
    "SESS-4.9-06",
    "further ones are refused with `LIMIT` if all notices of that publisher would then be more than `MAX_NOTICES_PER_S`",
    BROKER,
)
def too_many_notices(stage: Stage) -> None:
    """Whoever publishes to a crowd is refused with LIMIT beyond the notices of a second, and heard again in the next one."""
    peer, *crowd = greeted(stage, PEER, *CROWD)
    for party in crowd:
        acked(party, "event.subscribe")
        clients(stage).deafen(party.name)
    most = spec.limits()["MAX_NOTICES_PER_S"] // len(CROWD)
    began_s = time.monotonic()
    number = 2 * most + most // 2
    for _ in stage.paced(range(number)):
        peer.send("event.publish", topic=TOPIC, about="", text="")
    answers = [peer.expect("session.ack", "session.error") for _ in range(number)]
    took_s = time.monotonic() - began_s
    taken = sum(answer["type"] == "session.ack" for answer in answers)
    codes = {answer["code"] for answer in answers if answer["type"] == "session.error"}
    seconds = math.floor(took_s) + 2  # So many of the target's seconds may have been touched.
    if taken > seconds * most or codes - {"LIMIT"}:
        raise Failed(
            f"expected at most {seconds * most} events to a crowd of {len(CROWD)} in {took_s:.2f} s, and LIMIT;"
            f" came: {taken}, and {sorted(codes)}"
        )
    if not codes:
        raise Skipped(f"the target takes {took_s:.1f} s for {taken * len(CROWD)} notices: too slow to reach the bound")
    stage.pause(1.0)
    publish(peer)


@section.must("SESS-5.13-01", "To subscribe twice is as once.", BROKER)
def subscribed_twice(stage: Stage) -> None:
    """Subscribed twice, a participant gets one notice; and none once it has unsubscribed."""
    [application] = greeted(stage, APPLICATION)
    for _ in range(2):
        acked(application, "event.subscribe")
    publish(application)
    application.expect("event.notice", number=1)
    application.never("event.notice", during_s=stage.patience_s / 12)
    acked(application, "event.unsubscribe")
    publish(application)
    application.never("event.notice", during_s=stage.patience_s / 12)


@section.must("CORE-3.4-02", "topics that one participant hears (`LIMIT`)", BROKER)
def too_many_topics(stage: Stage) -> None:
    """A participant that hears as many topics as it may is refused a further one with LIMIT, and no topic that it has."""
    [application] = greeted(stage, APPLICATION)
    most = spec.limits()["MAX_TOPICS_PER_PEER"]
    for number in stage.paced(range(1, most + 1)):
        acked(application, "event.subscribe", topic=f"kit.topic-{number}")
    application.refused("LIMIT", "event.subscribe", topic="kit.one-too-many")
    acked(application, "event.subscribe", topic="kit.topic-1")
