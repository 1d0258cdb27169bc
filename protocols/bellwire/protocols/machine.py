"""State machines whose legal behaviour is a literal table.

A machine's table maps `(state, input)` to a `Row`: the next state, what is done on the way, and the section of the
specification that says so. An input with no row in the present state is a protocol error that names both, and leaves the
state as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Generic, TypeVar

from bellwire.protocols.errors import RemoteProtocolError

S = TypeVar("S", bound=StrEnum)
I = TypeVar("I", bound=StrEnum)  # noqa: E741


@dataclass(frozen=True, slots=True)
class Row(Generic[S]):
    """One legal transition. `action` names the method of the machine's owner that carries it out."""

    next: S
    action: str | None
    rule: str


class Machine(Generic[S, I]):
    """A state and the table that moves it. Actions are methods of the owner, called with the input's arguments."""

    name: ClassVar[str]
    rule: ClassVar[str]
    initial: ClassVar[StrEnum]
    table: ClassVar[Mapping[tuple[Any, Any], Row[Any]]]
    observe: ClassVar[Callable[[str, StrEnum, StrEnum], None] | None] = None
    """Called with (machine, state, input) for every row taken: how coverage of the tables is counted."""

    def __init__(self) -> None:
        self.state: S = self.initial  # type: ignore[assignment]

    def allows(self, given: I) -> bool:
        """Whether the table has a row for the input in the present state."""
        return (self.state, given) in self.table

    def step(self, given: I, *arguments: Any) -> None:
        """Take the row for the input: the state first, then the action.

        Raises:
            RemoteProtocolError: when there is no such row; the state stays.
        """
        row = self.table.get((self.state, given))
        if row is None:
            raise RemoteProtocolError(f"{self.name}: {given} not allowed in {self.state.upper()}", self.rule)
        observe = Machine.observe
        if observe is not None:
            observe(self.name, self.state, given)
        self.state = row.next
        if row.action is not None:
            getattr(self, row.action)(*arguments)
