"""Counterexamples of the formal model (protocols/formal/README.md), told to the code."""

from __future__ import annotations

import msgspec
import pytest

from bellwire.agent.brain import AgentBrain
from bellwire.protocols.codec import Codec
from bellwire.protocols.endpoint import Endpoint
from bellwire.protocols.errors import ErrorCode
from bellwire.protocols.ids import CreateId, Epoch, LinkId, NetworkTimeNs, NodeId, PairId, QubitName, WindowId
from bellwire.protocols.instructions import Arm, BellState, WindowEnded
from bellwire.protocols.link_book import LinkSettings
from bellwire.protocols.messages import (
    GateKind,
    GateOpen,
    GateRequest,
    GateResult,
    GateStatus,
    GateVariant,
    HeraldOpen,
    HeraldReady,
    HeraldReport,
    LinkAccept,
    LinkAdd,
    LinkCreate,
    LinkCreated,
    LinkOk,
    Message,
    PairConfirm,
    PairConfirmed,
    PairRelease,
    ProgramRun,
    Request,
    Role,
    SessionAck,
    SessionError,
    SessionHello,
    Step,
)
from bellwire.protocols.messages.program import StepKind
from bellwire.protocols.node import QubitKind

SECOND = 1_000_000_000
ALICE, BOB, HUB, APP = NodeId("alice"), NodeId("bob"), NodeId("hub"), NodeId("app")
ONE, LINK = Epoch(1), LinkId("link")
CODEC = Codec()


REFUSALS = [
    SessionError(code=ErrorCode.LIMIT, rule="1 §3.4", text="too many requests await an answer"),
    SessionError(code=ErrorCode.EXPIRE, rule="1 §4.4", text="this request was answered too long ago"),
]
"""What an endpoint says of a request without having asked its handler, of this copy of the request."""


class End:
    """One end of a link, hand-fed with what the others would say."""

    def __init__(self, *, primary: bool) -> None:
        self.now_ns = SECOND
        self.number = 1
        name, self.peer = (ALICE, BOB) if primary else (BOB, ALICE)
        settings = LinkSettings(link_id=LINK, peer=self.peer, station=HUB, primary=primary)
        self.brain = AgentBrain(
            Endpoint(name, Role.AGENT, ONE), [settings], application_timeout_ns=60 * SECOND, draw=lambda: 0.0
        )
        kinds = [(QubitName("comm"), QubitKind.COMMUNICATION), (QubitName("store"), QubitKind.STORAGE)]
        self.brain.node.backend_connected(kinds, self.now_ns)
        for peer, role in ((self.peer, Role.AGENT), (HUB, Role.STATION), (APP, Role.APPLICATION)):
            self.says(peer, SessionHello(versions=(1,), role=role, heartbeat_ns=SECOND))

    def says(self, peer: NodeId, message: Message) -> list[Message]:
        """Let a peer say something. Returns what this end sends on it."""
        self.number += 1
        changes: dict[str, int] = {"epoch": ONE, "peer_epoch": ONE}
        if isinstance(message, Request):
            changes["request_id"] = self.number
        self.brain.node.receive(peer, CODEC.encode(msgspec.structs.replace(message, **changes)), self.now_ns)
        return self.sent()

    def waits(self, seconds: float) -> list[Message]:
        """Let time pass, with every timer on time. Returns what this end sends meanwhile."""
        until_ns = self.now_ns + round(seconds * SECOND)
        said: list[Message] = []
        while (due_ns := self.brain.node.next_deadline_ns()) is not None and due_ns <= until_ns:
            self.now_ns = due_ns
            self.brain.node.handle_deadline(due_ns)
            said += self.sent()
        self.now_ns = until_ns
        return said

    def sent(self) -> list[Message]:
        return [CODEC.decode(data) for _, data in self.brain.node.take_frames()]

    def heralds(self, window_id: WindowId) -> list[Message]:
        """Let the hardware and the station agree on the first attempt of a window."""
        armed = [batch for batch in self.brain.node.take_batches() if isinstance(batch.instructions[-1], Arm)]
        self.brain.node.complete(armed[-1].number, (WindowEnded(window_id=window_id, attempts=1),), self.now_ns)
        report = HeraldReport(link_id=LINK, window_id=window_id, attempt=1, bell_state=BellState.PSI_PLUS)
        return self.sent() + self.says(HUB, report)


def first(messages: list[Message], kind: type[Message]) -> Message:
    return next(message for message in messages if isinstance(message, kind))


def secondary_with_a_half() -> tuple[End, CreateId]:
    bob = End(primary=False)
    said = bob.says(APP, LinkCreate(peer=ALICE, number=1, max_time_ns=60 * SECOND))
    created = first(said, LinkCreated)
    assert isinstance(created, LinkCreated)
    bob.says(ALICE, accept(said))
    opening = HeraldOpen(
        link_id=LINK,
        window_id=WindowId("w"),
        create_id=created.create_id,
        scheme="double-click",
        start_ns=NetworkTimeNs(bob.now_ns),
        attempts=1,
        timeout_ns=SECOND,
    )
    assert isinstance(bob.says(ALICE, opening)[0], HeraldReady)
    bob.heralds(WindowId("w"))
    return bob, created.create_id


def accept(said: list[Message]) -> Message:
    offer = first(said, LinkAdd)
    assert isinstance(offer, LinkAdd)
    return LinkAccept(request_id=offer.request_id)


def claim(bob: End, create_id: CreateId, expires_ns: int) -> list[Message]:
    confirm = PairConfirm(
        link_id=LINK,
        pair_id=PairId("w/1"),
        create_id=create_id,
        sequence_number=1,
        bell_state=BellState.PSI_PLUS,
        expires_ns=NetworkTimeNs(expires_ns),
    )
    return bob.says(ALICE, confirm)


def test_pair_claimed_after_its_lease_is_not_announced() -> None:
    """pair LATE_CLAIM: the primary let it expire while its pair.confirm was on the way."""
    bob, create_id = secondary_with_a_half()
    answers = claim(bob, create_id, bob.now_ns)
    assert not [message for message in answers if isinstance(message, PairConfirmed | LinkOk)]


def test_release_is_repeated_after_a_silence_while_the_lease_runs() -> None:
    """pair SILENCED_RELEASE, 2 §4.3: an end tells the other one with pair.release until expires_ns."""
    bob, create_id = secondary_with_a_half()
    ok = first(claim(bob, create_id, bob.now_ns + 60 * SECOND), LinkOk)
    assert isinstance(ok, LinkOk)
    bob.says(APP, SessionError(code=ErrorCode.DENIED, request_id=ok.request_id))
    assert bob.brain.find_pair(PairId("w/1")) is None
    bob.waits(10)
    back = bob.says(ALICE, SessionHello(versions=(1,), role=Role.AGENT, heartbeat_ns=SECOND))
    assert [message for message in back + bob.waits(2) if isinstance(message, PairRelease)]


def test_half_is_not_used_when_a_frame_is_dealt_with_before_the_timer_of_its_lease() -> None:
    """gate LATE_TIMERS: a late loop hands a frame over first; the lease is over all the same."""
    bob, create_id = secondary_with_a_half()
    claim(bob, create_id, bob.now_ns + SECOND)
    bob.brain.node.take_batches()
    bob.now_ns += 2 * SECOND
    bob.says(APP, ProgramRun(steps=(Step(kind=StepKind.MEASURE, qubits=("w/1",)),)))
    instructions = [type(step).__name__ for batch in bob.brain.node.take_batches() for step in batch.instructions]
    assert "Measure" not in instructions


def confirm_of(alice: End) -> PairConfirm:
    """The primary heralds a pair for a request of its own and claims it."""
    said = alice.says(APP, LinkCreate(peer=BOB, number=1, max_time_ns=60 * SECOND))
    said = alice.says(BOB, accept(said))
    opening = first(said, HeraldOpen)
    assert isinstance(opening, HeraldOpen)
    confirm = first(alice.heralds(opening.window_id), PairConfirm)
    assert isinstance(confirm, PairConfirm)
    return confirm


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.code)
def test_half_is_kept_when_the_endpoint_of_the_peer_and_not_its_link_refuses(refusal: SessionError) -> None:
    """pair UNSURE_IS_REFUSAL: another copy of the pair.confirm may yet be, or was, carried out."""
    alice = End(primary=True)
    confirm = confirm_of(alice)
    alice.says(BOB, msgspec.structs.replace(refusal, request_id=confirm.request_id))
    assert alice.brain.find_pair(confirm.pair_id) is not None


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.code)
def test_symmetric_gate_is_not_failed_when_the_endpoint_of_the_target_refuses(refusal: SessionError) -> None:
    """gate UNSURE_IS_REFUSAL: another copy of the gate.open may yet be, or was, carried out, and the target acts."""
    alice = End(primary=True)
    confirm = confirm_of(alice)
    ok = first(alice.says(BOB, PairConfirmed(request_id=confirm.request_id)), LinkOk)
    assert isinstance(ok, LinkOk)
    alice.says(APP, SessionAck(request_id=ok.request_id))
    alice.says(APP, ProgramRun(steps=(Step(kind=StepKind.INITIALISE, qubits=("q",)),)))
    request = GateRequest(
        kind=GateKind.CZ,
        variant=GateVariant.SYMMETRIC,
        qubit="q",
        peer=BOB,
        peer_qubit="q",
        pair_id=confirm.pair_id,
        max_time_ns=3 * SECOND,
    )
    opening = first(alice.says(APP, request), GateOpen)
    assert isinstance(opening, GateOpen)
    said = alice.says(BOB, msgspec.structs.replace(refusal, request_id=opening.request_id)) + alice.waits(10)
    result = first(said, GateResult)
    assert isinstance(result, GateResult)
    assert result.status is GateStatus.INDETERMINATE
