"""Simulated clocks that discipline themselves: what a preset says of them is what they claim, and the claim is true."""

from __future__ import annotations

from statistics import pstdev

import pytest
from clocked import clocked_preset

from bellwire.protocols.errors import ConfigError
from bellwire.sim.clocks import ClockInfo, SimulatedClock
from bellwire.sim.preset import parse_preset


def test_preset_with_a_clock_is_read_in_picoseconds_and_keeps_its_sources() -> None:
    preset = parse_preset(clocked_preset(), "clocked.toml")
    model = preset.nodes["ideal"].clock
    assert model is not None
    assert ClockInfo.of(model, 3) == ClockInfo(accuracy_ps=1_000, jitter_ps=13, interval_ns=200_000_000, seed=3)
    rows = {row.key: (row.tag, row.value, row.unit) for row in preset.provenance() if ".clock." in row.key}
    assert rows["nodes.ideal.clock.jitter"] == ("measured", "13", "ps")
    assert len(rows) == 3


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ('value = 13.0, unit = "ps"', 'value = 13.0, unit = "s"', "`jitter`: unit 's' is not one of 'ps'"),
        ("value = 1.0, unit", "value = -1.0, unit", "`accuracy` is -1 ns, expected 0 to"),
        ('value = 200.0, unit = "ms"', 'value = 1.0, unit = "ns"', "`interval` is 1 ns, expected"),
        ("jitter = {", "jiter = {", "jiter"),
    ],
)
def test_preset_with_a_mistake_in_a_clock_is_one_line_with_its_key(was: str, now: str, said: str) -> None:
    head, mark, clock = clocked_preset().partition("[nodes.ideal.clock]")
    assert was in clock
    with pytest.raises(ConfigError) as error:
        parse_preset(head + mark + clock.replace(was, now, 1), "clocked.toml")
    assert "\n" not in str(error.value)
    assert said in str(error.value)
    assert str(error.value).startswith("clocked.toml: nodes.ideal")


@pytest.mark.parametrize("seed", range(20))
def test_claims_hold_the_true_time_and_jitter_as_the_preset_says(seed: int) -> None:
    clock = SimulatedClock(ClockInfo(accuracy_ps=500_000, jitter_ps=100_000, interval_ns=10**9, seed=seed))
    errors = []
    for second in range(2_000):
        claim = clock.claim(local_ns=second * 10**9, network_ns=second * 10**9 + 77, reading_ns=0)
        errors.append(claim.offset_ns - 77)
        assert abs(errors[-1]) <= claim.half_ns
    assert claim.uncertainty_ps == 500_000 + 5 * 100_000
    assert pstdev(errors) == pytest.approx(100, rel=0.1)
    assert abs(sum(errors) / len(errors)) <= 500 + 10


def test_two_clocks_are_off_by_different_constants_and_the_same_seed_by_the_same() -> None:
    def claimed(seed: int) -> int:
        info = ClockInfo(accuracy_ps=10**6, jitter_ps=0, interval_ns=10**9, seed=seed)
        return SimulatedClock(info).claim(local_ns=0, network_ns=0, reading_ns=0).offset_ns

    assert claimed(1) == claimed(1)
    assert claimed(1) != claimed(2)
