"""1 §3: what a message is, what is refused and what is ignored."""

from __future__ import annotations

from typing import Any

from bellwire.conformance import spec
from bellwire.conformance.cases.core_2 import judged
from bellwire.conformance.catalogue import ENDS, NODE, ON_THE_WIRE, Failed, Section
from bellwire.conformance.party import Party
from bellwire.conformance.plays import Link, create
from bellwire.conformance.stage import Stage
from bellwire.conformance.target import STATION, WIRE_ROLES
from bellwire.conformance.wire import Message, brief, encode

section = Section()

REFUSE = (
    "A receiver MUST refuse, with `session.error` of code `MALFORMED`, a message that is no such map, lacks a field that is"
    " required, or has a field of a wrong type or out of its bounds."
)


def hello(party: Party, **fields: Any) -> Message:
    """A hello that is right but for `fields`."""
    known = {"versions": [1], "role": "application", "heartbeat_ns": 10**9, "peer_epoch": 0}
    known |= {"capabilities": [], "endpoints": []}
    return party.message("session.hello", **(known | fields))


def malformed(stage: Stage, message: Message) -> None:
    """Send a message that has to be refused as MALFORMED, and see that the target goes on."""
    application = stage.application
    application.put(message)
    application.expect("session.error", code="MALFORMED")
    application.greet()


judged(
    section,
    "CORE-3.1-01",
    "A message is one MessagePack map with string keys.",
    ON_THE_WIRE,
    "Everything that the target sent was one map.",
)


judged(
    section,
    "CORE-3.1-02",
    "A sender MUST write every field of a message, those with a default value too.",
    ON_THE_WIRE,
    "Everything that the target sent had every field of its type.",
)


judged(
    section,
    "CORE-3.1-03",
    "Every field of a message holds a value of the type that its table gives, within its bounds.",
    ON_THE_WIRE,
    "Everything that the target sent had fields of the right types, within their bounds.",
)


@section.must(
    "CORE-3.1-04",
    "A receiver MUST take a field that is absent and has a default as if it were there with the default.",
    ON_THE_WIRE,
)
def defaults(stage: Stage) -> None:
    """A hello without the fields that have a default is answered."""
    application = stage.application
    sent = hello(application)
    for name in ("capabilities", "endpoints", "cause_id", "peer_epoch"):
        del sent[name]
    application.put(sent)
    application.expect("session.welcome", request_id=sent["request_id"])


@section.must("CORE-3.1-05", REFUSE, ON_THE_WIRE)
def no_map(stage: Stage) -> None:
    """An array, a number and no octets at all are refused as MALFORMED."""
    application = stage.application
    for data, note in (
        (b"\x91\xc0", "an array"),
        (b"\x07", "a number"),
        (b"", "no octets"),
        (b"\xc1", "no MessagePack"),
    ):
        stage.throw(application, data, note=note)
        application.expect("session.error", code="MALFORMED", request_id=0)


@section.must("CORE-3.1-06", "Nothing may follow the map.", ON_THE_WIRE)
def trailing(stage: Stage) -> None:
    """A hello with an octet behind it is refused as MALFORMED."""
    application = stage.application
    stage.throw(application, encode(hello(application)) + b"\xc0", note="a hello and one octet more")
    application.expect("session.error", code="MALFORMED")


@section.must("CORE-3.1-07", "lacks a field that is required", ON_THE_WIRE)
def lacking(stage: Stage) -> None:
    """A hello without versions is refused as MALFORMED."""
    sent = hello(stage.application)
    del sent["versions"]
    malformed(stage, sent)


@section.must("CORE-3.1-08", "has a field of a wrong type", ON_THE_WIRE)
def wrong_type(stage: Stage) -> None:
    """A hello whose versions are a number is refused as MALFORMED."""
    malformed(stage, hello(stage.application, versions=1))


@section.must("CORE-3.1-09", "out of its bounds", ON_THE_WIRE)
def out_of_bounds(stage: Stage) -> None:
    """A heartbeat of no length, and a role that there is not, are refused as MALFORMED."""
    malformed(stage, hello(stage.application, heartbeat_ns=0))
    malformed(stage, hello(stage.application, role="spectator"))


@section.must("CORE-3.1-10", "an integer in any of its formats; not a float, not a boolean", ON_THE_WIRE)
def integers(stage: Stage) -> None:
    """A float and a boolean are no integers; a long format of a small number is one."""
    malformed(stage, hello(stage.application, heartbeat_ns=1e9))
    malformed(stage, hello(stage.application, versions=[True]))
    sent = hello(stage.application)
    data = encode(sent | {"versions": [1]}).replace(
        b"\xa8versions\x91\x01", b"\xa8versions\x91\xcf" + (1).to_bytes(8, "big")
    )
    stage.throw(stage.application, data, note="session.hello with 1 in eight octets")
    stage.application.expect("session.welcome", request_id=sent["request_id"])


@section.must("CORE-3.1-11", "The order of keys has no meaning", ON_THE_WIRE)
def key_order(stage: Stage) -> None:
    """A hello whose keys come in another order is answered."""
    sent = hello(stage.application)
    stage.application.put(dict(reversed(sent.items())))
    stage.application.expect("session.welcome", request_id=sent["request_id"])


@section.must("CORE-3.1-12", REFUSE, ON_THE_WIRE)
def vectors(stage: Stage) -> None:
    """Every vector that has to be refused is refused: as MALFORMED, or as of a type that the target does not know."""
    application = stage.application
    own = WIRE_ROLES[stage.folder.role]
    found = [
        vector
        for vector in spec.vectors()
        if vector.get("refuse") == "MALFORMED" and not vector["id"].startswith("session.error/")
    ]
    for vector in stage.paced(found):
        stage.throw(application, bytes.fromhex(vector["hex"]), note=vector["id"])
        answer = application.expect("session.error", fresh=False)
        kind, _, _ = vector["id"].partition("/")
        known = own in spec.access()[kind][1] if kind.startswith("session.") else kind.startswith("no-")
        if answer["code"] != "MALFORMED" and (known or answer["code"] != "UNKNOWN_TYPE"):
            raise Failed(f"expected {vector['id']} ({vector['why']}) to be refused as MALFORMED; came: {brief(answer)}")


judged(
    section,
    "CORE-3.1-13",
    "A sender MUST NOT write a key twice",
    ON_THE_WIRE,
    "In nothing that the target sent does a key occur twice.",
)


@section.must("CORE-3.1-14", "a receiver refuses such a map, or takes one of the values", ON_THE_WIRE)
def key_twice(stage: Stage) -> None:
    """A hello that names its heartbeat twice is welcomed or refused as MALFORMED, and the target goes on."""
    application = stage.application
    data = encode(hello(application))
    more = bytes([data[0] + 1]) + data[1:] + encode({"heartbeat_ns": 7})[1:]
    stage.throw(application, more, note="session.hello with heartbeat_ns twice")
    answer = application.expect("session.welcome", "session.error")
    if answer["type"] == "session.error" and answer["code"] != "MALFORMED":
        raise Failed(f"expected session.welcome or MALFORMED; came: {brief(answer)}")
    application.greet()


judged(
    section,
    "CORE-3.2-01",
    "0 is not a valid one in any message of a session.",
    ON_THE_WIRE,
    "Everything that the target sent had its epoch.",
)


@section.must("CORE-3.2-02", "For people and tools: it MUST NOT influence what a receiver does.", ON_THE_WIRE)
def causes(stage: Stage) -> None:
    """Hellos with odd causes are answered like others."""
    for cause in ("", "é" * 160, "session.goodbye", "../../x\n"):
        stage.application.greet(cause_id=cause)


judged(section, "CORE-3.3-01", "Ids MUST NOT be used again.", NODE, "No id of a window was given to two windows.")


@section.must("CORE-3.3-02", "Receivers MUST treat ids as opaque, with one exception", NODE)
def opaque(stage: Stage) -> None:
    """Ids of odd forms are taken as they are; the window of a pair is what precedes the last slash of its id."""
    link = Link(stage, create_id="é/ /x", window_id="w/1/2-\u2603")
    link.herald()
    link.confirm()


@section.must("CORE-3.3-03", "Counts are decimal, begin with 1 and count within an incarnation.", NODE)
def create_ids(stage: Stage) -> None:
    """Two requests have ids of the form that the table gives, with counts that rise."""
    first, second = (create(stage)["create_id"] for _ in range(2))
    for each in (first, second):
        head, _, count = each.rpartition("-")
        if head != f"{stage.target}-{stage.target_epoch:x}-kit-lead" or not count.isdecimal() or count.startswith("0"):
            raise Failed(f"expected <node>-<epoch in hexadecimal>-<link_id>-<count>; came: {each}")
    if int(second.rpartition("-")[2]) <= int(first.rpartition("-")[2]):
        raise Failed(f"the counts do not rise: {first}, {second}")


@section.must("CORE-3.4-01", "octets of a message; a longer one is refused with `OVERSIZE`", ON_THE_WIRE)
def oversize(stage: Stage) -> None:
    """A hello of one octet too many is refused as OVERSIZE, and one of the greatest length is taken."""
    application = stage.application
    most = spec.limits()["MAX_MESSAGE_BYTES"]
    sent = hello(application, padding=b"")
    sent["padding"] = bytes(most - len(encode(sent)) - 1)
    while len(encode(sent)) > most:
        sent["padding"] = sent["padding"][:-1]
    application.put(sent)
    application.expect("session.welcome", request_id=sent["request_id"])
    stage.throw(application, encode(sent | {"padding": bytes(most)}), note="a hello that is too long")
    application.expect("session.error", code="OVERSIZE", request_id=0)


@section.must("CORE-3.5-01", "A receiver MUST ignore fields that it does not know, whatever they hold.", ON_THE_WIRE)
def unknown_fields(stage: Stage) -> None:
    """A hello with fields that there are not is answered."""
    deep: Any = None
    for _ in range(100):
        deep = [deep]
    stage.application.greet(colour={"red": [1, None]}, zz=b"\xff\x00", deep=deep, Version="2")


@section.must(
    "CORE-3.5-02",
    "A message of a type that the receiver does not know, or that has no type, is refused with `session.error` of code"
    " `UNKNOWN_TYPE`.",
    ON_THE_WIRE,
)
def unknown_type(stage: Stage) -> None:
    """A message of an unknown type, and one of none, are refused as UNKNOWN_TYPE."""
    application = stage.application
    application.greet()
    application.put({"type": "session.curtsy", "epoch": application.epoch, "request_id": 7})
    application.expect("session.error", code="UNKNOWN_TYPE")
    application.put({"epoch": application.epoch, "request_id": 8})
    application.expect("session.error", code="UNKNOWN_TYPE")


@section.must(
    "CORE-3.5-03",
    "A refusal of either code carries the `request_id` of what it refuses, as far as that could be read, so that an asker that"
    " waits learns of it; `epoch` is read too and becomes the refusal's `peer_epoch`.",
    ON_THE_WIRE,
)
def refusal_numbers(stage: Stage) -> None:
    """The refusal of an unknown type carries its number, and its sender's epoch."""
    application = stage.application
    application.put({"type": "no.such", "epoch": application.epoch, "request_id": 4711})
    application.expect("session.error", code="UNKNOWN_TYPE", request_id=4711, peer_epoch=application.epoch)


@section.must("CORE-3.5-04", "So is a request that the receiver knows but does not serve in its role.", ON_THE_WIRE)
def not_served(stage: Stage) -> None:
    """An OK, which only applications take, is refused as UNKNOWN_TYPE."""
    application = stage.application
    application.greet()
    application.refused("UNKNOWN_TYPE", "link.err", create_id="x", code="OTHER", text="")


@section.must(
    "CORE-3.5-05", "If any of the common numbers is out of bounds all of them are taken to be 0.", ON_THE_WIRE
)
def numbers_out_of_bounds(stage: Stage) -> None:
    """The refusal of a message with an epoch of 2^63 carries no numbers."""
    application = stage.application
    application.put({"type": "no.such", "epoch": 2**63, "request_id": 12})
    application.expect("session.error", code="UNKNOWN_TYPE", request_id=0, peer_epoch=0)


@section.must("CORE-3.5-06", "A `session.error` MUST NOT be answered, not even if it is malformed.", ON_THE_WIRE)
def errors_unanswered(stage: Stage) -> None:
    """An error without a code, one outside of a session and one within get no answer."""
    application = stage.application
    application.put({"type": "session.error", "epoch": application.epoch, "request_id": 5})
    application.send("session.error", request_id=6, code="OTHER", text="", rule="", peer="")
    application.greet()
    application.send("session.error", request_id=7, code="OTHER", text="", rule="", peer="")
    application.never("session.error", during_s=stage.patience_s / 12)


@section.must("CORE-3.5-07", "The refusal of a reply carries 0", ON_THE_WIRE)
def refused_reply(stage: Stage) -> None:
    """The refusal of a malformed reply carries no number, which would be one of its own requests."""
    application = stage.application
    application.greet()
    application.put(application.message("link.created", request_id=3))
    answer = application.expect("session.error")
    if answer["request_id"] != 0:
        raise Failed(f"expected a refusal with the request_id 0; came: {brief(answer)}")


@section.must("CORE-3.5-08", "A reply that answers nothing that is asked is dropped.", ON_THE_WIRE)
def idle_reply(stage: Stage) -> None:
    """An ack of something that was never asked gets no answer."""
    application = stage.application
    application.greet()
    application.send("session.ack", request_id=999_999)
    application.never("session.error", during_s=stage.patience_s / 12)


judged(
    section,
    "CORE-3.5-09",
    "A message of a type that the receiver does not know, or that has no type, is refused with `session.error`",
    ON_THE_WIRE,
    "The target itself sent nothing of an unknown type.",
)


@section.must("CORE-3.5-10", "A receiver MUST ignore fields that it does not know", ENDS)
def unknown_fields_of_requests(stage: Stage) -> None:
    """A request with fields that there are not is carried out."""
    if stage.folder.role == "station":
        stage.party(STATION)
    Link(stage).open(extra={"a": [1]}, zz=None)
