"""What the arms of the ends' hardware do to a herald: bright ratios, and starts that are not the same (spec 2 §7.1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from bellwire.protocols.instructions import Failed
from bellwire.sim.states import bell_vector, state_fidelity

if TYPE_CHECKING:
    from tests.unit.sim.conftest import Lab, LabFactory

Photonic = Callable[[str], "Lab"]


def quantity(value: float, unit: str) -> str:
    return f'{{ value = {value!r}, unit = "{unit}", tag = "assumed", source = "a test" }}'


@pytest.fixture
def photonic(lab: LabFactory, write_preset: Callable[..., str]) -> Photonic:
    """Make a lab whose link has a scheme, and Gaussian photons of 4 ns none of which is lost."""

    def make(scheme: str) -> Lab:
        one, zero = quantity(1.0, "1"), quantity(0.0, "1")
        lines = ["[links.model.photonics]", f'scheme = "{scheme}"', 'wave_packet.shape = "gaussian"']
        lines += [f"wave_packet.width = {quantity(4.0, 'ns')}", f"dark_count_probability = {zero}"]
        lines += [f"{key} = {one}" for key in ("detector_efficiency", "visibility", "refractive_index")]
        if scheme == "single-click":
            lines.append(f"bright_ratio = {quantity(0.1, '1')}")
        for arm in ("first", "second"):
            lines += [
                f"[links.model.photonics.{arm}]",
                f"collection_efficiency = {one}",
                f"coupling_efficiency = {one}",
            ]
            lines += [f"fibre_length = {quantity(0.0, 'm')}", f"fibre_loss = {quantity(0.0, 'dB/km')}"]
        text = write_preset(werner=None, period_ns=10.0, link="\n".join(lines))
        return lab(text=text.replace(f"success_probability = {one}\n", ""))

    return make


def herald_of(here: Lab, *, alice: dict[str, Any], bob: dict[str, Any]) -> float:
    """Make a pair with arms of such options, and give its fidelity to the Bell state that the station saw."""
    completed = here.submit("alice", here.arm("w", "c", attempts=10**6, **alice))
    completed += here.submit("bob", here.arm("w", "c", attempts=10**6, **bob))
    completed += here.submit("station", here.arm("w", None, attempts=10**6))
    seen = here.ends(completed + here.wait(10**8))["station"].bell_state
    assert seen is not None
    return state_fidelity(here.inspect(("alice", "c"), ("bob", "c")), bell_vector(seen))


@pytest.mark.parametrize(
    ("alice_ns", "bob_ns", "late_ns"),
    [(100, 100, 0), (100, 104, 4), (103, 100, 3), (0, 104, 0), (0, 0, 0)],
    ids=["in-time", "bob-late", "alice-late", "alice-triggered", "both-triggered"],
)
def test_ends_that_begin_apart_on_their_own_clocks_lose_the_overlap_of_their_photons(
    photonic: Photonic, alice_ns: int, bob_ns: int, late_ns: int
) -> None:
    """|⟨a|b⟩|² = e^(-δ²/4σ²), and F = (1 + |⟨a|b⟩|²)/2. An end whose start has passed is triggered by the other."""
    here = photonic("double-click")
    fidelity = herald_of(here, alice={"start_in_ns": alice_ns}, bob={"start_in_ns": bob_ns})
    assert fidelity == pytest.approx((1 + math.exp(-((late_ns / 4) ** 2) / 4)) / 2)


@pytest.mark.parametrize(("ratio", "fidelity"), [(None, 0.9 / 0.95), (0.1, 0.9 / 0.95), (0.3, 0.7 / 0.85)])
def test_bright_ratio_of_the_arms_gives_the_state(photonic: Photonic, ratio: float | None, fidelity: float) -> None:
    """F = (1 - α)/(1 - αη/2) with η = 1; without a ratio the preset's, 0.1."""
    here = photonic("single-click")
    options = {"bright_ratio": ratio}
    assert herald_of(here, alice=options, bob=options) == pytest.approx(fidelity)


def test_arm_with_a_bright_ratio_that_is_not_the_other_ends_is_refused(photonic: Photonic) -> None:
    here = photonic("single-click")
    assert here.submit("alice", here.arm("w", "c", bright_ratio=0.1)) == []
    for ratio in (0.2, None):
        (failed,) = here.run("bob", here.arm("w", "c", bright_ratio=ratio))
        assert isinstance(failed, Failed)
        assert "is armed by alice with bright ratio 0.1, bob with" in failed.text
    assert here.held("bob") == set()


@pytest.mark.parametrize(
    ("scheme", "ratio", "text"),
    [("double-click", 0.1, "without a bright ratio"), ("single-click", 1.0, "between 0 and 1")],
)
def test_arm_with_a_bright_ratio_that_the_link_has_not_is_refused(
    photonic: Photonic, scheme: str, ratio: float, text: str
) -> None:
    here = photonic(scheme)
    (failed,) = here.run("alice", here.arm("w", "c", bright_ratio=ratio))
    assert isinstance(failed, Failed)
    assert text in failed.text
