"""An end of a link that is told things in an unusual order, or too late (spec 2)."""

from __future__ import annotations

import msgspec
import pytest

from bellwire.agent.brain import AgentBrain
from bellwire.protocols.codec import Codec
from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.errors import ConfigError, ErrorCode
from bellwire.protocols.ids import CreateId, Epoch, GateId, LinkId, NetworkTimeNs, NodeId, PairId, QubitName, WindowId
from bellwire.protocols.instructions import (
    Apply,
    Arm,
    BellState,
    Discard,
    Done,
    Failed,
    Initialise,
    Measure,
    Measured,
    WindowEnded,
)
from bellwire.protocols.limits import MAX_LINK_REQUESTS, MAX_TEXT_CHARS
from bellwire.protocols.link_book import LinkSettings
from bellwire.protocols.messages import (
    GateKind,
    GateOpen,
    GateVariant,
    HeraldClose,
    HeraldOpen,
    HeraldReady,
    HeraldReport,
    LinkAccept,
    LinkAdd,
    LinkCreate,
    LinkCreated,
    LinkExpire,
    LinkOk,
    Message,
    PairCompared,
    PairConfirm,
    PairConfirmed,
    PairOutcome,
    PairRelease,
    Request,
    RequestType,
    Role,
    SessionAck,
    SessionError,
    SessionHello,
)
from bellwire.protocols.node import QubitKind
from bellwire.protocols.queue import TEST_PURPOSE

SECOND = 1_000_000_000
ALICE, BOB, HUB, APP = NodeId("alice"), NodeId("bob"), NodeId("hub"), NodeId("app")
ONE, LINK, WINDOW = Epoch(1), LinkId("link"), WindowId("link-1-1")
CODEC = Codec()


class Bob:
    """The secondary end, hand-fed with what the others would say."""

    def __init__(self, qubits: int = 1, *, pair_time_ns: int = 0) -> None:
        self.now_ns = SECOND
        self.number = 1
        settings = LinkSettings(link_id=LINK, peer=ALICE, station=HUB, primary=False, pair_time_ns=pair_time_ns)
        self.brain = AgentBrain(
            Endpoint(BOB, Role.AGENT, ONE), [settings], application_timeout_ns=SECOND, draw=lambda: 0.0
        )
        kinds = [(QubitName(f"comm{number}"), QubitKind.COMMUNICATION) for number in range(qubits)]
        self.brain.node.backend_connected(kinds, self.now_ns)
        for peer, role in ((ALICE, Role.AGENT), (HUB, Role.STATION), (APP, Role.APPLICATION)):
            self.says(peer, SessionHello(versions=(1,), role=role, heartbeat_ns=SECOND))

    def says(self, peer: NodeId, message: Message) -> list[Message]:
        """Let a peer say something. Returns what Bob sends on it."""
        self.number += 1
        changes: dict[str, int] = {"epoch": ONE, "peer_epoch": ONE}
        if isinstance(message, Request):
            changes["request_id"] = self.number
        self.brain.node.receive(peer, CODEC.encode(msgspec.structs.replace(message, **changes)), self.now_ns)
        return self.sent()

    def sent(self) -> list[Message]:
        return [CODEC.decode(data) for _, data in self.brain.node.take_frames()]

    def creates(self, number: int = 1) -> tuple[CreateId, int]:
        """Have Bob take a CREATE. Returns its id and the number of the request that offers it to Alice."""
        offer, created = self.says(APP, LinkCreate(peer=ALICE, number=number, max_time_ns=10 * SECOND))
        assert isinstance(created, LinkCreated)
        assert isinstance(offer, LinkAdd)
        return created.create_id, offer.request_id

    def heralds(self, window_id: WindowId = WINDOW) -> None:
        """Let the hardware and the station agree on the first attempt of a window."""
        armed = [batch for batch in self.brain.node.take_batches() if isinstance(batch.instructions[-1], Arm)]
        self.brain.node.complete(armed[-1].number, (WindowEnded(window_id=window_id, attempts=1),), self.now_ns)
        self.says(HUB, HeraldReport(link_id=LINK, window_id=window_id, attempt=1, bell_state=BellState.PSI_PLUS))

    def confirms(self, create_id: CreateId, window_id: WindowId = WINDOW) -> list[Message]:
        confirm = PairConfirm(
            link_id=LINK,
            pair_id=PairId(f"{window_id}/1"),
            create_id=create_id,
            sequence_number=1,
            bell_state=BellState.PSI_PLUS,
            expires_ns=NetworkTimeNs(self.now_ns + 5 * SECOND),
        )
        return self.says(ALICE, confirm)


def opening(create_id: CreateId, window_id: WindowId = WINDOW) -> HeraldOpen:
    return HeraldOpen(
        link_id=LINK,
        window_id=window_id,
        create_id=create_id,
        scheme="double-click",
        start_ns=NetworkTimeNs(SECOND),
        attempts=1,
        timeout_ns=SECOND,
    )


def kinds(messages: list[Message]) -> list[type[Message]]:
    return [type(message) for message in messages]


def codes(messages: list[Message]) -> list[ErrorCode]:
    return [message.code for message in messages if isinstance(message, SessionError)]


def test_window_opened_before_the_acceptance_has_come_is_followed_and_its_pair_counts() -> None:
    """2 §2.2: if the primary opens a window for an offered request, it has it."""
    bob = Bob()
    create_id, offer = bob.creates()
    assert kinds(bob.says(ALICE, opening(create_id))) == [HeraldReady]
    bob.heralds()
    assert kinds(bob.confirms(create_id)) == [PairConfirmed, LinkOk]
    assert bob.says(ALICE, LinkAccept(request_id=offer)) == []
    assert bob.brain.endpoint.counters.unexpected == 0


def test_pair_confirmed_once_for_a_request_leaves_the_queue_empty_and_a_further_window_unknown() -> None:
    bob = Bob()
    create_id, offer = bob.creates()
    bob.says(ALICE, LinkAccept(request_id=offer))
    bob.says(ALICE, opening(create_id))
    bob.heralds()
    bob.confirms(create_id)
    assert codes(bob.says(ALICE, opening(create_id, WindowId("link-1-2")))) == [ErrorCode.UNKNOWN_ID]


def test_window_without_a_free_qubit_is_answered_when_its_time_is_over() -> None:
    """2 §3.2: the answer waits for a qubit; after `timeout_ns` it is NORES."""
    bob = Bob()
    create_id, _ = bob.creates(number=2)
    bob.says(ALICE, opening(create_id))
    assert bob.says(ALICE, opening(create_id, WindowId("link-1-2"))) == []
    bob.now_ns += SECOND
    bob.brain.node.handle_deadline(bob.now_ns)
    assert codes(bob.sent()) == [ErrorCode.NORES]


def test_window_opened_again_while_it_waits_for_a_qubit_is_refused_and_waits_on_once() -> None:
    """A primary that asks twice under two numbers breaks a rule, and nothing else."""
    bob = Bob()
    create_id, _ = bob.creates(number=2)
    bob.says(ALICE, opening(create_id))
    assert bob.says(ALICE, opening(create_id, WindowId("link-1-2"))) == []
    assert codes(bob.says(ALICE, opening(create_id, WindowId("link-1-2")))) == [ErrorCode.PROTOCOL]
    bob.now_ns += SECOND
    bob.brain.node.handle_deadline(bob.now_ns)
    assert codes(bob.sent()) == [ErrorCode.NORES]


def test_window_closed_while_it_waits_for_a_qubit_is_answered_with_expire() -> None:
    """2 §3.5."""
    bob = Bob()
    create_id, _ = bob.creates(number=2)
    bob.says(ALICE, opening(create_id))
    bob.says(ALICE, opening(create_id, WindowId("link-1-2")))
    closed = bob.says(ALICE, HeraldClose(link_id=LINK, window_id=WindowId("link-1-2")))
    assert kinds(closed) == [SessionError, SessionAck]
    assert codes(closed) == [ErrorCode.EXPIRE]


def test_window_that_waited_is_refused_when_the_clock_was_lost_meanwhile() -> None:
    """4 §3.4: who arms has to be sure of the time then, not when the window was asked for."""
    bob = Bob()
    create_id, _ = bob.creates(number=2)
    bob.says(ALICE, opening(create_id))
    bob.says(ALICE, opening(create_id, WindowId("link-1-2")))
    bob.brain.endpoint.clock.known = False
    (armed,) = bob.brain.node.take_batches()
    bob.brain.node.complete(armed.number, (WindowEnded(window_id=WINDOW, attempts=1),), bob.now_ns)
    answers = bob.says(HUB, HeraldReport(link_id=LINK, window_id=WINDOW, attempt=0))
    assert codes(answers) == [ErrorCode.UNSYNCED]


def test_window_that_waits_is_followed_as_soon_as_a_qubit_is_free() -> None:
    bob = Bob()
    create_id, _ = bob.creates(number=2)
    bob.says(ALICE, opening(create_id))
    bob.says(ALICE, opening(create_id, WindowId("link-1-2")))
    (armed,) = bob.brain.node.take_batches()
    bob.brain.node.complete(armed.number, (WindowEnded(window_id=WINDOW, attempts=1),), bob.now_ns)
    answers = bob.says(HUB, HeraldReport(link_id=LINK, window_id=WINDOW, attempt=0))
    assert set(kinds(answers)) == {HeraldReady, SessionAck}


@pytest.mark.parametrize("sender", [HUB, APP])
def test_window_opened_by_anybody_but_the_primary_is_denied(sender: NodeId) -> None:
    """2 §5."""
    bob = Bob()
    create_id, _ = bob.creates()
    assert codes(bob.says(sender, opening(create_id))) == [ErrorCode.DENIED]


def test_reason_of_the_greatest_length_is_passed_on_within_bounds() -> None:
    bob = Bob()
    create_id, offer = bob.creates()
    bob.says(ALICE, LinkAccept(request_id=offer))
    bob.says(ALICE, opening(create_id))
    bob.heralds()
    _, ok = bob.confirms(create_id)
    assert isinstance(ok, LinkOk)
    bob.says(APP, SessionAck(request_id=ok.request_id))
    release = PairRelease(link_id=LINK, pair_id=PairId(f"{WINDOW}/1"), reason="x" * MAX_TEXT_CHARS)
    assert kinds(bob.says(ALICE, release)) == [SessionAck]
    bob.brain.node.handle_deadline(bob.now_ns)
    (expire,) = bob.sent()
    assert isinstance(expire, LinkExpire)
    assert len(expire.text) == MAX_TEXT_CHARS


def test_gate_opened_past_its_deadline_is_refused_and_touches_nothing() -> None:
    """3 §2.2."""
    bob = Bob()
    create_id, _ = bob.creates()
    bob.says(ALICE, opening(create_id))
    bob.heralds()
    bob.confirms(create_id)
    bob.brain.node.take_batches()
    late = GateOpen(
        gate_id=GateId("g"),
        pair_id=PairId(f"{WINDOW}/1"),
        kind=GateKind.CZ,
        variant=GateVariant.SYMMETRIC,
        application=APP,
        qubit="q",
        deadline_ns=NetworkTimeNs(bob.now_ns),
    )
    assert codes(bob.says(ALICE, late)) == [ErrorCode.NOTIME]
    assert bob.brain.node.take_batches() == []


# Offers.


def offer(number: int, *, application: NodeId = APP, purpose_id: int = 0) -> LinkAdd:
    return LinkAdd(
        link_id=LINK,
        create_id=CreateId(f"alice-{number}"),
        deadline_ns=NetworkTimeNs(3 * SECOND),
        application=application,
        purpose_id=purpose_id,
        request_type=RequestType.MEASURE,
    )


@pytest.mark.parametrize("code", [ErrorCode.NORES, ErrorCode.NOTIME, ErrorCode.BACKEND])
def test_offer_that_is_known_is_accepted_again_also_where_it_would_be_refused_by_now(code: ErrorCode) -> None:
    """2 §2.2."""
    bob = Bob(pair_time_ns=2 * SECOND)
    assert kinds(bob.says(ALICE, offer(0))) == [LinkAccept]
    others = MAX_LINK_REQUESTS - 1 if code is ErrorCode.NORES else 0
    for number in range(others):
        bob.says(ALICE, offer(number + 1))
    if code is ErrorCode.NOTIME:
        bob.now_ns += 1
    if code is ErrorCode.BACKEND:
        bob.brain.node.backend_up = False
    assert codes(bob.says(ALICE, offer(MAX_LINK_REQUESTS))) == [code]
    assert kinds(bob.says(ALICE, offer(0))) == [LinkAccept]


# Test rounds.


def measuring(*, application: NodeId, purpose_id: int) -> Bob:
    """Bob, whose hardware has been told to measure a half for a request of type M and has not answered."""
    bob = Bob()
    wanted = offer(0, application=application, purpose_id=purpose_id)
    bob.says(ALICE, wanted)
    bob.says(ALICE, opening(wanted.create_id))
    bob.heralds()
    assert kinds(bob.confirms(wanted.create_id)) == [PairConfirmed]
    return bob


def tells(bob: Bob) -> list[Message]:
    """Alice tells Bob what she has measured."""
    return bob.says(ALICE, PairOutcome(link_id=LINK, pair_id=PairId(f"{WINDOW}/1"), outcome=1))


def measured(bob: Bob) -> list[Message]:
    """Bob's hardware answers that it has measured. Returns what he sends on it."""
    (batch,) = bob.brain.node.take_batches()
    assert isinstance(batch.instructions[-2], Measure)
    answers = (Measured(bit=1) if isinstance(each, Measure) else Done() for each in batch.instructions)
    bob.brain.node.complete(batch.number, tuple(answers), bob.now_ns)
    return bob.sent()


def test_outcome_of_a_test_round_waits_for_the_measurement_here_once() -> None:
    """2 §4.7: one answer is owed, however often the primary asks under new numbers."""
    bob = measuring(application=NodeId(""), purpose_id=TEST_PURPOSE)
    assert tells(bob) == []
    assert codes(tells(bob)) == [ErrorCode.UNKNOWN_ID]
    assert kinds(measured(bob)) == [PairCompared]
    assert bob.brain.links[LINK].tests.owed == 0


@pytest.mark.parametrize(
    ("application", "purpose_id"), [(APP, 0), (APP, TEST_PURPOSE), (NodeId(""), 0)], ids=["app", "app-2", "agents"]
)
def test_outcome_of_a_pair_that_is_measured_for_something_else_is_refused(application: NodeId, purpose_id: int) -> None:
    """2 §4.7: UNKNOWN_ID, of a pair that is not for a test round."""
    bob = measuring(application=application, purpose_id=purpose_id)
    assert codes(tells(bob)) == [ErrorCode.UNKNOWN_ID]
    assert bob.brain.links[LINK].tests.owed == 0


@pytest.mark.parametrize("epoch", [ONE, Epoch(2)])
def test_outcome_that_waits_when_the_other_end_is_lost_is_forgotten(epoch: Epoch) -> None:
    """2 §4.7: also when it has restarted meanwhile."""
    bob = measuring(application=NodeId(""), purpose_id=TEST_PURPOSE)
    tells(bob)
    while bob.brain.endpoint.is_up(ALICE):
        bob.now_ns = bob.brain.node.next_deadline_ns() or bob.now_ns
        bob.brain.node.handle_deadline(bob.now_ns)
    assert bob.brain.links[LINK].tests.owed == 0
    bob.sent()
    hello = SessionHello(versions=(1,), role=Role.AGENT, heartbeat_ns=SECOND, epoch=epoch, request_id=99)
    bob.brain.node.receive(ALICE, CODEC.encode(hello), bob.now_ns)
    bob.sent()
    assert PairCompared not in kinds(measured(bob))


def test_link_name_too_long_for_the_ids_made_from_it_is_refused() -> None:
    with pytest.raises(ConfigError, match="1 to 64 characters"):
        LinkSettings(link_id=LinkId("x" * 65), peer=ALICE, station=HUB, primary=True)


# Memories.


def test_half_that_cannot_be_stored_is_released_and_leaves_no_qubit_behind() -> None:
    """2 §4.5: when the move fails, both qubits are discarded and the half is released."""
    bob = Bob()
    node = bob.brain.node
    node.pair_storage = 1
    qubits = [(QubitName("comm0"), QubitKind.COMMUNICATION), (QubitName("store0"), QubitKind.STORAGE)]
    node.backend_connected(qubits, bob.now_ns)
    create_id, offer = bob.creates()
    bob.says(ALICE, LinkAccept(request_id=offer))
    bob.says(ALICE, opening(create_id))
    bob.heralds()
    (move,) = node.take_batches()
    assert [type(each) for each in move.instructions] == [Initialise, Apply, Discard]
    pair = bob.brain.find_pair(PairId(f"{WINDOW}/1"))
    assert pair is not None
    assert (pair.qubit, node.stored) == ("store0", {"store0"})
    broken = (Done(), Failed(text="the swap failed"), Failed(text="not executed"))
    node.complete(move.number, broken, bob.now_ns)
    assert bob.brain.find_pair(pair.pair_id) is None
    assert not node.qubits.held
    assert not node.stored
    discarded = [each for batch in node.take_batches() for each in batch.instructions]
    assert set(discarded) == {Discard(qubit=QubitName("comm0")), Discard(qubit=QubitName("store0"))}
    assert any(isinstance(message, PairRelease) and "the swap failed" in message.reason for message in bob.sent())
