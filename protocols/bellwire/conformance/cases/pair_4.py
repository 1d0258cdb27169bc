"""2 §4: a pair's confirmation, release and end."""

from __future__ import annotations

from bellwire.conformance.catalogue import NODE, Failed, Section
from bellwire.conformance.plays import SECOND_NS, Link, accept, led_pair, offered, opened
from bellwire.conformance.stage import Stage
from bellwire.conformance.target import ATTEMPTS, FAR, LEAD, LINK, PEER, STATION
from bellwire.conformance.wire import brief

section = Section()


@section.must("PAIR-4.1-01", "it takes over `sequence_number` and `expires_ns`, answers with `pair.confirmed`", NODE)
def confirmed(stage: Stage) -> None:
    """The secondary takes number and end of life over from the primary."""
    link = Link(stage)
    ok = link.pair(sequence_number=4711)
    if (ok["sequence_number"], ok["expires_ns"]) != (4711, link.expires_ns):
        raise Failed(f"expected number 4711 and expires_ns {link.expires_ns}; came: {brief(ok, 400)}")


@section.must(
    "PAIR-4.1-02",
    "if `pair_id`, `create_id` or `bell_state` is not that of its half, it refuses with `REJECTED`",
    NODE,
)
def other_state(stage: Stage) -> None:
    """A pair that is claimed in another state is refused with REJECTED, and is no more; its qubit is free."""
    link = Link(stage)
    link.herald()
    link.primary.refused("REJECTED", "pair.confirm", **link.claim(bell_state="psi-"))
    link.primary.refused("UNKNOWN_ID", "pair.confirm", **link.claim())
    link.window_id = link.new_window()
    link.open()


@section.must("PAIR-4.1-03", "if `expires_ns` is past, with `NOTIME`", NODE)
def past(stage: Stage) -> None:
    """A claim whose end of life is past is refused with NOTIME, and the half is released."""
    link = Link(stage)
    link.herald()
    link.primary.refused("NOTIME", "pair.confirm", **link.claim(expires_ns=stage.network_ns() - SECOND_NS))
    link.primary.refused("UNKNOWN_ID", "pair.confirm", **link.claim())


@section.must(
    "PAIR-4.1-04", "| the sender is not the other end, or the receiver is the primary | refuses with `DENIED` |", NODE
)
def denied(stage: Stage) -> None:
    """A claim of another node, and one on the link that the target leads, is refused with DENIED."""
    link = Link(stage)
    link.herald()
    far = stage.party(FAR)
    far.greet()
    far.refused("DENIED", "pair.confirm", **link.claim())
    far.refused("DENIED", "pair.confirm", **link.claim(link_id=LEAD))


@section.must("PAIR-4.1-05", "| otherwise | refuses with `UNKNOWN_ID` |", NODE)
def unknown(stage: Stage) -> None:
    """A claim of a pair that never was is refused with UNKNOWN_ID."""
    link = Link(stage)
    link.primary.refused("UNKNOWN_ID", "pair.confirm", **link.claim())


@section.must("PAIR-4.1-06", "| the window of the pair is not over | owes the answer until it is, then compares", NODE)
def owed(stage: Stage) -> None:
    """A claim that comes before the report is answered after it."""
    link = Link(stage)
    link.open()
    claim = link.primary.send("pair.confirm", **link.claim())
    link.primary.never("pair.confirmed", "session.error", during_s=stage.patience_s / 12)
    link.report()
    answer = link.primary.answer_to(claim)
    if answer["type"] != "pair.confirmed":
        raise Failed(f"expected pair.confirmed; came: {brief(answer)}")


@section.must("PAIR-4.1-07", "then compares, or refuses with `UNKNOWN_ID`", NODE)
def owed_in_vain(stage: Stage) -> None:
    """A claim that waits for a window which brings no pair is refused with UNKNOWN_ID."""
    link = Link(stage)
    link.open()
    claim = link.primary.send("pair.confirm", **link.claim())
    link.report(attempt=0, bell_state=None)
    link.primary.expect("session.error", code="UNKNOWN_ID", request_id=claim["request_id"])


@section.must("PAIR-4.1-08", "The **primary** gives the pair the next `sequence_number` of the link, from 1", NODE)
def numbered(stage: Stage) -> None:
    """The primary numbers pairs one after the other, and says until when it keeps its half."""
    first = led_pair(stage)
    stage.party(FAR).ask("pair.release", link_id=LEAD, pair_id=first["pair_id"], reason="")
    second = led_pair(stage)
    if second["sequence_number"] != first["sequence_number"] + 1 or first["sequence_number"] < 1:
        raise Failed(f"expected numbers that follow; came: {first['sequence_number']}, {second['sequence_number']}")
    lifetime_ns = round(stage.times.pair_lifetime_ms * 1e6)
    if not 0 < first["expires_ns"] - first["time_of_goodness_ns"] <= lifetime_ns + SECOND_NS // 100:
        raise Failed(f"expected a life of {lifetime_ns} ns after the herald; came: {brief(first, 400)}")


@section.must("PAIR-4.1-09", "and released without further ado when the secondary refuses", NODE)
def refused(stage: Stage) -> None:
    """A pair that the secondary refuses is no more: no OK, no word to it, and another window."""
    create_id, _, claim = offered(stage)
    far = stage.party(FAR)
    far.refuse(claim, "REJECTED")
    opened(stage, create_id)
    if far.maybe("pair.release", within_s=0.0) or stage.application.maybe("link.ok", within_s=0.0):
        raise Failed("a refused pair was released by a message, or handed to the application")


@section.must("PAIR-4.1-10", "the half stays HERALDED until it expires or the other one is known to be gone", NODE)
def unsure(stage: Stage) -> None:
    """A claim that gets no answer leaves the qubit held: no OK, and no other window before the half expires."""
    _, _, claim = offered(stage)
    far = stage.party(FAR)
    far.refuse(claim, "LIMIT")
    left_s = (claim["expires_ns"] - stage.network_ns()) / 1e9
    far.never("herald.open", during_s=max(0.0, left_s) * 0.8)
    if stage.application.maybe("link.ok", within_s=0.0):
        raise Failed("a pair was handed to the application whose confirmation was not answered")
    far.expect("herald.open")


@section.must("PAIR-4.1-11", "answers with `pair.confirmed`, and its half is CONFIRMED", NODE)
def primary_confirms(stage: Stage) -> None:
    """With `pair.confirmed` the primary tells the application."""
    ok = led_pair(stage)
    if not ok["originator"] or ok["peer"] != FAR or ok["bell_state"] != "psi+":
        raise Failed(f"expected an OK of the originator for {FAR} in psi+; came: {brief(ok, 400)}")


@section.must("PAIR-4.3-01", "The answer is `session.ack`, also when there is no such pair.", NODE)
def release_unknown(stage: Stage) -> None:
    """Releasing a pair that never was is acknowledged."""
    answer = Link(stage).primary.ask("pair.release", link_id=LINK, pair_id="never/1", reason="")
    if answer["type"] != "session.ack":
        raise Failed(f"expected session.ack; came: {brief(answer)}")


@section.must("PAIR-4.3-02", "The receiver's half ends, whatever it was waiting for", NODE)
def released(stage: Stage) -> None:
    """A pair that the other end releases is no more: the application is told, and the qubit is free."""
    link = Link(stage)
    link.pair()
    link.primary.ask("pair.release", link_id=LINK, pair_id=link.pair_id, reason="told")
    told = stage.application.expect("link.expire", create_id=link.create_id)
    if (told["sequence_low"], told["sequence_high"]) != (41, 42):
        raise Failed(f"expected the one number 41; came: {brief(told)}")
    link.window_id = link.new_window()
    link.open()


@section.must(
    "PAIR-4.3-03",
    "When the other end restarts or leaves (1 §4.5), all halves shared with it that are not consumed end as if released.",
    NODE,
)
def restarted(stage: Stage) -> None:
    """When the other end restarts, and when it leaves, its pairs are no more."""
    for leaves in (False, True):
        link = Link(stage)
        link.pair(expires_ns=stage.network_ns() + 60 * SECOND_NS)
        if leaves:
            link.primary.leave()
        stage.again(PEER).greet()
        stage.application.expect("link.expire", create_id=link.create_id)


@section.must("PAIR-4.3-04", "**When it is merely silent they are kept**", NODE)
def silent(stage: Stage) -> None:
    """When the other end is merely silent its pairs are kept until they expire."""
    link = Link(stage)
    expires_ns = stage.network_ns() + round(1e6 * (stage.times.liveness_ms * 1.5 + stage.times.heartbeat_ms * 2))
    link.pair(expires_ns=expires_ns)
    link.primary.beats = link.primary.greets = False
    left_s = (expires_ns - stage.network_ns()) / 1e9
    stage.application.never("link.expire", during_s=left_s * 0.9)
    stage.application.expect("link.expire", create_id=link.create_id)


@section.must(
    "PAIR-4.3-05", "An end that releases a half tells the other one with `pair.release`, until `expires_ns`", NODE
)
def releases(stage: Stage) -> None:
    """When the application leaves, its pair is released, and the other end told until it answers."""
    link = Link(stage)
    link.pair()
    stage.application.leave()
    for _ in range(2):
        link.primary.expect("pair.release", fresh=False, pair_id=link.pair_id)


@section.must(
    "PAIR-4.4-01",
    "At `expires_ns` on the network's clock each end ends its half on its own, without a word to the other",
    NODE,
)
def expires(stage: Stage) -> None:
    """A pair ends at its time: not before, the application is told, the other end is not, and the qubit is free."""
    link = Link(stage)
    expires_ns = stage.network_ns() + round(stage.times.pair_lifetime_ms * 1e6 / 2)
    link.pair(expires_ns=expires_ns)
    told = stage.application.expect("link.expire", create_id=link.create_id)
    if stage.network_ns() < expires_ns - SECOND_NS // 10:
        raise Failed(f"the pair expired before {expires_ns}: {brief(told)}")
    if link.primary.maybe("pair.release", within_s=stage.patience_s / 10, pair_id=link.pair_id) is not None:
        raise Failed("the other end was told of a pair that had expired")
    link.window_id = link.new_window()
    link.open()


@section.must("PAIR-4.2-01", "**A half is used once.**", NODE)
def used_once(stage: Stage) -> None:
    """A half that a program has used is consumed: it does not expire, and cannot be released any more."""
    link = Link(stage)
    link.pair(expires_ns=stage.network_ns() + SECOND_NS // 2)
    steps = [{"kind": "measure", "qubits": [link.pair_id], "gate": None, "angle": 0.0, "reference": False}]
    answer = stage.application.ask("program.run", steps=steps)
    if answer["type"] != "program.result":
        raise Failed(f"expected program.result; came: {brief(answer)}")
    link.primary.ask("pair.release", link_id=LINK, pair_id=link.pair_id, reason="")
    stage.application.never("link.expire", during_s=stage.patience_s / 2)


@section.must("PAIR-6.14-01", "The state that the station reported to the primary.", NODE)
def claimed(stage: Stage) -> None:
    """The primary claims the pair in the state that was reported."""
    create_id, at_far, claim = offered(stage)
    wanted = {
        "link_id": LEAD,
        "create_id": create_id,
        "bell_state": "psi+",
        "pair_id": f"{at_far['window_id']}/{ATTEMPTS}",
    }
    if any(claim[name] != value for name, value in wanted.items()):
        raise Failed(f"expected pair.confirm with {wanted}; came: {brief(claim)}")


def tested(stage: Stage) -> Link:
    """Bring the target to measure its half for a test round of the primary's."""
    link = Link(stage, application="")
    accept(
        link.add(purpose_id=2, priority=7, number=1, request_type="M", local={"bases": ["x"]}, remote={"bases": ["x"]})
    )
    link.primary.ask("herald.open", **link.window())
    link.report()
    link.confirm()
    return link


@section.must("PAIR-4.7-01", "The secondary answers `pair.compared` as soon as it has measured too", NODE)
def compared(stage: Stage) -> None:
    """The primary's outcome is answered with the secondary's own."""
    link = tested(stage)
    answer = link.primary.ask("pair.outcome", link_id=LINK, pair_id=link.pair_id, outcome=1)
    if answer["type"] != "pair.compared" or answer["outcome"] != 0:
        raise Failed(f"expected pair.compared with the outcome 0; came: {brief(answer)}")


@section.must("PAIR-4.7-02", "with `UNKNOWN_ID` when it has no such pair", NODE)
def compared_nothing(stage: Stage) -> None:
    """An outcome of a pair that never was is refused with UNKNOWN_ID, and one of a pair that is no test's."""
    link = Link(stage)
    link.primary.refused("UNKNOWN_ID", "pair.outcome", link_id=LINK, pair_id="never/1", outcome=0)
    link.pair()
    link.primary.refused("UNKNOWN_ID", "pair.outcome", link_id=LINK, pair_id=link.pair_id, outcome=0)


@section.must("PAIR-5-01", "| `pair.confirm`, `pair.outcome` | the secondary | the primary |", NODE)
def outcome_denied(stage: Stage) -> None:
    """Nobody but the primary is told the outcome of a test."""
    link = tested(stage)
    stage.application.greet()
    for party in (stage.party(STATION), stage.application):
        party.refused("DENIED", "pair.outcome", link_id=LINK, pair_id=link.pair_id, outcome=0)
    far = stage.party(FAR)
    far.greet()
    for link_id in (LINK, LEAD):
        far.refused("DENIED", "pair.outcome", link_id=link_id, pair_id=link.pair_id, outcome=0)
