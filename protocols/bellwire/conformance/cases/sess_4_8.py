"""1 §4.8 and §5.11: fences, as far as they show to who relays, and which way messages go."""

from __future__ import annotations

from bellwire.conformance.catalogue import ENDS, Failed, Section
from bellwire.conformance.party import Party
from bellwire.conformance.paths import fence, introduce
from bellwire.conformance.stage import Stage
from bellwire.conformance.target import BROKER, OTHER
from bellwire.conformance.wire import brief

section = Section()


def stranger(stage: Stage) -> Party:
    """A participant that was introduced and has not greeted: all its messages go by way of the broker."""
    other = stage.party(OTHER)
    introduce(other)
    return other


@section.must("SESS-4.8-01", "The receiver of a *begin* or *break* answers with `session.fenced`", ENDS)
def answered(stage: Stage) -> None:
    """A break and a begin are answered with their numbers, an end is not."""
    other = stranger(stage)
    fence(other, "break", 1)
    other.expect("session.fenced", number=1, peer_epoch=other.epoch, epoch=stage.target_epoch)
    fence(other, "end", 2)
    fence(other, "begin", 2)
    other.expect("session.fenced", number=2)
    other.never("session.fenced", fresh=False, during_s=stage.patience_s / 12)


@section.must("SESS-4.8-02", "Fences and their answers belong to no session.", ENDS)
def no_session(stage: Stage) -> None:
    """A fence before any hello is answered, and its answer to nothing is not refused."""
    other = stranger(stage)
    fence(other, "break", 1)
    other.expect("session.fenced", number=1)
    other.send("session.fenced", number=77)
    other.never("session.error", during_s=stage.patience_s / 12)


@section.must(
    "SESS-4.8-03",
    "One whose `epoch` is less than the peer's, or whose `peer_epoch` is not the receiver's, is dropped.",
    ENDS,
)
def stale(stage: Stage) -> None:
    """Fences of an earlier incarnation, and for another one of the target, get no answer."""
    other = stranger(stage)
    fence(other, "break", 1, epoch=other.epoch - 1)
    fence(other, "break", 2, peer_epoch=stage.target_epoch - 1)
    other.never("session.fenced", during_s=stage.patience_s / 12)
    other.greet()


@section.must("SESS-4.8-04", "the sender repeats the fence on its path every `retry`, as it would a hello", ENDS)
def repeated(stage: Stage) -> None:
    """A fence that comes again, since its answer was lost, is answered again, and changes nothing more."""
    other = stranger(stage)
    for _ in range(3):
        fence(other, "break", 1)
        other.expect("session.fenced", fresh=False, number=1)
    other.greet()


@section.must("SESS-4.8-05", "holds those of later ones", ENDS)
def held(stage: Stage) -> None:
    """Behind a begin whose end is missing nothing is handed on, and all of it once a third of `liveness` is over."""
    other = stranger(stage)
    fence(other, "begin", 1)
    hello = other.hello()
    other.expect("session.fenced", number=1)
    other.never("session.welcome", during_s=stage.seconds(stage.times.liveness_ms) / 6)
    other.expect("session.welcome", request_id=hello["request_id"])


@section.must("SESS-4.8-06", "hand on what is held up to the stretch that the fence names", ENDS)
def ended(stage: Stage) -> None:
    """With its end before it, what comes behind a begin is handed on at once, and so is what comes behind a break."""
    other = stranger(stage)
    fence(other, "end", 1)
    fence(other, "begin", 1)
    within_s = stage.seconds(stage.times.liveness_ms) / 6
    hello = other.hello()
    other.expect("session.welcome", request_id=hello["request_id"], within_s=within_s)
    fence(other, "break", 2)
    hello = other.hello()
    other.expect("session.welcome", request_id=hello["request_id"], within_s=within_s)


@section.must(
    "SESS-4.8-08",
    "so they MUST be encoded with `type` as the first key and with fewer than 16 keys, each string with the shortest header",
    ENDS,
    last=True,
)
def octets(stage: Stage) -> None:
    """In every fence of the target, and in every answer to one, the type begins at the eighth octet."""
    other = stranger(stage)
    fence(other, "break", 1)
    other.expect("session.fenced", number=1)
    broken = stage.watch.broken.get("SESS-4.8-08")
    if broken:
        raise Failed(f"{len(broken)} times, such as: {broken[0]}")


@section.must("SESS-5.11-01", "Agents and stations answer it.", ENDS)
def status(stage: Stage) -> None:
    """An application is told who is reached by way of the broker: the broker and itself among them, and nobody directly."""
    stage.application.greet()
    report = stage.application.ask("session.status")
    known = report["type"] == "session.report" and {BROKER, stage.application.name} <= set(report["relayed"])
    if not known or report["direct"] or report["unnamed"]:
        raise Failed(f"expected {BROKER} and {stage.application.name}, both relayed; came: {brief(report)}")
