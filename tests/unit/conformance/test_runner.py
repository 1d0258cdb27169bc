"""What comes of a case: its verdict, whatever the target says, and also when the target ends in it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zmq

from bellwire.conformance.catalogue import SHOWN, Case, Failed, Level, Result, Role, Skipped, Verdict
from bellwire.conformance.runner import check_target, failed, run_cases
from bellwire.conformance.target import Folder, Process, Times
from bellwire.conformance.timekeeper import Timekeeper
from bellwire.conformance.wire import Arrow, Message
from bellwire.protocols.errors import BellwireError, TransportError

ENDS = f"{sys.executable} -c \"raise SystemExit('no qubits left')\""
STAYS = f"{sys.executable} -c 'import signal; signal.pause()'"


def case(number: int, run: Callable[[Any], Any], level: Level = Level.MUST) -> Case:
    return Case(
        id=f"SESS-4.1-0{number}",
        level=level,
        requirement="words",
        roles=frozenset({Role.NODE}),
        title="title",
        run=run,
    )


class FakeStage:
    """A stage on which nothing is said. Its target may be a process; `restarts` are the commands of the next ones."""

    lane: object = None
    late_s = 0.25

    def __init__(self, folder: Path, process: Process | None = None, restarts: tuple[str, ...] = ()) -> None:
        self.folder = Folder(folder, Role.NODE, Times(), frozenset({"paths"}))
        self.process = process
        self.restarts = list(restarts)
        self.trace: list[Arrow] = []
        self.ended = 0
        self.answers = True

    def begin(self) -> None:
        if not self.answers:
            raise Failed("the target has not greeted the broker")

    def judged(self, text: str) -> None:
        self.trace.append(Arrow(at_s=0.0, sender="kit-target", receiver="kit-target", note=text))

    def end(self) -> None:
        self.ended += 1
        self.trace.append(Arrow(at_s=0.0, sender="kit-app", receiver="kit-target", note="goodbye"))

    def restart(self) -> None:
        assert self.process is not None
        self.process.end()
        if not self.restarts:
            raise BellwireError("cannot be started")
        self.process = Process(self.restarts.pop(0), self.folder, "")
        self.process.start()


def run(stage: FakeStage, *cases: Case, strict: bool = False) -> list[Result]:
    told: list[Result] = []
    results = run_cases(stage, cases, strict, told.append)  # type: ignore[arg-type]
    assert told == results
    return results


def raising(raised: BaseException | None, once: bool = False) -> Callable[..., None]:
    left = [raised] if once else None

    def play(*_: object) -> None:
        if raised is not None and (left is None or left):
            if left:
                left.clear()
            raise raised

    return play


@pytest.mark.parametrize(
    ("raised", "level", "strict", "verdict"),
    [
        (None, Level.MUST, False, Verdict.PASS),
        (Failed("no"), Level.MUST, False, Verdict.FAIL),
        (KeyError("code"), Level.MUST, False, Verdict.FAIL),
        (TypeError("str is no int"), Level.MUST, False, Verdict.FAIL),
        (ValueError("no number"), Level.MUST, False, Verdict.FAIL),
        (AttributeError("no items"), Level.MUST, False, Verdict.FAIL),
        (IndexError("empty"), Level.MUST, False, Verdict.FAIL),
        (OverflowError("no port"), Level.MUST, False, Verdict.FAIL),
        (OSError("no such host"), Level.MUST, False, Verdict.FAIL),
        (zmq.ZMQError(22), Level.MUST, False, Verdict.FAIL),
        (TypeError("str is no int"), Level.SHOULD, False, Verdict.FAIL),
        (TransportError("no handshake"), Level.SHOULD, False, Verdict.FAIL),
        (Failed("no"), Level.SHOULD, False, Verdict.INFORMATIONAL),
        (Failed("no"), Level.SHOULD, True, Verdict.FAIL),
        (Skipped("why"), Level.MUST, True, Verdict.SKIP),
    ],
)
def test_run_of_a_case_comes_to_its_verdict(
    raised: Exception | None, level: Level, strict: bool, verdict: Verdict, tmp_path: Path
) -> None:
    stage = FakeStage(tmp_path)
    [result] = run(stage, case(1, raising(raised), level), strict=strict)
    assert result.verdict is verdict
    assert result.late_s == 0.25
    assert [arrow.note for arrow in result.trace] == ([result.text] if verdict in SHOWN else [])
    assert stage.ended == 1 + (verdict in SHOWN)  # And once more to see that the target is there.
    assert failed(Level.MUST, False) is Verdict.FAIL


def test_field_of_another_type_that_comes_when_a_case_ends_is_that_case_s_failure(tmp_path: Path) -> None:
    stage = FakeStage(tmp_path)
    stage.end = raising(TypeError("'<=' not supported"), once=True)  # type: ignore[method-assign]
    assert [result.verdict for result in run(stage, case(1, raising(None)), case(2, raising(None)))] == [
        Verdict.FAIL,
        Verdict.PASS,
    ]


def test_interrupted_case_is_ended(tmp_path: Path) -> None:
    stage = FakeStage(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(stage, case(1, raising(KeyboardInterrupt())))
    assert stage.ended == 1


def test_case_about_what_the_target_does_without_is_not_run(tmp_path: Path) -> None:
    left_out = replace(case(1, raising(Failed("it was run"))), needs="paths")
    other = replace(left_out, needs="schemes")
    results = run(FakeStage(tmp_path), left_out, other)
    assert [result.verdict for result in results] == [Verdict.SKIP, Verdict.FAIL]
    assert "--without paths" in results[0].text
    with pytest.raises(ValueError, match="nothing that a target may do without"):
        replace(left_out, needs="everything")


def test_field_of_another_type_is_told_as_what_the_target_sent(tmp_path: Path) -> None:
    [result] = run(FakeStage(tmp_path), case(1, raising(TypeError("'<=' not supported"))))
    assert result.text.startswith("a message came with something else in a field")
    assert "TypeError: '<=' not supported" in result.text


def test_field_of_another_type_before_the_first_case_is_one_line(tmp_path: Path) -> None:
    stage = FakeStage(tmp_path)
    stage.begin = raising(TypeError("'<=' not supported"))  # type: ignore[method-assign]
    with pytest.raises(BellwireError, match="something else in a field"):
        check_target(stage)  # type: ignore[arg-type]


def started(command: str, folder: Path) -> Process:
    process = Process(command, Folder(folder, Role.NODE, Times()), "")
    process.start()
    return process


def gone(stage: Any) -> None:
    """A case in which the target ends, that would pass."""
    stage.process._process.wait()


@pytest.mark.parametrize("level", Level)
def test_case_in_which_the_target_ends_fails_and_the_next_one_has_a_new_target(level: Level, tmp_path: Path) -> None:
    stage = FakeStage(tmp_path, started(ENDS, tmp_path), (STAYS,))
    first, second = run(stage, case(1, gone, level), case(2, raising(None)))
    assert (first.verdict, second.verdict) == (Verdict.FAIL, Verdict.PASS)
    assert first.text == "the target ended with exit code 1: no qubits left"
    assert stage.process is not None
    stage.process.end()


@pytest.mark.parametrize("raised", [Failed("expected session.ack"), Skipped("expected session.ack")])
def test_what_came_of_a_case_is_told_beside_the_end_of_its_target(raised: Exception, tmp_path: Path) -> None:
    stage = FakeStage(tmp_path, started(ENDS, tmp_path))

    def play(stage: Any) -> None:
        gone(stage)
        raise raised

    [result] = run(stage, case(1, play))
    assert result.verdict is Verdict.FAIL
    assert result.text == "the target ended with exit code 1: no qubits left; expected session.ack"


def test_cases_are_skipped_when_their_target_does_not_come_back(tmp_path: Path) -> None:
    results = run(FakeStage(tmp_path, started(ENDS, tmp_path)), case(1, gone), case(2, raising(None)))
    assert [result.verdict for result in results] == [Verdict.FAIL, Verdict.SKIP]
    assert results[1].text == "not run: the target is gone: cannot be started"


def test_cases_are_skipped_when_a_target_of_somebody_else_answers_no_more(tmp_path: Path) -> None:
    def play(stage: Any) -> None:
        stage.answers = False
        raise Failed("nothing came")

    results = run(FakeStage(tmp_path), case(1, play), case(2, raising(None)), case(3, raising(None)))
    assert [result.verdict for result in results] == [Verdict.FAIL, Verdict.SKIP, Verdict.SKIP]
    assert results[2].text == "not run: the target is gone: the target has not greeted the broker"


class FakeBroker:
    """Sends nothing, and notes what was to be sent."""

    name, beats, up = "broker", True, True

    def __init__(self) -> None:
        self.sent: list[str] = []

    def send(self, kind: str, /, **_: Any) -> None:
        self.sent.append(kind)

    def reply(self, _: Message, kind: str, /, **__: Any) -> None:
        self.sent.append(kind)

    def refuse(self, _: Message, code: str, /, **__: Any) -> None:
        self.sent.append(code)


LEASE = {"type": "time.lease", "request_id": 1, "interval_ns": 10**8, "exchanges": 1, "lease_ns": 10**9}


@pytest.mark.parametrize(
    "wrong", [{"interval_ns": "fast"}, {"exchanges": 1.0}, {"lease_ns": None}, {"exchanges": True}]
)
def test_lease_of_something_else_than_integers_is_refused_and_not_followed(wrong: dict[str, Any]) -> None:
    clock, broker = Timekeeper(), FakeBroker()
    assert clock.take(broker, LEASE | wrong)  # type: ignore[arg-type]
    clock.beat(broker)  # type: ignore[arg-type]
    assert broker.sent == ["MALFORMED"]
    assert clock.take(broker, LEASE)  # type: ignore[arg-type]
    clock.beat(broker)  # type: ignore[arg-type]
    assert broker.sent == ["MALFORMED", "time.grant", "time.announce", "time.sync"]
