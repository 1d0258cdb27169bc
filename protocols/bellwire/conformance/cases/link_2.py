"""2 §2 and §5: the link service, and who may say what."""

from __future__ import annotations

from bellwire.conformance import spec
from bellwire.conformance.catalogue import NODE, STATION, Failed, Section
from bellwire.conformance.plays import (
    SECOND_NS,
    Link,
    accept,
    asked_by_target,
    create,
    created,
    lead,
    offered,
    opened,
    ready,
    reported,
)
from bellwire.conformance.stage import Stage
from bellwire.conformance.target import APPLICATION, FAR, GOODNESS, LEAD, LINK, OTHER, PEER
from bellwire.conformance.wire import Message, brief

section = Section()


def refused(stage: Stage, code: str, **fields: object) -> None:
    """Have a CREATE refused with a code."""
    answer = create(stage, **fields)
    if answer.get("code") != code:
        raise Failed(f"expected link.create to be refused with {code}; came: {brief(answer)}")


@section.must("LINK-2.1-02", "| it has no link to `peer` | `UNSUPP` |", NODE)
def no_link(stage: Stage) -> None:
    """A CREATE with a node that no link leads to is refused with UNSUPP."""
    refused(stage, "UNSUPP", peer="nobody")


@section.must("LINK-2.1-03", "| `min_fidelity` is greater than the link's `goodness`", NODE)
def too_good(stage: Stage) -> None:
    """A CREATE of a fidelity above the link's is refused with UNSUPP, one of just that is taken."""
    refused(stage, "UNSUPP", min_fidelity=GOODNESS + 0.01)
    created(stage, min_fidelity=GOODNESS)


@section.must("LINK-2.1-04", "| the link's queue holds `MAX_LINK_REQUESTS` requests | `NORES` |", NODE)
def full_queue(stage: Stage) -> None:
    """Under load: after as many requests as a queue takes, the next is refused with NORES."""
    far = stage.party(FAR)
    far.answers["link.add"] = lambda added: far.message("link.accept", request_id=added["request_id"])
    for _ in range(spec.limits()["MAX_LINK_REQUESTS"]):
        created(stage, max_time_ns=60 * SECOND_NS)
    refused(stage, "NORES")


@section.must(
    "LINK-2.1-05", "Otherwise it makes a `create_id`, answers with `link.created` at once, and offers the request", NODE
)
def offer(stage: Stage) -> None:
    """A CREATE is answered, and offered to the other end as it was asked."""
    create_id = created(stage, number=9, purpose_id=77, priority=5, min_fidelity=0.5)
    added = stage.party(FAR).expect("link.add", create_id=create_id)
    wanted = {"link_id": LEAD, "number": 9, "purpose_id": 77, "priority": 5, "min_fidelity": 0.5, "request_type": "K"}
    wanted["application"] = APPLICATION
    if any(added[name] != value for name, value in wanted.items()):
        raise Failed(f"expected link.add with {wanted}; came: {brief(added, 400)}")


@section.must("LINK-2.1-06", "| the agent is not sure enough of the network's time (4 §3.4) | `UNSYNCED` |", NODE)
def no_time(stage: Stage) -> None:
    """A CREATE to an agent that has only just begun to believe another time is refused with UNSYNCED."""
    stage.clock.widen_ns = stage.guard_ns
    stage.clock.jump()
    if stage.reported(lambda report: not stage.is_sure(report)) is None:
        raise Failed("expected a target that is not sure of the time any more; it is")
    refused(stage, "UNSYNCED")


@section.must("LINK-2.1-07", "| the fields of a readout do not fit together (§4.6) | `UNSUPP` |", NODE)
def odd_readout(stage: Stage) -> None:
    """A basis named twice, odds for other bases than there are, and a rotation without its basis are refused with UNSUPP."""
    readout: Message
    for readout in (
        {"bases": ["x", "x"]},
        {"bases": ["x", "z"], "weights": [1]},
        {"bases": ["x", "z"], "weights": [0, 0]},
        {"bases": ["z"], "rotation": [0.0, 0.0, 0.0]},
        {"bases": ["rotated"]},
    ):
        for side in ("local", "remote"):
            refused(stage, "UNSUPP", request_type="M", **{side: readout})


@section.must("LINK-2.1-08", "| `atomic` with type M, which keeps no pairs | `UNSUPP` |", NODE)
def atomic_measured(stage: Stage) -> None:
    """An atomic CREATE of type M is refused with UNSUPP."""
    refused(stage, "UNSUPP", request_type="M", atomic=True)


@section.must("LINK-2.1-09", "| `atomic` for more pairs than this end has communication qubits | `UNSUPP` |", NODE)
def atomic_too_many(stage: Stage) -> None:
    """An atomic CREATE of two pairs at an end with one communication qubit is refused with UNSUPP, one of one pair is taken."""
    refused(stage, "UNSUPP", atomic=True, number=2)
    created(stage, atomic=True, number=1)


@section.must("LINK-2.1-10", "| less time is left than the pairs take on average: `pair_time` for every so many", NODE)
def too_little_time(stage: Stage) -> None:
    """A CREATE with less time than its pairs take is refused with NOTIME, one with more is taken."""
    pair_ns = round(stage.times.pair_time_ms * 1e6)
    refused(stage, "NOTIME", number=100, max_time_ns=90 * pair_ns)
    created(stage, number=10, max_time_ns=20 * pair_ns)


@section.must("LINK-2.2-01", "or adds the request to its queue and answers with `link.accept`", NODE)
def added(stage: Stage) -> None:
    """A request that is offered is accepted."""
    accept(Link(stage).add())


@section.must("LINK-2.2-02", "A `create_id` that it has in its queue already it accepts again.", NODE)
def added_again(stage: Stage) -> None:
    """The same request offered under another number is accepted again, and is one request."""
    link = Link(stage)
    for _ in range(3):
        accept(link.add(number=1))
    link.primary.ask("herald.open", **link.window())
    link.report()
    link.confirm()
    stage.application.reply(stage.application.expect("link.ok"), "session.ack")
    link.window_id = link.new_window()
    link.primary.refused("UNKNOWN_ID", "herald.open", **link.window())


@section.must("LINK-2.2-03", "The other end refuses as in §2.1, by its own clock, settings and qubits", NODE)
def add_refused(stage: Stage) -> None:
    """An offer of too high a fidelity, or with a deadline that is past, is refused."""
    link = Link(stage)
    for code, fields in (
        ("UNSUPP", {"min_fidelity": 0.99}),
        ("NOTIME", {"deadline_ns": stage.network_ns() - SECOND_NS}),
    ):
        answer = link.add(**fields)
        if answer.get("code") != code:
            raise Failed(f"expected link.add to be refused with {code}; came: {brief(answer)}")


@section.must("LINK-2.2-04", "the primary has it, and it is QUEUED from then on", NODE)
def offered_and_opened(stage: Stage) -> None:
    """A window for a request whose offer the primary has not answered yet is followed."""
    link = Link(stage)
    answer = stage.application.ask("link.create", peer=PEER, max_time_ns=5 * SECOND_NS)
    link.create_id = answer["create_id"]
    link.primary.expect("link.add", create_id=link.create_id)
    ready_now = link.primary.ask("herald.open", **link.window())
    if ready_now["type"] != "herald.ready":
        raise Failed(f"expected herald.ready; came: {brief(ready_now)}")


@section.must("LINK-2.3-01", "**Each end** sends OK to the application that the request names", NODE)
def ok_of_secondary(stage: Stage) -> None:
    """The secondary tells the application of a pair, with what was agreed."""
    link = Link(stage)
    ok = link.pair(sequence_number=41)
    wanted = {
        "create_id": link.create_id,
        "pair_id": link.pair_id,
        "sequence_number": 41,
        "purpose_id": 7,
        "peer": PEER,
    }
    wanted |= {"originator": False, "bell_state": "psi+", "expires_ns": link.expires_ns, "goodness": GOODNESS}
    if any(ok[name] != value for name, value in wanted.items()):
        raise Failed(f"expected link.ok with {wanted}; came: {brief(ok, 400)}")


@section.must("LINK-2.3-02", "greeting it first where that is needed", NODE)
def ok_greets(stage: Stage) -> None:
    """An application that has no session with the agent is greeted, and told."""
    link = Link(stage, application="")
    link.application = OTHER
    other = stage.party(OTHER)
    link.herald()
    link.confirm()
    other.expect("session.hello")
    other.reply(other.expect("link.ok", pair_id=link.pair_id), "session.ack")


@section.must(
    "LINK-2.3-03",
    "If the application refuses a `link.ok`, is lost, or does not answer within `application_timeout`",
    NODE,
)
def ok_refused(stage: Stage) -> None:
    """A pair that the application refuses is released; so is one whose application leaves, and one that gets no answer."""
    for how in ("refuses", "leaves", "is silent"):
        link = Link(stage)
        link.herald()
        link.confirm()
        application = stage.application
        ok = application.expect("link.ok", pair_id=link.pair_id)
        if how == "refuses":
            application.refuse(ok, "NORES")
        elif how == "leaves":
            application.leave()
            stage.again(APPLICATION)
        released = link.primary.expect("pair.release", pair_id=link.pair_id)
        link.primary.reply(released, "session.ack")


@section.must("LINK-2.3-04", "Ends send no OK for a request that names no application", NODE)
def no_application(stage: Stage) -> None:
    """For a request without an application nobody is told."""
    link = Link(stage, application="")
    stage.application.greet()
    link.herald()
    link.confirm()
    stage.application.never("link.ok", during_s=stage.patience_s / 12)


@section.must("LINK-2.3-06", "for type M it measures its half at once (§4.6) and sends `link.measured`", NODE)
def measured(stage: Stage) -> None:
    """Of type M the originator tells its outcome and its basis, and has its qubit free for the next window."""
    create_id, _, claim = offered(stage, request_type="M", number=2, local={"bases": ["y"]}, remote={"bases": ["x"]})
    stage.party(FAR).reply(claim, "pair.confirmed")
    wanted: Message = {"pair_id": claim["pair_id"], "basis": "y", "outcome": 0, "originator": True, "peer": FAR}
    told(stage, create_id, wanted)
    opened(stage, create_id)


@section.must("LINK-2.3-07", "**Each end** sends OK to the application that the request names", NODE)
def measured_at_secondary(stage: Stage) -> None:
    """Of type M the secondary measures as `remote` says; nothing is left of the pair to expire."""
    link = Link(stage)
    accept(link.add(request_type="M", local={"bases": ["y"]}, remote={"bases": ["x"]}))
    link.primary.ask("herald.open", **link.window())
    link.report()
    soon_ms = stage.times.pair_lifetime_ms / 3
    link.confirm(expires_ns=stage.network_ns() + round(soon_ms * 1e6))
    wanted: Message = {"pair_id": link.pair_id, "basis": "x", "outcome": 0, "originator": False, "sequence_number": 41}
    told(stage, link.create_id, wanted)
    stage.application.never("link.expire", "link.ok", during_s=stage.seconds(soon_ms) * 1.2)


def told(stage: Stage, create_id: str, wanted: Message) -> None:
    """Wait for a `link.measured`, and check what it says."""
    ok = stage.application.expect("link.measured", create_id=create_id)
    stage.application.reply(ok, "session.ack")
    if any(ok[name] != value for name, value in wanted.items()):
        raise Failed(f"expected link.measured with {wanted}; came: {brief(ok, 400)}")


@section.must("LINK-2.4-07", "| the other end refuses it with any other code | `OTHER` |", NODE)
def err_of_other(stage: Stage) -> None:
    """A request that the other end refuses with a code that says nothing to the application ends with OTHER."""
    create_id = created(stage)
    far = stage.party(FAR)
    far.refuse(far.expect("link.add", create_id=create_id), "UNKNOWN_ID")
    stage.application.expect("link.err", create_id=create_id, code="OTHER")


@section.must("LINK-2.4-01", "| the other end refuses it with `DENIED`, `UNSUPP`, `UNSYNCED`, `NOTIME`", NODE)
def err_of_refusal(stage: Stage) -> None:
    """A request that the other end refuses ends with its code."""
    far = stage.party(FAR)
    for code in ("DENIED", "NOTIME"):
        create_id = created(stage)
        far.refuse(far.expect("link.add", create_id=create_id), code)
        stage.application.expect("link.err", create_id=create_id, code=code)


@section.must("LINK-2.4-02", "| its deadline comes | `TIMEOUT` |", NODE)
def err_of_deadline(stage: Stage) -> None:
    """A request that was accepted and gets no pair ends with TIMEOUT."""
    create_id, at_far, at_station = lead(stage, max_time_ns=SECOND_NS // 3)
    ready(stage, at_far, at_station)
    stage.application.expect("link.err", create_id=create_id, code="TIMEOUT")


@section.must("LINK-2.4-03", "| the session with the other end is lost, in whatever way | `PEER_LOST` |", NODE)
def err_of_loss(stage: Stage) -> None:
    """A request ends with PEER_LOST when the other end leaves, or falls silent."""
    create_id = created(stage)
    far = stage.party(FAR)
    far.reply(far.expect("link.add", create_id=create_id), "link.accept")
    far.beats = far.greets = False
    stage.application.expect("link.err", within_s=3 * stage.patience_s, create_id=create_id, code="PEER_LOST")


@section.must(
    "LINK-2.4-04", "| at the primary: `herald.open` is answered with `UNKNOWN_ID` or `UNSUPP` | `REJECTED` |", NODE
)
def err_of_unknown(stage: Stage) -> None:
    """A request that the secondary does not know any more ends with REJECTED."""
    create_id, at_far, _ = lead(stage)
    stage.party(FAR).refuse(at_far, "UNKNOWN_ID")
    stage.application.expect("link.err", create_id=create_id, code="REJECTED")


@section.must("LINK-2.4-05", "at the originator: the application is lost | `PEER_LOST`", NODE)
def application_lost(stage: Stage) -> None:
    """No windows are opened any more for an application that has left."""
    create_id, at_far, at_station = lead(stage, number=5)
    ready(stage, at_far, at_station)
    stage.application.leave()
    stage.party(FAR).expect("herald.close", window_id=at_far["window_id"])
    stage.party(FAR).never("herald.open", during_s=stage.patience_s / 12, create_id=create_id)


@section.must("LINK-2.4-06", "Pairs whose OK was sent stay with the application", NODE)
def pairs_stay(stage: Stage) -> None:
    """A pair outlives its request, which ends with an error."""
    create_id, _, claim = offered(stage, number=2, max_time_ns=SECOND_NS // 2)
    stage.party(FAR).reply(claim, "pair.confirmed")
    application = stage.application
    application.reply(application.expect("link.ok", create_id=create_id), "session.ack")
    application.reply(application.expect("link.err", create_id=create_id), "session.ack")
    application.never("link.expire", during_s=stage.patience_s / 12)


@section.must("LINK-5-01", "a `link_id` that the receiver does not have, with `UNKNOWN_ID`", NODE)
def unknown_link(stage: Stage) -> None:
    """Whatever names a link that is not there is refused with UNKNOWN_ID."""
    link = Link(stage)
    link.primary.refused("UNKNOWN_ID", "herald.open", **link.window(link_id="no-link"))
    link.primary.refused("UNKNOWN_ID", "pair.confirm", **link.claim(link_id="no-link"))
    link.primary.refused("UNKNOWN_ID", "herald.close", link_id="no-link", window_id="w", reason="")
    link.primary.refused("UNKNOWN_ID", "pair.release", link_id="no-link", pair_id="w/1", reason="")


@section.must("LINK-5-02", "Whatever comes from somebody else is refused with `DENIED`", NODE)
def denied(stage: Stage) -> None:
    """What only the other end or the station may say is refused with DENIED from the end of another link."""
    link = Link(stage)
    link.open()
    far = stage.party(FAR)
    far.greet()
    report = {"link_id": LINK, "window_id": link.window_id, "attempt": 1, "bell_state": "psi+"}
    far.refused("DENIED", "herald.report", **report)
    stage.application.refused("DENIED", "herald.wait", link_id=LINK, window_id=link.window_id, ahead=1)
    link.primary.refused("DENIED", "herald.report", **report)
    far.refused("DENIED", "herald.open", **link.window(window_id=link.new_window()))
    far.refused("DENIED", "herald.close", link_id=LINK, window_id=link.window_id, reason="")
    far.refused("DENIED", "pair.confirm", **link.claim())
    far.refused("DENIED", "pair.release", link_id=LINK, pair_id=link.pair_id, reason="")


@section.must("LINK-5-03", "| `link.add`, `pair.release` | ends of the link | the other end |", NODE)
def add_denied(stage: Stage) -> None:
    """The end of another link cannot put a request into the queue of this one."""
    link = Link(stage)
    link.primary = stage.party(FAR)
    link.primary.greet()
    answer = link.add()
    if answer.get("code") != "DENIED":
        raise Failed(f"expected link.add to be refused with DENIED; came: {brief(answer)}")


@section.must("LINK-5-04", "| `herald.report`, `herald.wait` | ends of the link | the station |", STATION)
def stations_take_no_reports(stage: Stage) -> None:
    """A station does not take reports."""
    link = Link(stage)
    report = {"link_id": LINK, "window_id": link.window_id, "attempt": 1, "bell_state": "psi+"}
    link.primary.refused("UNKNOWN_TYPE", "herald.report", **report)


@section.must("LINK-8-01", "All of them are repeated as 1 §4.4 says.", NODE | STATION)
def repeated(stage: Stage) -> None:
    """What the target asks for a link comes again until it is answered."""
    party, request = asked_by_target(stage)
    party.expect(request["type"], fresh=False, request_id=request["request_id"])


@section.must("LINK-2.3-05", "At each end a pair of the request that becomes CONFIRMED (§4.1) is counted", NODE)
def counted(stage: Stage) -> None:
    """A request for two pairs is over after two: no third window is opened."""
    create_id, _, claim = offered(stage, number=2)
    for last in (False, True):
        stage.party(FAR).reply(claim, "pair.confirmed")
        application = stage.application
        application.reply(application.expect("link.ok", create_id=create_id, pair_id=claim["pair_id"]), "session.ack")
        stage.party(FAR).ask("pair.release", link_id=LEAD, pair_id=claim["pair_id"], reason="to free the qubit")
        if not last:
            window = opened(stage, create_id)
            ready(stage, *window)
            reported(stage, window[0]["window_id"])
            claim = stage.party(FAR).expect("pair.confirm", create_id=create_id)
    stage.party(FAR).never("herald.open", during_s=stage.patience_s / 12, create_id=create_id)
