"""Events at the broker: published once, told to every subscriber (spec 1 §4.9). Sans I/O.

`Topics` is the broker's side, `Subscriptions` that of whoever wants to hear.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from bellwire.protocols.asks import Answer, AnswerHandler
from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.ids import BROKER, NodeId
from bellwire.protocols.limits import MAX_NOTICES_PER_S, MAX_TOPICS, MAX_TOPICS_PER_PEER
from bellwire.protocols.messages import EventNotice, EventPublish, EventSubscribe, EventUnsubscribe, SessionAck
from bellwire.protocols.session import NANOSECOND, Loss

ASK_NS = 10 * NANOSECOND
"""How long a subscriber asks to be one."""


@dataclass(slots=True)
class _Topic:
    """Who hears a topic, in the order of their coming, and how many events it has had since it was first heard."""

    subscribers: dict[NodeId, None] = field(default_factory=dict)
    number: int = 0


@dataclass(slots=True)
class _Spent:
    """How many notices a publisher has set off in a second."""

    second: int = 0
    notices: int = 0


class Topics:
    """The broker's table of subscriptions. A participant that is lost has none any more."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._topics: dict[str, _Topic] = {}
        self._topics_of: dict[NodeId, set[str]] = {}
        self._spent: dict[NodeId, _Spent] = {}
        endpoint.handle(EventSubscribe, self._subscribe)
        endpoint.handle(EventUnsubscribe, self._unsubscribe)
        endpoint.handle(EventPublish, self._publish)
        endpoint.on_peer_lost.append(self._peer_lost)

    def subscribers(self, topic: str) -> tuple[NodeId, ...]:
        """Who hears a topic."""
        known = self._topics.get(topic)
        return () if known is None else tuple(known.subscribers)

    def _subscribe(self, peer: NodeId, message: EventSubscribe) -> SessionAck:
        mine = self._topics_of.get(peer, set())
        if message.topic not in mine:
            if len(mine) >= MAX_TOPICS_PER_PEER:
                raise RequestError(ErrorCode.LIMIT, f"{peer} hears {MAX_TOPICS_PER_PEER} topics already")
            if message.topic not in self._topics and len(self._topics) >= MAX_TOPICS:
                raise RequestError(ErrorCode.LIMIT, f"{self._endpoint.node} has {MAX_TOPICS} topics already")
            self._topics.setdefault(message.topic, _Topic()).subscribers[peer] = None
            self._topics_of.setdefault(peer, set()).add(message.topic)
        return SessionAck()

    def _unsubscribe(self, peer: NodeId, message: EventUnsubscribe) -> SessionAck:
        self._remove(peer, message.topic)
        return SessionAck()

    def _publish(self, peer: NodeId, message: EventPublish) -> SessionAck:
        topic = self._topics.get(message.topic)
        if topic is None:
            return SessionAck()
        self._spend(peer, len(topic.subscribers))
        topic.number += 1
        notice = EventNotice(
            topic=message.topic, publisher=peer, number=topic.number, about=message.about, text=message.text
        )
        for subscriber in topic.subscribers:
            self._endpoint.tell(subscriber, notice)
        return SessionAck()

    def _spend(self, peer: NodeId, notices: int) -> None:
        second = self._endpoint.now_ns // NANOSECOND
        spent = self._spent.setdefault(peer, _Spent())
        if spent.second != second:
            spent.second, spent.notices = second, 0
        # The first event of a second goes out whatever its topic's size is: otherwise a large topic could have none.
        if spent.notices and spent.notices + notices > MAX_NOTICES_PER_S:
            raise RequestError(ErrorCode.LIMIT, f"{peer} sets off more than {MAX_NOTICES_PER_S} notices per second")
        spent.notices += notices

    def _peer_lost(self, peer: NodeId, _loss: Loss, _why: str) -> None:
        for topic in list(self._topics_of.get(peer, ())):
            self._remove(peer, topic)
        self._spent.pop(peer, None)

    def _remove(self, peer: NodeId, topic: str) -> None:
        mine = self._topics_of.get(peer)
        if mine is None or topic not in mine:
            return
        mine.remove(topic)
        if not mine:
            del self._topics_of[peer]
        known = self._topics[topic]
        del known.subscribers[peer]
        if not known.subscribers:
            del self._topics[topic]


class Subscriptions:
    """What a participant wants to hear: it subscribes whenever its session with the broker begins or is renewed."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._wanted: dict[str, tuple[Callable[[EventNotice], None], AnswerHandler]] = {}
        endpoint.hear(EventNotice, self._notice)
        endpoint.on_peer_up.append(self._peer_up)

    def subscribe(self, topic: str, listener: Callable[[EventNotice], None], answered: AnswerHandler) -> None:
        """Hear a topic from now on; `answered` is told what the broker says to that, again after each loss of the broker."""
        self._wanted[topic] = (listener, answered)
        if self._endpoint.is_up(BROKER):
            self._ask(EventSubscribe(topic=topic), answered)

    def unsubscribe(self, topic: str) -> None:
        """Hear a topic no more."""
        if self._wanted.pop(topic, None) is not None and self._endpoint.is_up(BROKER):
            self._ask(EventUnsubscribe(topic=topic), _nothing)

    def _ask(self, request: EventSubscribe | EventUnsubscribe, answered: AnswerHandler) -> None:
        self._endpoint.ask(BROKER, request, self._endpoint.now_ns + ASK_NS, answered)

    def _notice(self, peer: NodeId, notice: EventNotice) -> None:
        wanted = self._wanted.get(notice.topic)
        if peer == BROKER and wanted is not None:
            wanted[0](notice)

    def _peer_up(self, peer: NodeId) -> None:
        if peer == BROKER:
            for topic, (_, answered) in self._wanted.items():
                self._ask(EventSubscribe(topic=topic), answered)


def _nothing(_: Answer) -> None:
    """What becomes of an answer that nobody waits for."""
