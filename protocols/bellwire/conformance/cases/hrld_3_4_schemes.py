"""2 §2.1, §3.1, §3.2, §3.4 and §4.7: what differs where a link heralds by `single-click` or `direct`."""

from __future__ import annotations

import math

from bellwire.conformance.catalogue import NODE, Failed, Section
from bellwire.conformance.party import Party
from bellwire.conformance.plays import Link, accept
from bellwire.conformance.stage import Stage
from bellwire.conformance.target import BRIGHT, EAST, GOODNESS, NORTH, RAY, STATION, WEST
from bellwire.conformance.wire import Message, brief

section = Section()

SECOND_NS = 1_000_000_000


def bright(stage: Stage) -> Link:
    """The link that heralds by single-click and whose secondary the target is."""
    return Link(stage, link_id=BRIGHT, primary=EAST, scheme="single-click")


def ray(stage: Stage) -> Link:
    """The link from the target to a receiver, which is its own station."""
    return Link(stage, link_id=RAY, primary=NORTH, station=NORTH, scheme="direct")


def glow(stage: Stage, **fields: object) -> Message:
    """Ask the target for pairs over the link that it leads and that heralds by single-click, and give its answer."""
    for name in (WEST, STATION):
        if not stage.party(name).up:
            stage.party(name).greet()
    if not stage.application.up:
        stage.application.greet()
    known: Message = {"peer": WEST, "number": 1, "min_fidelity": 0.0, "max_time_ns": 10 * SECOND_NS, "purpose_id": 3}
    return stage.application.ask("link.create", **(known | {"priority": 0, "request_type": "K"} | fields))


def opened(stage: Stage, **fields: object) -> Message:
    """The `herald.open` of the first window of such a request, refused by the far end."""
    answer = glow(stage, **fields)
    if answer["type"] != "link.created":
        raise Failed(f"expected link.created; came: {brief(answer)}")
    west: Party = stage.party(WEST)
    west.reply(west.expect("link.add", create_id=answer["create_id"]), "link.accept")
    window = west.expect("herald.open", create_id=answer["create_id"])
    west.refuse(window, "UNSUPP")
    stage.application.expect("link.err", create_id=answer["create_id"])
    return window


def taken_part(link: Link, **fields: float) -> None:
    """Have the target take part in the window of a request that it has. Raises `Failed` when it does not."""
    answer = link.primary.ask("herald.open", **link.window(**fields))
    if answer["type"] != "herald.ready":
        raise Failed(f"expected herald.ready; came: {brief(answer)}")


def refused(answer: Message, code: str) -> None:
    """Check that an answer is a refusal with a code."""
    if answer.get("code") != code:
        raise Failed(f"expected a refusal with {code}; came: {brief(answer)}")


@section.must(
    "HRLD-3.1-16",
    "Where the scheme has bright states, `bright_ratio` is the largest ratio, so the fastest, that gives the fidelity asked"
    " for; for `min_fidelity` 0, `goodness`.",
    NODE,
    needs="schemes",
)
def ratio(stage: Stage) -> None:
    """Between calibrated points the ratio is found on a straight line; of no fidelity it is the one that goodness needs."""
    for fidelity, expected in ((0.0, 1.0 - GOODNESS), (0.85, 0.15), (0.6, 0.4), (0.5, 0.45)):
        window = opened(stage, min_fidelity=fidelity)
        given = window["bright_ratio"]
        if window["scheme"] != "single-click" or given is None or not math.isclose(given, expected, rel_tol=1e-6):
            raise Failed(
                f"expected bright_ratio {expected:g} for a fidelity of {fidelity:g}; came: {brief(window, 400)}"
            )


@section.must(
    "LINK-2.1-11",
    "`min_fidelity` is greater than the link's `goodness`; where there are bright states, than what any of them gives",
    NODE,
    needs="schemes",
)
def out_of_reach(stage: Stage) -> None:
    """More than goodness is within reach where there are bright states; more than the best of them gives is UNSUPP."""
    opened(stage, min_fidelity=0.9)
    refused(glow(stage, min_fidelity=0.96), "UNSUPP")


@section.must(
    "LINK-2.1-12",
    "times the usual bright ratio over that of `min_fidelity` where there are bright states",
    NODE,
    needs="schemes",
)
def slower(stage: Stage) -> None:
    """In a time that is enough for pairs of the usual ratio, those of a fifth of it are refused with NOTIME."""
    ten_ns = round(10 * stage.times.pair_time_ms * 1e6)
    refused(glow(stage, number=10, min_fidelity=0.95, max_time_ns=3 * ten_ns), "NOTIME")
    answer = glow(stage, number=10, max_time_ns=3 * ten_ns)
    if answer["type"] != "link.created":
        raise Failed(f"expected link.created; came: {brief(answer)}")


@section.must(
    "HRLD-3.2-10",
    "it has bright states and `bright_ratio` is nil, or the other way round",
    NODE,
    needs="schemes",
)
def ratio_of_no_use(stage: Stage) -> None:
    """A window without a ratio is refused with UNSUPP by single-click, one with a ratio by double-click."""
    link = bright(stage)
    accept(link.add())
    refused(link.primary.ask("herald.open", **link.window()), "UNSUPP")
    plain = Link(stage)
    accept(plain.add())
    refused(plain.primary.ask("herald.open", **plain.window(bright_ratio=0.2)), "UNSUPP")


@section.must(
    "HRLD-3.2-11",
    "| by its own calibration, `bright_ratio` gives less than `min_fidelity` | `UNSUPP` |",
    NODE,
    needs="schemes",
)
def too_bright(stage: Stage) -> None:
    """A ratio that gives less than was asked for, or was not calibrated, is refused with UNSUPP; one that gives more is not."""
    link = bright(stage)
    accept(link.add(min_fidelity=0.8))
    for ratio_ in (0.25, 0.01):
        refused(link.primary.ask("herald.open", **link.window(bright_ratio=ratio_)), "UNSUPP")
        link.window_id = link.new_window()
    taken_part(link, bright_ratio=0.15)


@section.must("PAIR-4.7-03", "what others get is as calibrated, without an interval", NODE, needs="schemes")
def calibrated(stage: Stage) -> None:
    """The goodness of a pair of more fidelity than usual is what its ratio gives, and no interval is told."""
    link = bright(stage)
    accept(link.add(min_fidelity=0.85))
    taken_part(link, bright_ratio=0.15)
    link.report()
    link.confirm()
    ok = stage.application.expect("link.ok")
    stage.application.reply(ok, "session.ack")
    told = (ok["goodness_low"], ok["goodness_high"], ok["goodness_estimated"])
    if not math.isclose(ok["goodness"], 0.85, rel_tol=1e-6) or told != (0.0, 1.0, False):
        raise Failed(f"expected a goodness of 0.85, calibrated; came: {brief(ok, 600)}")


@section.must(
    "HRLD-3.4-08",
    "sends `herald.report` to the sender, which takes it as a station's",
    NODE,
    needs="schemes",
)
def receiver(stage: Stage) -> None:
    """By `direct` the sender takes the report of the other end, and nobody else's; the pair is one as any other."""
    link = ray(stage)
    stage.party(STATION).greet()
    accept(link.add())
    taken_part(link)
    refused(stage.party(STATION).ask("herald.report", **link.word()), "DENIED")
    if link.report()["type"] != "session.ack":
        raise Failed("a herald.report of the receiver was refused")
    link.confirm()
    stage.application.expect("link.ok", pair_id=link.pair_id)
