"""Quantum process tomography of two qubits by linear inversion: product inputs, 9 product bases, no prior.

Each input is sent through the process and measured in each basis of {X, Y, Z}². The inputs are the 36 products of the
eigenstates of X, Y and Z. Sixteen, {0, 1, +, +i}², would do, and `Plan` takes any set that spans the operators; but their
inversion is ill-conditioned: with as many shots the error of the fidelity is more than twice as large.

The estimate is linear in the relative frequencies, so that its standard error follows from those of the multinomials,
without resampling.
(Nielsen and Chuang §8.4.2; in the Pauli basis: Greenbaum, arXiv 1509.02921, §3.)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from bellwire.sim.states import ComplexArray, FloatArray
from oxford.circuits import PREPARATIONS
from oxford.paulis import LABELS, average_fidelity, product_state_vector, transfer_matrix

Inputs = tuple[tuple[str, str], ...]

ALL_INPUTS: Final[Inputs] = tuple(itertools.product(PREPARATIONS, PREPARATIONS))
_FOUR = ("0", "1", "+", "+i")
FEWEST_INPUTS: Final[Inputs] = tuple(itertools.product(_FOUR, _FOUR))
BASES: Final = tuple("".join(pair) for pair in itertools.product("XYZ", repeat=2))
OUTCOMES: Final = ((0, 0), (0, 1), (1, 0), (1, 1))


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting of the apparatus: the states to prepare, Alice's and Bob's, and the basis to measure in."""

    inputs: tuple[str, str]
    basis: str


Counts = Mapping[Setting, FloatArray]
"""How often each of `OUTCOMES` came, for each setting. Shape (4,)."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its standard error and the shots that it took."""

    value: float
    sigma: float
    shots: int


NO_ESTIMATE: Final = Estimate(value=math.nan, sigma=math.nan, shots=0)
"""What there is where nothing was measured."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A tomography: which inputs. `settings` are all that have to be measured.

    Raises:
        ValueError: when the inputs do not span the operators on two qubits.
    """

    inputs: Inputs = ALL_INPUTS

    def __post_init__(self) -> None:
        if np.linalg.matrix_rank(self._states()) < 16:
            raise ValueError(f"{len(self.inputs)} inputs do not span the operators on two qubits")

    @property
    def settings(self) -> list[Setting]:
        """Every input in every basis."""
        return [Setting(inputs=inputs, basis=basis) for inputs in self.inputs for basis in BASES]

    def _states(self) -> FloatArray:
        """Pauli vectors of the inputs, one per column: shape (16, inputs)."""
        return np.stack([product_state_vector(*inputs) for inputs in self.inputs], axis=1)

    def _inverse(self) -> FloatArray:
        """What turns outputs into a transfer matrix: shape (inputs, 16)."""
        return np.asarray(np.linalg.pinv(self._states()), dtype=np.float64)

    def _shots(self, counts: Counts) -> FloatArray:
        return np.array([float(np.sum(counts.get(setting, 0))) for setting in self.settings]).reshape(-1, len(BASES))

    def _frequencies(self, counts: Counts) -> FloatArray:
        """Relative frequencies, shape (inputs, 9, 4): input, basis, outcome."""
        missing = [setting for setting in self.settings if float(np.sum(counts.get(setting, 0))) <= 0]
        if missing:
            raise ValueError(f"input {missing[0].inputs} was not measured in {missing[0].basis}")
        table = np.array([np.asarray(counts[setting]) / np.sum(counts[setting]) for setting in self.settings])
        return table.reshape(len(self.inputs), len(BASES), 4)

    def reconstruct(self, counts: Counts) -> FloatArray:
        """Give the transfer matrix by linear inversion. Shape (16, 16).

        Raises:
            ValueError: when a setting was never measured.
        """
        outputs = np.einsum("ibk,sbk->is", _readings(), self._frequencies(counts))
        transfer: FloatArray = outputs @ self._inverse()
        return transfer

    def average_gate_fidelity(self, counts: Counts, ideal: ComplexArray) -> Estimate:
        """Give the average gate fidelity of the process to a unitary, shape (4, 4), with its standard error.

        Raises:
            ValueError: when a setting was never measured.
        """
        table, shots = self._frequencies(counts), self._shots(counts)
        weights = np.einsum("ij,sj,ibk->sbk", transfer_matrix(ideal), self._inverse(), _readings(), optimize=True) / 16
        means = np.sum(weights * table, axis=2)
        spreads = np.maximum(np.sum(weights**2 * table, axis=2) - means**2, 0.0)  # rounding may leave -1e-17
        variance = float(np.sum(spreads / np.maximum(shots - 1, 1)))
        value = average_fidelity(float(means.sum()))
        return Estimate(value=value, sigma=0.8 * variance**0.5, shots=int(shots.sum()))


@lru_cache(maxsize=1)
def _readings() -> FloatArray:
    """How outcomes make Pauli expectations, shape (16, 9, 4): averaged over the bases that tell of an operator."""
    readings = np.zeros((16, len(BASES), 4))
    for row, label in enumerate(LABELS):
        fitting = [
            at for at, basis in enumerate(BASES) if all(p in ("I", b) for p, b in zip(label, basis, strict=True))
        ]
        for at, (column, bits) in itertools.product(fitting, enumerate(OUTCOMES)):
            flips = sum(bit for bit, pauli in zip(bits, label, strict=True) if pauli != "I")
            readings[row, at, column] = (-1) ** flips / len(fitting)
    return readings


def probabilities(transfer: FloatArray, setting: Setting) -> FloatArray:
    """Give the probabilities of `OUTCOMES` in a setting, for a process with that transfer matrix. Shape (4,)."""
    vector = transfer @ product_state_vector(*setting.inputs)
    alice, bob = setting.basis[0], setting.basis[1]
    expectations = [vector[LABELS.index(label)] for label in (f"I{bob}", f"{alice}I", f"{alice}{bob}")]
    chances: FloatArray = np.array(
        [
            (1 + (-1) ** b * expectations[0] + (-1) ** a * expectations[1] + (-1) ** (a + b) * expectations[2]) / 4
            for a, b in OUTCOMES
        ]
    )
    return chances
