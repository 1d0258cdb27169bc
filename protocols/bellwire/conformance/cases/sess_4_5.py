"""1 §4.5: timing and liveness."""

from __future__ import annotations

from bellwire.conformance.cases.sess_4_3 import ping
from bellwire.conformance.catalogue import ENDS, ON_THE_WIRE, Failed, Section
from bellwire.conformance.stage import Stage

section = Section()


@section.must("SESS-4.5-01", "When nothing was sent on a session for `heartbeat`, `session.heartbeat` is sent.", ON_THE_WIRE)
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
    for _ in range(8):
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
