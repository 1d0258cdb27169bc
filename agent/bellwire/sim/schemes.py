"""Heralding schemes: what the clicks of a photonic link mean, as closed forms.

A scheme is a strategy: of a link it gives the probability of a herald per attempt, and the state that each herald
leaves. It is found in `MODELS` by the name that it has on the wire (`bellwire.protocols.herald`).

η_a and η_b are the detection ratios of the two arms, d the dark count probability of one detector in one time window,
V the overlap of the two photons. Detectors click or do not; they do not count photons.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from bellwire.protocols.errors import BackendError
from bellwire.protocols.herald import DIRECT, DOUBLE_CLICK, SINGLE_CLICK, TIME_BIN, Scheme
from bellwire.protocols.instructions import BellState
from bellwire.sim.photonics import PhotonicLink
from bellwire.sim.states import MIXED, ComplexArray, bell_density_matrix, bell_vector, frozen, state_fidelity

_UNKNOWN: Final = frozen(np.kron(MIXED, MIXED))


@dataclass(frozen=True, kw_only=True, eq=False)
class Heralding:
    """What a scheme makes of a link.

    Attributes:
        success_probability: that an attempt is heralded, by any of the heralds.
        states: the two-qubit state that each herald leaves, shape (4, 4), first end's qubit slowest. All heralds are
            equally likely.
    """

    success_probability: float
    states: Mapping[BellState, ComplexArray]

    def fidelity(self, bell_state: BellState) -> float:
        """Give the overlap of the state left by a herald with the Bell state that it names."""
        return state_fidelity(self.states[bell_state], bell_vector(bell_state))

    @property
    def fidelity_ratio(self) -> float:
        """Mean overlap of the heralded states with the Bell states that their heralds name."""
        return sum(self.fidelity(bell_state) for bell_state in self.states) / len(self.states)


class HeraldSchemeCapable(Protocol):
    """A way to herald entanglement with single photons."""

    @property
    def scheme(self) -> Scheme:
        """What it is called on the wire, and what it can herald."""
        ...

    def heralding(self, link: PhotonicLink, *, bright_ratio: float | None = None, offset_ns: float = 0.0) -> Heralding:
        """Give success probability and heralded states of a link.

        Args:
            bright_ratio: population of the bright state, for the schemes that have one.
            offset_ns: by how much the ends' emission times differ.

        Raises:
            BackendError: when the scheme and the link's arms or the bright ratio do not fit.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Clicks:
    """The probability that one given detector of the two behind a beam splitter clicks, and the other does not.

    By who has emitted a photon; `coherence` is what multiplies the coherence between "the first has" and "the second has".
    """

    none: float
    first: float
    second: float
    both: float
    coherence: float

    @classmethod
    def of(cls, link: PhotonicLink, overlap: float) -> _Clicks:
        """One photon takes either output; two leave by the same one with probability (1 + V)/2."""
        assert link.second is not None
        first, second, dark = link.detection_ratio(link.first), link.detection_ratio(link.second), _dark(link)
        quiet = 1 - dark
        lone = first * (1 - second) + second * (1 - first)
        return cls(
            none=quiet * dark,
            first=quiet * (first / 2 + (1 - first) * dark),
            second=quiet * (second / 2 + (1 - second) * dark),
            both=quiet * (first * second * (1 + overlap) / 4 + lone / 2 + (1 - first) * (1 - second) * dark),
            coherence=quiet * float(np.sqrt(first * second * overlap)) / 2,
        )


def _dark(link: PhotonicLink) -> float:
    return link.dark_count_probability


def _midpoint(scheme: Scheme, link: PhotonicLink, bright_ratio: float | None) -> None:
    """Check that a link suits a scheme with a station, and that a bright ratio is given only where there is one."""
    if link.second is None:
        raise BackendError(f"scheme {scheme.name} needs the arms of both ends")
    if bright_ratio is not None and not scheme.bright:
        raise BackendError(f"scheme {scheme.name} has no bright ratio")


def _psi(populations: tuple[float, float, float, float], coherence: float) -> ComplexArray:
    """Make a state of populations of 00 01 10 11 and the coherence of 01 and 10, divided by its trace."""
    state = np.diag(populations).astype(np.complex128)
    state[1, 2] = state[2, 1] = coherence
    total = sum(populations)
    return frozen(state / total) if total > 0 else _UNKNOWN


def _both_psi(probability: float, populations: tuple[float, float, float, float], coherence: float) -> Heralding:
    return Heralding(
        success_probability=probability,
        states={
            BellState.PSI_PLUS: _psi(populations, coherence),
            BellState.PSI_MINUS: _psi(populations, -coherence),
        },
    )


class DoubleClick:
    """Two photons entangled with the emitters in polarisation, Bell measurement by a beam splitter and two polarisers.

    Four detectors: two polarisations at each of two outputs. A herald is one click of each polarisation: at the same
    output it names Ψ+, at different outputs Ψ-. Half of all photon pairs give one (Braunstein and Mann, PRA 51,
    R1727). With d the dark count probability of a detector,

        true     η_a η_b / 2
        one dark [η_a (1 - η_b) + η_b (1 - η_a)] · 2d    the photon, and a detector of the 2 of the other polarisation
        two dark (1 - η_a)(1 - η_b) · 4d²                one of the 4 pairs of detectors that name a herald

    and p is their sum, each to the lowest order in d. A true herald leaves (1 + V)/2 of the Bell state named and
    (1 - V)/2 of the other Ψ, since photons that can be told apart leave no coherence. A false one says nothing
    about the emitter whose photon was lost, and leaves I/4. So, with f = true/p,

        F = f (1 + V)/2 + (1 - f)/4.

    Unequal arms change the rate but not the state: each term of the superposition needs one photon through either arm.
    """

    scheme = DOUBLE_CLICK

    def heralding(self, link: PhotonicLink, *, bright_ratio: float | None = None, offset_ns: float = 0.0) -> Heralding:
        """Give success probability and heralded states of a link."""
        _midpoint(self.scheme, link, bright_ratio)
        assert link.second is not None
        first, second, dark = link.detection_ratio(link.first), link.detection_ratio(link.second), _dark(link)
        true = first * second / 2
        one_dark = (first * (1 - second) + second * (1 - first)) * 2 * dark
        two_dark = (1 - first) * (1 - second) * 4 * dark**2
        total = true + one_dark + two_dark
        share = true / total if total > 0 else 0.0
        return _named(total, share, link.overlap_ratio(offset_ns))


def _named(probability: float, share: float, overlap: float) -> Heralding:
    """A share of heralds is true: (1 + V)/2 of the state named, the rest of the other Ψ. The others leave I/4."""
    plus, minus = bell_density_matrix(BellState.PSI_PLUS), bell_density_matrix(BellState.PSI_MINUS)
    kept, lost = (1 + overlap) / 2, (1 - overlap) / 2
    return Heralding(
        success_probability=probability,
        states={
            BellState.PSI_PLUS: frozen(share * (kept * plus + lost * minus) + (1 - share) * _UNKNOWN),
            BellState.PSI_MINUS: frozen(share * (kept * minus + lost * plus) + (1 - share) * _UNKNOWN),
        },
    )


class SingleClick:
    """Both emitters in √(1-α)|0⟩ + √α|1⟩, of which |1⟩ emits; one click of one detector of two heralds.

    Cabrillo et al., PRA 59, 1025 (1999); Humphreys et al., Nature 558, 268 (2018). The detector names the sign of Ψ±.
    Without dark counts, with V = 1 and equal arms,

        p = 2αη - α²η²        F = (1 - α)/(1 - αη/2)

    The error is that both were bright and a photon was lost, or both left by one output: |11⟩. The coherence of Ψ± goes
    with √V, one photon's amplitude in either arm, and needs optical phases that are stable; what they cost belongs into
    the visibility. All orders of dark counts are kept. `bright_ratio` is α, the same at both ends.
    """

    scheme = SINGLE_CLICK

    def heralding(self, link: PhotonicLink, *, bright_ratio: float | None = None, offset_ns: float = 0.0) -> Heralding:
        """Give success probability and heralded states of a link."""
        _midpoint(self.scheme, link, bright_ratio)
        if bright_ratio is None or not 0 < bright_ratio < 1:
            raise BackendError(f"expected a bright ratio between 0 and 1, got {bright_ratio}")
        bright, dim = bright_ratio, 1 - bright_ratio
        clicks = _Clicks.of(link, link.overlap_ratio(offset_ns))
        populations = (
            dim**2 * clicks.none,
            dim * bright * clicks.second,
            bright * dim * clicks.first,
            bright**2 * clicks.both,
        )
        return _both_psi(2 * sum(populations), populations, bright * dim * clicks.coherence)


class TimeBin:
    """Two excitations per attempt: both emitters in (|0⟩ + |1⟩)/√2 are excited, flipped and excited again.

    Barrett and Kok, PRA 71, 060310 (2005); Bernien et al., Nature 497, 86 (2013). Each emitter gives one photon, early
    or late. One click of two detectors in both bins heralds: the same detector twice names Ψ+, different ones Ψ-.
    Without dark counts

        p = η_a η_b / 2        F = (1 + V)/2

    since both coherences of √V multiply: the phases of the paths cancel. The false heralds of dark counts are those of
    emitters that emitted in the same bin, and those of a lost photon. All orders of dark counts are kept.
    """

    scheme = TIME_BIN

    def heralding(self, link: PhotonicLink, *, bright_ratio: float | None = None, offset_ns: float = 0.0) -> Heralding:
        """Give success probability and heralded states of a link."""
        _midpoint(self.scheme, link, bright_ratio)
        clicks = _Clicks.of(link, link.overlap_ratio(offset_ns))
        alike, different = clicks.none * clicks.both, clicks.first * clicks.second
        populations = (alike / 4, different / 4, different / 4, alike / 4)
        return _both_psi(4 * sum(populations), populations, clicks.coherence**2 / 4)


class Direct:
    """A photon of the sending end, entangled with its qubit, is detected by the other end behind its own qubit.

    Without a station: the photon is reflected from the receiver's qubit, which turns its phase, and measured in two
    detectors; each names a sign of Ψ±, up to a Pauli that the receiver applies (Duan and Kimble, PRL 92, 127902 (2004);
    Bhaskar et al., Nature 580, 60 (2020)). With one arm and two detectors

        true p = η (1 - d)        false p = (1 - η) 2d (1 - d)

    A true herald leaves (1 + V)/2 of the state named, V being the contrast with which photon and receiver interact; a
    false one leaves I/4.
    """

    scheme = DIRECT

    def heralding(self, link: PhotonicLink, *, bright_ratio: float | None = None, offset_ns: float = 0.0) -> Heralding:
        """Give success probability and heralded states of a link."""
        if link.second is not None:
            raise BackendError("scheme direct has one arm, from the sender to the receiver")
        if bright_ratio is not None:
            raise BackendError("scheme direct has no bright ratio")
        detection, dark = link.detection_ratio(link.first), _dark(link)
        true, false = detection * (1 - dark), (1 - detection) * 2 * dark * (1 - dark)
        total = true + false
        return _named(total, true / total if total > 0 else 0.0, link.overlap_ratio(offset_ns))


MODELS: Final[Mapping[str, HeraldSchemeCapable]] = {
    model.scheme.name: model for model in (DoubleClick(), SingleClick(), TimeBin(), Direct())
}
"""The schemes that a preset can name, by their names on the wire."""
