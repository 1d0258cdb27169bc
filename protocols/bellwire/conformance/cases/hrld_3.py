"""2 §3: windows of attempts, at ends and at stations."""

from __future__ import annotations

from bellwire.conformance.catalogue import NODE, STATION, Failed, Section
from bellwire.conformance.plays import SECOND_NS, Link, accept, create, created, lead, offered, opened, ready, reported
from bellwire.conformance.stage import Stage
from bellwire.conformance.target import ATTEMPTS, DARK, FAR, LEAD, LINK, PEER
from bellwire.conformance.target import STATION as HUB
from bellwire.conformance.wire import Message, brief

section = Section()


def needs_ready(answer: Message) -> None:
    """Fail unless an answer is `herald.ready`."""
    if answer["type"] != "herald.ready":
        raise Failed(f"expected herald.ready; came: {brief(answer)}")


# The primary.


@section.must("HRLD-3.1-01", "sends `herald.open` to the secondary and to the station", NODE)
def both_opened(stage: Stage) -> None:
    """The primary opens a window as it is configured, alike at both."""
    create_id, at_far, at_station = lead(stage)
    wanted = {"link_id": LEAD, "create_id": create_id, "scheme": "double-click", "attempts": ATTEMPTS}
    wanted |= {"timeout_ns": round(stage.times.window_timeout_ms * 1e6), "window_id": at_far["window_id"]}
    for message in (at_far, at_station):
        if any(message[name] != value for name, value in wanted.items()) or message["start_ns"] != at_far["start_ns"]:
            raise Failed(f"expected herald.open with {wanted}; came: {brief(message, 400)}")


@section.must("HRLD-3.1-02", "fewer pairs of it are confirmed or under way than were asked for", NODE)
def one_at_a_time(stage: Stage) -> None:
    """For one pair one window is opened, and no other while it is under way."""
    create_id, at_far, at_station = lead(stage)
    ready(stage, at_far, at_station)
    stage.party(FAR).never("herald.open", during_s=stage.patience_s / 12, create_id=create_id)


@section.must("HRLD-3.1-03", "Requests are served by falling `priority`.", NODE)
def by_priority(stage: Stage) -> None:
    """Of two requests that wait for the one qubit, the one of higher priority is served first."""
    _, at_far, at_station = lead(stage, priority=1)
    far = stage.party(FAR)
    waiting = {}
    for priority in (0, 6):
        waiting[priority] = created(stage, priority=priority)
        far.reply(far.expect("link.add", create_id=waiting[priority]), "link.accept")
    ready(stage, at_far, at_station)
    reported(stage, at_far["window_id"])
    claim = far.expect("pair.confirm")
    far.refuse(claim, "REJECTED")
    nxt = far.expect("herald.open")
    again = at_far["create_id"]
    if nxt["create_id"] != waiting[6]:
        raise Failed(f"expected a window for {waiting[6]}, of priority 6, before {again}; came: {brief(nxt)}")


@section.must(
    "HRLD-3.1-04", "If any of the two refuses or does not answer, the primary aborts the window (§3.5).", NODE
)
def refused_by_station(stage: Stage) -> None:
    """A window that the station refuses is closed at the secondary; so is one that the station does not answer."""
    _, at_far, at_station = lead(stage)
    stage.party(FAR).reply(at_far, "herald.ready")
    stage.party(HUB).refuse(at_station, "NORES")
    stage.party(FAR).expect("herald.close", window_id=at_far["window_id"])


@section.must("HRLD-3.1-05", "the network's time at which the window may begin", NODE)
def start_on_network_time(stage: Stage) -> None:
    """A window's start is on the clock that the kit's broker gives."""
    before = stage.network_ns()
    _, at_far, _ = lead(stage)
    after = stage.network_ns()
    slack = stage.guard_ns
    if not before - slack <= at_far["start_ns"] <= after + SECOND_NS:
        raise Failed(
            f"expected start_ns between {before} and {after} on the network's clock; came: {at_far['start_ns']}"
        )


# The station.


@section.must("HRLD-3.1-06", "| it does not serve `link_id` | `UNKNOWN_ID` |", STATION)
def station_unknown_link(stage: Stage) -> None:
    """A window on a link that the station does not serve is refused with UNKNOWN_ID."""
    link = Link(stage)
    link.primary.refused("UNKNOWN_ID", "herald.open", **link.window(link_id="no-link"))


@section.must("HRLD-3.1-07", "| the sender is not the link's primary end | `DENIED` |", STATION)
def station_denies(stage: Stage) -> None:
    """A window that the secondary opens is refused with DENIED."""
    link = Link(stage)
    stage.party(FAR).refused("DENIED", "herald.open", **link.window())
    stage.application.greet()
    stage.application.refused("DENIED", "herald.open", **link.window())


@section.must("HRLD-3.1-08", "| the window is open already | `PROTOCOL` |", STATION)
def station_open_already(stage: Stage) -> None:
    """A window that is open is refused under another number with PROTOCOL."""
    link = Link(stage)
    link.open(start_ns=link.later(), timeout_ns=10 * SECOND_NS)
    link.primary.refused("PROTOCOL", "herald.open", **link.window())


@section.must(
    "HRLD-3.1-09", "and otherwise arms, in the window's turn (§3.6), and answers with `herald.ready`", STATION
)
def station_ready(stage: Stage) -> None:
    """A window of the primary's is answered with `herald.ready`."""
    Link(stage).open()


@section.must("HRLD-3.4-01", "| `report` | send `herald.report` to both ends |", STATION)
def station_reports(stage: Stage) -> None:
    """What the detectors saw is reported to both ends: the attempt and the state."""
    link = Link(stage)
    link.open(attempts=9)
    for name in (PEER, FAR):
        report = stage.party(name).expect("herald.report", window_id=link.window_id)
        wanted = {"link_id": LINK, "attempt": 9, "bell_state": "psi+"}
        if any(report[field] != value for field, value in wanted.items()):
            raise Failed(f"expected herald.report with {wanted}; came: {brief(report)}")


@section.must("HRLD-3.4-02", "it is 0, and `bell_state` nil, when nothing was heralded", STATION)
def station_reports_none(stage: Stage) -> None:
    """A window without a herald is reported with the attempt 0."""
    link = Link(stage)
    needs_ready(link.primary.ask("herald.open", **link.window(link_id=DARK)))
    for name in (PEER, FAR):
        report = stage.party(name).expect("herald.report", window_id=link.window_id)
        if report["attempt"] != 0 or report["bell_state"] is not None:
            raise Failed(f"expected a report of nothing; came: {brief(report)}")


@section.must(
    "HRLD-3.4-03",
    "The report is asked until `timeout_ns` and `report_timeout` have passed since the station was asked to open the window.",
    STATION,
)
def station_reports_until(stage: Stage) -> None:
    """An end that does not answer is told again, but not for ever."""
    link = Link(stage)
    link.open()
    far = stage.party(FAR)
    far.expect("herald.report", fresh=False)
    far.expect("herald.report", fresh=False)
    stage.pause(stage.seconds(stage.times.window_timeout_ms + stage.times.report_timeout_ms) + stage.patience_s / 4)
    far.inbox.clear()
    far.never("herald.report", fresh=False, during_s=stage.patience_s / 4)


@section.must(
    "HRLD-3.4-04", "| answered-one, answered-last | an end has answered the report, or its time is over", STATION
)
def station_waits_for_both(stage: Stage) -> None:
    """One end's answer does not end the report to the other; when both have answered, the window is forgotten."""
    link = Link(stage)
    link.open(timeout_ns=5 * SECOND_NS)
    link.primary.reply(link.primary.expect("herald.report"), "session.ack")
    far = stage.party(FAR)
    report = far.expect("herald.report")
    far.inbox.clear()
    far.expect("herald.report", fresh=False)
    link.primary.refused("PROTOCOL", "herald.open", **link.window(timeout_ns=5 * SECOND_NS))
    far.reply(report, "session.ack")
    stage.pause(stage.patience_s / 20)
    needs_ready(link.primary.ask("herald.open", **link.window()))


@section.must("HRLD-3.4-05", "ask the hardware to end the window; what it saw is reported nevertheless", STATION)
def station_closed(stage: Stage) -> None:
    """A window that the primary closes is acknowledged, and reported nevertheless."""
    link = Link(stage)
    link.open(start_ns=link.later(), timeout_ns=10 * SECOND_NS)
    answer = link.primary.ask("herald.close", link_id=LINK, window_id=link.window_id, reason="told")
    if answer["type"] != "session.ack":
        raise Failed(f"expected session.ack; came: {brief(answer)}")
    report = link.primary.expect("herald.report", window_id=link.window_id)
    if report["attempt"] != 0:
        raise Failed(f"expected a report of nothing; came: {brief(report)}")


@section.must("HRLD-3.5-01", "Both answer `session.ack`, also when they know no such window", NODE | STATION)
def close_unknown(stage: Stage) -> None:
    """Closing a window that never was is acknowledged."""
    answer = Link(stage).primary.ask("herald.close", link_id=LINK, window_id="never-was", reason="")
    if answer["type"] != "session.ack":
        raise Failed(f"expected session.ack; came: {brief(answer)}")


@section.must("HRLD-3.5-02", "the station refuses as in §3.1", STATION)
def station_close_denied(stage: Stage) -> None:
    """The secondary cannot close a window, nor anybody a window of no link."""
    link = Link(stage)
    link.open()
    stage.party(FAR).refused("DENIED", "herald.close", link_id=LINK, window_id=link.window_id, reason="")
    link.primary.refused("UNKNOWN_ID", "herald.close", link_id="no-link", window_id=link.window_id, reason="")


# The secondary.


@section.must("HRLD-3.2-01", "| it has no link `link_id` | `UNKNOWN_ID` |", NODE)
def unknown_link(stage: Stage) -> None:
    """A window on a link that is not there is refused with UNKNOWN_ID."""
    link = Link(stage)
    accept(link.add())
    link.primary.refused("UNKNOWN_ID", "herald.open", **link.window(link_id="no-link"))


@section.must("HRLD-3.2-02", "| the sender is not the other end, or the receiver is the primary | `DENIED` |", NODE)
def denied(stage: Stage) -> None:
    """A window that another than the primary opens is refused with DENIED, also on the link that the target leads."""
    link = Link(stage)
    accept(link.add())
    far = stage.party(FAR)
    far.greet()
    far.refused("DENIED", "herald.open", **link.window())
    far.refused("DENIED", "herald.open", **link.window(link_id=LEAD))


@section.must("HRLD-3.2-03", "| `create_id` is not in its queue | `UNKNOWN_ID` |", NODE)
def unknown_request(stage: Stage) -> None:
    """A window for a request that was never offered is refused with UNKNOWN_ID."""
    link = Link(stage)
    link.primary.refused("UNKNOWN_ID", "herald.open", **link.window())


@section.must("HRLD-3.2-04", "| the window is open, or is remembered to have been | `PROTOCOL` |", NODE)
def open_already(stage: Stage) -> None:
    """A window that is open, and one that is over, is refused under another number with PROTOCOL."""
    link = Link(stage)
    link.open()
    link.primary.refused("PROTOCOL", "herald.open", **link.window())
    link.report(attempt=0, bell_state=None)
    needs_ready(link.primary.ask("herald.open", **link.window(window_id=link.new_window())))
    link.primary.refused("PROTOCOL", "herald.open", **link.window())


@section.must(
    "HRLD-3.2-05",
    "| `scheme` is not the link's; it has bright states and `bright_ratio` is nil, or the other way round | `UNSUPP` |",
    NODE,
)
def other_scheme(stage: Stage) -> None:
    """A window of another scheme, and one with a bright ratio that the link does not have, is refused with UNSUPP."""
    link = Link(stage)
    accept(link.add())
    link.primary.refused("UNSUPP", "herald.open", **link.window(scheme="any"))
    link.primary.refused("UNSUPP", "herald.open", **link.window(bright_ratio=0.1))


@section.must("HRLD-3.2-06", "**Without a free qubit the answer waits for one**, first come first served", NODE)
def waits(stage: Stage) -> None:
    """Windows without a qubit are answered when one is free, in the order in which they came."""
    link = Link(stage)
    link.open(start_ns=link.later(), timeout_ns=10 * SECOND_NS)
    sent = []
    for _ in range(2):
        fields = link.window(window_id=link.new_window(), start_ns=link.later(), timeout_ns=10 * SECOND_NS)
        sent.append(link.primary.send("herald.open", **fields))
    link.primary.never("herald.ready", "session.error", during_s=stage.patience_s / 10)
    for number, window_id in enumerate((link.window_id, sent[0]["window_id"])):
        link.primary.ask("herald.close", link_id=LINK, window_id=window_id, reason="")
        needs_ready(link.primary.answer_to(sent[number]))


@section.must("HRLD-3.2-07", "after `timeout_ns` it is `NORES`", NODE)
def waits_in_vain(stage: Stage) -> None:
    """A window that gets no qubit in its time is refused with NORES."""
    link = Link(stage)
    link.open(start_ns=link.later(), timeout_ns=10 * SECOND_NS)
    link.primary.refused("NORES", "herald.open", **link.window(window_id=link.new_window(), timeout_ns=SECOND_NS // 5))


@section.must("HRLD-3.2-08", "when the primary closes the window `EXPIRE`", NODE)
def waits_and_closed(stage: Stage) -> None:
    """A window that waits for a qubit and is closed is refused with EXPIRE."""
    link = Link(stage)
    link.open(start_ns=link.later(), timeout_ns=10 * SECOND_NS)
    waiting = link.primary.send("herald.open", **link.window(window_id=link.new_window(), timeout_ns=10 * SECOND_NS))
    link.primary.ask("herald.close", link_id=LINK, window_id=waiting["window_id"], reason="")
    link.primary.expect("session.error", code="EXPIRE", request_id=waiting["request_id"])


@section.must(
    "HRLD-3.2-09",
    "| timeout | `timeout_ns` and `report_timeout` have passed since the window was opened at this end |",
    NODE,
)
def no_report(stage: Stage) -> None:
    """Without a report the window is over after its time: the qubit is free, and a late report makes no pair."""
    link = Link(stage)
    link.open()
    second = link.primary.send("herald.open", **link.window(window_id=link.new_window(), timeout_ns=20 * SECOND_NS))
    needs_ready(link.primary.answer_to(second))
    link.report()
    link.primary.refused("UNKNOWN_ID", "pair.confirm", **link.claim())


@section.must("HRLD-3.3-01", "when the attempt reported is the count, the qubit is this end's half of a pair", NODE)
def equal(stage: Stage) -> None:
    """A report of the attempt that the hardware counted makes a pair."""
    link = Link(stage)
    link.herald()
    link.confirm()


@section.must("HRLD-3.3-02", "When it is not, the window is over without a pair.", NODE)
def unequal(stage: Stage) -> None:
    """A report of another attempt than the one counted makes no pair, under either name, and the qubit is free."""
    link = Link(stage)
    link.open()
    link.report(attempt=ATTEMPTS - 1)
    for attempt in (ATTEMPTS - 1, ATTEMPTS):
        link.primary.refused("UNKNOWN_ID", "pair.confirm", **link.claim(pair_id=f"{link.window_id}/{attempt}"))
    needs_ready(link.primary.ask("herald.open", **link.window(window_id=link.new_window())))


@section.must(
    "HRLD-3.3-03", "A report on a window that is over, or never was, is acknowledged and changes nothing.", NODE
)
def late_report(stage: Stage) -> None:
    """A report on a window that never was, and a second and other one on a window that is over, change nothing."""
    link = Link(stage)
    link.open()
    link.report(attempt=0, bell_state=None)
    for window_id in (link.window_id, "never-was"):
        answer = link.report(window_id=window_id)
        if answer["type"] != "session.ack":
            raise Failed(f"expected session.ack; came: {brief(answer)}")
    link.primary.refused("UNKNOWN_ID", "pair.confirm", **link.claim())


@section.must("HRLD-3.3-04", "The two words are **compared**", NODE)
def report_before_count(stage: Stage) -> None:
    """A report that comes before the hardware's count is kept, and compared with it."""
    link = Link(stage)
    link.open(start_ns=stage.network_ns() + SECOND_NS // 5)
    link.report()
    answer = link.primary.ask("pair.confirm", **link.claim())
    if answer["type"] != "pair.confirmed":
        raise Failed(f"expected pair.confirmed; came: {brief(answer)}")


@section.must("HRLD-3.4-06", "| `double-click` | `psi+` `psi-` |", NODE)
def impossible_state(stage: Stage) -> None:
    """A report of a state that the scheme cannot herald makes no pair."""
    link = Link(stage)
    link.open()
    link.report(bell_state="phi+")
    link.primary.refused("UNKNOWN_ID", "pair.confirm", **link.claim(bell_state="phi+"))


@section.must("HRLD-3.4-07", "The pair that attempt *n* of window *w* heralds is named *w*`/`*n*.", NODE)
def pair_named(stage: Stage) -> None:
    """The primary names the pair after its window and attempt."""
    _, at_far, claim = offered(stage)
    if claim["pair_id"] != f"{at_far['window_id']}/{ATTEMPTS}":
        raise Failed(f"expected {at_far['window_id']}/{ATTEMPTS}; came: {brief(claim)}")


# Aborting.


@section.must(
    "HRLD-3.5-03", "The secondary aborts the window, or refuses the `herald.open` that still waits with `EXPIRE`", NODE
)
def closed(stage: Stage) -> None:
    """A window that is closed is over: its report makes no pair, and its qubit is free."""
    link = Link(stage)
    link.open(start_ns=link.later(), timeout_ns=10 * SECOND_NS)
    link.primary.ask("herald.close", link_id=LINK, window_id=link.window_id, reason="told")
    link.report()
    link.primary.refused("UNKNOWN_ID", "pair.confirm", **link.claim())
    needs_ready(link.primary.ask("herald.open", **link.window(window_id=link.new_window())))


@section.must(
    "HRLD-3.5-04", "When the primary has aborted a window for any other reason than a report of no herald", NODE
)
def none_is_not_closed(stage: Stage) -> None:
    """After a report of no herald nobody is told, and the next window is opened."""
    create_id, at_far, at_station = lead(stage)
    ready(stage, at_far, at_station)
    reported(stage, at_far["window_id"], attempt=0, bell_state=None)
    opened(stage, create_id)
    if stage.party(FAR).maybe("herald.close", within_s=0.0) is not None:
        raise Failed("a window that ended with a report of no herald was closed by a message")


@section.must(
    "HRLD-3.5-05", "it sends `herald.close` to the secondary and to the station as soon as the window is over", NODE
)
def closes_both(stage: Stage) -> None:
    """A window that the secondary refuses is closed at both."""
    _, at_far, at_station = lead(stage)
    stage.party(FAR).refuse(at_far, "NORES")
    stage.party(HUB).reply(at_station, "herald.ready")
    for name in (FAR, HUB):
        stage.party(name).expect("herald.close", window_id=at_far["window_id"])


@section.must("HRLD-3.5-06", "with `DENIED` when it does not come from the other end", NODE)
def close_denied(stage: Stage) -> None:
    """The station cannot close a window."""
    link = Link(stage)
    link.open()
    stage.party(HUB).refused("DENIED", "herald.close", link_id=LINK, window_id=link.window_id, reason="")


@section.must(
    "HRLD-3.5-07",
    "When the session with the other end or with the station is lost, in whatever way, an end aborts all windows",
    NODE,
)
def station_lost(stage: Stage) -> None:
    """When the station leaves, the primary closes its window at the other end."""
    _, at_far, at_station = lead(stage)
    ready(stage, at_far, at_station)
    stage.party(HUB).leave()
    stage.party(FAR).expect("herald.close", window_id=at_far["window_id"])


@section.must("HRLD-3.5-08", "When the session with the other end or with the station is lost, in whatever way", NODE)
def primary_restarts(stage: Stage) -> None:
    """When the primary restarts, the qubit of its window is free, and the window makes no pair."""
    link = Link(stage)
    link.open(start_ns=link.later(), timeout_ns=10 * SECOND_NS)
    stage.again(PEER)
    again = Link(stage)
    again.open()
    again.window_id = link.window_id
    again.primary.refused("UNKNOWN_ID", "pair.confirm", **again.claim())


@section.must("HRLD-8-01", "| `herald.open` | `window_timeout` after it was first sent | the window is aborted |", NODE)
def open_unanswered(stage: Stage) -> None:
    """A window that the station does not answer is closed after its time."""
    _, at_far, _ = lead(stage)
    stage.party(FAR).reply(at_far, "herald.ready")
    stage.party(FAR).expect("herald.close", window_id=at_far["window_id"])


@section.must(
    "HRLD-6.9-01", "The primary end opens a window of attempts, at the secondary end and at the station.", NODE
)
def no_window_before_accept(stage: Stage) -> None:
    """While a request is only offered, no window is opened for it."""
    answer = create(stage)
    stage.party(FAR).never("herald.open", during_s=stage.patience_s / 10, create_id=answer["create_id"])
