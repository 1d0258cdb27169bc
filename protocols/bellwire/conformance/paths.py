"""What cases about introductions and paths play: who is introduced, direct connections, fences (spec 1 §4.7, §4.8)."""

from __future__ import annotations

from typing import Any

from zmq.utils import z85

from bellwire.conformance.catalogue import Failed, Skipped
from bellwire.conformance.clocks import host_of
from bellwire.conformance.lanes import HubLane
from bellwire.conformance.lines import Line
from bellwire.conformance.party import Party
from bellwire.conformance.stage import Stage
from bellwire.conformance.target import WEST
from bellwire.conformance.wire import Message, brief


def card(party: Party) -> Message:
    """What an introduction says of one of the kit's parties."""
    key = z85.decode(party.stage.folder.keys.public(party.name))
    return {"node": party.name, "role": party.role, "public_key": key, "incarnation": party.epoch, "endpoints": []}


def introduce(party: Party, **fields: object) -> None:
    """Have the kit's broker introduce a party to the target, until the end of the case."""
    party.stage.introduced.add(party.name)
    party.stage.broker.send("session.introduction", **(card(party) | fields))


def revoke(party: Party) -> None:
    """Have the kit's broker say that a party's key is not authorized any more."""
    party.stage.broker.send("session.revocation", node=party.name)


def hub(stage: Stage) -> HubLane:
    """The lane to a node or a station."""
    assert isinstance(stage.lane, HubLane)
    return stage.lane


def listen(party: Party, at: str = "") -> Line:
    """Let the target connect to a party, at an endpoint or anywhere where it reaches the kit."""
    line = hub(party.stage).listen(party.name, at or f"tcp://{host_of(party.stage.lane.endpoint)}:*")
    party.stage.lines.append(line)
    return line


def where(stage: Stage) -> str:
    """Where the target listens. Raises `Skipped` when it has told the broker no endpoint."""
    if not stage.target_endpoints:
        raise Skipped("the target's hello to the broker names no endpoints: nobody can connect to it")
    return stage.target_endpoints[0]


def dial(party: Party) -> Line:
    """Connect a party to where the target listens. Raises `Failed` when it is not let in."""
    place = where(party.stage)
    party.stage.broker.ask("time.status")  # What the broker has said before, who the party is, has arrived then.
    line = hub(party.stage).dial(party.name, place)
    party.stage.lines.append(line)
    if party.stage.wait(lambda: line.stands or None) is None:
        raise Failed(f"expected {party.name}, who was introduced, to be let in at {place}; it was not")
    return line


def met(stage: Stage) -> tuple[Party, Line]:
    """A party with a session to which the target has moved on its own direct connection.

    Raises:
        Failed: when it does not.
    """
    west = stage.party(WEST)
    west.greet()
    line = listen(west)
    introduce(west, endpoints=[line.endpoint])
    west.expect("session.fence", part="begin")
    if not west.heard or west.heard[-1][0] is not line:
        raise Failed("expected session.fence begin on the direct connection; it came by way of the broker")
    west.inbox.clear()
    west.heard.clear()
    return west, line


def cut(line: Line, stage: Stage) -> None:
    """End a direct connection for good: it comes back only as another one."""
    line.close()
    stage.lines.remove(line)


def fence(party: Party, part: str, number: int, **fields: Any) -> None:
    """Send a fence on the way that the party's messages take."""
    party.send("session.fence", part=part, number=number, **fields)


def cross(party: Party, line: Line, number: int = 1) -> None:
    """Have a party's messages go on over a direct connection, and wait until the target has taken note.

    Raises:
        Failed: when it does not answer the fence.
    """
    fence(party, "end", number)
    party.line = line
    fence(party, "begin", number)
    party.expect("session.fenced", number=number)


def ways(party: Party, kind: str) -> list[tuple[Line | None, int]]:
    """The ways that replies of a type took, in the order in which they came, each with its number."""
    return [(line, int(message["request_id"])) for line, message in party.heard if message["type"] == kind]


def asked(party: Party, number: int) -> list[int]:
    """Ask the target so many times how its clock is, without waiting, and give the requests' numbers."""
    return [int(party.send("time.status")["request_id"]) for _ in range(number)]


def answered(party: Party, numbers: list[int]) -> None:
    """Wait until so many requests have their answers. Raises `Failed` when one is missing."""
    wanted = set(numbers)

    def missing() -> set[int]:
        return wanted - {number for _, number in ways(party, "time.report")}

    if party.stage.wait(lambda: None if missing() else True) is None:
        party.stage.missed(party, f"time.report of {len(missing())} requests")
        raise Failed(f"expected an answer to each of {len(wanted)} time.status; {len(missing())} did not come")


def in_order(party: Party, line: Line) -> None:
    """See that what came of the target on two ways is one sequence: up to an *end*, and on from the *begin* of the same number.

    Raises:
        Failed: when anything comes twice, out of order, behind the end or before the begin.
    """
    relayed = [message for way, message in party.heard if way is None]
    direct = [message for way, message in party.heard if way is line]
    last, first = relayed[-1], direct[0]
    if (last.get("type"), last.get("part")) != ("session.fence", "end"):
        raise Failed(f"expected session.fence end as the last message by way of the broker; came: {brief(last)}")
    if (first.get("type"), first.get("part")) != ("session.fence", "begin") or first["number"] != last["number"]:
        raise Failed(f"expected session.fence begin of number {last['number']} first; came: {brief(first)}")
    numbers = [message["request_id"] for message in [*relayed, *direct] if message["type"] == "time.report"]
    if numbers != sorted(set(numbers)):
        raise Failed(f"expected the answers in the order of the requests, each once; came: {numbers}")
