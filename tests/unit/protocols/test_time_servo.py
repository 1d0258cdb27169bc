"""What the servo claims is true, and what it steers to is right (spec 4 §3)."""

from __future__ import annotations

import pytest
from clock_world import SECOND, ClockWorld, Paths

from bellwire.protocols.network_clock import Bound, NetworkClock, NetworkTimers
from bellwire.protocols.time_servo import MAX_SLEW_PPB, ClockSpec, sample_of
from bellwire.protocols.timers import TimerQueue

SPEC = ClockSpec()
WORLDS = {
    "quiet": Paths(),
    "busy": Paths(busy_permille=600),
    "one-sided": Paths(asymmetry=0.99, jitter_ns=1_000, busy_permille=0),
    "one-sided-the-other-way": Paths(asymmetry=-0.99, jitter_ns=1_000, busy_permille=300),
    "fast": Paths(base_ns=2_000, jitter_ns=500, busy_ns=50_000),
}
RUNS = 20


def claims_and_errors(paths: Paths, *, wander_ppb: float = 10.0, holdover_s: int = 0) -> list[tuple[int, float]]:
    """What is claimed and what is so: after a burst, halfway to the next, and in a holdover at the end."""
    seen = []
    for seed in range(RUNS):
        world = ClockWorld(seed, paths, wander_ppb=wander_ppb)
        world.settle()
        for _ in range(60):
            seen.append((world.claim_ns, abs(world.error_ns)))
            world.burst(SECOND // 2)
            seen.append((world.claim_ns, abs(world.error_ns)))
            world.wait(SECOND // 2)
        world.clock.steer(world.local_ns, world.servo.drift_ppb)
        for _ in range(holdover_s):
            world.wait(SECOND)
            seen.append((world.claim_ns, abs(world.error_ns)))
    return seen


@pytest.mark.parametrize("paths", WORLDS.values(), ids=WORLDS)
def test_claimed_uncertainty_holds_the_true_error(paths: Paths) -> None:
    """4 §3.2: the claim holds 99.9 % of the time or more."""
    seen = claims_and_errors(paths)
    false = sum(error_ns > claim_ns for claim_ns, error_ns in seen)
    assert false <= len(seen) // 1_000


def test_claim_shrunk_by_a_third_would_be_false_on_one_sided_paths() -> None:
    seen = claims_and_errors(WORLDS["one-sided"])
    false = sum(error_ns > 2 * claim_ns // 3 for claim_ns, error_ns in seen)
    assert false > len(seen) // 2


def test_claim_holds_for_hours_of_holdover_and_grows() -> None:
    seen = claims_and_errors(Paths(), wander_ppb=20.0, holdover_s=3_600)
    assert all(error_ns <= claim_ns for claim_ns, error_ns in seen)
    claims = [claim_ns for claim_ns, _ in seen[-3_600:]]
    assert claims == sorted(claims)
    assert claims[-1] > 100 * claims[0]


def test_clock_follows_a_drift_of_fifty_ppm_to_within_the_asymmetry() -> None:
    errors = []
    for seed in range(RUNS):
        world = ClockWorld(seed, Paths(asymmetry=0.0, jitter_ns=10_000))
        world.settle()
        for _ in range(40):
            world.burst(SECOND)
        errors += [abs(world.error_ns)]
        assert abs(world.servo.drift_ppb - world.drift_ppb) < 2_000
    assert max(errors) < 10_000


def test_clock_that_was_stepped_is_found_out() -> None:
    world = ClockWorld(1)
    world.settle()
    for _ in range(10):
        world.burst(SECOND)
    world.offset_ns += 10_000_000
    sample = world.exchange(busy=False)
    assert sample is not None
    assert not world.servo.agrees(sample)


def test_sample_holds_the_offset_between_what_both_paths_allow() -> None:
    sample = sample_of(1_000, 6_100, 6_200, 1_900, uncertainty_ns=5, clock=SPEC)
    assert sample is not None
    # Sync took 5100 − θ', Delay_Req −4300 + θ': with neither negative, the offset lies in −5100..−4300.
    assert (sample.offset_ns, sample.delay_ns, sample.half_ns) == (-4_700, 400, 400 + 5 + 1)


@pytest.mark.parametrize(
    "times",
    [(1_000, 6_000, 5_999, 2_000), (1_000, 6_000, 6_100, 999), (1_000, 6_000, 6_100, 1_099)],
    ids=["left-before-it-came", "came-before-it-left", "faster-than-possible"],
)
def test_exchange_that_contradicts_itself_is_no_sample(times: tuple[int, int, int, int]) -> None:
    assert sample_of(*times, uncertainty_ns=0, clock=SPEC) is None


def test_steered_clock_is_continuous_and_runs_forwards_at_any_rate() -> None:
    clock = NetworkClock(own=False)
    clock.step(1_000, 5_000_000, 70)
    last = clock.network_ns(1_000)
    for local_ns in range(1_000, 50_000_000, 999_983):
        clock.steer(local_ns, -MAX_SLEW_PPB if local_ns % 2 else MAX_SLEW_PPB)
        assert last <= clock.network_ns(local_ns) <= last + 1_001_000
        last = clock.network_ns(local_ns)


@pytest.mark.parametrize("rate_ppb", [-500_000, -1, 0, 3, 500_000])
def test_local_time_is_the_first_at_which_the_network_time_has_come(rate_ppb: int) -> None:
    clock = NetworkClock(own=False)
    clock.step(10**18, -77_000_123, rate_ppb)
    for network_ns in range(10**18, 10**18 + 10**10, 1_234_567_891):
        local_ns = clock.local_ns(network_ns)
        assert clock.network_ns(local_ns - 1) < network_ns <= clock.network_ns(local_ns)


@pytest.mark.parametrize("rate_ppb", [-500_000, 500_000])
def test_network_timer_fires_on_time_when_the_clock_is_slewed_meanwhile(rate_ppb: int) -> None:
    clock, timers, now, fired = NetworkClock(own=True), TimerQueue(), [0], []
    network = NetworkTimers(clock, timers, lambda: now[0])
    network.at(5 * SECOND, lambda: fired.append(clock.network_ns(now[0])))
    now[0] = SECOND
    clock.steer(SECOND, rate_ppb)
    while (at_ns := timers.next_deadline_ns()) is not None:
        now[0] = at_ns
        timers.fire_due(at_ns)
    assert fired == [5 * SECOND] or 5 * SECOND <= fired[0] <= 5 * SECOND + 1
    assert now[0] == pytest.approx(5 * SECOND - 4 * SECOND * rate_ppb / 1e9, abs=1e5)


def test_bound_ages_by_what_is_known_of_the_drift_and_never_by_more_than_was_promised() -> None:
    bound = Bound(
        local_ns=0, offset_ns=0, half_ns=100, rate_error_ppb=1_000, rate_limit_ppb=5_000, wander_ppb_per_s=100
    )
    assert [bound.half_at(seconds * SECOND) for seconds in (0, 1, 10, 1_000)] == [101, 1_201, 20_101, 5_000_101]


def test_claim_counts_what_is_still_to_be_slewed() -> None:
    clock = NetworkClock(own=False)
    clock.step(0, 5_000, 0)
    clock.bound = Bound(local_ns=0, offset_ns=0, half_ns=100)
    assert clock.uncertainty_ns(0) == 5_100
    clock.steer(0, -1_000)
    assert clock.uncertainty_ns(2 * SECOND) == 3_100
