"""4 §3: exchanges, what they prove, guard bands and side paths."""

from __future__ import annotations

from bellwire.conformance import spec
from bellwire.conformance.catalogue import BROKER, ENDS, NODE, Failed, Section, Skipped
from bellwire.conformance.clocks import Follower, SidePath, Source, is_station, jumped, refused_unsure, wrong_datagrams
from bellwire.conformance.plays import SECOND_NS, Link, create
from bellwire.conformance.stage import Stage
from bellwire.conformance.wire import Message, brief

section = Section()

DROPPED = (
    "A receiver MUST drop, without an answer, a datagram that is longer than `MAX_DATAGRAM_BYTES`, whose tag, version,"
    " direction or path id is wrong, or whose counter is not greater than that of the last one it took."
)
DRIFT = 1e-3
"""Clocks are no worse than that, generously."""


# Exchanges.


@section.must("TIME-3.1-01", "answers with `time.delay_req` and notes t3, when that left", ENDS)
def answered(stage: Stage) -> None:
    """A Sync is answered by a Delay_Req of its sequence number."""
    Source(stage).burst()


@section.must("TIME-3.1-02", "A node ignores a `time.sync` that is not newer than the last", ENDS)
def old_sync(stage: Stage) -> None:
    """A Sync that comes again, and one of a lesser number, are not answered."""
    source = Source(stage)
    first, _ = source.sync(0)
    source.broker.expect("time.delay_req", sequence=first)
    source.exchange(1)
    for number in (first, stage.clock.sequence() - 1, first - 1):
        source.sync(2, sequence=number)
    source.broker.never("time.delay_req", fresh=False, during_s=stage.patience_s / 5)


@section.must("TIME-3.1-03", "The first exchange of a burst finds both processes asleep and its paths cold", ENDS)
def first_exchange(stage: Stage) -> None:
    """What the first exchange of a burst proves does not count; of the others the best does."""
    wide_ns = 3 * stage.guard_ns
    source = Source(stage)
    number = source.lease["exchanges"]
    if number < 3:
        raise Skipped(f"needs bursts of three exchanges or more, the target asks for {number}")
    for sharp in (0, number - 1):
        stage.clock.jump()
        widths = [0 if place == sharp else wide_ns for place in range(number)]
        for _ in range(5):
            source.burst(*widths)
        unsure_ns = source.report()["uncertainty_ns"]
        if (unsure_ns >= wide_ns) is not (sharp == 0):
            more = "at least" if sharp == 0 else "less than"
            raise Failed(
                f"expected an uncertainty of {more} {wide_ns} ns where exchange {sharp} alone is good; came: {unsure_ns}"
            )


@section.must("TIME-3.1-04", "The next `time.sync` of the burst goes before those two", BROKER)
def sync_first(stage: Stage) -> None:
    """A source's next Sync comes before its answers to the last Delay_Req."""
    follower = Follower(stage, interval_ns=10 * SECOND_NS)
    party = follower.party
    party.send("time.delay_req", sequence=party.expect("time.sync", exchange=0)["sequence"])
    kinds = ("time.sync", "time.follow_up", "time.delay_resp")
    came = [party.expect(*kinds)["type"] for _ in range(3)]
    if came[0] != "time.sync":
        raise Failed(f"expected time.sync before the answers; came: {', '.join(came)}")


@section.must(
    "TIME-3.1-05",
    "Departures MUST be noted no later than the frame leaves, arrivals no earlier than it comes: just before the frame is"
    " handed to the socket, and after it was taken from it.",
    BROKER,
)
def noted(stage: Stage) -> None:
    """An exchange lasts no less for the source than the follower kept it waiting."""
    follower = Follower(stage, exchanges=6, interval_ns=10 * SECOND_NS)
    for exchange in range(6):
        sync = follower.party.expect("time.sync", exchange=exchange)
        kept_ns, follow_up, delay_resp = follower.answer(sync, after_s=stage.patience_s / 100)
        lasted_ns = delay_resp["received_ns"] - follow_up["origin_ns"]
        if lasted_ns < kept_ns * (1 - DRIFT):
            raise Failed(
                f"expected t4 - t1 of at least {kept_ns} ns, for which the Delay_Req was kept; came: {lasted_ns}"
            )


@section.must(
    "TIME-3.1-06", "a source answers only the `time.delay_req` to its last `time.sync`, and only once", BROKER
)
def only_once(stage: Stage) -> None:
    """A Delay_Req that comes twice, one of an earlier Sync and one of none are answered no more."""
    follower = Follower(stage, interval_ns=10 * SECOND_NS)
    party = follower.party
    first = party.expect("time.sync", exchange=0)
    follower.answer(first)
    second = party.expect("time.sync", exchange=1)
    for number in (first["sequence"], second["sequence"] + 1, max(1, first["sequence"] - 1)):
        party.send("time.delay_req", sequence=number)
    party.never("time.follow_up", "time.delay_resp", fresh=False, during_s=stage.patience_s / 10)
    follower.answer(second)
    third = party.expect("time.sync", exchange=2)
    follower.answer(third)
    party.send("time.delay_req", sequence=third["sequence"])
    party.never("time.follow_up", "time.delay_resp", fresh=False, during_s=stage.patience_s / 10)


# What they prove.


@section.must("TIME-3.2-01", "To that half are added the source's own uncertainty, as `time.follow_up` tells it", ENDS)
def unsure_source(stage: Stage) -> None:
    """A clock is no surer than its source says of itself."""
    stage.clock.uncertainty_ns = 3 * stage.guard_ns
    jumped(stage)
    report = stage.reported(lambda report: bool(report["state"] == "locked"))
    if report is None or report["uncertainty_ns"] < stage.clock.uncertainty_ns:
        raise Failed(
            f"expected an uncertainty of at least {stage.clock.uncertainty_ns} ns; came: {brief(report or {}, 400)}"
        )


@section.must("TIME-3.3-01", "An implementation MAY use another servo: its uncertainty MUST be as §3.2 says.", ENDS)
def unsure_path(stage: Stage) -> None:
    """However alike the samples are, a clock is no surer than the path delay of its exchanges allows."""
    jumped(stage, widen_ns=2 * stage.guard_ns)
    if stage.reported(lambda report: bool(report["state"] == "locked")) is None:
        raise Failed("expected a clock that is locked: all samples agree")
    for _ in range(5):
        report = stage.broker.ask("time.status")
        if report["uncertainty_ns"] < stage.clock.widen_ns:
            raise Failed(f"expected an uncertainty of at least {stage.clock.widen_ns} ns; came: {brief(report, 400)}")
        stage.pause(stage.patience_s / 20)


# Guard bands.


@section.must(
    "TIME-3.4-01",
    "If not, it refuses requests and windows with `UNSYNCED` and a `text` that has its name and its uncertainty.",
    ENDS,
)
def guarded(stage: Stage) -> None:
    """A target whose clock is LOCKED and too unsure refuses requests and windows with UNSYNCED."""
    jumped(stage, widen_ns=2 * stage.guard_ns)
    if stage.reported(lambda report: bool(report["state"] == "locked")) is None:
        raise Failed("expected a clock that is locked: all samples agree")
    link = Link(stage)
    if not is_station(stage):
        refused_unsure(create(stage), stage)
        refused_unsure(link.add(), stage)
        return
    refused_unsure(link.primary.ask("herald.open", **link.window()), stage)


@section.must("TIME-3.4-02", "is sure enough of the network's time if it is LOCKED or in HOLDOVER", NODE)
def window_guarded(stage: Stage) -> None:
    """A window for a request of before is refused with UNSYNCED by a secondary that is not sure any more."""
    link = Link(stage)
    link.add(deadline_ns=stage.network_ns() + 7_200 * SECOND_NS)
    jumped(stage, widen_ns=2 * stage.guard_ns)
    refused_unsure(link.primary.ask("herald.open", **link.window()), stage)


# Side paths.


def reached(source: Source) -> SidePath:
    """The side path of a source, once the target was heard on it."""
    assert source.path is not None
    if source.path.receive(source.stage.patience_s) is None:
        raise Skipped("the target makes no use of side paths")
    return source.path


@section.must(
    "TIME-3.5-01",
    "A node that can use it sends a datagram without a message when it has the grant, and with every announcement.",
    ENDS,
)
def shows_itself(stage: Stage) -> None:
    """With a grant and with an announcement comes a datagram that is proved and empty."""
    source = Source(stage, path=True)
    path = reached(source)
    for _ in range(2):
        source.announce()
        if path.receive() != {}:
            raise Failed("expected a datagram without a message with an announcement")


@section.must("TIME-3.5-02", "the node answers a `time.sync` by the way that it came", ENDS)
def same_way(stage: Stage) -> None:
    """A Sync by datagram is answered by datagram, one by the session there."""
    source = Source(stage, path=True)
    path = reached(source)
    number = stage.clock.sequence()
    path.send(path.seal(sync_of(source, number)))
    path.expect("time.delay_req", sequence=number)
    source.exchange(1)
    path.never("time.delay_req", stage.patience_s / 10)


def sync_of(source: Source, number: int) -> Message:
    """A Sync, not sent."""
    return source.broker.message("time.sync", sequence=number, exchange=0)


@section.must("TIME-3.5-03", DROPPED, ENDS)
def wrong_syncs(stage: Stage) -> None:
    """Syncs in datagrams that are wrong are not answered, whatever is wrong; the next right one is, and once."""
    source = Source(stage, path=True)
    path = reached(source)
    most = spec.limits()["MAX_DATAGRAM_BYTES"]
    number = stage.clock.sequence()
    for what, data in wrong_datagrams(path, sync_of(source, number), most):
        path.send(data)
        found = path.receive(stage.patience_s / 40) or source.broker.maybe("time.delay_req", within_s=0.0)
        if found and found.get("sequence") == number:  # another one is late for a right sync of before
            raise Failed(f"expected a datagram with {what} to be dropped; came: {brief(found)}")
    number = stage.clock.sequence()
    right = path.seal(sync_of(source, number))
    path.send(right)
    path.expect("time.delay_req", sequence=number)
    path.send(right)
    path.send(path.seal(sync_of(source, stage.clock.sequence()), counter=path.counter))
    path.never("time.delay_req", stage.patience_s / 10)


@section.must("TIME-3.5-04", DROPPED, BROKER)
def wrong_requests(stage: Stage) -> None:
    """Whoever has not the key cannot have bursts sent to it, nor answers: wrong datagrams are dropped."""
    follower = Follower(stage)
    path, port = follower.path(), follower.grant["path_port"]
    most = spec.limits()["MAX_DATAGRAM_BYTES"]
    message = follower.party.message("time.delay_req", sequence=1)
    for what, data in wrong_datagrams(path, message, most):
        path.send(data, port)
        if path.receive(stage.patience_s / 40) is not None:
            raise Failed(f"expected a datagram with {what} to be dropped; one came back")
    right = path.seal(None)
    path.send(right, port)
    sync = path.expect("time.sync", exchange=0)
    asked = follower.party.message("time.delay_req", sequence=sync["sequence"])
    for _, data in wrong_datagrams(path, asked, most)[:5]:
        path.send(data)
    thief = SidePath(stage, path.path_id, path.key, path.sending)
    thief.send(right, port)
    if thief.receive(stage.patience_s / 10) is not None:
        raise Failed("expected a datagram that was taken before to be dropped; one came back")
    path.never("time.follow_up", 0.0)


@section.must("TIME-3.5-05", "The source sends the exchanges of its bursts by datagram while it knows where", BROKER)
def by_datagram(stage: Stage) -> None:
    """A follower that was heard on the side path has whole bursts there."""
    follower = Follower(stage)
    path = follower.path()
    path.send(path.seal(None), follower.grant["path_port"])
    for exchange in range(3):
        sync = path.expect("time.sync", exchange=exchange)
        path.send(path.seal(follower.party.message("time.delay_req", sequence=sync["sequence"])))
    path.expect("time.follow_up", sequence=sync["sequence"])
    path.expect("time.delay_resp", sequence=sync["sequence"])


@section.must(
    "TIME-3.5-06", "When two bursts in a row got no answer by datagram, the source goes back to the session", BROKER
)
def back_to_session(stage: Stage) -> None:
    """A path that lets nothing through costs two bursts."""
    follower = Follower(stage)
    path = follower.path()
    path.send(path.seal(None), follower.grant["path_port"])
    for _ in range(2):
        path.expect("time.sync", exchange=0)
    follower.party.inbox.clear()
    follower.answer(follower.party.expect("time.sync", exchange=0))
    path.never("time.sync", stage.patience_s / 10)


@section.must("TIME-3.5-07", "with a key of `PATH_KEY_BYTES` random octets that is new for every grant", BROKER)
def new_key(stage: Stage) -> None:
    """Every grant has a key of its own, and the path of the one before is closed."""
    follower = Follower(stage)
    path, first = follower.path(), follower.grant
    follower.lease()
    if len({first["path_key"], follower.grant["path_key"]}) != 2 or len(first["path_key"]) != 32:
        raise Failed("expected two keys of 32 octets each")
    path.send(path.seal(None), first["path_port"])
    path.never("time.sync", stage.patience_s / 10)
