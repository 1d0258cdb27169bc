"""The exact model, the preset and the calibration of its one free parameter."""

from __future__ import annotations

import json
from pathlib import Path

import calibrate
import msgspec
import numpy as np
import pytest
from oxford import model, published
from oxford.circuits import CZ_UNITARY, cz
from oxford.paulis import transfer_matrix

from bellwire.sim.preset import Preset, load_preset
from bellwire.sim.quantity import Quantity

# Reference rows: Main et al., Nature 638, 383 (2025).


def ideal() -> Preset:
    """The ideal preset, with the Oxford preset's names of models."""
    preset = load_preset("ideal")
    nodes = dict.fromkeys(("alice", "bob"), preset.nodes["ideal"])
    period = Quantity(value=1.0, unit="us", tag="assumed", source="a test")
    link = msgspec.structs.replace(preset.links["ideal"], attempt_period=period)
    return msgspec.structs.replace(preset, nodes=nodes, links={"photonic": link})


def test_model_of_an_ideal_world_is_ideal_in_every_row() -> None:
    facts = model.Facts.of(ideal())
    np.testing.assert_allclose(facts.gate, transfer_matrix(CZ_UNITARY), atol=1e-9)
    rows = facts.prediction
    assert [rows.bell_fidelity, rows.cz, rows.grover, rows.iswap, rows.swap] == pytest.approx([1.0] * 5, abs=1e-9)


def test_model_of_the_measured_pair_alone_has_the_acceptance_fidelity(oxford: Preset) -> None:
    # The published matrix after an X gives 0.96946; average (4F+1)/5
    bare = ideal()
    measured = oxford.links["photonic"].density_matrix
    link = msgspec.structs.replace(bare.links["photonic"], density_matrix=measured, werner_fidelity=None)
    rows = model.predict(msgspec.structs.replace(bare, links={"photonic": link}))
    assert rows.bell_fidelity == pytest.approx(0.96946, abs=1e-5)
    assert rows.cz == pytest.approx((4 * 0.96946 + 1) / 5, abs=1e-4)


def test_model_does_not_depend_on_the_seed(oxford: Preset) -> None:
    np.testing.assert_allclose(model.teleported_cz(oxford, seed=1), model.teleported_cz(oxford, seed=2), atol=1e-12)


def test_preset_and_calibration_agree_on_the_free_parameter(oxford: Preset) -> None:
    assert model.crosstalk(oxford) == pytest.approx(calibrate.calibrated(oxford), abs=1e-9)


def test_calibration_starts_from_any_value_of_the_free_parameter(oxford: Preset) -> None:
    assert calibrate.calibrated(model.with_crosstalk(oxford, 0.3)) == model.crosstalk(oxford)


def test_calibration_knows_the_cz_row_and_no_other() -> None:
    source = (Path(calibrate.__file__)).read_text()
    assert "published import CZ\n" in source
    assert not any(f"published.{name}" in source for name in ("BELL", "RATE", "GROVER", "ISWAP", "SWAP"))


def test_calibration_to_a_fidelity_that_cannot_be_reached_is_refused(oxford: Preset) -> None:
    with pytest.raises(ValueError, match=r"no measurement_crosstalk gives a CZ of 0\.99"):
        model.solve_crosstalk(oxford, 0.99)


def test_predictions_of_the_oxford_preset_are_those_that_the_readme_tells(oxford: Preset) -> None:
    rows = model.predict(oxford)
    assert rows.bell_fidelity == pytest.approx(0.9695, abs=5e-5)
    assert rows.pairs_per_s == pytest.approx(9.85, abs=5e-3)
    assert rows.cz == pytest.approx(0.862, abs=2e-4)
    assert rows.grover == pytest.approx(0.722, abs=5e-4)
    assert rows.iswap == pytest.approx(0.746, abs=5e-4)
    assert rows.swap == pytest.approx(0.655, abs=5e-4)


def test_waiting_longer_in_a_gate_costs_fidelity_in_proportion(oxford: Preset) -> None:
    facts = model.Facts.of(oxford)
    lost = [facts.prediction.cz - facts.predict(extra_ns=extra_ns).cz for extra_ns in (1e7, 2e7)]
    # Two qubits dephase with exp(-t/T2): the average fidelity of an ideal CZ would lose 4/5 · t/T2.
    assert lost[0] == pytest.approx(0.8 * 0.01 / 30, rel=0.25)
    assert lost[1] == pytest.approx(2 * lost[0], rel=0.01)


def test_every_number_of_the_preset_has_a_tag_and_a_source(oxford: Preset) -> None:
    rows = oxford.provenance()
    assert len(rows) > 30
    assert {row.tag for row in rows} <= {"measured", "derived", "assumed"}
    free = [row for row in rows if row.key.endswith("measurement_crosstalk")]
    assert [row.tag for row in free] == ["derived", "derived"]
    assert all("calibrate.py" in row.source for row in free)
    assert not any("9.7" in row.source for row in rows)


def test_network_qubits_of_the_preset_do_not_decohere_and_circuit_qubits_do(oxford: Preset) -> None:
    for node in oxford.nodes.values():
        assert node.communication.t2_ns == float("inf")
        assert node.storage is not None
        assert node.storage.t2_ns < float("inf")


def test_published_rows_are_those_of_the_reference() -> None:
    rows = [published.BELL, published.RATE, published.CZ, published.GROVER, published.ISWAP, published.SWAP]
    expected = [(0.9689, 0.0008), (9.7, None), (0.862, 0.009), (0.71, 0.01), (0.70, 0.02), (0.64, 0.02)]
    assert [(row.value, row.sigma) for row in rows] == expected
    assert cz().teleported_gates == 1
    assert json.dumps([row.what for row in rows])
