"""What goes wrong between a herald and its confirmation by both ends, scene by scene (spec 2 §3.3 to §4.3)."""

from __future__ import annotations

import json
import os
from typing import Any, Final

import msgspec
import pytest

from bellwire.simnet.faults import LINK_SCENES, Ambush, AmbushKind
from bellwire.simnet.trace import Trace
from bellwire.virtual.run import run_seed
from bellwire.virtual.scenario import Scenario, load_scenario
from bellwire.virtual.sweep import LocalRunner, sweep

MS: Final = 1_000_000
LONG_MS: Final = 4_000
"""Longer than an end waits for a report."""

Events = list[dict[str, Any]]


def idle() -> Scenario:
    """The scenario with applications that ask for pairs and leave them alone."""
    scenario = load_scenario("link-faults")
    workload = msgspec.structs.replace(
        scenario.workload, gates_permille=0, hasty_permille=0, measured_permille=0, idle_permille=1_000
    )
    return msgspec.structs.replace(scenario, workload=workload)


class Scene:
    """A run of the idle scenario with one ambush and nothing else, and what its trace has from the ambush on."""

    def __init__(self, name: str, *, kind: AmbushKind, message: str, lasting_ms: int, copy_after_ms: int = 0) -> None:
        assert (kind, message) in LINK_SCENES[name]
        fault = Ambush(
            number=1,
            kind=kind,
            message=message,
            duration_ns=lasting_ms * MS,
            copy_after_ns=copy_after_ms * MS,
            scene=name,
        )
        lines: list[str] = []
        report = run_seed(idle(), 4, plan=(fault,), trace=Trace(lines.append))
        assert report.violations == []
        assert report.faults == {name: 1}
        every: Events = [json.loads(line) for line in lines]
        at = next(number for number, event in enumerate(every) if event["kind"] == "fault")
        self.at_ns: int = every[at]["at_ns"]
        self.actor: str = every[at]["actor"]
        self.every = every
        self.caught = next(event for event in every[at:] if event.get("type") == message)
        """What became of the frame that was ambushed."""

    def frames(self, kind: str, **fields: object) -> Events:
        """The frames of the caught one's type to which something happened."""
        wanted = {"kind": kind, "type": self.caught["type"], **fields}
        return [event for event in self.every if wanted.items() <= event.items()]

    def notes(self, name: str, subject: str, actor: str = "") -> Events:
        """What was noted of a window or of its pair, by one participant or by all."""
        return [
            event
            for event in self.every
            if event.get("event") == name
            and (event["subjects"][0] == subject or event["subjects"][0].startswith(f"{subject}/"))
            and actor in ("", event["actor"])
        ]

    def pair_of(self, actor: str) -> str:
        """The pair that a participant was about to confirm, or had confirmed, when the ambush struck."""
        noted = [e for e in self.every if e["at_ns"] == self.at_ns and e["actor"] == actor and e["kind"] == "journal"]
        pair: str = next(e["subjects"][0] for e in noted if e["event"] in ("PairHeralded", "PairConfirmed"))
        return pair


def test_lost_report_ends_the_window_at_one_end_and_the_pair_at_both() -> None:
    scene = Scene("lost-report", kind=AmbushKind.LOSE, message="herald.report", lasting_ms=LONG_MS)
    window, end = scene.caught["window_id"], scene.caught["to"]
    assert len(scene.frames("frame-lost", window_id=window, to=end)) > 1  # The station has repeated it.
    assert scene.frames("frame-delivered", window_id=window, to=end) == []
    (closed,) = scene.notes("WindowClosed", window)
    assert (closed["actor"], closed["detail"]) == (end, "the station did not report in time")
    assert scene.notes("PairHeralded", window)  # The other end has heard of it,
    assert scene.notes("PairConfirmed", window) == []  # and nobody uses it.
    assert scene.notes("PairEnded", window)


def test_report_that_is_late_changes_nothing() -> None:
    scene = Scene(
        "late-report",
        kind=AmbushKind.LOSE,
        message="herald.report",
        lasting_ms=LONG_MS,
        copy_after_ms=LONG_MS,
    )
    window, end = scene.caught["window_id"], scene.caught["to"]
    (closed,) = scene.notes("WindowClosed", window)
    (delivered,) = scene.frames("frame-delivered", window_id=window, to=end)
    assert closed["at_ns"] < delivered["at_ns"]
    assert scene.notes("PairHeralded", window, end) == scene.notes("PairConfirmed", window) == []


def test_repeated_report_heralds_one_pair() -> None:
    scene = Scene("repeated-report", kind=AmbushKind.COPY, message="herald.report", lasting_ms=0, copy_after_ms=20)
    window, end = scene.caught["window_id"], scene.caught["to"]
    first, second = scene.frames("frame-delivered", window_id=window, to=end)
    assert first["request_id"] == second["request_id"]
    assert len(scene.notes("PairHeralded", window, end)) == 1
    assert {event["actor"] for event in scene.notes("PairConfirmed", window)} >= {end}


def test_station_that_dies_between_detection_and_report_leaves_no_pair() -> None:
    scene = Scene("crash-before-report", kind=AmbushKind.CRASH_UNSENT, message="herald.report", lasting_ms=500)
    window = scene.caught["window_id"]
    (reported,) = scene.notes("WindowReported", window, scene.actor)
    assert (reported["at_ns"], "psi" in reported["detail"]) == (scene.at_ns, True)
    assert scene.frames("frame-delivered", window_id=window) == []
    freed = [
        event["at_ns"] for event in scene.every if event["kind"] == "qubits-freed" and event["actor"] == scene.actor
    ]
    assert scene.at_ns in freed
    assert len(scene.notes("WindowClosed", window)) == 2
    assert scene.notes("PairHeralded", window) == []


@pytest.mark.parametrize("scene", ["crash-before-confirming", "crash-after-confirming"])
@pytest.mark.parametrize("way", [0, 1])
def test_end_that_dies_around_its_confirmation_leaves_the_other_without_the_pair(scene: str, way: int) -> None:
    kind, message = LINK_SCENES[scene][way]
    told = Scene(scene, kind=kind, message=message, lasting_ms=500)
    pair = told.pair_of(told.actor)
    dead = told.caught["to"] if kind is AmbushKind.CRASH_RECEIVER else told.actor
    survivor = told.caught["from"] if dead == told.caught["to"] else told.caught["to"]
    freed = [event["at_ns"] for event in told.every if event["kind"] == "qubits-freed" and event["actor"] == dead]
    assert any(told.at_ns <= at_ns <= told.at_ns + MS for at_ns in freed)
    confirmed = {event["actor"] for event in told.notes("PairConfirmed", pair)}
    expected = {
        "crash-before-confirming": [set(), {dead}],  # The primary has not asked; the secondary has not answered.
        "crash-after-confirming": [{dead, survivor}, {dead, survivor}],
    }
    assert confirmed == expected[scene][way]
    (ended,) = told.notes("PairEnded", pair)
    assert ended["actor"] == survivor


def test_every_scene_of_the_link_is_set_and_breaks_no_invariant() -> None:
    swept = sweep({"link-faults": load_scenario("link-faults")}, range(60), LocalRunner(os.cpu_count() or 1))
    assert [failure.report.violations for failure in swept.whole.failing] == []
    assert all(swept.whole.faults[scene] >= 10 for scene in LINK_SCENES), swept.whole.faults
