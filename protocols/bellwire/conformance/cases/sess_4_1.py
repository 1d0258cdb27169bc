"""1 §4.1: greeting."""

from __future__ import annotations

from bellwire.conformance.catalogue import ENDS, NODE, ON_THE_WIRE, STATION, Failed, Section
from bellwire.conformance.plays import asked_by_target
from bellwire.conformance.stage import Stage
from bellwire.conformance.target import WIRE_ROLES
from bellwire.conformance.wire import brief

section = Section()


def refused(stage: Stage, code: str, **fields: object) -> None:
    """Send a hello that has to be refused with a code and the hello's own number."""
    sent = stage.application.hello(**fields)
    answer = stage.application.expect("session.error", "session.welcome", request_id=sent["request_id"])
    if answer.get("code") != code:
        raise Failed(f"expected the hello to be refused with {code}; came: {brief(answer)}")


def lost_broker(stage: Stage) -> None:
    """The kit's broker says goodbye and comes back, in a new epoch and silent, so that the target's hellos can be seen."""
    stage.broker.leave()
    broker = stage.again("broker")
    broker.greets = False


@section.must("SESS-4.1-01", "The version chosen is the highest one that both speak.", ON_THE_WIRE)
def highest_version(stage: Stage) -> None:
    """Of the versions 1, 77 and 65535 the target chooses 1."""
    welcome = stage.application.greet(versions=[77, 1, 65_535])
    if welcome["version"] != 1:
        raise Failed(f"expected version 1; came: {brief(welcome)}")


@section.must("SESS-4.1-02", "| `versions` has none that the receiver speaks | `VERSION` |", ON_THE_WIRE)
def no_version(stage: Stage) -> None:
    """A hello with versions 77 and 78 is refused with VERSION."""
    refused(stage, "VERSION", versions=[77, 78])


@section.must("SESS-4.1-03", "| `epoch` is 0 | `PROTOCOL` |", ON_THE_WIRE)
def epoch_0(stage: Stage) -> None:
    """A hello of epoch 0 is refused with PROTOCOL."""
    refused(stage, "PROTOCOL", epoch=0)


@section.must(
    "SESS-4.1-04", "`epoch` is less than that of an incarnation of the sender that it has met | `STALE`", ON_THE_WIRE
)
def stale_hello(stage: Stage) -> None:
    """A hello of an earlier incarnation is refused with STALE."""
    stage.application.greet()
    refused(stage, "STALE", epoch=stage.application.epoch - 1)


@section.must("SESS-4.1-05", "condition, checked in this order", ON_THE_WIRE)
def order_of_refusals(stage: Stage) -> None:
    """A hello that is both stale and of no version is refused with STALE, one of epoch 0 with PROTOCOL before that."""
    stage.application.greet()
    refused(stage, "STALE", epoch=stage.application.epoch - 1, versions=[77])
    refused(stage, "PROTOCOL", epoch=0, versions=[77])


@section.must("SESS-4.1-06", "A hello to a session that is UP already renews it: it is answered", ON_THE_WIRE)
def renewed(stage: Stage) -> None:
    """Hellos to a session that is up are answered, with the same epoch."""
    epochs = {stage.application.greet()["epoch"] for _ in range(3)}
    if len(epochs) != 1:
        raise Failed(f"three hellos were answered from the epochs {sorted(epochs)}")


@section.must(
    "SESS-4.1-07",
    "A hello that is not answered MUST be repeated every `retry` (§4.5), each time with a new `request_id`, until the session"
    " is UP or the peer is lost by silence.",
    ENDS,
)
def hello_repeated(stage: Stage) -> None:
    """Without an answer from the broker, hellos go on, each with a number of its own."""
    lost_broker(stage)
    numbers = [stage.broker.expect("session.hello", fresh=False)["request_id"] for _ in range(4)]
    if len(set(numbers)) != len(numbers):
        raise Failed(f"hellos were repeated with the numbers {numbers}")
    stage.broker.greets = True
    stage.meet()


@section.must("SESS-4.1-08", "A welcome with a version that was not offered is refused with `VERSION`", ENDS)
def version_not_offered(stage: Stage) -> None:
    """A welcome of version 77 is refused with VERSION, and opens nothing."""
    lost_broker(stage)
    broker = stage.broker
    broker.welcome(broker.expect("session.hello"), version=77)
    broker.expect("session.error", code="VERSION")
    broker.inbox.clear()
    broker.expect("session.hello")


@section.must(
    "SESS-4.1-09",
    "A participant that wants to *keep* a session greets again `retry` after it was lost, and never gives a peer up that it"
    " has not met yet.",
    ENDS,
)
def greets_again(stage: Stage) -> None:
    """A target whose hello was refused with DENIED, and one whose broker said goodbye, greets again."""
    lost_broker(stage)
    broker = stage.broker
    first = broker.expect("session.hello")
    broker.refuse(first, "DENIED", peer_epoch=first["epoch"])
    broker.expect("session.hello")


@section.must("SESS-4.1-10", "When two hellos cross, each is answered with a welcome", ENDS)
def crossing(stage: Stage) -> None:
    """A hello that crosses the target's own is answered."""
    lost_broker(stage)
    broker = stage.broker
    broker.expect("session.hello")
    broker.greet()


@section.must("SESS-4.1-12", "The receiver answers with `session.welcome`", ON_THE_WIRE)
def welcome_says(stage: Stage) -> None:
    """A welcome says the target's role, and answers the epoch that greeted."""
    welcome = stage.application.greet()
    wanted = {"role": WIRE_ROLES[stage.folder.role], "peer_epoch": stage.application.epoch}
    if any(welcome[name] != value for name, value in wanted.items()):
        raise Failed(f"expected a welcome with {wanted}; came: {brief(welcome)}")


@section.must("SESS-4.1-13", "or refuses with a `session.error` that bears the hello's `request_id`", ON_THE_WIRE)
def refusal_bears_number(stage: Stage) -> None:
    """The refusal of a hello bears its number and is meant for its epoch."""
    application = stage.application
    sent = application.hello(versions=[99], request_id=4242)
    application.expect("session.error", request_id=4242, peer_epoch=sent["epoch"])


@section.must("SESS-4.1-14", "it is answered, and what awaits an answer is sent again", STATION | NODE)
def renewal_sends_again(stage: Stage) -> None:
    """After a renewal, what the target awaits an answer to comes again at once."""
    party, request = asked_by_target(stage)
    party.greet()
    party.expect(request["type"], fresh=False, request_id=request["request_id"])


@section.must("SESS-4.1-15", "A hello to a session that is UP already renews it: it is answered", ON_THE_WIRE)
def many_hellos(stage: Stage) -> None:
    """Under load: of a thousand hellos at once, or of half of what a broker takes (1 §2.7), each is answered."""
    application = stage.application
    numbers = {application.hello()["request_id"] for _ in range(stage.at_once or 1_000)}
    while numbers:
        numbers.discard(application.expect("session.welcome", within_s=5 * stage.patience_s)["request_id"])


@section.must("SESS-4.1-16", "To open a session a participant sends `session.hello`.", ENDS)
def hello_says(stage: Stage) -> None:
    """The target's own hello says its role and a version of this specification."""
    lost_broker(stage)
    hello = stage.broker.expect("session.hello")
    if hello["role"] != WIRE_ROLES[stage.folder.role] or 1 not in hello["versions"]:
        raise Failed(
            f"expected a hello of the role {WIRE_ROLES[stage.folder.role]} that speaks 1; came: {brief(hello)}"
        )


@section.must("SESS-5.1-01", "unknown ones MUST be ignored.", ON_THE_WIRE)
def capabilities(stage: Stage) -> None:
    """A hello with abilities that nobody knows is answered."""
    stage.application.greet(capabilities=["flight", "x-ray.1"])
