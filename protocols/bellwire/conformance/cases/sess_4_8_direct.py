"""1 §4.7, §4.8 and §5.12: direct connections: who makes and who takes them, how messages move there and back."""

from __future__ import annotations

from bellwire.conformance.catalogue import ENDS, NODE, Failed, Section
from bellwire.conformance.keys import Keys
from bellwire.conformance.lines import Line
from bellwire.conformance.party import Party
from bellwire.conformance.paths import (
    answered,
    asked,
    cross,
    cut,
    dial,
    fence,
    hub,
    in_order,
    introduce,
    listen,
    met,
    revoke,
    ways,
    where,
)
from bellwire.conformance.plays import created
from bellwire.conformance.stage import Stage
from bellwire.conformance.target import APPLICATION, FAR, OTHER, PEER, STRANGER, WEST
from bellwire.conformance.wire import brief

section = Section()

MANY = 20


def connected(stage: Stage) -> tuple[Party, Line]:
    """A party that has connected to the target, whose messages go by way of the broker as yet."""
    application = stage.application
    application.greet()
    introduce(application)
    return application, dial(application)


@section.must(
    "SESS-4.8-09",
    "If both have, the one whose name is less does; the other tries too if there is no connection",
    ENDS,
    needs="paths",
)
def connects(stage: Stage) -> None:
    """The target connects to one whose name is greater than its own; to one whose name is less only if it listens nowhere."""
    _, line = met(stage)
    if not line.stands:
        raise Failed("expected the connection to last; it ended")
    application = stage.application
    application.greet()
    lesser = listen(application)
    introduce(application, endpoints=[lesser.endpoint])
    stage.wait(lambda: lesser.made or None, stage.patience_s / 12)
    if bool(lesser.made) is bool(stage.target_endpoints):
        raise Failed(
            f"expected {'no' if stage.target_endpoints else 'a'} connection to {APPLICATION}, for the target's endpoints"
            f" {list(stage.target_endpoints)}; {lesser.made} were made"
        )


@section.must(
    "SESS-4.8-10",
    "with `part` *end* as the last message on the old path, and with *begin* as the first one on the new path, if the old path"
    " works",
    ENDS,
    needs="paths",
)
def moves(stage: Stage) -> None:
    """Answers under way when the target moves to its connection come in order, each once, the fences in their places."""
    west = stage.party(WEST)
    west.greet()
    line = listen(west)
    numbers = asked(west, MANY)
    introduce(west, endpoints=[line.endpoint])
    while not any(way is line for way, _ in west.heard):
        numbers += asked(west, 1)
        if len(numbers) > MANY * MANY:
            west.expect("session.fence", part="begin")
        stage.pause(0.002)
    numbers += asked(west, MANY)
    answered(west, numbers)
    in_order(west, line)
    late = [number for way, number in ways(west, "time.report") if way is None and number in numbers[-MANY:]]
    if late:
        raise Failed(f"expected the last {MANY} answers on the connection; {len(late)} came by way of the broker")


@section.must(
    "SESS-4.8-11",
    "| `fall_back` | begin the next stretch by way of the broker with *break*, and set out to connect again |",
    ENDS,
    needs="paths",
)
def falls_back(stage: Stage) -> None:
    """When its connection breaks the target goes on by way of the broker with a break, and then connects again."""
    west, line = met(stage)
    place = line.endpoint
    cut(line, stage)
    broken = west.expect("session.fence", part="break")
    answered(west, asked(west, 1))
    again = listen(west, place)
    begun = west.expect("session.fence", part="begin")
    if begun["number"] <= broken["number"]:
        raise Failed(f"expected a number greater than {broken['number']}; came: {brief(begun)}")
    numbers = asked(west, MANY)
    answered(west, numbers)
    in_order(west, again)


@section.must("SESS-4.8-12", "the sender keeps what it has to send until then", ENDS, needs="paths")
def kept(stage: Stage) -> None:
    """Behind a break by way of the broker nothing is sent before its answer; the break comes again, and then all in order."""
    west, line = met(stage)
    west.fences = False
    cut(line, stage)
    broken = west.expect("session.fence", part="break")
    numbers = asked(west, MANY)
    west.expect("session.fence", fresh=False, number=broken["number"])
    west.never("time.report", during_s=stage.patience_s / 16)
    west.send("session.fenced", number=broken["number"])
    answered(west, numbers)
    if [number for _, number in ways(west, "time.report")] != numbers:
        raise Failed(f"expected the answers to {numbers} in order; came: {ways(west, 'time.report')}")


@section.must("SESS-4.8-13", "A broker that dies ends nothing that goes directly", ENDS, needs="paths")
def without_broker(stage: Stage) -> None:
    """When the broker falls silent the target greets it anew, and answers on its direct connection as before."""
    west, line = met(stage)
    cross(west, line)
    broker = stage.broker
    broker.inbox.clear()
    broker.greets = broker.beats = False
    broker.expect("session.hello")
    west.heard.clear()
    numbers = asked(west, MANY)
    answered(west, numbers)
    if any(way is not line or message["type"] == "session.welcome" for way, message in west.heard):
        raise Failed("expected the session and its path to stay as they were; the target began anew, or another way")
    broker.greets = broker.beats = True
    stage.meet()


@section.must(
    "SESS-4.8-14", "The accepting side lets in the keys of those who were introduced to it.", ENDS, needs="paths"
)
def let_in(stage: Stage) -> None:
    """One who was introduced is let in where the target listens, and greeted there; one who was not is let in afterwards."""
    other, place = stage.party(OTHER), where(stage)
    if not hub(stage).refuses(stage.folder.keys, OTHER, place, stage.patience_s):
        raise Failed(f"expected the handshake of {OTHER}, who was not introduced, to be refused; it was not")
    introduce(other)
    other.greet()
    line = dial(other)
    cross(other, line)
    other.greet()


@section.must("CORE-2.2-05", "MUST refuse the handshake of any other key", ENDS, needs="paths")
def stranger(stage: Stage) -> None:
    """Where the target listens, the handshake of a key that nobody introduced is refused, whoever else was introduced."""
    place = where(stage)
    introduce(stage.party(OTHER))
    strangers = Keys(stage.folder.path / "unauthorized")
    for keys, name in ((strangers, STRANGER), (stage.folder.keys, PEER)):
        if not hub(stage).refuses(keys, name, place, stage.patience_s):
            raise Failed(f"expected the handshake of {name} to be refused; it was not")


@section.must(
    "SESS-4.8-15",
    "A direct connection begins to be used by its accepting side when the first *begin* or *break* has come on it.",
    ENDS,
    needs="paths",
)
def accepted(stage: Stage) -> None:
    """Until a fence has come on a connection made to it the target answers by way of the broker, and from then on there."""
    application, line = connected(stage)
    answered_by = asked(application, MANY)
    answered(application, answered_by)
    if any(way is line for way, _ in application.heard):
        raise Failed("expected nothing on a connection that no fence has come on")
    cross(application, line)
    application.expect("session.fence", part="begin")
    answered(application, asked(application, MANY))
    in_order(application, line)


@section.must("SESS-4.8-16", "hands on the messages of one stretch, holds those of later ones", ENDS, needs="paths")
def held(stage: Stage) -> None:
    """What overtakes the end of the stretch before, on a direct connection, is answered after what came before that end."""
    application, line = connected(stage)
    application.line = line
    fence(application, "begin", 1)
    application.expect("session.fenced", number=1)
    later = asked(application, MANY)
    stage.pause(stage.seconds(stage.times.liveness_ms) / 40)  # They arrive, and are not held for longer than a third.
    application.line = None
    earlier = asked(application, MANY)
    fence(application, "end", 1)
    application.line = line
    answered(application, later + earlier)
    came = [number for _, number in ways(application, "time.report")]
    if came != earlier + later:
        raise Failed(f"expected the answers to {earlier} and then to {later}; came: {came}")


@section.must("SESS-4.8-17", "drops those of earlier ones", ENDS, needs="paths")
def dropped(stage: Stage) -> None:
    """After a break on a direct connection, what still comes by way of the broker is not answered."""
    application, line = connected(stage)
    application.line = line
    fence(application, "break", 1)
    application.expect("session.fenced", number=1)
    application.line = None
    late = asked(application, 1)
    application.line = line
    answered(application, asked(application, MANY))
    stage.pause(stage.patience_s / 16)
    if late[0] in [number for _, number in ways(application, "time.report")]:
        raise Failed("expected no answer to what came by way of the broker after the break; one came")


@section.must(
    "SESS-4.8-18",
    "the next one comes after `redial`, after twice that, up to `redial_limit`, at the next of the peer's endpoints",
    ENDS,
    needs="paths",
)
def next_endpoint(stage: Stage) -> None:
    """Of two endpoints, at the first of which nobody listens, the target reaches the second, and answers all the while."""
    west = stage.party(WEST)
    west.greet()
    dead, line = listen(west), listen(west)
    place = dead.endpoint
    cut(dead, stage)
    introduce(west, endpoints=[place, line.endpoint])
    answered(west, asked(west, MANY))
    west.expect("session.fence", part="begin", within_s=5 * stage.patience_s)
    answered(west, asked(west, MANY))
    in_order(west, line)


@section.must("SESS-4.7-09", "lets it in no more and ends direct connections with it", ENDS, needs="paths")
def shown_out(stage: Stage) -> None:
    """With a revocation, connections in both directions end, and neither comes again."""
    west, line = met(stage)
    other, place = stage.party(OTHER), where(stage)
    introduce(other)
    other.greet()
    theirs = dial(other)
    cross(other, theirs)
    for party, way in ((west, line), (other, theirs)):
        revoke(party)
        if stage.wait(lambda way=way: way.ended or None) is None:  # type: ignore[misc]
            raise Failed(f"expected the connection with {party.name} to end with its revocation; it stands")
    if not hub(stage).refuses(stage.folder.keys, OTHER, place, stage.patience_s):
        raise Failed(f"expected the handshake of {OTHER} to be refused after its revocation; it was not")
    made = line.made
    stage.pause(stage.patience_s / 12)
    if line.made > made:
        raise Failed(f"expected no connection to {WEST} after its revocation; {line.made - made} were made")


@section.must(
    "SESS-4.7-10",
    "A hello, and a welcome, in which the `role` is not the one that the sender was introduced with",
    NODE,
)
def welcome_of_another_role(stage: Stage) -> None:
    """A neighbour that was introduced as an observer and welcomes the target as an agent is refused with DENIED."""
    far = stage.party(FAR)
    far.up = True  # It does not greet, so that the target has to.
    far.greets = False
    introduce(far, role="observer")
    created(stage)
    far.welcome(far.expect("session.hello"))
    far.expect("session.error", code="DENIED")


@section.must(
    "SESS-5.12-01", "Peers to which the answerer's messages go over a direct connection.", ENDS, needs="paths"
)
def reported(stage: Stage) -> None:
    """An application is told who is reached directly, and no more when the connection is gone."""
    stage.application.greet()
    west, line = met(stage)
    report = stage.application.ask("session.status")
    if report["direct"] != [WEST] or WEST in report["relayed"]:
        raise Failed(f"expected {WEST}, and nobody else, to be reached directly; came: {brief(report)}")
    cut(line, stage)
    west.expect("session.fence", part="break")
    report = stage.application.ask("session.status")
    if report["direct"] or WEST not in report["relayed"]:
        raise Failed(f"expected {WEST} to be reached by way of the broker; came: {brief(report)}")
