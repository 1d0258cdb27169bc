"""Presets: what is written is what is computed, and every mistake is one line that names file and key."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from bellwire.protocols.errors import ConfigError
from bellwire.protocols.instructions import BellState
from bellwire.protocols.node import QubitKind
from bellwire.sim.physics import AttemptClock, LinkPhysics, NodePhysics
from bellwire.sim.preset import load_preset, packaged_presets, parse_preset
from bellwire.sim.quantity import MeasuredMatrix

WritePreset = Callable[..., str]


def quantity(value: float, unit: str) -> str:
    return f'{{ value = {float(value)!r}, unit = "{unit}", tag = "derived", source = "a test" }}'


def photonics(*, length_km: float = 0.002, visibility: float = 0.95, extra: str = "") -> str:
    arm = "\n".join(
        [
            f"collection_efficiency = {quantity(10, '%')}",
            f"coupling_efficiency = {quantity(0.4, '1')}",
            f"fibre_length = {quantity(length_km, 'km')}",
            f"fibre_loss = {quantity(0.2, 'dB/km')}",
        ]
    )
    return "\n".join(
        [
            "[links.model.photonics]",
            f"detector_efficiency = {quantity(0.5, '1')}",
            f"dark_count_probability = {quantity(1e-5, '1')}",
            f"visibility = {quantity(visibility, '1')}",
            f"refractive_index = {quantity(1.468, '1')}",
            extra,
            f"[links.model.photonics.first]\n{arm}",
            f"[links.model.photonics.second]\n{arm}",
        ]
    )


def without(text: str, *keys: str) -> str:
    return "\n".join(line for line in text.splitlines() if line.split(" = ")[0] not in keys)


def test_ideal_preset_is_packaged_and_noiseless() -> None:
    assert "ideal" in packaged_presets()
    preset = load_preset("ideal")
    node = NodePhysics.of(preset.nodes["ideal"])
    assert node.crosstalk is None
    for kind in QubitKind:
        assert not node.kinds[kind].decays
        assert node.kinds[kind].gate_fidelity_ratio == (1, 1)
        assert node.kinds[kind].readout_error == 0
    link = LinkPhysics.of(preset.links["ideal"])
    assert link.success_probability == 1
    assert set(link.usual.states) == set(BellState)
    assert link.fidelity_ratio == pytest.approx(1)
    assert link.clock.period_ns == 0
    assert link.pairs_per_s == math.inf


def test_preset_by_path_keeps_where_every_number_comes_from(tmp_path: Path, write_preset: WritePreset) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        write_preset(
            crosstalk=0.03,
            link=f"burst.attempts_on = {quantity(1, 'ms')}\nburst.recooling = {quantity(2, 'ms')}",
            period_ns=100,
        ),
        encoding="utf-8",
    )
    preset = load_preset(path)
    assert load_preset(str(path)).name == preset.name == "test"
    rows = {row.key: row for row in preset.provenance()}
    crosstalk = rows["nodes.model.measurement_crosstalk"]
    assert (crosstalk.value, crosstalk.unit, crosstalk.tag, crosstalk.source) == ("0.03", "1", "assumed", "a test")
    assert rows["links.model.burst.recooling"].tag == "derived"
    assert len(rows) == 6 + 6 + 1 + 5
    assert all(row.tag in ("measured", "derived", "assumed") and row.source for row in rows.values())


def test_photonic_link_gives_rate_and_state(write_preset: WritePreset) -> None:
    text = without(write_preset(werner=None, period_ns=1_200, link=photonics()), "success_probability")
    link = LinkPhysics.of(parse_preset(text, "p").links["model"])
    eta = 0.1 * 0.4 * 0.5 * 10 ** (-0.2 * 0.002 / 10)
    true, false = eta**2 / 2, 4e-5 * eta * (1 - eta) + 4e-10 * (1 - eta) ** 2
    assert link.success_probability == pytest.approx(true + false)
    assert link.fidelity_ratio == pytest.approx((true * 0.975 + false / 4) / (true + false))
    assert link.pairs_per_s == pytest.approx((true + false) / 1.2e-6)
    one = LinkPhysics.of(parse_preset(text.replace("['psi+', 'psi-']", "['psi-']"), "p").links["model"])
    assert one.success_probability == pytest.approx(link.success_probability / 2)


def test_photonic_link_with_a_measured_state_keeps_the_rate(write_preset: WritePreset) -> None:
    text = without(write_preset(werner=0.9, period_ns=1_200, link=photonics()), "success_probability")
    link = LinkPhysics.of(parse_preset(text, "p").links["model"])
    assert link.fidelity_ratio == pytest.approx(0.9)
    assert link.success_probability == pytest.approx(2.0e-4, rel=0.01)


def test_density_matrix_in_real_and_imaginary_parts_is_read_as_it_is(write_preset: WritePreset) -> None:
    matrix = '[links.model.density_matrix]\ntag = "measured"\nsource = "a test"\n'
    matrix += "real = [[0.0, 0, 0, 0], [0, 0.5, 0.0, 0], [0, 0.0, 0.5, 0], [0, 0, 0, 0]]\n"
    matrix += "imag = [[0.0, 0, 0, 0], [0, 0.0, 0.4, 0], [0, -0.4, 0.0, 0], [0, 0, 0, 0]]\n"
    link = LinkPhysics.of(parse_preset(write_preset(werner=None, link=matrix), "p").links["model"])
    assert link.usual.states[BellState.PSI_PLUS][1, 2] == pytest.approx(0.4j)
    assert link.usual.states[BellState.PSI_MINUS][1, 2] == pytest.approx(-0.4j)


def test_duty_cycle_gives_the_mean_rate() -> None:
    clock = AttemptClock(period_ns=10, burst_attempts=4, recooling_ns=60)
    assert clock.mean_period_ns == 25
    assert [clock.end_ns(attempt) for attempt in (0, 1, 4, 5, 8, 9)] == [0, 10, 40, 110, 140, 210]
    assert [clock.attempts_ended(time) for time in (0, 9, 10, 40, 99, 100, 109, 110, 140)] == [
        0,
        0,
        1,
        4,
        4,
        4,
        4,
        5,
        8,
    ]
    assert [clock.attempts_started(time) for time in (0, 1, 10, 11, 31, 40, 99, 101)] == [0, 1, 1, 2, 4, 4, 4, 5]
    for attempt in range(1, 100):
        assert clock.attempts_ended(clock.end_ns(attempt)) == attempt
        assert clock.attempts_started(clock.end_ns(attempt)) == attempt


@pytest.mark.parametrize(
    "wrong", [{"period_ns": -1}, {"period_ns": 0, "burst_attempts": 3}, {"period_ns": 1, "recooling_ns": -1}]
)
def test_attempt_clock_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        AttemptClock(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"link": "colour = 1"}, "f.toml: links.model: unknown key `colour`"),
        ({"storage": {"t3": (1, "s")}}, "f.toml: nodes.model.storage: unknown key `t3`"),
        (
            {"storage": {"t1": (1, "h")}},
            "f.toml: nodes.model.storage: `t1`: unit 'h' is not one of 'ns', 'us', 'ms', 's'",
        ),
        ({"storage": {"t1": (1, "ms"), "t2": (3, "ms")}}, "f.toml: nodes.model.storage: t2 of 3000000.0 ns is longer"),
        ({"communication": {"t1": (-1, "s")}}, "f.toml: nodes.model.communication: `t1` is -1 s, expected at least 0"),
        ({"communication": {"t1": (math.nan, "s")}}, "f.toml: nodes.model.communication: `t1` is nan s"),
        ({"communication": {"readout_error": (2, "1")}}, "f.toml: nodes.model.communication: `readout_error` is 2 1"),
        (
            {"storage": {"two_qubit_gate_fidelity": (0.1, "1")}},
            "f.toml: nodes.model.storage: `two_qubit_gate_fidelity`",
        ),
        ({"crosstalk": 1.5}, "f.toml: nodes.model: `measurement_crosstalk` is 1.5 1, expected 0 to 1"),
        ({"heralds": []}, "f.toml: links.model: `heralds` is empty"),
        ({"heralds": ["psi+", "psi+"]}, "f.toml: links.model: `heralds` is empty or names a Bell state twice"),
        ({"heralds": ["chi"]}, "f.toml: links.model.heralds[0]: invalid enum value 'chi'"),
        ({"werner": None}, "f.toml: links.model: expected `werner_fidelity`, `density_matrix` or `photonics`"),
        ({"probability": 1.5}, "f.toml: links.model: `success_probability` is 1.5 1, expected 0 to 1"),
        ({"period_ns": math.inf}, "f.toml: links.model: `attempt_period` is inf ns"),
        ({"link": photonics()}, "f.toml: links.model: expected either `success_probability` or `photonics`"),
        (
            {"link": f"burst.attempts_on = {quantity(1, 'ms')}\nburst.recooling = {quantity(2, 'ms')}"},
            "f.toml: links.model: `burst.attempts_on` is shorter than one attempt",
        ),
        (
            {"link": '[links.model.density_matrix]\ntag = "measured"\nsource = "x"', "werner": None},
            "f.toml: links.model.density_matrix: expected either `real` and `imag`",
        ),
    ],
)
def test_preset_with_a_mistake_is_one_line_with_file_and_key(
    write_preset: WritePreset, changes: dict[str, object], line: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_preset(write_preset(**changes), "f.toml")
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        ({"extra": 'scheme = "triple_click"'}, "f.toml: links.model.photonics: `scheme` is 'triple_click'"),
        (
            {"extra": 'scheme = "single-click"'},
            "f.toml: links.model.photonics: scheme single-click needs `bright_ratio`",
        ),
        ({"extra": 'scheme = "time-bin"'}, "f.toml: links.model.photonics: scheme time-bin needs `bin_separation`"),
        ({"extra": 'scheme = "direct"'}, "f.toml: links.model.photonics: scheme direct has no `second`"),
        (
            {"extra": f"bright_ratio = {quantity(0.1, '1')}"},
            "f.toml: links.model.photonics: scheme double-click has no `bright_ratio`",
        ),
        (
            {"extra": f'scheme = "single-click"\nbright_ratio = {quantity(0, "1")}'},
            "f.toml: links.model.photonics: `bright_ratio` is neither 0 nor 1",
        ),
        (
            {"extra": f'scheme = "time-bin"\nbin_separation = {quantity(1_190, "ns")}'},
            "f.toml: links.model: `attempt_period` is shorter than light to the detectors and back, 1210 ns",
        ),
        (
            {"extra": f'wave_packet.shape = "square"\nwave_packet.width = {quantity(1, "ns")}'},
            "f.toml: links.model.photonics.wave_packet.shape: invalid enum value 'square'",
        ),
        (
            {"extra": f'wave_packet.shape = "gaussian"\nwave_packet.width = {quantity(0, "ns")}'},
            "f.toml: links.model.photonics.wave_packet: `width` is 0, expected a positive time",
        ),
        ({"visibility": 1.5}, "f.toml: links.model.photonics: `visibility` is 1.5 1, expected 0 to 1"),
        ({"length_km": 100.0}, "f.toml: links.model: `attempt_period` is shorter than light"),
        ({"length_km": -1.0}, "f.toml: links.model.photonics.first: `fibre_length` is -1 km, expected at least 0"),
    ],
)
def test_photonics_with_a_mistake_is_one_line_with_file_and_key(
    write_preset: WritePreset, extra: dict[str, str], line: str
) -> None:
    text = write_preset(werner=None, period_ns=1_200, link=photonics(**extra))  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as caught:
        parse_preset(without(text, "success_probability"), "f.toml")
    assert str(caught.value).startswith(line)


def test_photonics_with_a_herald_that_its_scheme_lacks_is_refused(write_preset: WritePreset) -> None:
    text = write_preset(werner=None, period_ns=1_200, heralds=["phi+"], link=photonics())
    with pytest.raises(ConfigError, match=r"f\.toml: links\.model: `heralds` has 'phi\+'"):
        parse_preset(without(text, "success_probability"), "f.toml")


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ('tag = "assumed"', 'tag = "guessed"', "f.toml: nodes.model.measurement_crosstalk.tag: invalid enum value"),
        ('source = "a test"', 'source = ""', "f.toml: nodes.model.measurement_crosstalk.source: expected `str`"),
        ('unit = "1", ', "", "f.toml: nodes.model.measurement_crosstalk: missing key `unit`"),
        ("value = 0.0", 'value = "0"', "f.toml: nodes.model.measurement_crosstalk.value: expected `float`"),
        ('paper = "none"', "", "f.toml: missing key `paper`"),
        ('paper = "none"', 'paper = "none"\nx = 1', "f.toml: unknown key `x`"),
        ('name = "test"', 'name = "a test"', "f.toml: `name` is not"),
        ("[nodes.model]", "[knots.model]", "f.toml: nodes.model: missing key `measurement_crosstalk`"),
        ("[nodes.model]", "[nodes.model", "f.toml: not TOML"),
    ],
)
def test_preset_with_a_malformed_line_is_one_line_with_file_and_key(
    write_preset: WritePreset, old: str, new: str, line: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_preset(write_preset().replace(old, new, 1), "f.toml")
    assert str(caught.value).startswith(line)


def test_preset_without_tables_is_refused() -> None:
    with pytest.raises(ConfigError, match="f: missing key `nodes`"):
        parse_preset('name = "x"', "f")
    with pytest.raises(ConfigError, match="f: nodes: expected a table"):
        parse_preset("nodes = 3", "f")
    with pytest.raises(ConfigError, match=r"f: nodes\.a: expected a table"):
        parse_preset("[nodes]\na = 3\n[links]", "f")


def test_preset_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no preset 'nothing': packaged are"):
        load_preset("nothing")
    with pytest.raises(ConfigError, match=r"none\.toml: cannot read preset: No such file"):
        load_preset(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"bytes\.toml: preset is not UTF-8"):
        load_preset(tmp_path / "bytes.toml")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"real": np.eye(4).tolist()}, "either"),
        ({"real": np.eye(4).tolist(), "imag": np.zeros((4, 3)).tolist()}, "`imag` is not 4 rows"),
        ({"real": np.eye(4).tolist(), "imag": np.zeros((4, 4)).tolist()}, "trace"),
        ({"magnitude": (np.ones((4, 4)) / 4).tolist(), "phase_pi_upper": {}}, "has no '01'"),
        ({"magnitude": (np.eye(4) / 4).tolist(), "phase_pi_upper": {"10": 0.1}}, "'10', which is not above"),
    ],
)
def test_measured_matrix_with_a_mistake_is_refused(fields: dict[str, object], text: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=text):
        msgspec.convert({"tag": "measured", "source": "x", **fields}, MeasuredMatrix)
