"""Events: published once at the broker, told to every subscriber (spec 1 §4.9)."""

from __future__ import annotations

import pytest
from tests.unit.protocols.conftest import Wire

from bellwire.protocols import topics as topics_module
from bellwire.protocols.endpoint import Answer, Endpoint
from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.ids import BROKER, NodeId
from bellwire.protocols.messages import EventNotice, EventPublish, EventSubscribe, Role, SessionAck, SessionError
from bellwire.protocols.session import SessionState
from bellwire.protocols.topics import Subscriptions, Topics

SECOND = 1_000_000_000
NAMES = [NodeId(f"n{number}") for number in range(5)]


class Hearer:
    """A participant that hears topics and publishes."""

    def __init__(self, wire: Wire, name: NodeId, epoch: int = 1) -> None:
        self.wire = wire
        self.endpoint = wire.join(name, epoch)
        self.subscriptions = Subscriptions(self.endpoint)
        self.heard: list[EventNotice] = []
        self.answers: list[Answer] = []
        self.endpoint.keep_session(BROKER)
        wire.run(SECOND // 10)

    def subscribe(self, topic: str = "calibration") -> None:
        self.subscriptions.subscribe(topic, self.heard.append, self.answers.append)
        self.wire.run(SECOND // 10)

    def publish(self, text: str, topic: str = "calibration") -> None:
        request = EventPublish(topic=topic, text=text)
        self.endpoint.ask(BROKER, request, self.endpoint.now_ns + 5 * SECOND, self.answers.append)
        self.wire.run(SECOND // 10)

    @property
    def texts(self) -> list[str]:
        return [notice.text for notice in self.heard]

    @property
    def codes(self) -> list[ErrorCode]:
        return [answer.code for answer in self.answers if isinstance(answer, RequestError)]


@pytest.fixture
def wire() -> Wire:
    return Wire()


def broker(wire: Wire, epoch: int = 1) -> tuple[Endpoint, Topics]:
    endpoint = wire.join(BROKER, epoch, Role.BROKER)
    return endpoint, Topics(endpoint)


def test_event_published_once_reaches_every_subscriber_and_nobody_else(wire: Wire) -> None:
    broker(wire)
    hearers = [Hearer(wire, name) for name in NAMES]
    for hearer in hearers[:3]:
        hearer.subscribe()
    hearers[4].subscribe("weather")
    hearers[3].publish("begun")
    hearers[0].publish("done")
    for hearer in hearers[:3]:
        assert [(notice.publisher, notice.number, notice.text) for notice in hearer.heard] == [
            ("n3", 1, "begun"),
            ("n0", 2, "done"),
        ]
    assert hearers[3].heard == hearers[4].heard == []
    assert wire.count(EventPublish) == 2, "the publisher says it once, however many hear it"


def test_event_of_a_topic_that_nobody_hears_is_acknowledged(wire: Wire) -> None:
    broker(wire)
    alice = Hearer(wire, NAMES[0])
    alice.publish("to the wind")
    assert [type(answer) for answer in alice.answers] == [SessionAck]


def test_subscribing_twice_is_as_once_and_unsubscribing_ends_it(wire: Wire) -> None:
    _, topics = broker(wire)
    alice, bob = Hearer(wire, NAMES[0]), Hearer(wire, NAMES[1])
    bob.subscribe()
    bob.subscribe()
    alice.publish("one")
    bob.subscriptions.unsubscribe("calibration")
    wire.run(SECOND // 10)
    alice.publish("two")
    assert bob.texts == ["one"]
    assert topics.subscribers("calibration") == ()


def test_subscription_survives_a_restart_of_the_broker(wire: Wire) -> None:
    broker(wire, 1)
    alice, bob = Hearer(wire, NAMES[0]), Hearer(wire, NAMES[1])
    bob.subscribe()
    _, topics = broker(wire, 2)
    wire.run(10 * SECOND)
    assert topics.subscribers("calibration") == (NAMES[1],)
    alice.publish("after the restart")
    assert bob.texts == ["after the restart"]
    assert bob.heard[0].number == 1


def test_subscriber_that_is_lost_is_forgotten(wire: Wire) -> None:
    _, topics = broker(wire)
    alice, bob = Hearer(wire, NAMES[0]), Hearer(wire, NAMES[1])
    bob.subscribe()
    del wire.members[NAMES[1]]
    wire.run(10 * SECOND)
    assert topics.subscribers("calibration") == ()
    assert (topics._topics, topics._topics_of) == ({}, {})
    alice.publish("still served")
    assert alice.codes == []


def test_notice_that_does_not_come_from_the_broker_is_not_heard(wire: Wire) -> None:
    broker(wire)
    alice, mallory = Hearer(wire, NAMES[0]), Hearer(wire, NAMES[1])
    alice.subscribe()
    mallory.endpoint.keep_session(NAMES[0])
    wire.run(SECOND // 10)
    forged = EventNotice(topic="calibration", publisher=NodeId("n3"), number=1, text="forged")
    assert mallory.endpoint.tell(NAMES[0], forged)
    wire.run(SECOND // 10)
    assert alice.heard == []


def test_topics_of_one_participant_and_of_all_are_bounded(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spec 1 §3.4."""
    monkeypatch.setattr(topics_module, "MAX_TOPICS_PER_PEER", 3)
    monkeypatch.setattr(topics_module, "MAX_TOPICS", 4)
    _, topics = broker(wire)
    alice, bob = Hearer(wire, NAMES[0]), Hearer(wire, NAMES[1])
    for number in range(4):
        alice.subscribe(f"a{number}")
    assert alice.codes == [ErrorCode.LIMIT]
    for number in range(2):
        bob.subscribe(f"b{number}")
    assert bob.codes == [ErrorCode.LIMIT]
    bob.subscribe("a1")
    assert bob.codes == [ErrorCode.LIMIT], "a topic that is there takes no more room"
    assert len(topics._topics) == 4


def test_publisher_that_sets_off_too_many_notices_is_refused_until_the_next_second(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topics_module, "MAX_NOTICES_PER_S", 5)
    broker(wire)
    hearers = [Hearer(wire, name) for name in NAMES]
    for hearer in hearers[:3]:
        hearer.subscribe()
    wire.run(SECOND - wire.now_ns % SECOND)
    hearers[4].publish("first")
    hearers[4].publish("second")
    assert hearers[4].codes == [ErrorCode.LIMIT]
    hearers[3].publish("of another one")
    assert hearers[3].codes == []
    wire.run(SECOND)
    hearers[4].publish("third")
    assert hearers[0].texts == ["first", "of another one", "third"]


def test_first_event_of_a_second_goes_to_a_topic_of_any_size(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics_module, "MAX_NOTICES_PER_S", 2)
    broker(wire)
    hearers = [Hearer(wire, name) for name in NAMES]
    for hearer in hearers:
        hearer.subscribe()
    hearers[0].publish("to all")
    assert all(hearer.texts == ["to all"] for hearer in hearers)


def test_limit_told_by_the_broker_of_a_peer_leaves_the_session_with_it_up(wire: Wire) -> None:
    """Spec 1 §2.7: the peer is there, and only a message was dropped."""
    hub, _ = broker(wire)
    alice, bob = Hearer(wire, NAMES[0]), Hearer(wire, NAMES[1])
    alice.endpoint.keep_session(NAMES[1])
    wire.run(SECOND // 10)
    dropped = SessionError(epoch=hub.epoch, code=ErrorCode.LIMIT, text="the queue to n1 is full", peer=NAMES[1])
    alice.endpoint.receive(BROKER, hub.codec.encode(dropped), wire.now_ns)
    for peer in (BROKER, NAMES[1]):
        assert alice.endpoint.sessions[peer].state is SessionState.UP
    assert bob.endpoint.is_up(NAMES[0])


def test_stranger_cannot_subscribe(wire: Wire) -> None:
    hub, topics = broker(wire)
    data = hub.codec.encode(EventSubscribe(topic="calibration", request_id=1))
    hub.receive(NodeId("mallory"), data, wire.now_ns)
    assert topics.subscribers("calibration") == ()
