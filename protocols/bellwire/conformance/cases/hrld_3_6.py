"""2 §3.1 and §3.6: when windows are opened, and turns: of requests at the primary, of windows at a station's detectors."""

from __future__ import annotations

from bellwire.conformance.catalogue import NODE, STATION, Failed, Section
from bellwire.conformance.clocks import jumped
from bellwire.conformance.party import Party
from bellwire.conformance.plays import SECOND_NS, Link, created, lead, led_pair, offered, opened, ready, reported
from bellwire.conformance.stage import Stage
from bellwire.conformance.target import APPLICATION, DARK, FAR, LEAD, LINK, OTHER
from bellwire.conformance.target import STATION as MIDPOINT
from bellwire.conformance.wire import Message, brief

section = Section()


# The primary.


def queued(stage: Stage, application: Party, **fields: object) -> str:
    """Have an application's request in the queue of the link that the target leads."""
    if not application.up:
        application.greet()
    known: Message = {"peer": FAR, "number": 1, "max_time_ns": 10 * SECOND_NS}
    answer = application.ask("link.create", **(known | fields))
    if answer["type"] != "link.created":
        raise Failed(f"expected link.created; came: {brief(answer)}")
    far = stage.party(FAR)
    far.reply(far.expect("link.add", create_id=answer["create_id"]), "link.accept")
    return str(answer["create_id"])


def served(stage: Stage, claim: Message, application: Party) -> None:
    """Confirm a pair and give it back, so that its qubit is free."""
    far = stage.party(FAR)
    far.reply(claim, "pair.confirmed")
    application.reply(application.expect("link.ok", pair_id=claim["pair_id"]), "session.ack")
    far.ask("pair.release", link_id=LEAD, pair_id=claim["pair_id"], reason="to free the qubit")


def next_for(stage: Stage, create_id: str) -> tuple[Message, Message]:
    """See that the next window is for a request."""
    at_far, at_station = opened_next(stage)
    if at_far["create_id"] != create_id:
        raise Failed(f"expected the next window for {create_id}; came: {brief(at_far)}")
    return at_far, at_station


def opened_next(stage: Stage) -> tuple[Message, Message]:
    """The window that the target opens next, whomever it is for: at the far end and at the station."""
    at_far = stage.party(FAR).expect("herald.open")
    return at_far, stage.party(MIDPOINT).expect("herald.open", window_id=at_far["window_id"])


@section.must(
    "HRLD-3.1-10", "The primary opens no window while it is not sure enough of the network's time itself.", NODE
)
def unsure(stage: Stage) -> None:
    """A primary that is not sure of the time opens no window; the request's end says who was unsure."""
    create_id = created(stage, max_time_ns=round(stage.patience_s * 0.6e9))
    far = stage.party(FAR)
    added = far.expect("link.add", create_id=create_id)
    jumped(stage, widen_ns=2 * stage.guard_ns, by_ns=-round(stage.patience_s * 0.2e9))
    far.reply(added, "link.accept")
    told = stage.application.expect("link.err", within_s=3 * stage.patience_s, create_id=create_id, code="TIMEOUT")
    if far.maybe("herald.open", within_s=0.0) is not None or stage.target not in told["text"]:
        raise Failed(f"expected no window, and an end that names {stage.target}; came: {brief(told, 400)}")


@section.must(
    "HRLD-3.1-11", "When it, or one of the two with `UNSYNCED`, is not, it tries again after `retry` (1 §4.5)", NODE
)
def other_unsure(stage: Stage) -> None:
    """A window that the station refuses with UNSYNCED is tried again; the request's end says who was unsure."""
    create_id, at_far, at_station = lead(stage, max_time_ns=round(stage.patience_s * 0.5e9))
    far, station = stage.party(FAR), stage.party(MIDPOINT)
    far.reply(at_far, "herald.ready")
    why = "kit-station is off by 7 ns"
    station.refuse(at_station, "UNSYNCED", text=why)
    again, at_station = opened(stage, create_id)
    if again["window_id"] == at_far["window_id"]:
        raise Failed(f"expected another window; came: {brief(again)}")
    station.refuse(at_station, "UNSYNCED", text=why)
    station.answers["herald.open"] = lambda asked: station.message(
        "session.error", request_id=asked["request_id"], code="UNSYNCED", text=why, rule="", peer=""
    )
    told = stage.application.expect("link.err", within_s=3 * stage.patience_s, create_id=create_id, code="TIMEOUT")
    if why not in told["text"]:
        raise Failed(f"expected an end that says who was unsure; came: {brief(told, 400)}")


@section.must("HRLD-3.1-12", "Within a priority, applications take turns: the next window is for the application", NODE)
def turns(stage: Stage) -> None:
    """An application that asks for many pairs is given no more than one of them before another one's."""
    _, _, claim = offered(stage, number=5)
    other = stage.party(OTHER)
    waiting = queued(stage, other)
    served(stage, claim, stage.party(APPLICATION))
    window = opened_next(stage)
    if window[0]["create_id"] != waiting:
        ready(stage, *window)
        reported(stage, window[0]["window_id"])
        served(stage, stage.party(FAR).expect("pair.confirm"), stage.party(APPLICATION))
        next_for(stage, waiting)


@section.must(
    "HRLD-3.1-13", "until it is done or has failed no window is opened there for another, whatever its priority", NODE
)
def exclusive(stage: Stage) -> None:
    """A consecutive request that has begun is served to its end before another of higher priority."""
    create_id, _, claim = offered(stage, number=2, consecutive=True)
    waiting = queued(stage, stage.party(OTHER), priority=7)
    served(stage, claim, stage.application)
    window = next_for(stage, create_id)
    ready(stage, *window)
    reported(stage, window[0]["window_id"])
    served(stage, stage.party(FAR).expect("pair.confirm", create_id=create_id), stage.application)
    next_for(stage, waiting)


@section.must("HRLD-3.1-14", "An atomic one is given windows only when as many communication qubits are free", NODE)
def atomic(stage: Stage) -> None:
    """An atomic request waits while the qubit is in use, and is served when it is free."""
    held = led_pair(stage)
    create_id = queued(stage, stage.application, atomic=True)
    far = stage.party(FAR)
    far.never("herald.open", during_s=stage.patience_s / 10)
    far.ask("pair.release", link_id=LEAD, pair_id=held["pair_id"], reason="to free the qubit")
    opened(stage, create_id)


@section.must("HRLD-3.6-01", "`herald.wait` names how many are before it, and is asked until the window's", NODE)
def waits_for_detectors(stage: Stage) -> None:
    """A primary acknowledges that its window waits, and goes on when the station is ready."""
    create_id = created(stage)
    far, station = stage.party(FAR), stage.party(MIDPOINT)
    far.reply(far.expect("link.add", create_id=create_id), "link.accept")
    at_far, at_station = opened(stage, create_id)
    answer = station.ask("herald.wait", link_id=LEAD, window_id=at_far["window_id"], ahead=3)
    if answer["type"] != "session.ack":
        raise Failed(f"expected session.ack; came: {brief(answer)}")
    ready(stage, at_far, at_station)
    reported(stage, at_far["window_id"])
    far.expect("pair.confirm", create_id=create_id)


# The station.


def taken(stage: Stage) -> Link:
    """A window that has the one set of detectors for long."""
    link = Link(stage)
    link.open(start_ns=link.later(), timeout_ns=10 * SECOND_NS)
    return link


def waiting(link: Link, *, link_id: str = LINK, timeout_ns: int = 10 * SECOND_NS) -> Message:
    """Open another window, and see that it has to wait."""
    asked = link.primary.send(
        "herald.open",
        **link.window(window_id=link.new_window(), link_id=link_id, start_ns=link.later(), timeout_ns=timeout_ns),
    )
    said = link.primary.expect("herald.wait", window_id=asked["window_id"], link_id=link_id)
    link.primary.reply(said, "session.ack")
    return asked | {"ahead": said["ahead"]}


def close(link: Link, window_id: str, link_id: str = LINK) -> None:
    """Close a window."""
    link.primary.ask("herald.close", link_id=link_id, window_id=window_id, reason="")


@section.must(
    "HRLD-3.6-02", "A window that has to wait is said so at once: `herald.wait` names how many are before it", STATION
)
def told_to_wait(stage: Stage) -> None:
    """Windows that wait for detectors are told how many are before them, and answered with their start in their turn."""
    link = taken(stage)
    second, third = waiting(link), waiting(link)
    if (second["ahead"], third["ahead"]) != (1, 2):
        raise Failed(f"expected 1 and 2 windows before; came: {second['ahead']}, {third['ahead']}")
    link.primary.never("herald.ready", during_s=stage.patience_s / 10)
    close(link, link.window_id)
    answer = link.primary.answer_to(second)
    if answer["type"] != "herald.ready" or not answer["start_ns"]:
        raise Failed(f"expected herald.ready with its start; came: {brief(answer)}")


@section.must("HRLD-3.6-03", "the links that have windows waiting take turns", STATION)
def links_take_turns(stage: Stage) -> None:
    """Of two windows of one link and one of another that came last, the other link's is not the last to be served."""
    link = taken(stage)
    first, second = waiting(link), waiting(link)
    other = waiting(link, link_id=DARK)
    close(link, link.window_id)
    link.primary.expect("herald.ready", request_id=first["request_id"])
    close(link, first["window_id"])
    answer = link.primary.expect("herald.ready")
    if answer["request_id"] != other["request_id"]:
        raise Failed(f"expected the turn of {other['window_id']} before {second['window_id']}; came: {brief(answer)}")


@section.must("HRLD-3.6-04", "A window whose `timeout_ns` is over before its turn is refused with `NORES`", STATION)
def no_turn(stage: Stage) -> None:
    """A window that had no turn in its time is refused with NORES."""
    link = taken(stage)
    asked = waiting(link, timeout_ns=round(stage.patience_s * 0.2e9))
    link.primary.expect("session.error", code="NORES", request_id=asked["request_id"])


@section.must("HRLD-3.6-05", "one that is closed meanwhile with `EXPIRE`", STATION)
def closed_waiting(stage: Stage) -> None:
    """A window that is closed while it waits is refused with EXPIRE, and never has a turn."""
    link = taken(stage)
    asked = waiting(link)
    close(link, asked["window_id"])
    link.primary.expect("session.error", code="EXPIRE", request_id=asked["request_id"])


@section.must("HRLD-3.1-15", "| the window was closed | `EXPIRE` |", STATION)
def closed_before(stage: Stage) -> None:
    """A window that was closed before it was opened is refused with EXPIRE."""
    link = Link(stage)
    close(link, link.window_id)
    link.primary.refused("EXPIRE", "herald.open", **link.window())
