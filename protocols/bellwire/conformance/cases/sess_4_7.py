"""1 §4.7: introductions and revocations."""

from __future__ import annotations

from bellwire.conformance.cases.core_2 import greeted
from bellwire.conformance.cases.sess_4_1 import lost_broker
from bellwire.conformance.cases.sess_4_3 import ping
from bellwire.conformance.catalogue import BROKER, ENDS, Failed, Section, Skipped
from bellwire.conformance.paths import card, introduce, revoke
from bellwire.conformance.stage import Stage
from bellwire.conformance.target import APPLICATION, OTHER, PEER
from bellwire.conformance.wire import brief

section = Section()

WHERE = "tcp://peer.example:7301"


def promise(stage: Stage) -> None:
    """Have the kit's broker say that it introduces everybody."""
    stage.broker.greet(capabilities=["introductions"])


@section.must("SESS-4.1-17", "one of a role that its sender is known not to have with `DENIED`", ENDS)
def welcome_of_another_role(stage: Stage) -> None:
    """A welcome of the broker that says it is an agent is refused with DENIED, and opens nothing."""
    lost_broker(stage)
    broker = stage.broker
    broker.welcome(broker.expect("session.hello"), role="agent")
    broker.expect("session.error", code="DENIED")
    broker.inbox.clear()
    broker.expect("session.hello")


@section.must(
    "SESS-4.7-01",
    "**Before it relays the first message from A to B since either of them was bound (§2.3), it sends"
    " `session.introduction` of A to B and of B to A.**",
    BROKER,
)
def introduced(stage: Stage) -> None:
    """Both are introduced before the first message, not before the second one, and again once one has greeted anew."""
    peer, application = stage.party(PEER), stage.application
    application.greet()
    for number in range(2):
        peer.greet(endpoints=[WHERE])
        for nth in ("first", "second"):
            peer.send("session.goodbye", to=application.name, reason=f"{nth} message of greeting {number}")
        application.expect("session.goodbye", sender=PEER, reason=f"second message of greeting {number}")
        came = [message for _, _, message in application.inbox if message["type"] != "session.heartbeat"]
        if [message["type"] for message in came] != ["session.introduction", "session.goodbye"]:
            raise Failed(f"expected an introduction and then a message; came: {'; '.join(map(brief, came))}")
        if any(came[0][name] != value for name, value in (card(peer) | {"endpoints": [WHERE]}).items()):
            raise Failed(f"expected an introduction of {PEER}; came: {brief(came[0], 400)}")
        application.inbox.clear()
        peer.expect("session.introduction", fresh=False, **card(application))
        if peer.maybe("session.introduction", within_s=0) is not None:
            raise Failed(f"expected one introduction at {PEER}; came: another one")


@section.must("SESS-4.7-02", "A broker that does so says the capability `introductions` in its welcome.", BROKER)
def says_so(stage: Stage) -> None:
    """The broker's welcome says `introductions`."""
    welcome = stage.application.greet()
    if "introductions" not in welcome["capabilities"]:
        raise Failed(f"expected the capability introductions; came: {brief(welcome)}")


@section.must(
    "SESS-4.7-03",
    "When a key is taken off the authorized ones (§2.2) the broker sends `session.revocation` to everybody that it has a"
    " session with.",
    BROKER,
)
def revocation_told(stage: Stage) -> None:
    """Two participants are told whose key was taken away."""
    if stage.process is None:
        raise Skipped("needs --start: the kit has to know where the target's authorized keys are")
    peer, application, _ = greeted(stage, PEER, APPLICATION, OTHER)
    key = stage.folder.authorized / f"{OTHER}.key"
    kept = key.read_bytes()
    key.unlink()
    try:
        for party in (peer, application):
            party.expect("session.revocation", node=OTHER)
    finally:
        key.write_bytes(kept)


@section.must("SESS-4.7-04", "An introduction counts only from the broker.", ENDS)
def introduced_by_another(stage: Stage) -> None:
    """An application that introduces another one as a station is refused with DENIED, and not believed."""
    stage.application.greet()
    other = stage.party(OTHER)
    stage.application.send("session.introduction", **(card(other) | {"role": "station"}))
    stage.application.expect("session.error", code="DENIED", request_id=0)
    other.greet()


@section.must(
    "SESS-4.7-05",
    "A hello, and a welcome, in which the `role` is not the one that the sender was introduced with is refused with"
    " `DENIED`.",
    ENDS,
)
def role_of_the_introduction(stage: Stage) -> None:
    """An application that was introduced as an observer is refused, until an introduction says what it is."""
    other = stage.party(OTHER)
    introduce(other, role="observer")
    sent = other.hello()
    other.expect("session.error", code="DENIED", request_id=sent["request_id"])
    introduce(other)
    other.greet()


@section.must("SESS-4.7-06", "It takes the place of an earlier one of the same participant", ENDS)
def introduced_anew(stage: Stage) -> None:
    """The later one of two introductions counts."""
    other = stage.party(OTHER)
    introduce(other)
    introduce(other, role="observer")
    sent = other.hello()
    other.expect("session.error", code="DENIED", request_id=sent["request_id"])


@section.must(
    "SESS-4.7-07",
    "If the broker has said `introductions`, a hello of somebody who was not introduced is refused with `NO_SESSION`",
    ENDS,
)
def not_introduced(stage: Stage) -> None:
    """One who was not introduced is told NO_SESSION, the broker is greeted anew, and after its introduction all is well."""
    broker, other = stage.broker, stage.party(OTHER)
    promise(stage)
    broker.greets = False
    sent = other.hello()
    other.expect("session.error", code="NO_SESSION", request_id=sent["request_id"])
    broker.welcome(broker.expect("session.hello"), capabilities=["introductions"])
    introduce(other)
    other.greet()


@section.must(
    "SESS-4.1-18",
    "| `role` is not the one that the sender is known to have (§2.6), or the receiver does not want to talk to it at all |"
    " `DENIED` |",
    ENDS,
)
def wrong_role_before_introduction(stage: Stage) -> None:
    """A neighbour in a wrong role that was not introduced is told DENIED, which comes before NO_SESSION."""
    peer = stage.party(PEER)
    promise(stage)
    sent = peer.hello(role="application")
    peer.expect("session.error", code="DENIED", request_id=sent["request_id"])


@section.must("SESS-4.7-08", "Who hears it forgets the participant, loses it as by silence (§4.5)", ENDS)
def revoked(stage: Stage) -> None:
    """With a revocation the session with the participant is over."""
    other = stage.party(OTHER)
    introduce(other)
    other.greet()
    revoke(other)
    other.greets = other.beats = False
    stage.broker.greet()
    ping(other)
    other.expect("session.error", code="NO_SESSION")
