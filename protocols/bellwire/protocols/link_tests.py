"""Test rounds of one end of a link: pairs that the agents measure for themselves and compare (spec 2 §4.7)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from bellwire.protocols.asks import Answer
from bellwire.protocols.errors import ErrorCode, RemoteProtocolError, RequestError
from bellwire.protocols.ids import NetworkTimeNs, NodeId, PairId
from bellwire.protocols.limits import MAX_LINK_REQUESTS
from bellwire.protocols.link_book import LinkBook
from bellwire.protocols.messages import PairCompared, PairOutcome, Reply, RequestType
from bellwire.protocols.pairs import PairEnd
from bellwire.protocols.queue import TEST_PURPOSE, CreateSpec, LinkRequest
from bellwire.protocols.readout import PAULI_BASES, Readout, parity

TEST_PRIORITY: Final = 7


class LinkTests:
    """Asks for a test round now and then, at the primary, and compares outcomes with the other end."""

    def __init__(self, book: LinkBook, create: Callable[[CreateSpec], LinkRequest]) -> None:
        self._book = book
        self._node = book.node
        self._settings = book.settings
        self._create = create
        self._pairs = 0
        self._measured: OrderedDict[PairId, PairEnd] = OrderedDict()
        """At the secondary: measured pairs of which the primary has not told its outcome yet."""
        self._told: dict[PairId, tuple[int, int]] = {}
        """At the secondary: the primary's request and outcome, for pairs of test rounds that are being measured here."""

    def pair_made(self) -> None:
        """A pair was made for somebody else. After every `test_every` of them the primary asks for one for a test."""
        if not self._settings.primary or not self._settings.test_every:
            return
        self._pairs += 1
        if self._pairs % self._settings.test_every:
            return
        readout = Readout(bases=(Readout(bases=PAULI_BASES).draw(self._book.draw()),))
        time_ns = max(2 * self._settings.window_timeout_ns, 4 * self._settings.pair_time_ns)
        spec = CreateSpec(
            deadline_ns=NetworkTimeNs(self._node.endpoint.network_time_ns() + time_ns),
            purpose_id=TEST_PURPOSE,
            priority=TEST_PRIORITY,
            request_type=RequestType.MEASURE,
            local=readout,
            remote=readout,
        )
        try:
            self._create(spec)
        except RequestError as error:
            self._node.note("TestSkipped", self._settings.link_id, detail=str(error))

    def measured(self, pair: PairEnd) -> None:
        """This end has measured a pair of a test round, or could not."""
        if not self._settings.primary:
            self._measured_second(pair)
        elif pair.outcome is not None:
            self._tell(pair, pair.outcome.bit)

    def _tell(self, pair: PairEnd, bit: int) -> None:
        endpoint = self._node.endpoint
        message = PairOutcome(link_id=self._settings.link_id, pair_id=pair.pair_id, outcome=bit)

        def compared(answer: Answer) -> None:
            if isinstance(answer, PairCompared):
                self._compare(pair, answer.outcome)

        endpoint.ask(self._settings.peer, message, endpoint.now_ns + self._settings.window_timeout_ns, compared)

    def _measured_second(self, pair: PairEnd) -> None:
        told = self._told.pop(pair.pair_id, None)
        if told is None:
            if pair.outcome is not None:
                self._measured[pair.pair_id] = pair
                if len(self._measured) > MAX_LINK_REQUESTS:
                    self._measured.popitem(last=False)
            return
        number, bit = told
        endpoint = self._node.endpoint
        if pair.outcome is None:
            error = RequestError(ErrorCode.BACKEND, f"{pair.pair_id} could not be measured")
            endpoint.fail(self._settings.peer, number, error)
            return
        self._compare(pair, bit)
        endpoint.reply(self._settings.peer, number, PairCompared(outcome=pair.outcome.bit))

    def outcome(self, peer: NodeId, message: PairOutcome, number: int) -> Reply | None:
        """The primary's outcome. The answer is this end's own, as soon as there is one."""
        self._book.only(peer, self._settings.peer)
        if self._settings.primary:
            raise RemoteProtocolError("only the primary end tells its outcome first", "2 §4.7", ErrorCode.DENIED)
        pair = self._measured.pop(message.pair_id, None)
        if pair is not None and pair.outcome is not None:
            self._compare(pair, message.outcome)
            return PairCompared(outcome=pair.outcome.bit)
        held = self._book.pairs.get(message.pair_id)
        if held is None or not held.for_test or message.pair_id in self._told:
            raise RequestError(ErrorCode.UNKNOWN_ID, f"{message.pair_id} is not measured here for a test")
        self._told[message.pair_id] = (number, message.outcome)
        return None

    @property
    def owed(self) -> int:
        """How many outcomes of the primary wait for a measurement here."""
        return len(self._told)

    def peer_lost(self, why: str) -> None:
        """The other end is lost: what waits for a measurement, and measurements that wait for it, are of no use any more."""
        told, self._told = self._told, {}
        for number, _ in told.values():
            self._node.endpoint.fail(self._settings.peer, number, RequestError(ErrorCode.PEER_LOST, why))
        self._measured.clear()

    def _compare(self, pair: PairEnd, other: int) -> None:
        assert pair.outcome is not None
        expected = parity(pair.bell_state, pair.outcome.basis)
        as_expected = pair.outcome.bit ^ other == expected
        self._book.rounds.add(pair.outcome.basis, as_expected=as_expected)
        self._node.note("PairCompared", pair.pair_id, detail="as expected" if as_expected else "otherwise")
