"""Two participants over a network that does its worst, in whatever order Hypothesis thinks of (spec 1 §4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule, run_state_machine_as_test
from tests.unit.protocols.conftest import ALICE, BOB, CODEC, MS, SECOND
from unruly import Spoiler, UnrulyNetwork, cut, examples, junk, lengthened, misnamed, mistyped

from bellwire.protocols import asks, session
from bellwire.protocols.access import EVERYBODY, Access
from bellwire.protocols.codec import Codec
from bellwire.protocols.endpoint import Answer, Endpoint
from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.ids import Epoch, LinkId, NodeId, QubitName, WindowId
from bellwire.protocols.messages import (
    MESSAGES,
    HeraldClose,
    Message,
    ProgramResult,
    ProgramRun,
    Reply,
    Request,
    Role,
    SessionAck,
    Step,
)
from bellwire.protocols.messages.program import StepKind
from bellwire.protocols.session import MAX_HELLOS, SessionSettings, SessionState
from bellwire.protocols.timers import MAX_DEAD_TIMERS
from bellwire.simnet.fabric import Frame

MAX_ASKED, MAX_KEPT = 5, 3
"""The limits of pending and of answered requests, so small here that they are reached."""

SETTINGS = SessionSettings()
OPEN_CODEC = Codec(access={message: Access(EVERYBODY, EVERYBODY) for message in MESSAGES})
"""Anybody may ask anything: what is tested here is not who may."""
NAMES = (ALICE, BOB)
LONGEST_NS = 20 * SECOND
PATIENCE_NS = 10 * SECOND
"""Within so much time on a perfect network any two peers meet, and a request is repeated and answered."""

PAUSES_NS = [MS, 150 * MS, 600 * MS, SECOND]
QUIET_FRAMES = 20
"""Frames of a second in which nothing is asked, of both sides: heartbeats, with room to spare."""

names = st.sampled_from(NAMES)


@dataclass(eq=False)
class Asked:
    """A request and all that its handler was told. `spoilt`: a copy of it arrived as no message."""

    asker: Endpoint
    number: int
    how: str
    label: str
    deadline_ns: int
    answers: list[Answer] = field(default_factory=list)
    abandoned: bool = False
    spoilt: bool = False


class Peers(UnrulyNetwork):
    """Alice and Bob, of whom each asks and each answers."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = SECOND
        self.ends: dict[NodeId, Endpoint] = {}
        self.asked: list[Asked] = []
        self.handled: Counter[str] = Counter()
        self.owed: dict[NodeId, list[tuple[NodeId, int, str]]] = {}
        self.epoch = 0
        for name in NAMES:
            self._start(name)

    def _start(self, name: NodeId) -> None:
        self.epoch += 1
        endpoint = Endpoint(name, Role.AGENT, Epoch(self.epoch), codec=OPEN_CODEC, settings=SETTINGS)
        endpoint.begin(self.now_ns)
        endpoint.handle(ProgramRun, partial(self._take, endpoint))
        self.ends[name], self.owed[name] = endpoint, []

    def _take(self, endpoint: Endpoint, peer: NodeId, message: ProgramRun) -> Reply | None:
        assert message.peer_epoch == endpoint.epoch
        label = _label(message)
        self.handled[label] += 1
        how = label.partition("-")[0]
        if how == "later":
            self.owed[endpoint.node].append((peer, message.request_id, label))
            return None
        if how == "refused":
            raise RequestError(ErrorCode.NORES, label)
        return SessionAck() if how == "wrong" else _result(label)

    def _hear(self) -> None:
        for name, endpoint in self.ends.items():
            for peer, data in endpoint.take_frames():
                self.send(Frame(sender=name, receiver=peer, data=data, sent_ns=self.now_ns))

    def arrive(self, frame: Frame) -> None:
        self.ends[frame.receiver].receive(frame.sender, frame.data, self.now_ns)
        self._hear()

    def spoilers(self, frame: Frame) -> list[Spoiler]:
        """A request may come to have a type that nobody knows; what has such a type is a request."""
        return [cut, lengthened, junk, mistyped, *([misnamed] if _label(CODEC.decode(frame.data)) else [])]

    def spoilt(self, frame: Frame, spoiler: Spoiler) -> None:
        label = _label(CODEC.decode(frame.data))
        for asked in self.asked:
            if asked.label == label and spoiler in (mistyped, misnamed):
                asked.spoilt = True

    # What the peers do.

    @rule(
        name=names,
        hows=st.lists(st.sampled_from(["now", "now", "later", "refused", "wrong", "unknown"]), min_size=1, max_size=4),
        timeout_ns=st.sampled_from([100 * MS, 5 * SECOND, LONGEST_NS, LONGEST_NS]),
    )
    def ask(self, name: NodeId, hows: list[str], timeout_ns: int) -> None:
        for how in hows:
            self._ask(name, how, timeout_ns)

    def _ask(self, name: NodeId, how: str, timeout_ns: int) -> Asked:
        endpoint = self.ends[name]
        endpoint.begin(self.now_ns)
        label = f"{how}-{len(self.asked)}"
        asked = Asked(endpoint, 0, how, label, self.now_ns + timeout_ns)
        self.asked.append(asked)
        asked.number = endpoint.ask(_peer(name), _request(how, label), asked.deadline_ns, self._answered(asked))
        endpoint.catch_up(self.now_ns)
        self._hear()
        return asked

    def _answered(self, asked: Asked) -> Callable[[Answer], None]:
        def answered(answer: Answer) -> None:
            assert self.ends[asked.asker.node] is asked.asker
            assert asked.answers == []
            assert not asked.abandoned
            asked.answers.append(answer)
            if isinstance(answer, RequestError):
                assert self._explains(asked, answer.code), answer
            else:
                assert asked.how in ("now", "later")
                assert isinstance(answer, ProgramResult)
                assert answer.qubits == (asked.label,)
                assert self.handled[asked.label] == 1

        return answered

    def _explains(self, asked: Asked, code: ErrorCode) -> bool:
        """Whether what has happened to a request can have brought it such an error."""
        handled = self.handled[asked.label] == 1
        return {
            ErrorCode.TIMEOUT: self.now_ns >= asked.deadline_ns,
            ErrorCode.NORES: asked.how == "refused" and handled,
            ErrorCode.PROTOCOL: asked.how == "wrong" and handled,
            ErrorCode.UNKNOWN_TYPE: asked.how == "unknown" or asked.spoilt,
            ErrorCode.MALFORMED: asked.spoilt,
            ErrorCode.PEER_LOST: True,
            ErrorCode.LIMIT: True,
            ErrorCode.EXPIRE: True,
        }[code]

    @precondition(lambda self: any(self.owed.values()))
    @rule(place=st.integers(0, 9))
    def answer(self, place: int) -> None:
        """Answer a request that is owed, twice."""
        waiting = [(name, *owed) for name, all_owed in self.owed.items() for owed in all_owed]
        name, peer, number, label = waiting[place % len(waiting)]
        self.owed[name].remove((peer, number, label))
        self.ends[name].begin(self.now_ns)
        self.ends[name].reply(peer, number, _result(label))
        self.ends[name].reply(peer, number, _result("twice"))
        self._hear()

    @precondition(lambda self: self.asked)
    @rule(place=st.integers(0, 9))
    def abandon(self, place: int) -> None:
        asked = self.asked[-1 - place % len(self.asked)]
        if not asked.answers:
            asked.asker.abandon(asked.number)
            asked.abandoned = True

    @rule(name=names, change=st.sampled_from(["keep", "leave", "restart", "silence", "long silence"]))
    def change(self, name: NodeId, change: str) -> None:
        """Something that sessions notice. Nobody hears a thing in a silence, during which only one may be awake."""
        self.ends[name].begin(self.now_ns)
        if change == "keep":
            self.ends[name].keep_session(_peer(name))
        elif change == "leave":
            self.ends[name].close()
        elif change == "restart":
            self._start(name)
        else:
            self._wait(LONGEST_NS if change == "long silence" else SETTINGS.liveness_ns + 100 * MS, [name])
        self._hear()

    @rule(pause_ns=st.sampled_from(PAUSES_NS), asleep=st.none() | names)
    def wait(self, pause_ns: int, asleep: NodeId | None) -> None:
        """Let time pass. Who is asleep does what has come due when the next thing happens to it."""
        self._wait(pause_ns, [name for name in NAMES if name != asleep])

    def _wait(self, wait_ns: int, awake: list[NodeId] | tuple[NodeId, ...]) -> None:
        end_ns = self.now_ns + wait_ns
        while due := [at for name in awake if (at := self.ends[name].next_deadline_ns()) is not None and at <= end_ns]:
            self.now_ns = max(self.now_ns, min(due))
            for name in awake:
                self.ends[name].catch_up(self.now_ns)
            self._hear()
        self.now_ns = end_ns

    # What always holds.

    @invariant()
    def no_request_was_handled_twice(self) -> None:
        assert max(self.handled.values(), default=0) <= 1

    @invariant()
    def tables_are_within_their_limits(self) -> None:
        for name, endpoint in self.ends.items():
            assert len(endpoint.sessions) <= 1
            assert len(endpoint.asks) <= MAX_ASKED
            assert len(endpoint.asks) == sum(
                asked.asker is endpoint and not asked.answers and not asked.abandoned for asked in self.asked
            )
            for peer in endpoint.sessions.values():
                assert len(peer.owed) + len(peer.answered) <= MAX_KEPT
                assert len(peer.hellos) <= MAX_HELLOS
                assert len(endpoint.duties) == len(peer.owed) <= len(self.owed[name])
            assert len(endpoint.timers) <= 2 * (len(endpoint.asks) + len(NAMES)) + MAX_DEAD_TIMERS

    @invariant()
    def silence_is_noticed(self) -> None:
        for endpoint in self.ends.values():
            due_ns = endpoint.next_deadline_ns()
            for peer in endpoint.sessions.values():
                if peer.state is SessionState.UP and (due_ns is None or due_ns > self.now_ns):
                    heard_ns = max(peer.heard_ns, endpoint._woke_ns)
                    assert self.now_ns - heard_ns < SETTINGS.liveness_ns + SETTINGS.heartbeat_ns

    def teardown(self) -> None:
        """The network has become perfect and time has passed: everything has come to something, and the next thing does."""
        patient = [asked for asked in self.asked if not asked.answers and asked.deadline_ns > self.now_ns + PATIENCE_NS]
        self._rest(LONGEST_NS)
        for asked in self.asked:
            assert asked.answers or asked.abandoned or self.ends[asked.asker.node] is not asked.asker
        for asked in patient:
            assert asked.how == "later" or ErrorCode.TIMEOUT not in [getattr(it, "code", None) for it in asked.answers]
        while any(self.owed.values()):
            self.answer(0)
        fresh = [self._ask(name, "now", 10 * SECOND) for name in NAMES]
        self._rest(10 * SECOND)
        assert all(isinstance(asked.answers[0], ProgramResult) for asked in fresh)
        assert self._rest(SECOND) <= QUIET_FRAMES

    def _rest(self, rest_ns: int) -> int:
        frames = 0
        for _ in range(rest_ns // (50 * MS)):
            self._wait(50 * MS, NAMES)
            frames += len(self.flying)
            self.settle()
        return frames


def _peer(name: NodeId) -> NodeId:
    return BOB if name == ALICE else ALICE


def _request(how: str, label: str) -> Request:
    if how == "unknown":
        return HeraldClose(link_id=LinkId("l"), window_id=WindowId("w"), reason=label)
    return ProgramRun(steps=(Step(kind=StepKind.MEASURE, qubits=(label,)),))


def _label(message: Message) -> str:
    if isinstance(message, HeraldClose):
        return message.reason
    return message.steps[0].qubits[0] if isinstance(message, ProgramRun) else ""


def _result(label: str) -> ProgramResult:
    """A reply that names its request."""
    return ProgramResult(bits=(), qubits=(QubitName(label),))


def test_two_peers_over_any_network_answer_each_request_once_and_forget_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asks, "MAX_PENDING_REQUESTS", MAX_ASKED)
    monkeypatch.setattr(session, "MAX_ANSWERED_REQUESTS", MAX_KEPT)
    run_state_machine_as_test(Peers, settings=examples(4))
