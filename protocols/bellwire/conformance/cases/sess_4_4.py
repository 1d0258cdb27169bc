"""1 §4.4: requests are carried out once, and asked until they are answered."""

from __future__ import annotations

from bellwire.conformance import spec
from bellwire.conformance.cases.core_2 import judged
from bellwire.conformance.catalogue import ENDS, NODE, ON_THE_WIRE, Failed, Role, Section
from bellwire.conformance.plays import SECOND_NS, Link, asked_by_target, created, taken_by_target
from bellwire.conformance.stage import Stage
from bellwire.conformance.target import FAR, LINK, OTHER, PEER
from bellwire.conformance.timekeeper import NO_PATH
from bellwire.conformance.wire import brief

section = Section()

PORTION = 256
"""Requests asked at once: more could fill queues, and answers be lost."""


judged(
    section,
    "SESS-4.4-01",
    "MUST NOT be used again in that epoch.",
    ON_THE_WIRE,
    "No number was given to two requests of the target.",
)


judged(
    section,
    "SESS-4.4-02",
    "A request is sent as soon as the session is UP and repeated, octet by octet the same",
    ENDS,
    "Whatever was repeated was the same, octet by octet.",
)


@section.must("SESS-4.4-03", "A receiver MUST carry out a request **once**, however often it comes.", ENDS)
def once(stage: Stage) -> None:
    """A request that comes four times is carried out once; under another number it is another request."""
    party, kind, fields = taken_by_target(stage)
    request = party.send(kind, **fields)
    for _ in range(3):
        party.put(request)
    answers = [party.answer_to(request, fresh=False) for _ in range(4)]
    if any(answer != answers[0] for answer in answers) or answers[0]["type"] == "session.error":
        raise Failed(f"expected one answer four times; came: {'; '.join(map(brief, answers))}")
    again = party.ask(kind, **fields)
    if again == answers[0] | {"request_id": again["request_id"]}:
        raise Failed(f"two requests were taken for one: {brief(again)}")


@section.must("SESS-4.4-04", "On a repeat it sends the very same reply again", ENDS)
def same_reply(stage: Stage) -> None:
    """The reply to a repeat is the very same, its cause included."""
    party, kind, fields = taken_by_target(stage)
    request = party.send(kind, **fields)
    first = party.answer_to(request)
    party.put(request | {"cause_id": "of the repeat"})
    second = party.answer_to(request, fresh=False)
    if second != first:
        raise Failed(f"expected {brief(first)} again; came: {brief(second)}")


@section.must("SESS-4.4-05", "after `retry`, after twice that, and so on up to `retry_limit`, until", ENDS)
def repeats(stage: Stage) -> None:
    """A request of the target that nobody answers comes again and again; once answered, no more."""
    party, request = asked_by_target(stage)
    for _ in range(3):
        party.expect(request["type"], fresh=False, request_id=request["request_id"])
    party.refuse(request, "REJECTED")
    stage.pause(stage.patience_s / 10)
    party.inbox.clear()
    party.never(request["type"], fresh=False, during_s=stage.patience_s / 4, request_id=request["request_id"])


@section.must("SESS-4.4-06", "A reply from anybody but the peer asked does not count.", ENDS)
def reply_of_another(stage: Stage) -> None:
    """Another participant cannot answer for the one that was asked."""
    party, request = asked_by_target(stage)
    other = stage.party(OTHER)
    other.greet()
    other.refuse(request, "REJECTED")
    party.inbox.clear()
    party.expect(request["type"], fresh=False, request_id=request["request_id"])


@section.must(
    "SESS-4.4-07",
    "A reply of a type that does not answer the request ends it with `PROTOCOL`, and is itself refused with `PROTOCOL` and the"
    " `request_id` 0.",
    ENDS,
)
def wrong_reply(stage: Stage) -> None:
    """A `time.grant` in answer to another request is refused with PROTOCOL, and ends the request."""
    party, request = asked_by_target(stage)
    party.reply(request, "time.grant", lease_ns=SECOND_NS, **NO_PATH)
    party.expect("session.error", code="PROTOCOL", request_id=0)
    party.inbox.clear()
    party.never(request["type"], fresh=False, during_s=stage.patience_s / 4, request_id=request["request_id"])


@section.must("SESS-4.4-08", "its deadline comes: the asker gets `TIMEOUT`", NODE)
def deadline(stage: Stage) -> None:
    """A request that is not answered by its deadline ends with TIMEOUT."""
    create_id = created(stage, max_time_ns=round(stage.times.retry_ms * 4e6))
    stage.application.expect("link.err", create_id=create_id, code="TIMEOUT")


@section.must("SESS-4.4-09", "the peer is lost or restarts: the asker gets `PEER_LOST`", NODE)
def peer_lost(stage: Stage) -> None:
    """A request to a peer that leaves ends with PEER_LOST, and so does one to a peer that restarts."""
    for leave in (True, False):
        create_id = created(stage)
        far = stage.party(FAR)
        far.expect("link.add", create_id=create_id)
        if leave:
            far.leave()
        stage.again(FAR).greet()
        stage.application.expect("link.err", create_id=create_id, code="PEER_LOST")


@section.must(
    "SESS-4.4-10",
    "A request that is not remembered and whose number is not greater than the greatest one forgotten is refused with"
    " `EXPIRE`",
    ENDS,
)
def forgotten(stage: Stage) -> None:
    """Under load: after more requests than are remembered, the first of them is refused with EXPIRE."""
    peer = stage.party(PEER)
    peer.greet()
    kind, name = ("herald.close", "window_id") if stage.folder.role is Role.STATION else ("pair.release", "pair_id")
    most = spec.limits()["MAX_ANSWERED_REQUESTS"]
    fields = {"link_id": LINK, name: "kit-link-0-0/0", "reason": ""}
    first = peer.send(kind, **fields)
    waiting = {first["request_id"]}
    for number in range(most):
        waiting.add(peer.send(kind, **fields)["request_id"])
        while waiting and (len(waiting) == PORTION or number == most - 1):
            waiting.discard(peer.expect("session.ack", within_s=5 * stage.patience_s)["request_id"])
    peer.put(first)
    peer.expect("session.error", code="EXPIRE", request_id=first["request_id"])


@section.must("SESS-4.4-11", "A reply MUST only be sent to the incarnation that asked.", NODE)
def to_the_asker(stage: Stage) -> None:
    """An answer that is owed to an incarnation is not given to the next one."""
    link = Link(stage)
    link.open(start_ns=link.later(), timeout_ns=round(stage.times.window_timeout_ms * 2e6))
    owed = link.primary.send("herald.open", **link.window(window_id=link.new_window()))
    stage.pause(stage.patience_s / 20)
    later = stage.again(PEER)
    later.greet()
    later.never(
        "herald.ready",
        "session.error",
        during_s=stage.seconds(stage.times.window_timeout_ms) * 3,
        request_id=owed["request_id"],
    )


@section.must("SESS-4.4-12", "or nothing while it still owes it", NODE)
def owed(stage: Stage) -> None:
    """A repeat of a request whose answer is owed gets no answer of its own."""
    link = Link(stage)
    link.open(start_ns=link.later())
    waiting = link.primary.send("herald.open", **link.window(window_id=link.new_window(), timeout_ns=10**12))
    for _ in range(2):
        link.primary.put(waiting)
    first = link.primary.answer_to(waiting)
    again = link.primary.maybe(within_s=stage.patience_s / 12, fresh=False, request_id=waiting["request_id"])
    if first["type"] != "herald.ready" or again is not None:
        raise Failed(f"expected one herald.ready; came: {brief(first)}{'; ' + brief(again) if again else ''}")
