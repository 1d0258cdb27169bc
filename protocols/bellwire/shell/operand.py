"""What people write and the wire carries: names of nodes, `node:qubit`, fidelities and durations."""

from __future__ import annotations

import math
import re

from bellwire.protocols.errors import ConfigError
from bellwire.protocols.ids import OPERAND_PATTERN, NodeId, node_id
from bellwire.protocols.limits import MAX_ID_CHARS

MAX_TIMEOUT_S = 86_400.0
"""The longest time that a request may be given: a day."""

_QUBIT = re.compile(OPERAND_PATTERN)


def operand(text: str) -> tuple[NodeId, str]:
    """Read `node:qubit`.

    Raises:
        ConfigError: when it is not of this form, or a name cannot be one.
    """
    node, colon, qubit = text.partition(":")
    if not colon:
        raise ConfigError(f"{text[:80]!r} is not of the form node:qubit")
    return node_id(node), qubit_name(qubit)


def qubit_name(text: str) -> str:
    """Check that `text` can name a qubit: a name of the application's own, or the id of a pair.

    Raises:
        ConfigError: when it is empty, too long or has a space or colon in it.
    """
    if len(text) > MAX_ID_CHARS or not _QUBIT.match(text):
        raise ConfigError(
            f"{text[:80]!r} cannot name a qubit: 1 to {MAX_ID_CHARS} characters without spaces and colons"
        )
    return text


def check_fidelity(fidelity: float) -> float:
    """Check that a number can be the least fidelity that will do.

    Raises:
        ConfigError: when it does not lie in 0..1.
    """
    if not 0.0 <= fidelity <= 1.0:
        raise ConfigError(f"a fidelity of {fidelity:g}: expected 0 to 1")
    return fidelity


def duration_ns(timeout_s: float) -> int:
    """A time in seconds as the wire has it, in nanoseconds.

    Raises:
        ConfigError: when it is not a positive number of at most a day.
    """
    if not (math.isfinite(timeout_s) and 0 < timeout_s <= MAX_TIMEOUT_S):
        raise ConfigError(f"a timeout of {timeout_s:g} s: expected more than 0 and at most {MAX_TIMEOUT_S:g}")
    return max(1, round(timeout_s * 1e9))
