"""What the benchmarks compare with is what it is called."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture(scope="module")
def servos() -> ModuleType:
    spec = importlib.util.spec_from_file_location("servos", BENCH / "servos.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("interval_s", "hardware", "gains"),
    [
        (1.0, False, (0.1, 0.001)),
        (0.125, False, (0.18661, 0.000435)),
        (1.0, True, (0.7, 0.3)),
        (8.0, True, (0.0875, 0.0375)),
    ],
)
def test_pi_gains_are_those_of_linuxptp(
    servos: ModuleType, interval_s: float, hardware: bool, gains: tuple[float, float]
) -> None:
    """Of its pi.c: kp = min(kp_scale dt^-0.3, 0.7/dt), ki = min(ki_scale dt^0.4, 0.3/dt), with its own scales."""
    assert servos.pi_gains(interval_s, hardware=hardware) == pytest.approx(gains, rel=1e-3)
