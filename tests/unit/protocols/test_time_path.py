"""The side path of an exchange: what is taken, what is dropped, and what happens when nothing gets through (spec 4 §3.5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from tests.unit.protocols.conftest import ALICE, BOB, BROKER, MS, SECOND, Wire

from bellwire.protocols.ids import Epoch, NodeId
from bellwire.protocols.messages import ClockState, Message, Role, SessionHeartbeat, TimeDelayReq, TimeGrant, TimeSync
from bellwire.protocols.time_hub import TimeHub, TimePart
from bellwire.protocols.time_node import TimeNode
from bellwire.protocols.time_path import Direction, SidePath, path_id_of
from bellwire.protocols.time_sources import TimeSettings

KEY = bytes(range(32))
ADDRESS = ("192.0.2.1", 7)
PORT = 7_100


def ends(key: bytes = KEY) -> tuple[SidePath, SidePath]:
    return SidePath(5, KEY, Direction.TO_SOURCE), SidePath(5, key, Direction.TO_NODE)


def test_datagram_is_taken_once_and_in_order_only() -> None:
    node, source = ends()
    first, second, third = (node.seal(TimeDelayReq(sequence=number)) for number in (1, 2, 3))
    assert path_id_of(first) == 5
    assert source.open(second) == (True, TimeDelayReq(sequence=2))
    assert source.open(second) == (False, None)
    assert source.open(first) == (False, None)
    assert source.open(third) == (True, TimeDelayReq(sequence=3))
    assert source.open(node.seal(None)) == (True, None)


def test_datagram_of_another_key_path_or_direction_is_dropped() -> None:
    node, source = ends()
    datagram = node.seal(TimeSync(sequence=1, exchange=0))
    assert node.open(datagram) == (False, None)
    assert SidePath(6, KEY, Direction.TO_NODE).open(datagram) == (False, None)
    assert ends(bytes(32))[1].open(datagram) == (False, None)
    assert source.open(datagram)[0]


def test_datagram_changed_in_any_bit_or_cut_anywhere_is_dropped() -> None:
    node, source = ends()
    datagram = node.seal(TimeDelayReq(sequence=1))
    for index in range(8 * len(datagram)):
        changed = bytearray(datagram)
        changed[index // 8] ^= 1 << index % 8
        assert source.open(bytes(changed)) == (False, None)
    for length in range(len(datagram)):
        assert source.open(datagram[:length]) == (False, None)
    assert path_id_of(b"\x01") is None
    assert source.open(datagram)[0]


def test_message_that_is_none_of_an_exchange_is_dropped() -> None:
    node, source = ends()
    assert source.open(node.seal(SessionHeartbeat())) == (False, None)


def test_key_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 octets"):
        SidePath(1, b"short", Direction.TO_NODE)


@dataclass
class Bypass:
    """A side path in memory: it takes 50 us each way, where the session takes a millisecond."""

    lets: Callable[[str], bool] = lambda _: True
    wire: Wire = field(default_factory=Wire)
    passed: list[str] = field(default_factory=list)
    host: str = ""

    def __post_init__(self) -> None:
        broker = self.wire.join(BROKER, role=Role.BROKER)
        alice = self.wire.join(ALICE, clock=BROKER)
        hub, self.part = TimePart(broker).hub, TimePart(alice)
        node = self.part.node
        assert hub is not None
        assert node is not None
        self.hub: TimeHub = hub
        self.node: TimeNode = node
        self.node.uses_path = True
        self.hub.offer_path(PORT, lambda: KEY, host=self.host)
        self.part.start()

    def run(self, duration_ns: int) -> None:
        end_ns = self.wire.now_ns + duration_ns
        while self.wire.now_ns < end_ns:
            self.wire.run(50_000)
            now_ns = self.wire.now_ns
            for datagram in self.node.take_datagrams():
                assert datagram.address == ((self.host, PORT) if self.host else PORT)
                if self.lets("up"):
                    self.passed.append("up")
                    self.hub.receive_datagram(datagram.data, ADDRESS, now_ns, now_ns)
            for datagram in self.hub.take_datagrams():
                assert datagram.address == ADDRESS
                if self.lets("down"):
                    self.passed.append("down")
                    self.node.receive_datagram(datagram.data, now_ns, now_ns)

    @property
    def uncertainty_ns(self) -> int:
        uncertainty_ns = self.wire.members[ALICE].clock.uncertainty_ns(self.wire.now_ns)
        assert uncertainty_ns is not None
        return uncertainty_ns


def test_exchange_goes_by_the_side_path_when_there_is_one() -> None:
    bypass = Bypass()
    bypass.run(5 * SECOND)
    assert bypass.node.machine.state is ClockState.LOCKED
    assert bypass.node.path_delay_ns is not None
    assert bypass.node.path_delay_ns <= 100_000
    assert bypass.uncertainty_ns < MS // 2
    assert bypass.wire.count(TimeSync) <= 4


@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7"])
def test_source_that_says_where_it_is_is_reached_there(host: str) -> None:
    bypass = Bypass(host=host)
    bypass.run(SECOND)
    assert bypass.wire.count(TimeSync) <= 4
    assert {"up", "down"} <= set(bypass.passed)


def test_source_that_names_a_host_is_not_looked_up() -> None:
    """4 §3.5: it is an address, and no name."""
    bypass = Bypass(host="cafe.example")
    bypass.run(SECOND)
    assert bypass.passed == []
    assert bypass.node.machine.state is ClockState.LOCKED


@pytest.mark.parametrize("way", ["up", "down", "neither"])
def test_exchange_goes_by_the_session_when_the_side_path_lets_nothing_or_one_way_through(way: str) -> None:
    bypass = Bypass(lets=lambda direction: direction == way)
    bypass.run(10 * SECOND)
    assert bypass.node.machine.state is ClockState.LOCKED
    assert bypass.node.path_delay_ns == MS
    assert MS <= bypass.uncertainty_ns < 2 * MS


def test_side_path_that_breaks_costs_no_more_than_two_bursts() -> None:
    open_way = [True]
    bypass = Bypass(lets=lambda _: open_way[0])
    bypass.run(5 * SECOND)
    states: list[ClockState] = []
    bypass.node.on_state.append(lambda: states.append(bypass.node.machine.state))
    open_way[0] = False
    bypass.run(4 * SECOND)
    assert bypass.node.path_delay_ns == MS
    assert states == []


def test_datagram_of_a_lease_that_is_over_or_of_nobody_is_dropped() -> None:
    bypass = Bypass()
    bypass.run(SECOND)
    stranger = SidePath(99, KEY, Direction.TO_SOURCE).seal(TimeDelayReq(sequence=1))
    bypass.hub.receive_datagram(stranger, ADDRESS, bypass.wire.now_ns, bypass.wire.now_ns)
    bypass.hub.receive_datagram(b"", ADDRESS, bypass.wire.now_ns, bypass.wire.now_ns)
    assert bypass.hub.take_datagrams() == []
    assert Epoch(1) == bypass.wire.members[BROKER].epoch


def test_source_has_no_more_side_paths_than_leases_however_often_one_is_given_up() -> None:
    """4 §3.5: nothing gets through to the node, so that the source gives every path up."""
    bypass = Bypass(lets=lambda direction: direction == "up")
    for _ in range(16):
        bypass.run(5 * SECOND)
        assert bypass.hub.paths <= len(bypass.hub.followers) == 1


def late_grant(number: int, by_ns: int) -> Callable[[NodeId, Message], list[int]]:
    """The broker's grant of this number, from 1, comes late, and so do its copies."""
    granted: list[int] = []

    def fault(sender: NodeId, message: Message) -> list[int]:
        if sender != BROKER or not isinstance(message, TimeGrant):
            return [MS]
        if message.request_id not in granted:
            granted.append(message.request_id)
        return [by_ns if granted.index(message.request_id) == number - 1 else MS]

    return fault


def test_grant_that_comes_after_that_of_a_later_lease_gives_no_side_path() -> None:
    """4 §2.3: the second lease, the first with exchanges, is answered when the third, of the locked node, has been."""
    bypass = Bypass(wire=Wire(fault=late_grant(2, by_ns=SECOND)))
    bypass.run(SECOND)
    assert bypass.node.machine.state is ClockState.LOCKED
    bypass.run(6 * SECOND)
    assert bypass.node.path_delay_ns is not None
    assert bypass.node.path_delay_ns <= 100_000


def test_late_grant_of_a_source_that_was_left_does_not_replace_the_side_path_of_the_present_one() -> None:
    """4 §3.5: the node leaves the broker while that one's grant is on its way, and goes on by bob's datagrams."""
    wire = Wire(fault=late_grant(3, by_ns=4 * SECOND))
    hubs = {}
    for port, (name, role) in enumerate(((BROKER, Role.BROKER), (BOB, Role.STATION)), start=PORT):
        hub = TimePart(wire.join(name, role=role), TimeSettings(priority=port - PORT)).hub
        assert hub is not None
        hub.offer_path(port, lambda: KEY)
        hubs[port] = hub
    part = TimePart(wire.join(ALICE, clock=BROKER), TimeSettings(sources=(BROKER, BOB)))
    node = part.node
    assert node is not None
    node.uses_path = True
    part.start()
    ports: list[object] = []

    def run(duration_ns: int) -> None:
        end_ns = wire.now_ns + duration_ns
        while wire.now_ns < end_ns:
            wire.run(50_000)
            for datagram in node.take_datagrams():
                ports.append(datagram.address)
                assert isinstance(datagram.address, int)
                hubs[datagram.address].receive_datagram(datagram.data, ADDRESS, wire.now_ns, wire.now_ns)
            for hub in hubs.values():
                for datagram in hub.take_datagrams():
                    node.receive_datagram(datagram.data, wire.now_ns, wire.now_ns)

    run(SECOND)
    assert (node.sources.chosen, node.machine.state) == (BROKER, ClockState.LOCKED)
    wire.members[BROKER].clock.known = False
    run(2 * SECOND)
    assert node.sources.chosen == BOB
    ports.clear()
    run(4 * SECOND)
    assert set(ports) == {PORT + 1}
    assert node.path_delay_ns is not None
    assert node.path_delay_ns <= 100_000


def test_settings_that_contradict_each_other_are_refused() -> None:
    for settings in ({"exchanges": 0}, {"silence_ns": 1}, {"lease_ns": SECOND}, {"priority": 256}):
        with pytest.raises(ValueError, match=r"lies in|must be"):
            TimeSettings(**settings)  # type: ignore[arg-type]
