"""1 §4.3 and §4.6: incarnations and goodbyes."""

from __future__ import annotations

import signal
import time
from typing import Any

from bellwire.conformance.cases.sess_4_1 import lost_broker
from bellwire.conformance.catalogue import ENDS, NODE, ON_THE_WIRE, Failed, Section, Skipped
from bellwire.conformance.lanes import ClientLane
from bellwire.conformance.party import Party
from bellwire.conformance.plays import SECOND_NS, Link, taken_by_target
from bellwire.conformance.stage import Stage
from bellwire.conformance.target import APPLICATION, BROKER
from bellwire.conformance.wire import Message, brief

section = Section()

CLOCKS_S = 60.0


def ping(party: Party, **fields: Any) -> None:
    """Send something that a session is needed for, and that is refused as UNKNOWN_TYPE in one that is up."""
    party.send("link.err", request_id=77, create_id="x", code="OTHER", text="", **fields)


@section.must(
    "SESS-4.3-01",
    "| there is no session, or none ever was | refuse with `NO_SESSION`, without making one |",
    ON_THE_WIRE,
)
def no_session(stage: Stage) -> None:
    """A request without a hello before it is refused with NO_SESSION, twice."""
    for _ in range(2):
        ping(stage.application)
        stage.application.expect("session.error", code="NO_SESSION")


@section.must("SESS-4.3-02", "| `epoch` is less than the one remembered | drop it |", ON_THE_WIRE)
def earlier_epoch(stage: Stage) -> None:
    """A request of an earlier incarnation gets no answer."""
    stage.application.greet()
    ping(stage.application, epoch=stage.application.epoch - 1)
    stage.application.never("session.error", during_s=stage.patience_s / 12)


@section.must(
    "SESS-4.3-03",
    "the session is not UP, or `epoch` is greater than the one remembered | refuse with `NO_SESSION`",
    ON_THE_WIRE,
)
def later_epoch(stage: Stage) -> None:
    """A request of an incarnation that has not greeted is refused with NO_SESSION."""
    stage.application.greet()
    ping(stage.application, epoch=stage.application.epoch + 1)
    stage.application.expect("session.error", code="NO_SESSION", peer_epoch=stage.application.epoch + 1)


@section.must("SESS-4.3-04", "| `peer_epoch` is not the receiver's own epoch | refuse with `STALE` |", ON_THE_WIRE)
def other_receiver(stage: Stage) -> None:
    """A request that is meant for another incarnation of the target is refused with STALE."""
    stage.application.greet()
    ping(stage.application, peer_epoch=stage.target_epoch - 1)
    stage.application.expect("session.error", code="STALE")


@section.must(
    "SESS-4.3-05",
    "These refusals bear the `request_id` 0 and, as `peer_epoch`, the `epoch` of what they refuse",
    ON_THE_WIRE,
)
def refusals_bear(stage: Stage) -> None:
    """NO_SESSION and STALE bear no number of a request, and the sender's epoch."""
    application = stage.application
    ping(application)
    application.expect("session.error", code="NO_SESSION", request_id=0, peer_epoch=application.epoch)
    application.greet()
    ping(application, peer_epoch=1)
    application.expect("session.error", code="STALE", request_id=0, peer_epoch=application.epoch)


@section.must("SESS-4.3-06", "A goodbye is never refused with `NO_SESSION`.", ON_THE_WIRE)
def goodbye_unrefused(stage: Stage) -> None:
    """A goodbye without a session gets no answer."""
    stage.application.send("session.goodbye", reason="before any hello")
    stage.application.never("session.error", during_s=stage.patience_s / 12)


@section.must("SESS-4.3-07", "A participant that has lost its state MUST begin a new epoch.", ON_THE_WIRE)
def new_epoch(stage: Stage) -> None:
    """After a restart the target's epoch is greater."""
    stage.application.greet()
    before = stage.target_epoch
    stage.restart()
    if isinstance(stage.lane, ClientLane):
        stage.lane.connect(APPLICATION)
        welcome = stage.wait(lambda: _knock(stage), 10 * stage.patience_s)
    else:
        stage.meet()
        welcome = stage.application.greet()
    if welcome is None or welcome["epoch"] <= before:
        raise Failed(f"expected an epoch greater than {before} after a restart; came: {welcome and brief(welcome)}")


def _knock(stage: Stage) -> Message | None:
    stage.application.hello()
    return stage.application.maybe("session.welcome", within_s=stage.patience_s / 4)


@section.must("SESS-4.3-08", "On `NO_SESSION` or `STALE` for a session that is UP a participant greets again.", ENDS)
def disowned(stage: Stage) -> None:
    """A broker that says NO_SESSION, or STALE, is greeted again."""
    for code in ("NO_SESSION", "STALE"):
        stage.broker.inbox.clear()
        stage.broker.send("session.error", request_id=0, code=code, text="", rule="", peer="")
        stage.broker.expect("session.hello")


@section.must(
    "SESS-4.3-09",
    "A welcome whose `peer_epoch` is not the receiver's epoch or whose `epoch` is less than the one remembered is dropped.",
    ENDS,
)
def stale_welcome(stage: Stage) -> None:
    """A welcome for another incarnation opens nothing: the target goes on greeting."""
    lost_broker(stage)
    broker = stage.broker
    hello = broker.expect("session.hello")
    broker.welcome(hello, peer_epoch=hello["epoch"] - 1)
    for _ in range(3):
        broker.expect("session.hello")


@section.must(
    "SESS-4.3-10",
    "every request that was sent to the former incarnation fails with `PEER_LOST`, what the former one asked is forgotten",
    NODE,
)
def former_forgotten(stage: Stage) -> None:
    """The same number in a later incarnation is another request."""
    party, kind, fields = taken_by_target(stage)
    first = party.ask(kind, request_id=5, **fields)
    later = stage.again(party.name)
    later.greet()
    second = later.ask(kind, request_id=5, **fields)
    if first["type"] != "link.created" or second.get("create_id") in (None, first["create_id"]):
        raise Failed(f"expected two requests; came: {brief(first)} and {brief(second)}")


@section.must("SESS-4.3-11", "A participant that has lost its state MUST begin a new epoch.", ENDS)
def restarted_with_a_window(stage: Stage) -> None:
    """Restarted in mid-exchange, the target disowns what was said to it before, and knows nothing of its window."""
    link = Link(stage)
    link.open(start_ns=link.later(), timeout_ns=10 * SECOND_NS)
    before = stage.target_epoch
    stage.restart()
    stage.meet()
    link.primary.send("session.heartbeat", peer_epoch=before)
    link.primary.expect("session.error", code="NO_SESSION", request_id=0)
    link.primary.greet()
    answer = link.primary.ask("herald.open", **link.window(start_ns=link.later()))
    wanted = "herald.ready" if link.station_target else "UNKNOWN_ID"
    if wanted not in (answer["type"], answer.get("code")):
        raise Failed(f"expected {wanted} for a window of before the restart; came: {brief(answer)}")


@section.must(
    "SESS-4.6-01", "A participant that leaves sends `session.goodbye` on every session that is not DOWN.", ON_THE_WIRE
)
def leaves(stage: Stage) -> None:
    """A target that is asked to end says goodbye to everybody."""
    if stage.process is None:
        raise Skipped("needs --start: the target has to be ended")
    stage.application.greet()
    stage.process.end(signal.SIGTERM)
    try:
        stage.application.expect("session.goodbye")
        if not isinstance(stage.lane, ClientLane):
            stage.broker.expect("session.goodbye")
    finally:
        stage.restart()
        if isinstance(stage.lane, ClientLane):
            stage.lane.connect(APPLICATION)
            stage.wait(lambda: _knock(stage), 10 * stage.patience_s)
        else:
            stage.meet()


@section.must("SESS-4.6-02", "Goodbye is not answered nor repeated", ON_THE_WIRE)
def goodbye_unanswered(stage: Stage) -> None:
    """A goodbye gets no answer, and ends the session: what comes after it is refused with NO_SESSION."""
    application = stage.application
    application.greet()
    application.inbox.clear()
    application.send("session.goodbye", reason="told")
    application.up = False
    application.never("session.error", "session.goodbye", "session.welcome", during_s=stage.patience_s / 12)
    ping(application)
    application.expect("session.error", code="NO_SESSION")


@section.must("SESS-4.6-03", "A goodbye that comes outside of a session that is UP is ignored.", ON_THE_WIRE)
def early_goodbye(stage: Stage) -> None:
    """A goodbye of an earlier incarnation does not end the session of the present one."""
    application = stage.application
    application.greet()
    application.send("session.goodbye", epoch=application.epoch - 1, reason="late")
    ping(application)
    application.expect("session.error", code="UNKNOWN_TYPE")


@section.must("SESS-6.2-01", "On a `session.error` whose `peer_epoch` is neither 0 nor the receiver's epoch", ENDS)
def error_for_another(stage: Stage) -> None:
    """NO_SESSION that is meant for another incarnation of the target changes nothing."""
    stage.broker.inbox.clear()
    stage.broker.send("session.error", request_id=0, code="NO_SESSION", text="", rule="", peer="", peer_epoch=5)
    stage.broker.never("session.hello", during_s=stage.patience_s / 12)


@section.should("SESS-4.3-12", "SHOULD be the wall clock's time in nanoseconds at the start", ON_THE_WIRE)
def wall_clock(stage: Stage) -> None:
    """The epoch is a time since the target was started; a minute to either side, for the clocks of two machines differ."""
    stage.application.greet()
    if stage.process is None:
        raise Skipped("needs --start: the kit has to know when the target was started")
    began_s, ended_s = stage.process.started_ns / 1e9 - CLOCKS_S, time.time() + CLOCKS_S
    if not began_s <= stage.target_epoch / 1e9 <= ended_s:
        raise Failed(f"expected an epoch between {began_s:.0f} and {ended_s:.0f} s; it is {stage.target_epoch} ns")


@section.must("SESS-6.3-01", "`NO_ROUTE` counts only from a participant whose role is `broker`.", ENDS)
def false_no_route(stage: Stage) -> None:
    """An application cannot say that the broker is not reached."""
    stage.application.greet()
    stage.broker.inbox.clear()
    stage.application.send("session.error", request_id=0, code="NO_ROUTE", text="", rule="", peer=BROKER)
    stage.broker.never("session.hello", during_s=stage.patience_s / 12)


@section.must(
    "SESS-6.3-02",
    "If there is a session with `peer` and it is UP, it is disowned: it greets again and is lost by silence if that does not"
    " help.",
    ENDS,
)
def no_route(stage: Stage) -> None:
    """A participant that the broker does not reach is greeted again."""
    stage.application.greet()
    stage.broker.send("session.error", request_id=0, code="NO_ROUTE", text="gone", rule="", peer=APPLICATION)
    stage.application.expect("session.hello")
