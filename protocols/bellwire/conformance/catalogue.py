"""What a case is, and which ones there are. A case checks one sentence of the specification; its id is permanent."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from bellwire.protocols.errors import ConfigError

CHAPTERS: Final = {
    "CORE": "1",
    "SESS": "1",
    "LINK": "2",
    "HRLD": "2",
    "PAIR": "2",
    "HARD": "2",
    "GATE": "3",
    "PROG": "3",
    "TIME": "4",
}
"""The chapter of the specification that the cases of a family are about."""

OPTIONS: Final = {
    "applications": "being told which applications may use an agent (1 §2.6)",
    "paths": "direct connections (1 §4.8)",
    "schemes": "links that herald by single-click or direct (2 §3.4)",
}
"""What a target may do without: its maker says so (`--without`), and cases that need it are skipped."""

_ID: Final = re.compile(r"(?P<family>[A-Z]{4})-(?P<section>\d+(?:\.\d+)*)-\d\d")


class Role(StrEnum):
    """What can be checked: the profiles of the kit."""

    NODE = "node"
    STATION = "station"
    BROKER = "broker"
    BACKEND = "backend"


ON_THE_WIRE: Final = frozenset({Role.NODE, Role.STATION, Role.BROKER})
ENDS: Final = frozenset({Role.NODE, Role.STATION})
NODE: Final = frozenset({Role.NODE})
STATION: Final = frozenset({Role.STATION})
BROKER: Final = frozenset({Role.BROKER})
BACKEND: Final = frozenset({Role.BACKEND})


class Level(StrEnum):
    """How binding a requirement is (RFC 2119)."""

    MUST = "MUST"
    SHOULD = "SHOULD"


class Verdict(StrEnum):
    """What came of a case. `informational`: a SHOULD that does not hold, which fails under `--strict`."""

    PASS = "pass"
    FAIL = "fail"
    SKIP = "skip"
    INFORMATIONAL = "informational"


SHOWN: Final = (Verdict.FAIL, Verdict.INFORMATIONAL)
"""What came of a requirement that does not hold: the messages are shown."""


class Failed(Exception):
    """The target does not do what the requirement says. The text tells what was expected and what came."""


class Skipped(Exception):
    """The case cannot be run on this target; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One requirement and what checks it. `requirement` quotes the section of the specification that the id names."""

    id: str
    level: Level
    requirement: str
    roles: frozenset[Role]
    title: str
    run: Callable[[Any], Any] = field(repr=False)
    last: bool = False
    """Judged after all others, since it is about everything that was seen."""
    needs: str = ""
    """Which of the OPTIONS it is about; empty for what every target has to do."""

    def __post_init__(self) -> None:
        parts = _ID.fullmatch(self.id)
        if parts is None or parts["family"] not in CHAPTERS:
            raise ValueError(f"{self.id!r} is not a case's id: expected such as SESS-4.1-01")
        if self.needs and self.needs not in OPTIONS:
            raise ValueError(f"{self.id}: {self.needs!r} is nothing that a target may do without")

    @property
    def rule(self) -> str:
        """The section that the requirement stands in, as the specification cites itself: `1 §4.1`."""
        family, section, _ = self.id.split("-")
        return f"{CHAPTERS[family]} §{section}"


LATE_S: Final = 0.1
"""From when on it is told that the kit was late."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a case, which is run once: `text` says what was expected and what came, or why it was skipped."""

    case: Case
    verdict: Verdict
    text: str = ""
    seconds: float = 0.0
    late_s: float = 0.0
    """How late the kit itself was at worst: evidence for whoever doubts a verdict, which it does not change."""
    trace: Sequence[Any] = ()
    round: int = 0
    """Which one of several rounds it is of, from 1; 0 when there was one only."""

    @property
    def name(self) -> str:
        """The case's id, with the round."""
        return f"{self.case.id} in round {self.round}" if self.round else self.case.id

    @property
    def doubt(self) -> str:
        """What is to be said of a case that did not pass while the kit itself stood still; empty otherwise."""
        if self.late_s < LATE_S or self.verdict not in SHOWN:
            return ""
        return f"The kit itself stood still for {self.late_s:.2f} s during this case: is its machine too busy? See --scale."


class Section:
    """The cases of one section: `@section.must(id, quote, roles)` adds one; its docstring is the title."""

    def __init__(self) -> None:
        self.cases: list[Case] = []

    def must(
        self, case_id: str, requirement: str, roles: frozenset[Role], *, last: bool = False, needs: str = ""
    ) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
        """Add a case of level MUST: of a sentence with that word, or in the present tense, which binds as much."""
        return self._add(case_id, Level.MUST, requirement, roles, last, needs)

    def should(
        self, case_id: str, requirement: str, roles: frozenset[Role], *, last: bool = False
    ) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
        """Add a case of level SHOULD."""
        return self._add(case_id, Level.SHOULD, requirement, roles, last, "")

    def _add(
        self, case_id: str, level: Level, requirement: str, roles: frozenset[Role], last: bool, needs: str
    ) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
        def add(run: Callable[[Any], Any]) -> Callable[[Any], Any]:
            title = (run.__doc__ or "").strip().split("\n")[0]
            case = Case(
                id=case_id,
                level=level,
                requirement=requirement,
                roles=roles,
                title=title,
                run=run,
                last=last,
                needs=needs,
            )
            self.cases.append(case)
            return run

        return add


def select(cases: Iterable[Case], role: Role | None, wanted: Sequence[str] = ()) -> list[Case]:
    """The cases of a role (of all, without one) whose ids are or begin with one of `wanted`, in order of their ids.

    Raises:
        ConfigError: when one of `wanted` selects nothing.
    """
    chosen = [case for case in cases if role is None or role in case.roles]
    for name in wanted:
        if not any(_named(case, name) for case in chosen):
            whose = f" of the profile {role}" if role is not None else ""
            raise ConfigError(f"there is no case {name!r}{whose}: see bellwire conformance --list")
    chosen = [case for case in chosen if not wanted or any(_named(case, name) for name in wanted)]
    return sorted(chosen, key=lambda case: (case.last, list(CHAPTERS).index(case.id[:4]), _numbers(case.id)))


def _named(case: Case, name: str) -> bool:
    """Whether a name on the command line means a case: its id, its section (`SESS-4.1`) or its family (`SESS`)."""
    return case.id == name or case.id.startswith((f"{name}-", f"{name}."))


def _numbers(case_id: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", case_id)]
