"""What many cases begin with: a link that the target follows or leads, a pair, a request that the target makes."""

from __future__ import annotations

import itertools
from typing import Any

from bellwire.conformance.catalogue import Failed, Role
from bellwire.conformance.party import Party
from bellwire.conformance.stage import Stage
from bellwire.conformance.target import APPLICATION, ATTEMPTS, FAR, LEAD, LINK, PEER, STATION
from bellwire.conformance.wire import Message, brief

SECOND_NS = 1_000_000_000
_COUNT = itertools.count(1)


class Link:
    """The link `kit-link`: its primary is the kit's, and the target is its other end, or its station.

    Another link of that kind has another `scheme`, and may have another `primary` and `station`.
    """

    def __init__(
        self,
        stage: Stage,
        *,
        link_id: str = LINK,
        primary: str = PEER,
        station: str = STATION,
        scheme: str = "double-click",
        create_id: str = "",
        window_id: str = "",
        application: str = APPLICATION,
    ) -> None:
        self.stage = stage
        self.station_target = stage.folder.role is Role.STATION
        self.link_id, self.scheme, self.station = link_id, scheme, station
        self.primary = stage.party(primary)
        self.create_id = create_id or f"{primary}-{self.primary.epoch:x}-{link_id}-{next(_COUNT)}"
        self.window_id = window_id or self.new_window()
        self.application = application
        self.expires_ns = 0
        self.primary.greet()
        if self.station_target:
            stage.party(FAR).greet()
            return
        if station != primary:
            stage.party(station).greet()
        if application:
            stage.party(application).greet()

    def new_window(self) -> str:
        """An id of a window that was not used before."""
        return f"{self.link_id}-{self.primary.epoch:x}-{next(_COUNT)}"

    @property
    def pair_id(self) -> str:
        """The pair that the last attempt of the window heralds."""
        return f"{self.window_id}/{ATTEMPTS}"

    def add(self, **fields: Any) -> Message:
        """Offer the request to the target, and give its answer."""
        known: Message = {
            "link_id": self.link_id,
            "create_id": self.create_id,
            "number": 10,
            "min_fidelity": 0.0,
            "deadline_ns": self.stage.network_ns() + 20 * SECOND_NS,
            "purpose_id": 7,
            "priority": 0,
            "request_type": "K",
            "application": self.application,
        }
        return self.primary.ask("link.add", **(known | fields))

    def window(self, **fields: Any) -> dict[str, Any]:
        """The fields of a `herald.open` of the window."""
        known: Message = {
            "link_id": self.link_id,
            "window_id": self.window_id,
            "create_id": self.create_id,
            "scheme": self.scheme,
            "start_ns": self.stage.network_ns(),
            "attempts": ATTEMPTS,
            "timeout_ns": round(self.stage.times.window_timeout_ms * 1e6),
        }
        return known | fields

    def open(self, **fields: Any) -> None:
        """Have the target take part in the window. Raises `Failed` when it does not."""
        if not self.station_target:
            accept(self.add())
        answer = self.primary.ask("herald.open", **self.window(**fields))
        if answer["type"] != "herald.ready":
            raise Failed(f"expected herald.ready; came: {brief(answer)}")

    def later(self) -> int:
        """A start that is far from now: the window does not begin before its time is over."""
        return self.stage.network_ns() + 60 * SECOND_NS

    def report(self, *, attempt: int = ATTEMPTS, bell_state: str | None = "psi+", **fields: Any) -> Message:
        """Report on the window as the station would, and give the target's answer."""
        return self.stage.party(self.station).ask("herald.report", **(self.word(attempt, bell_state) | fields))

    def word(self, attempt: int = ATTEMPTS, bell_state: str | None = "psi+") -> dict[str, Any]:
        """The fields of a `herald.report` on the window."""
        return {"link_id": self.link_id, "window_id": self.window_id, "attempt": attempt, "bell_state": bell_state}

    def herald(self, **fields: Any) -> None:
        """Bring the target to hold half of a pair, HERALDED."""
        self.open(**fields)
        if self.report()["type"] != "session.ack":
            raise Failed("a herald.report of the link's station was refused")

    def claim(self, **fields: Any) -> dict[str, Any]:
        """The fields of a `pair.confirm` of the pair."""
        self.expires_ns = self.stage.network_ns() + round(self.stage.times.pair_lifetime_ms * 1e6)
        known: Message = {
            "link_id": self.link_id,
            "pair_id": self.pair_id,
            "create_id": self.create_id,
            "sequence_number": 41,
            "bell_state": "psi+",
            "expires_ns": self.expires_ns,
        }
        return known | fields

    def confirm(self, **fields: Any) -> None:
        """Have the target confirm the pair. Raises `Failed` when it does not."""
        answer = self.primary.ask("pair.confirm", **self.claim(**fields))
        if answer["type"] != "pair.confirmed":
            raise Failed(f"expected pair.confirmed; came: {brief(answer)}")

    def pair(self, **fields: Any) -> Message:
        """Bring a pair to the application, and give the target's OK."""
        self.herald()
        self.confirm(**fields)
        application = self.stage.party(self.application)
        ok = application.expect("link.ok")
        application.reply(ok, "session.ack")
        return ok


def accept(answer: Message) -> None:
    """Check that a request was accepted."""
    if answer["type"] != "link.accept":
        raise Failed(f"expected link.accept; came: {brief(answer)}")


def create(stage: Stage, **fields: Any) -> Message:
    """Ask the target for pairs over the link that it leads, and give its answer: `link.created`, or an error."""
    for name in (FAR, STATION, APPLICATION):
        if not stage.party(name).up:
            stage.party(name).greet()
    application = stage.application
    known: Message = {"peer": FAR, "number": 1, "min_fidelity": 0.0, "max_time_ns": 10 * SECOND_NS, "purpose_id": 3}
    return application.ask("link.create", **(known | {"priority": 0, "request_type": "K"} | fields))


def created(stage: Stage, **fields: Any) -> str:
    """As `create`, and give the request's id. Raises `Failed` when it is refused."""
    answer = create(stage, **fields)
    if answer["type"] != "link.created":
        raise Failed(f"expected link.created; came: {brief(answer)}")
    return str(answer["create_id"])


def lead(stage: Stage, **fields: Any) -> tuple[str, Message, Message]:
    """Have the target open a window of its own: the request's id, and `herald.open` at the far end and at the station."""
    create_id = created(stage, **fields)
    far = stage.party(FAR)
    far.reply(far.expect("link.add", create_id=create_id), "link.accept")
    return create_id, *opened(stage, create_id)


def opened(stage: Stage, create_id: str) -> tuple[Message, Message]:
    """Wait for the window that the target opens next for a request: at the far end and at the station."""
    at_far = stage.party(FAR).expect("herald.open", create_id=create_id)
    return at_far, stage.party(STATION).expect("herald.open", window_id=at_far["window_id"])


def ready(stage: Stage, at_far: Message, at_station: Message) -> None:
    """Answer both copies of a `herald.open`."""
    stage.party(FAR).reply(at_far, "herald.ready")
    stage.party(STATION).reply(at_station, "herald.ready")


def reported(stage: Stage, window_id: str, *, attempt: int = ATTEMPTS, bell_state: str | None = "psi+") -> Message:
    """Report on a window that the target leads."""
    fields: Message = {"link_id": LEAD, "window_id": window_id, "attempt": attempt, "bell_state": bell_state}
    return stage.party(STATION).ask("herald.report", **fields)


def offered(stage: Stage, **fields: Any) -> tuple[str, Message, Message]:
    """Have the target herald a pair: the request's id, the window's `herald.open`, and the `pair.confirm` that it asks."""
    create_id, at_far, at_station = lead(stage, **fields)
    ready(stage, at_far, at_station)
    reported(stage, at_far["window_id"])
    return create_id, at_far, stage.party(FAR).expect("pair.confirm", create_id=create_id)


def led_pair(stage: Stage, **fields: Any) -> Message:
    """Bring a pair to the application over the link that the target leads, and give its OK."""
    _, _, claim = offered(stage, **fields)
    stage.party(FAR).reply(claim, "pair.confirmed")
    ok = stage.application.expect("link.ok", pair_id=claim["pair_id"])
    stage.application.reply(ok, "session.ack")
    return ok


def asked_by_target(stage: Stage) -> tuple[Party, Message]:
    """A request that the target makes by itself, and the party that it asks: of a node `link.add`, of a station its report."""
    far = stage.party(FAR)
    if stage.folder.role is Role.STATION:
        Link(stage).open(timeout_ns=4 * SECOND_NS)
        return far, far.expect("herald.report")
    create_id = created(stage)
    return far, far.expect("link.add", create_id=create_id)


def taken_by_target(stage: Stage) -> tuple[Party, str, dict[str, Any]]:
    """A request that the target carries out once: who asks it, its type and its fields."""
    if stage.folder.role is Role.STATION:
        link = Link(stage)
        return link.primary, "herald.open", link.window(start_ns=link.later())
    stage.party(FAR).greet()
    stage.application.greet()
    fields = {"peer": FAR, "number": 1, "min_fidelity": 0.0, "max_time_ns": SECOND_NS, "purpose_id": 3}
    return stage.application, "link.create", fields | {"priority": 0, "request_type": "K"}
