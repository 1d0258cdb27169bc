"""The pairs of one end of a link: from the herald to the confirmation by both ends, and to their end (spec 2 §4)."""

from __future__ import annotations

from collections.abc import Callable

from bellwire.protocols.asks import UNSURE, Answer
from bellwire.protocols.errors import ErrorCode, RemoteProtocolError, RequestError
from bellwire.protocols.herald import WindowEnd
from bellwire.protocols.ids import NetworkTimeNs, NodeId, pair_id, window_of
from bellwire.protocols.instructions import (
    AnyCompletion,
    Apply,
    BellState,
    Discard,
    Gate,
    Initialise,
    Measure,
    Measured,
)
from bellwire.protocols.limits import MAX_TEXT_CHARS
from bellwire.protocols.link_book import LinkBook
from bellwire.protocols.messages import PairConfirm, PairConfirmed, PairRelease, Reply, RequestType, SessionAck
from bellwire.protocols.node import QubitKind, failure
from bellwire.protocols.pairs import ENDED, Outcome, PairEnd, PairInput, PairState
from bellwire.protocols.queue import LinkRequest, RequestInput


class LinkPairs:
    """Has every heralded pair confirmed by the other end, hands it over, and sees to it that no end keeps half of nothing."""

    def __init__(self, book: LinkBook, on_pair: Callable[[LinkRequest, PairEnd], None]) -> None:
        self._book = book
        self._node = book.node
        self._settings = book.settings
        self._on_pair = on_pair
        self._sequence = 0
        self.on_pair_ended: Callable[[PairEnd, str], None] | None = None

    def heralded(self, window: WindowEnd, bell_state: BellState) -> None:
        """A window has brought a pair: have it confirmed."""
        endpoint, settings = self._node.endpoint, self._settings
        self._book.bury(window.window_id, "heralded")
        pair = PairEnd(
            pair_id=pair_id(window.window_id, window.attempt),
            create_id=window.create_id,
            peer=settings.peer,
            owner=NodeId(""),
            qubit=window.qubit,
            bell_state=bell_state,
            expires_ns=NetworkTimeNs(endpoint.network_time_ns() + settings.pair_lifetime_ns),
            confirmed=self._pair_confirmed,
            ended=self._pair_ended,
        )
        pair.heralded_ns = endpoint.now_ns
        self._book.pairs[pair.pair_id] = pair
        self._expire_at(pair, pair.expires_ns)
        self._node.note("PairHeralded", pair.pair_id, window.window_id, window.create_id, detail=pair.bell_state)
        self._store(pair)
        if settings.primary:
            self._offer(pair)
        elif window.claim is not None:
            number, claim = window.claim
            self._settle(pair, number, claim)

    def _store(self, pair: PairEnd) -> None:
        """Move a half into a storage qubit, if there is one for it, so that its communication qubit is free (spec 2 §4.5)."""
        node, source = self._node, pair.qubit
        target = node.qubits.take(QubitKind.STORAGE) if len(node.stored) < node.pair_storage else None
        if target is None:
            return
        node.stored.add(target)
        pair.qubit = target
        node.note("PairStored", pair.pair_id, detail=target)

        def moved(completions: tuple[AnyCompletion, ...]) -> None:
            broken = failure(completions)
            if broken is None:
                node.freed(source)
                return
            node.discard(source)
            if pair.allows(PairInput.RELEASE):
                self.release(pair, f"it could not be stored: {broken}")

        move = Apply(gate=Gate.SWAP, qubits=(source, target))
        node.execute([Initialise(qubit=target), move, Discard(qubit=source)], moved)

    def _expire_at(self, pair: PairEnd, network_ns: int) -> None:
        if pair.timer is not None:
            pair.timer.cancel()
        endpoint = self._node.endpoint
        pair.timer = endpoint.at_network(network_ns, lambda: pair.step(PairInput.EXPIRE, "its lifetime is over"))

    def _offer(self, pair: PairEnd) -> None:
        """The primary numbers its half and has the secondary confirm that it holds the other one."""
        self._sequence += 1
        pair.sequence_number = self._sequence
        endpoint = self._node.endpoint
        message = PairConfirm(
            link_id=self._settings.link_id,
            pair_id=pair.pair_id,
            create_id=pair.create_id,
            sequence_number=pair.sequence_number,
            bell_state=pair.bell_state,
            expires_ns=pair.expires_ns,
        )

        def confirmed(answer: Answer) -> None:
            if pair.state is not PairState.HERALDED:
                return
            if not isinstance(answer, RequestError):
                pair.step(PairInput.CONFIRM)
            elif answer.code not in UNSURE:
                pair.step(PairInput.REFUSED, str(answer))

        endpoint.ask(self._settings.peer, message, endpoint.local_time_ns(pair.expires_ns), confirmed)

    def confirm(self, peer: NodeId, message: PairConfirm, number: int) -> Reply | None:
        """The primary holds its half. The answer waits while this end's own window is not over (spec 2 §4.1)."""
        self._book.only(peer, self._settings.peer)
        if self._settings.primary:
            raise RemoteProtocolError("only the primary end confirms first", "2 §4.1", ErrorCode.DENIED)
        pair = self._book.pairs.get(message.pair_id)
        if pair is not None and pair.state is PairState.HERALDED:
            self._settle(pair, number, message)
            return None
        window = self._book.windows.get(window_of(message.pair_id))
        if pair is None and window is not None:
            if window.claim is not None:
                raise RequestError(ErrorCode.PROTOCOL, f"{message.pair_id} was confirmed before")
            window.claim = (number, message)
            return None
        why = self._book.ended.get(message.pair_id) or (f"it is {pair.state}" if pair is not None else "it never was")
        raise RequestError(ErrorCode.UNKNOWN_ID, f"{message.pair_id} is not held here: {why}")

    def used_by_peer(self, pair: PairEnd) -> None:
        """The peer uses a pair, so it has confirmed it, even where its answer is still on the way (spec 2 §4.1)."""
        if self._settings.primary and pair.state is PairState.HERALDED:
            pair.step(PairInput.CONFIRM)

    def _settle(self, pair: PairEnd, number: int, claim: PairConfirm) -> None:
        """The secondary compares the primary's word with its own half."""
        endpoint = self._node.endpoint
        held = (pair.pair_id, pair.create_id, pair.bell_state)
        claimed = (claim.pair_id, claim.create_id, claim.bell_state)
        if claimed != held:
            text = f"{' '.join(held)} is held here, {' '.join(claimed)} was claimed"
            endpoint.fail(self._settings.peer, number, RequestError(ErrorCode.REJECTED, text))
            pair.step(PairInput.REFUSED, text)
            return
        if claim.expires_ns <= endpoint.network_time_ns():
            text = f"the lease of {pair.pair_id} is over"
            endpoint.fail(self._settings.peer, number, RequestError(ErrorCode.NOTIME, text))
            pair.step(PairInput.REFUSED, text)
            return
        pair.sequence_number = claim.sequence_number
        pair.expires_ns = claim.expires_ns
        self._expire_at(pair, claim.expires_ns)
        endpoint.reply(self._settings.peer, number, PairConfirmed())
        pair.step(PairInput.CONFIRM)

    def _pair_confirmed(self, pair: PairEnd) -> None:
        self._node.note("PairConfirmed", pair.pair_id, pair.create_id)
        request = self._book.requests.get(pair.create_id)
        if request is None:
            self.release(pair, "its request has ended")
            return
        self._book.settled(pair)
        pair.confirmed_ns = self._node.endpoint.now_ns
        for ready in request.pair(pair):
            ready.owner = request.spec.application
            self._book.turns.settle(window_of(ready.pair_id))
            self._node.note("PairDelivered", ready.pair_id, ready.create_id)
            if request.spec.request_type is RequestType.MEASURE:
                self._measure(request, ready)
            else:
                self._on_pair(request, ready)

    def _measure(self, request: LinkRequest, pair: PairEnd) -> None:
        """Measure this end's half, in the basis that the request names or that is drawn, and give the qubit back."""
        node = self._node
        readout = request.spec.local if request.originator else request.spec.remote
        basis = readout.draw(self._book.draw())
        pair.step(PairInput.CONSUME)
        pair.for_test = request.spec.for_test

        def measured(completions: tuple[AnyCompletion, ...]) -> None:
            self.forget(pair)
            bits = [each.bit for each in completions if isinstance(each, Measured)]
            if failure(completions) is None:
                node.freed(pair.qubit)
                pair.outcome = Outcome(basis, bits[0])
            else:
                node.discard(pair.qubit)
            node.note("PairMeasured", pair.pair_id, pair.create_id, detail=failure(completions) or basis)
            self._on_pair(request, pair)

        node.execute([*readout.turn(basis, pair.qubit), Measure(qubit=pair.qubit), Discard(qubit=pair.qubit)], measured)

    def take_back(self, request: LinkRequest, why: str) -> None:
        """An atomic request has failed: release what was kept for it."""
        kept, request.kept = request.kept, []
        for pair in kept:
            self.release(pair, why)

    def release(self, pair: PairEnd, why: str) -> None:
        """Give an unused pair up, and tell the peer so until it knows."""
        if pair.state in ENDED:
            return
        pair.step(PairInput.RELEASE, why)
        self._tell_released(pair, why)

    def _tell_released(self, pair: PairEnd, why: str) -> None:
        """Tell the peer that this half is gone, and again after a silence, until it knows or the lease is over."""
        endpoint = self._node.endpoint
        message = PairRelease(link_id=self._settings.link_id, pair_id=pair.pair_id, reason=why[:MAX_TEXT_CHARS])

        def told(answer: Answer) -> None:
            unsure = isinstance(answer, RequestError) and answer.code in UNSURE
            if unsure and endpoint.network_time_ns() < pair.expires_ns:
                at_ns = endpoint.now_ns + endpoint.settings.retry_ns
                endpoint.timers.at(at_ns, lambda: self._tell_released(pair, why))

        endpoint.ask(self._settings.peer, message, endpoint.local_time_ns(pair.expires_ns), told)

    def released(self, peer: NodeId, message: PairRelease) -> Reply:
        """The peer has given a pair up."""
        self._book.only(peer, self._settings.peer)
        pair = self._book.pairs.get(message.pair_id)
        if pair is not None:
            pair.step(PairInput.FORSAKEN, f"{peer} gave it up: {message.reason}")
        return SessionAck()

    def forget(self, pair: PairEnd) -> None:
        """Drop a consumed pair from the table: its qubit is back with the hardware, or the user's own."""
        self._book.pairs.pop(pair.pair_id, None)
        self._book.bury(pair.pair_id, "it was consumed")

    def _pair_ended(self, pair: PairEnd, why: str) -> None:
        self._book.pairs.pop(pair.pair_id, None)
        self._book.bury(pair.pair_id, why)
        self._node.note("PairEnded", pair.pair_id, pair.create_id, detail=f"{pair.state}: {why}")
        self._book.settled(pair)
        self._book.refund(window_of(pair.pair_id), pair.create_id)
        request = self._book.requests.get(pair.create_id)
        if request is not None and pair in request.kept:
            request.step(RequestInput.PAIR_GONE, pair)
        self._node.discard(pair.qubit)
        if pair.announced and self.on_pair_ended is not None:
            self.on_pair_ended(pair, why)
