"""Gates teleported over the world directly, judged by the Choi state that reference qubits hold."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bellwire.protocols.instructions import BellState, Gate
from bellwire.sim import channels
from bellwire.sim.states import bell_vector, state_fidelity

if TYPE_CHECKING:
    from tests.unit.sim.conftest import Lab, LabFactory

# Main et al., Nature 638, 383 (2025): the tomography of the heralded pair.
OXFORD = """
[links.model.density_matrix]
tag = "measured"
source = "Main 2025"
magnitude = [[0.012, 0.014, 0.014, 0.0], [0.014, 0.508, 0.475, 0.008], [0.014, 0.475, 0.479, 0.009],
  [0.0, 0.008, 0.009, 0.0]]
phase_pi_upper = { "01" = -1.850, "02" = -1.825, "03" = -0.985, "12" = -0.002, "13" = -0.902, "23" = -0.931 }
"""
CHOI = [("alice", "r"), ("alice", "s"), ("bob", "r"), ("bob", "s")]
ALL_BELL = [state.value for state in BellState]


def ideal_choi() -> np.ndarray:
    """Give CZ on one half each of two Φ+, qubits ordered as CHOI. Shape (16,)."""
    phi = bell_vector(BellState.PHI_PLUS)
    cz = channels.gate_unitary(Gate.CZ).reshape(2, 2, 2, 2)
    amplitudes = np.einsum("abcd,xc,yd->xayb", cz, phi.reshape(2, 2), phi.reshape(2, 2))
    return np.asarray(amplitudes.reshape(-1))


def begin(lab: Lab) -> BellState:
    """Hold Choi halves at both ends and herald a pair."""
    for node in ("alice", "bob"):
        lab.run(node, lab.initialise("s"), lab.initialise("r"), lab.gate(Gate.H, "r"), lab.gate(Gate.CX, "r", "s"))
    lab.windows += 1
    ends = lab.arm_all(f"w{lab.windows}")
    assert ends["alice"].bell_state is None
    herald = ends["station"].bell_state
    assert herald is not None
    return herald


def symmetric(lab: Lab, herald: BellState) -> tuple[int, int]:
    """CZ(c, eA), CZ(eB, t) after H on eB; both measure X; Z on c by mB ^ x and on t by mA ^ z."""
    lab.run("alice", lab.gate(Gate.CZ, "s", "c"), lab.gate(Gate.H, "c"))
    lab.run("bob", lab.gate(Gate.H, "c"), lab.gate(Gate.CZ, "c", "s"), lab.gate(Gate.H, "c"))
    m_alice, m_bob = lab.bit("alice", "c"), lab.bit("bob", "c")
    if m_bob ^ herald.x:
        lab.run("alice", lab.gate(Gate.Z, "s"))
    if m_alice ^ herald.z:
        lab.run("bob", lab.gate(Gate.Z, "s"))
    return m_alice, m_bob


def sequential(lab: Lab, herald: BellState) -> tuple[int, int]:
    """The cat-entangler: CX(c, eA), measure eA, X on eB, CZ(eB, t), measure eB in X, Z on c by m2 ^ z."""
    lab.run("alice", lab.gate(Gate.CX, "s", "c"))
    first = lab.bit("alice", "c")
    if first ^ herald.x:
        lab.run("bob", lab.gate(Gate.X, "c"))
    lab.run("bob", lab.gate(Gate.CZ, "c", "s"), lab.gate(Gate.H, "c"))
    second = lab.bit("bob", "c")
    if second ^ herald.z:
        lab.run("alice", lab.gate(Gate.Z, "s"))
    return first, second


def fidelities(lab: Lab, kind: str, outcomes: int) -> dict[tuple[BellState, int, int], float]:
    """Teleport until that many different cases have occurred; give the process fidelity of each."""
    found: dict[tuple[BellState, int, int], float] = {}
    ideal = ideal_choi()
    for _ in range(2_000):
        herald = begin(lab)
        bits = symmetric(lab, herald) if kind == "symmetric" else sequential(lab, herald)
        fidelity = state_fidelity(lab.inspect(*CHOI), ideal)
        assert found.setdefault((herald, *bits), fidelity) == pytest.approx(fidelity, abs=1e-9)
        for node in ("alice", "bob"):
            lab.run(node, *(lab.discard(qubit) for qubit in ("c", "s", "r")))
        if len(found) == outcomes:
            return found
    raise AssertionError(f"only {sorted(found)} occurred")


@pytest.mark.parametrize("kind", ["symmetric", "sequential"])
def test_teleported_cz_in_an_ideal_world_is_exact_for_every_herald_and_outcome(lab: LabFactory, kind: str) -> None:
    found = fidelities(lab(heralds=ALL_BELL), kind, 16)
    assert set(found) == set(itertools.product(BellState, (0, 1), (0, 1)))
    assert min(found.values()) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("kind", ["symmetric", "sequential"])
def test_teleported_cz_over_a_werner_pair_has_its_fidelity(lab: LabFactory, kind: str) -> None:
    # Ideal local operations: the process fidelity is that of a Bell-diagonal pair.
    found = fidelities(lab(werner=0.97, heralds=ALL_BELL), kind, 16)
    assert np.mean(list(found.values())) == pytest.approx(0.97, abs=1e-9)


@pytest.mark.parametrize("kind", ["symmetric", "sequential"])
def test_teleported_cz_over_the_oxford_pair_has_its_fidelity(lab: LabFactory, kind: str) -> None:
    # The published matrix after an X: 0.96946. The outcomes of a Choi input are uniform.
    found = fidelities(lab(werner=None, link=OXFORD), kind, 8)
    for herald in (BellState.PSI_PLUS, BellState.PSI_MINUS):
        mean = np.mean([fidelity for case, fidelity in found.items() if case[0] is herald])
        assert mean == pytest.approx(0.96946, abs=1e-4)


def test_heralded_pair_of_the_oxford_link_is_the_measured_matrix_with_its_frame(lab: LabFactory) -> None:
    here = lab(werner=None, link=OXFORD)
    seen = set()
    for _ in range(40):
        herald = begin(here)
        seen.add(herald)
        state = here.inspect(("alice", "c"), ("bob", "c"))
        assert state_fidelity(state, bell_vector(herald)) == pytest.approx(0.96946, abs=1e-5)
        assert state[1, 1].real == pytest.approx(0.508 / 0.999)
        assert state[1, 2].real == pytest.approx((1 if herald is BellState.PSI_PLUS else -1) * 0.475 / 0.999, abs=1e-4)
    assert seen == {BellState.PSI_PLUS, BellState.PSI_MINUS}
