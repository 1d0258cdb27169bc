"""Physical numbers as a preset writes them: with a unit, a tag that says how they are known, and a source.

t2 = { value = 1.2, unit = "s", tag = "measured", source = "Main 2025, Methods" }
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta

from bellwire.sim.states import ComplexArray, frozen, measured_state

Tag = Literal["measured", "derived", "assumed"]
Source = Annotated[str, Meta(min_length=1)]

TIME_NS: Final[Mapping[str, float]] = {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9}
SHORT_TIME_PS: Final[Mapping[str, float]] = {"ps": 1.0, "ns": 1e3, "us": 1e6, "ms": 1e9}
LENGTH_M: Final[Mapping[str, float]] = {"m": 1.0, "km": 1e3}
LOSS_DB_PER_KM: Final[Mapping[str, float]] = {"dB/km": 1.0}
RATIO: Final[Mapping[str, float]] = {"1": 1.0, "%": 0.01}


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what a preset's tables become. Validates where it is made; raises ValueError with the key in the text."""


class Quantity(Table, frozen=True, kw_only=True):
    """A number with its unit, how it is known (`measured`, `derived` from measured ones, `assumed`) and where from."""

    value: float
    unit: str
    tag: Tag
    source: Source

    def to(self, units: Mapping[str, float]) -> float:
        """Give the value in the base unit of `units`. Raises ValueError for a unit that is not among them."""
        if self.unit not in units:
            raise ValueError(f"unit {self.unit!r} is not one of {', '.join(map(repr, units))}")
        return self.value * units[self.unit]


class MeasuredMatrix(Table, frozen=True, kw_only=True):
    """A measured two-qubit density matrix, 4x4 in the basis 00 01 10 11, first end's qubit first.

    Either `real` and `imag`, or `magnitude` and `phase_pi_upper`: phases in units of π of the elements above the
    diagonal, named by row and column ("01" to "23"), the lower triangle being the conjugate.

    Raises:
        ValueError: when neither or both forms are given, the shape is wrong, or it is not a state within
            `states.STATE_TOLERANCE`.
    """

    tag: Tag
    source: Source
    unit: Literal["1"] = "1"
    real: list[list[float]] | None = None
    imag: list[list[float]] | None = None
    magnitude: list[list[float]] | None = None
    phase_pi_upper: dict[str, float] | None = None

    def __post_init__(self) -> None:
        self.state()

    def state(self) -> ComplexArray:
        """Give the density matrix: Hermitian, trace 1. Shape (4, 4)."""
        cartesian, polar = (self.real, self.imag), (self.magnitude, self.phase_pi_upper)
        if None not in cartesian and polar == (None, None):
            return frozen(measured_state(_square(self.real, "real") + 1j * _square(self.imag, "imag")))
        if None in polar or cartesian != (None, None):
            raise ValueError("expected either `real` and `imag`, or `magnitude` and `phase_pi_upper`")
        magnitude = _square(self.magnitude, "magnitude")
        phases = dict(self.phase_pi_upper or {})
        matrix = magnitude.astype(np.complex128)
        for row in range(4):
            for column in range(row + 1, 4):
                name = f"{row}{column}"
                if name not in phases:
                    if magnitude[row, column]:
                        raise ValueError(f"phase_pi_upper has no {name!r}, but that element is not zero")
                    continue
                phase = np.exp(1j * math.pi * phases.pop(name))
                matrix[row, column] *= phase
                matrix[column, row] *= phase.conjugate()
        if phases:
            raise ValueError(f"phase_pi_upper has {sorted(phases)[0]!r}, which is not above the diagonal")
        return frozen(measured_state(matrix))


def _square(rows: list[list[float]] | None, what: str) -> ComplexArray:
    if rows is None or len(rows) != 4 or any(len(row) != 4 for row in rows):
        raise ValueError(f"`{what}` is not 4 rows of 4 numbers")
    return np.array(rows, dtype=np.complex128)


def number(
    quantity: Quantity,
    key: str,
    units: Mapping[str, float],
    *,
    low: float = 0.0,
    high: float = math.inf,
    infinite: bool = False,
) -> float:
    """Give a quantity in the base unit of `units`, checked to be within [low, high].

    Raises:
        ValueError: with `key` in the text, when the unit is not allowed, or the value is out of range, not a number, or
            infinite where that means nothing.
    """
    try:
        value = quantity.to(units)
    except ValueError as error:
        raise ValueError(f"`{key}`: {error}") from None
    if not low <= value <= high or (math.isinf(value) and not infinite):
        base = next(name for name, factor in units.items() if factor == 1.0)
        limits = f"at least {low:g}" if math.isinf(high) else f"{low:g} to {high:g}"
        raise ValueError(f"`{key}` is {quantity.value:g} {quantity.unit}, expected {limits} in unit {base!r}")
    return value


class ProvenanceRow(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the table of where a preset's numbers come from. `key` is the dotted place in the file."""

    key: str
    value: str
    unit: str
    tag: str
    source: str


def provenance_of(part: Any, key: str) -> list[ProvenanceRow]:
    """List the quantities within a table, in the order of the schema, under dotted keys that begin with `key`."""
    if isinstance(part, Quantity):
        return [ProvenanceRow(key=key, value=f"{part.value:g}", unit=part.unit, tag=part.tag, source=part.source)]
    if isinstance(part, MeasuredMatrix):
        return [ProvenanceRow(key=key, value="4x4 matrix", unit=part.unit, tag=part.tag, source=part.source)]
    rows: list[ProvenanceRow] = []
    if isinstance(part, Mapping):
        for name, value in part.items():
            rows += provenance_of(value, f"{key}.{name}" if key else str(name))
    elif isinstance(part, msgspec.Struct):
        for name in part.__struct_fields__:
            rows += provenance_of(getattr(part, name), f"{key}.{name}" if key else name)
    return rows
