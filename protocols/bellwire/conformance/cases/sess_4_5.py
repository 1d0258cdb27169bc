"""1 §4.5: timing and liveness."""

from __future__ import annotations

from bellwire.conformance.cases.sess_4_3 import ping
from bellwire.conformance.catalogue import ENDS, NODE, ON_THE_WIRE, Failed, Section, Skipped
from bellwire.conformance.keys import Keys
from bellwire.conformance.plays import SECOND_NS, Link
from bellwire.conformance.stage import Stage

section = Section()


@section.must(
    "SESS-4.5-01", "When nothing was sent on a session for `heartbeat`, `session.heartbeat` is sent.", ON_THE_WIRE
)
def heartbeats(stage: Stage) -> None:
    """Heartbeats come, each about `heartbeat` after the one before."""
    stage.application.greet()
    for _ in range(3):
        stage.application.expect("session.heartbeat", fresh=False)


@section.must("SESS-4.5-02", "a peer that was not heard for this long is lost", ON_THE_WIRE)
def silence(stage: Stage) -> None:
    """After `liveness` and `heartbeat` of silence there is no session any more."""
    application = stage.application
    application.greet()
    application.beats = False
    stage.pause(stage.seconds(stage.times.liveness_ms + 2 * stage.times.heartbeat_ms) + stage.patience_s / 10)
    ping(application)
    application.expect("session.error", code="NO_SESSION")


@section.must("SESS-4.5-03", "**Any message of the session counts as heard**", ON_THE_WIRE)
def anything_counts(stage: Stage) -> None:
    """A peer that sends acks of nothing, and no heartbeats, is not lost."""
    application = stage.application
    application.greet()
    application.beats = False
    for _ in range(6):  # Longer than `liveness` and `heartbeat`.
        stage.pause(stage.seconds(stage.times.liveness_ms) / 4)
        application.send("session.ack", request_id=10**6)
    ping(application)
    answer = application.expect("session.error")
    if answer["code"] != "UNKNOWN_TYPE":
        raise Failed(f"expected the session to be up; a request was refused with {answer['code']}")


@section.must(
    "SESS-4.5-04", "so a peer is lost between `liveness` and `liveness` + `heartbeat` after it was last heard", ENDS
)
def silent_broker(stage: Stage) -> None:
    """A silent broker is greeted anew, and not before `liveness`."""
    broker = stage.broker
    broker.inbox.clear()
    broker.beats = False
    broker.send("session.heartbeat")
    broker.never("session.hello", during_s=stage.seconds(stage.times.liveness_ms) * 0.8)
    broker.expect("session.hello")


@section.must("SESS-4.5-05", "A peer is lost in one of three ways, which what is above MUST tell apart:", NODE)
def told_apart(stage: Stage) -> None:
    """What a silent peer held is kept, what one held that leaves is not."""
    link = Link(stage)
    link.pair(expires_ns=stage.network_ns() + 60 * SECOND_NS)
    link.primary.beats = link.primary.greets = False
    silence_s = stage.seconds(stage.times.liveness_ms + 2 * stage.times.heartbeat_ms)
    stage.application.never("link.expire", during_s=silence_s)
    link.primary.beats = True
    link.primary.greet()
    link.primary.leave()
    stage.application.expect("link.expire", create_id=link.create_id)


@section.must("SESS-8-01", "Texts, reasons and ids come from peers: they MUST be bounded", ON_THE_WIRE)
def texts_bounded(stage: Stage) -> None:
    """A goodbye whose reason is too long is refused as MALFORMED, and ends nothing."""
    application = stage.application
    application.greet()
    application.send("session.goodbye", reason="x" * 1025)
    application.expect("session.error", code="MALFORMED")
    ping(application)
    application.expect("session.error", code="UNKNOWN_TYPE")


@section.must(
    "SESS-8-02", "Secret keys MUST NOT be readable by others, and MUST NOT appear in logs.", ON_THE_WIRE, last=True
)
def keys_kept(stage: Stage) -> None:
    """What the target wrote to its outputs has no secret key in it, and its key's file is for its owner alone."""
    if stage.process is None:
        raise Skipped("needs --start: the target's outputs have to be read")
    secret = Keys(stage.folder.path).secret(stage.target)
    if secret in stage.process.log.read_bytes():
        raise Failed("the target's secret key is in its log")
    if (stage.folder.path / f"{stage.target}.key_secret").stat().st_mode & 0o077:
        raise Failed("others can read the target's secret key")
