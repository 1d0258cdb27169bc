"""4 §1, §2 and §4: leases and sources of time, and what is told of clocks."""

from __future__ import annotations

from bellwire.conformance.catalogue import BROKER, ENDS, ON_THE_WIRE, Failed, Section
from bellwire.conformance.clocks import Follower, Source
from bellwire.conformance.plays import Link
from bellwire.conformance.stage import Stage
from bellwire.conformance.target import BROKER as HUB
from bellwire.conformance.wire import brief

section = Section()


@section.must("TIME-1.3-01", "one that comes late says something false, so none of them is repeated", ON_THE_WIRE)
def told_once(stage: Stage) -> None:
    """A Sync that is not answered, and the answer to one that is, come once."""
    if stage.folder.role == "broker":
        party = Follower(stage, interval_ns=10_000_000_000, exchanges=2).party
        sync = party.expect("time.sync")
        party.never("time.sync", fresh=False, during_s=stage.patience_s / 4, sequence=sync["sequence"])
        return
    source = Source(stage)
    number, _ = source.sync(0)
    source.broker.expect("time.delay_req", sequence=number)
    source.broker.never("time.delay_req", fresh=False, during_s=stage.patience_s / 4)


@section.must("TIME-2.1-01", "| settled | so, and in ACQUIRING it was burst number `settle_bursts` in a row", ENDS)
def settled(stage: Stage) -> None:
    """After a time that disproves the one before, a clock is LOCKED again with four or five bursts, and not with three."""
    source = Source(stage)
    stage.clock.jump()
    seen = []
    for _ in range(5):
        source.burst()
        seen.append(source.report()["state"])
    if seen[:3] != ["acquiring"] * 3 or seen[4] != "locked":
        raise Failed(f"expected a clock that is acquiring for three bursts or four, and locked then; came: {seen}")


@section.must("TIME-2.1-02", "| disagrees | it cannot: the own clock or the source is not what it was |", ENDS)
def disagrees(stage: Stage) -> None:
    """With the first burst of another time, a LOCKED clock is ACQUIRING, and takes that time."""
    source = Source(stage)
    source.burst()
    before = source.report()
    stage.clock.jump()
    source.burst()
    after = source.report()
    moved_ns = after["offset_ns"] - before["offset_ns"]
    states = (before["state"], after["state"])
    if states != ("locked", "acquiring") or abs(moved_ns - 3_600_000_000_000) > 2 * stage.guard_ns:
        raise Failed(f"expected a locked clock that is acquiring an hour later; came: {states}, {moved_ns} ns later")


@section.must("TIME-2.1-03", "| silence | no burst was completed for `silence`", ENDS)
def silence(stage: Stage) -> None:
    """Without bursts a LOCKED clock is in HOLDOVER, its uncertainty grows, and it is relied on; with a burst it is LOCKED."""
    stage.clock.serves = False
    first = stage.reported(lambda report: bool(report["state"] == "holdover"))
    if first is None:
        raise Failed("expected a clock in holdover after a source has fallen silent")
    stage.pause(stage.patience_s / 10)
    second = stage.broker.ask("time.status")
    if not first["uncertainty_ns"] < second["uncertainty_ns"]:
        raise Failed(
            f"expected an uncertainty that grows from {first['uncertainty_ns']} ns; came: {brief(second, 400)}"
        )
    Link(stage).open()
    stage.clock.serves = True
    if stage.reported(lambda report: bool(report["state"] == "locked")) is None:
        raise Failed("expected a clock that is locked again when its source is back")


@section.must("TIME-2.2-01", "It keeps a session with each, and a lease", ENDS)
def leases(stage: Stage) -> None:
    """The target asks its source for a lease, and for exchanges when that has announced itself."""
    source = Source(stage, announce=False)
    source.follow()
    if not 1 <= source.lease["exchanges"] <= 16:
        raise Failed(f"expected a lease with exchanges; came: {brief(source.lease)}")


@section.must("TIME-2.2-02", "One with `clock_class` 255, or whose `grandmaster` is the node itself, is none.", ENDS)
def no_source(stage: Stage) -> None:
    """Of a source that nobody should follow, and of one that follows the target, no exchanges are asked."""
    source = Source(stage, announce=False)
    for wrong in ({"clock_class": 255}, {"grandmaster": stage.target}):
        source.announce(**wrong)
        source.announce(**wrong)
        found = source.broker.maybe("time.lease", within_s=stage.patience_s / 10)
        if found is not None and found["exchanges"]:
            raise Failed(f"expected no lease with exchanges of a source with {wrong}; came: {brief(found)}")
    source.follow()


@section.must("TIME-2.3-01", "A node renews it after half of its time", ENDS)
def renewed(stage: Stage) -> None:
    """A lease that is granted for a shorter time than was asked is renewed in that time, and not at once."""
    source = Source(stage, lease_ns=round(stage.patience_s * 0.2e9))
    source.broker.answers.clear()
    source.broker.never("time.lease", during_s=stage.patience_s * 0.05)
    source.broker.expect("time.lease", within_s=stage.patience_s * 0.25)  # It would ask anew after `silence`, too.


@section.must(
    "TIME-2.3-02", "A burst is a `time.announce` followed by `exchanges` exchanges one right after the other.", BROKER
)
def burst(stage: Stage) -> None:
    """A source announces itself and exchanges as often as was asked, for as long as the lease lasts."""
    follower = Follower(stage)
    for _ in range(2):
        announced = follower.party.expect("time.announce")
        if (announced["clock_class"], announced["grandmaster"], announced["steps_removed"]) != (13, HUB, 0):
            raise Failed(f"expected a grandmaster; came: {brief(announced)}")
        for exchange in range(3):
            follower.answer(follower.party.expect("time.sync", exchange=exchange))
    follower.party.expect("time.announce")


@section.must("TIME-2.3-03", "It ends with its time, or with the session.", BROKER)
def lease_ends(stage: Stage) -> None:
    """A lease that is over brings no burst more, and no answer."""
    lease_s = stage.patience_s / 5
    party = Follower(stage, lease_ns=round(lease_s * 1e9)).party
    party.expect("time.announce")
    stage.pause(lease_s + stage.patience_s / 10)
    syncs = [message for _, _, message in party.inbox if message["type"] == "time.sync"]
    party.inbox.clear()
    party.send("time.delay_req", sequence=syncs[-1]["sequence"] if syncs else 1)
    party.never("time.announce", "time.sync", "time.follow_up", "time.delay_resp", during_s=stage.patience_s / 5)


@section.must("TIME-2.3-04", "A lease takes the place of the one before", BROKER)
def lease_replaced(stage: Stage) -> None:
    """A slower lease in the place of a fast one brings one announcement, and none of the fast one's."""
    follower = Follower(stage, interval_ns=20_000_000)
    follower.party.expect("time.announce")
    follower.lease(interval_ns=10_000_000_000, exchanges=0)
    stage.pause(stage.patience_s / 20)
    follower.party.inbox.clear()
    follower.party.never("time.announce", "time.sync", during_s=stage.patience_s / 5)


@section.must("TIME-2.3-05", "An exchange whose message is lost ends the burst.", BROKER)
def burst_ends(stage: Stage) -> None:
    """After a Sync that is not answered there is none before the next burst."""
    follower = Follower(stage, interval_ns=10_000_000_000)
    follower.party.expect("time.sync", exchange=0)
    follower.party.never("time.sync", during_s=stage.patience_s / 5)


@section.must("TIME-4.8-01", "Anybody asks how a participant's clock is.", ON_THE_WIRE)
def status(stage: Stage) -> None:
    """An application is told of a clock that is LOCKED, from whom it has its time, and how far off it may be."""
    application = stage.application
    application.greet()
    hub = stage.folder.role == "broker"
    if not hub:
        stage.reported(lambda report: bool(report["state"] == "locked"))
    report = application.ask("time.status")
    wanted = {"grandmaster": HUB, "source": "" if hub else HUB}
    known = report["state"] == "locked" and report["uncertainty_ns"] is not None
    known &= hub == (report["path_delay_ns"] is None)
    if not known or any(report[name] != value for name, value in wanted.items()):
        raise Failed(f"expected a locked clock with {wanted}; came: {brief(report, 400)}")


@section.must("TIME-4.9-01", "Who holds leases of it.", BROKER)
def followers(stage: Stage) -> None:
    """A source names those who hold leases, and nobody else."""
    follower = Follower(stage, exchanges=0, interval_ns=10_000_000_000).party
    stage.application.greet()
    report = stage.application.ask("time.status")
    if report["followers"] != [follower.name]:
        raise Failed(f"expected the followers {[follower.name]}; came: {brief(report, 400)}")
