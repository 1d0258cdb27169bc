"""Heralding schemes between brains: bright ratios by the fidelity asked for, links without a station (spec 2 §3.4)."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import pytest
from scene import ALICE, BOB, HUB, LINK, Tap, leaks, leave

from bellwire.protocols.errors import ConfigError, ErrorCode, RequestError
from bellwire.protocols.fidelity import Goodness
from bellwire.protocols.herald import BrightStates
from bellwire.protocols.ids import BROKER, NodeId
from bellwire.protocols.instructions import Arm, BellState, WindowEnded
from bellwire.protocols.link_book import LinkSettings
from bellwire.protocols.messages import HeraldOpen, HeraldReport, LinkCreate, LinkOk
from bellwire.protocols.node import Batch
from bellwire.protocols.readout import PAULI_BASES
from bellwire.sim.photonics import PacketShape
from bellwire.sim.physics import LinkPhysics
from bellwire.sim.preset import Preset, WavePacketModel, load_preset
from bellwire.sim.quantity import Quantity
from bellwire.sim.states import bell_vector, state_fidelity
from bellwire.sim.virtual import SECOND_NS, VirtualApplication, VirtualLink, VirtualNode, VirtualTestbed
from bellwire.sim.world import BatchCompleted
from bellwire.simnet.clocks import SkewedClock
from bellwire.simnet.fabric import Rule

PRESET = load_preset("schemes")


def physical(model: str) -> Preset:
    """The preset, with a link model that leaves what its scheme leaves."""
    link = msgspec.structs.replace(PRESET.links[model], werner_fidelity=None)
    return msgspec.structs.replace(PRESET, links={model: link})


class Hardware:
    """What the ends' hardware was asked and what it answered."""

    def __init__(self) -> None:
        self.arms: list[tuple[NodeId, Arm]] = []
        self.ended: list[tuple[NodeId, WindowEnded]] = []

    def attached(self, bed: VirtualTestbed) -> None: ...

    def submitted(self, name: NodeId, batch: Batch) -> None:
        self.arms += [(name, each) for each in batch.instructions if isinstance(each, Arm)]

    def completed(self, name: NodeId, batch: BatchCompleted) -> None:
        self.ended += [(name, each) for each in batch.completions if isinstance(each, WindowEnded)]

    def noted(self, name: NodeId, event: object) -> None: ...

    def released(self, name: NodeId) -> None: ...


def joined(
    preset: Preset,
    *,
    station: NodeId = HUB,
    rules: list[Rule] | None = None,
    lead_ns: int = 0,
    pair_time_ns: int = 0,
    clocks: dict[NodeId, SkewedClock] | None = None,
    hardware: Hardware | None = None,
) -> VirtualTestbed:
    """Alice and Bob, joined by the only link model of a preset."""
    ((model, link),) = preset.links.items()
    physics = LinkPhysics.of(link)
    node = VirtualNode(communication=2, storage=1)
    assert link.scheme is not None
    between = VirtualLink(
        link_id=LINK,
        ends=(ALICE, BOB),
        station=station,
        model=model,
        scheme=link.scheme.name,
        attempts=1_000,
        goodness=physics.fidelity_ratio,
        bright_states=physics.bright_states(),
        lead_ns=lead_ns,
        pair_time_ns=pair_time_ns,
    )
    return VirtualTestbed(
        preset=preset,
        nodes={ALICE: node, BOB: node},
        links=[between],
        seed=31,
        rules=rules or [],
        clocks=clocks,
        start_ns=1_000 * SECOND_NS,
        watchers=[hardware] if hardware is not None else [],
    )


def entangle(bed: VirtualTestbed, application: VirtualApplication, fidelity: float = 0.0) -> tuple[LinkOk, float]:
    """Make a pair. Returns alice's OK, and the fidelity of the world's true state with the Bell state in it."""
    before = len(application.oks)
    application.call(ALICE, LinkCreate(peer=BOB, min_fidelity=fidelity, max_time_ns=10 * SECOND_NS))
    bed.net.run_until(lambda: len(application.oks) == before + 2, limit_ns=20 * SECOND_NS)
    ok = next(ok for node, ok in application.oks[before:] if node == ALICE)
    halves = [(node, bed.agents[node].find_pair(ok.pair_id)) for node in (ALICE, BOB)]
    state = bed.world.inspect([(node, half.qubit) for node, half in halves if half is not None], bed.net.now_ns)
    for node, half in halves:
        assert half is not None
        bed.agents[node].links[LINK].pairs.release(half, "seen")
    bed.net.flush()
    bed.net.run_for(SECOND_NS)
    return ok, state_fidelity(state, bell_vector(ok.bell_state))


# -- bright ratios ----------------------------------------------------------------------------------------------------


def test_bright_ratio_is_the_largest_that_gives_the_fidelity_asked_for() -> None:
    bright = BrightStates(points=((0.01, 0.8), (0.1, 0.9), (0.3, 0.7), (0.5, 0.5)))
    assert bright.best_fidelity == 0.9
    assert bright.ratio_for(0.95) is None
    assert bright.ratio_for(0.9) == pytest.approx(0.1)
    assert bright.ratio_for(0.8) == pytest.approx(0.2)
    assert bright.ratio_for(0.5) == bright.ratio_for(0.0) == 0.5
    assert bright.fidelity_at(0.2) == pytest.approx(0.8)
    assert bright.fidelity_at(0.05) == pytest.approx(0.8 + 0.1 * 4 / 9)
    assert bright.fidelity_at(0.6) == bright.fidelity_at(0.001) == 0.0
    only = BrightStates(points=((0.1, 0.9),))
    assert (only.ratio_for(0.9), only.ratio_for(0.91), only.fidelity_at(0.1)) == (0.1, None, 0.9)


@pytest.mark.parametrize("points", [(), ((0.1, 0.9), (0.1, 0.8)), ((0.0, 0.9),), ((1.0, 0.9),), ((0.1, 1.1),)])
def test_bright_states_that_are_none_are_refused(points: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValueError, match="bright"):
        BrightStates(points=points)


def test_bright_states_of_a_simulated_link_promise_what_it_gives() -> None:
    physics = LinkPhysics.of(physical("single-click").links["single-click"])
    bright = physics.bright_states()
    assert bright is not None
    for fidelity in (0.62, 0.7, 0.8, 0.9, 0.95, 0.99):
        ratio = bright.ratio_for(fidelity)
        assert ratio is not None
        assert fidelity <= physics.heralding(ratio, 0.0).fidelity_ratio + 1e-9 < fidelity + 1e-4


def test_fidelity_asked_for_sets_the_bright_ratio_of_the_window_and_of_both_ends() -> None:
    opened, hardware = Tap((HeraldOpen,)), Hardware()
    bed = joined(physical("single-click"), rules=[opened.rule()], hardware=hardware)
    application = bed.application()
    used: dict[float, float] = {}
    for fidelity in (0.95, 0.8, 0.62):
        hardware.arms.clear()
        opened.seen.clear()
        ok, true = entangle(bed, application, fidelity)
        (ratio,) = {message.bright_ratio for _, message in opened.seen if isinstance(message, HeraldOpen)}
        assert {arm.bright_ratio for node, arm in hardware.arms if node in (ALICE, BOB)} == {ratio}
        assert true == pytest.approx(fidelity, abs=1e-4)
        assert true >= fidelity - 1e-9
        assert ok.goodness == pytest.approx(fidelity, abs=1e-12)
        assert ratio is not None
        used[fidelity] = ratio
    assert used[0.62] > used[0.8] > used[0.95]


def test_request_that_asks_for_no_fidelity_gets_the_goodness_of_the_link() -> None:
    bed = joined(physical("single-click"))
    ok, true = entangle(bed, bed.application())
    assert ok.goodness == pytest.approx(true, abs=1e-4)
    usual = LinkPhysics.of(physical("single-click").links["single-click"])
    assert ok.goodness == pytest.approx(usual.fidelity_ratio, abs=1e-9)


def test_test_rounds_estimate_what_requests_get_that_ask_for_no_fidelity() -> None:
    """2 §4.7: other bright ratios give what was calibrated."""
    bed = joined(physical("single-click"))
    book = bed.agents[ALICE].links[LINK].book
    calibrated = book.goodness()
    assert calibrated.value == pytest.approx(book.settings.goodness)
    assert not calibrated.estimated
    for basis in PAULI_BASES:
        for number in range(40):
            book.rounds.add(basis, as_expected=number % 4 > 0)
    assert book.goodness().estimated
    assert book.goodness().value == pytest.approx(1 - 3 * 0.25 / 2)
    asked = book.goodness(0.9)
    assert asked == Goodness(value=asked.value)
    assert asked.value == pytest.approx(0.9)
    assert book.settings.bright_states is not None
    assert book.best_fidelity == book.settings.bright_states.best_fidelity


@pytest.mark.parametrize(("fidelity", "max_time_ns", "refused"), [(0.0, 11, False), (0.99, 11, True), (0.62, 8, False)])
def test_notime_goes_by_the_bright_ratio_of_the_fidelity_asked_for(
    fidelity: float, max_time_ns: int, refused: bool
) -> None:
    """2 §2.1: the link makes a pair in 10 ms as usual."""
    bed = joined(physical("single-click"), pair_time_ns=10_000_000)
    answers = bed.application().send(
        ALICE, LinkCreate(peer=BOB, min_fidelity=fidelity, max_time_ns=max_time_ns * 1_000_000)
    )
    bed.net.run_for(1_000_000)
    codes = [answer.code if isinstance(answer, RequestError) else None for answer in answers]
    assert codes == [ErrorCode.NOTIME if refused else None]


def test_mean_time_of_a_pair_goes_with_its_bright_ratio_as_the_rate_of_the_world_does() -> None:
    physics = LinkPhysics.of(physical("single-click").links["single-click"])
    settings = joined(physical("single-click"), pair_time_ns=10_000_000).agents[ALICE].links[LINK].settings
    assert settings.expected_time_ns(0.0) == 10_000_000
    for fidelity in (0.62, 0.8, 0.99):
        ratio = settings.bright_ratio(fidelity)
        true_ns = 10_000_000 * physics.pairs_per_s / physics.rate_per_s(ratio)
        assert settings.expected_time_ns(fidelity) == pytest.approx(true_ns, rel=0.15)


def test_lower_fidelity_is_faster() -> None:
    """The rate of single clicks grows with the bright ratio: what is given up in fidelity is got in time."""
    hardware = Hardware()
    bed = joined(physical("single-click"), hardware=hardware)
    application = bed.application()
    attempts = {}
    for fidelity in (0.97, 0.6):
        hardware.ended.clear()
        for _ in range(40):
            entangle(bed, application, fidelity)
        attempts[fidelity] = sum(ended.attempts for node, ended in hardware.ended if node == HUB)
    assert attempts[0.97] > 5 * attempts[0.6]


def test_fidelity_that_no_bright_ratio_gives_is_unsupported() -> None:
    bed = joined(physical("single-click"))
    best = LinkPhysics.of(physical("single-click").links["single-click"]).bright_states()
    assert best is not None
    with pytest.raises(RequestError) as caught:
        bed.application().call(ALICE, LinkCreate(peer=BOB, min_fidelity=1.0, max_time_ns=SECOND_NS))
    assert caught.value.code is ErrorCode.UNSUPP
    assert f"{best.best_fidelity:g}" in str(caught.value)


def test_ends_that_are_calibrated_otherwise_agree_or_end_the_request() -> None:
    """The secondary knows that the primary's bright ratio gives less than was asked for."""
    bed = joined(physical("single-click"))
    bob = bed.agents[BOB].links[LINK]
    worse = BrightStates(points=((0.01, 0.91), (0.5, 0.4)))
    settings = replace(bob.settings, goodness=0.5, bright_states=worse)
    bob.settings = bob.windows._settings = settings
    application = bed.application()
    application.call(ALICE, LinkCreate(peer=BOB, min_fidelity=0.9, max_time_ns=5 * SECOND_NS))
    bed.net.run_until(lambda: bool(application.errors), limit_ns=10 * SECOND_NS)
    (error,) = application.errors
    assert error.code is ErrorCode.REJECTED
    assert "bright ratio" in error.text
    leave(application, bed)
    assert leaks(bed) == []


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"scheme": "single-click"}, "needs bright states"),
        ({"scheme": "time-bin", "bright_states": BrightStates(points=((0.1, 0.9),))}, "has no bright states"),
        ({"scheme": "single-click", "bright_states": BrightStates(points=((0.1, 0.9),))}, "no bright state gives"),
    ],
)
def test_settings_whose_scheme_and_bright_states_do_not_fit_are_refused(changes: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        LinkSettings(link_id=LINK, peer=BOB, station=HUB, primary=True, **changes)  # type: ignore[arg-type]


# -- links without a station ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("receiver", [ALICE, BOB])
def test_direct_link_heralds_pairs_whichever_end_receives(receiver: NodeId) -> None:
    reports, hardware = Tap((HeraldReport,)), Hardware()
    bed = joined(physical("direct"), station=receiver, rules=[reports.rule()], hardware=hardware)
    assert bed.stations == {}
    application, seen = bed.application(), set()
    for _ in range(12):
        ok, true = entangle(bed, application)
        assert true == pytest.approx(1)
        seen.add(ok.bell_state)
    assert seen == {BellState.PSI_PLUS, BellState.PSI_MINUS}
    assert {sender for sender, _ in reports.seen} == {receiver}
    assert {node for node, ended in hardware.ended if ended.bell_state is not None} == {receiver}
    leave(application, bed)
    assert leaks(bed) == []


@pytest.mark.parametrize("receiver", [ALICE, BOB])
def test_herald_of_a_direct_link_that_is_lost_is_told_again(receiver: NodeId) -> None:
    lossy = Rule(matches=lambda frame: frame.type == "herald.report" and lossy.fired < 2, loss_probability=1.0)
    bed = joined(physical("direct"), station=receiver, rules=[lossy])
    application = bed.application()
    _, true = entangle(bed, application)
    assert true == pytest.approx(1)
    assert lossy.fired == 2
    leave(application, bed)
    assert leaks(bed) == []


@pytest.mark.parametrize("receiver", [ALICE, BOB])
def test_herald_of_a_direct_link_that_never_comes_leaves_no_half_behind(receiver: NodeId) -> None:
    """No ghost pair: what the receiver saw and the sender never hears of is nobody's pair, and both qubits are free again."""
    mute = Rule(matches=lambda frame: frame.type == "herald.report", loss_probability=1.0)
    bed = joined(physical("direct"), station=receiver, rules=[mute])
    application = bed.application()
    application.call(ALICE, LinkCreate(peer=BOB, max_time_ns=4 * SECOND_NS))
    bed.net.run_until(lambda: bool(application.errors), limit_ns=10 * SECOND_NS)
    assert [error.code for error in application.errors] == [ErrorCode.TIMEOUT]
    assert application.oks == []
    leave(application, bed)
    assert leaks(bed) == []


@pytest.mark.parametrize(("model", "station"), [("direct", HUB), ("double-click", ALICE)])
def test_scheme_with_the_wrong_kind_of_station_is_refused(model: str, station: NodeId) -> None:
    with pytest.raises(ConfigError, match="station"):
        joined(physical(model), station=station)


# -- timing -----------------------------------------------------------------------------------------------------------


def test_clock_that_is_wrong_costs_the_fidelity_of_the_wave_packets_overlap() -> None:
    """Ends that begin at an agreed time begin apart by what their clocks are wrong: F = (1 + e^(-|δ|/τ))/2."""
    photonics = PRESET.links["double-click"].photonics
    assert photonics is not None
    width = Quantity(value=20.0, unit="us", tag="assumed", source="a test")
    packet = WavePacketModel(shape=PacketShape.EXPONENTIAL, width=width)
    link = msgspec.structs.replace(
        PRESET.links["double-click"], photonics=msgspec.structs.replace(photonics, wave_packet=packet)
    )
    preset = msgspec.structs.replace(PRESET, links={"double-click": link})
    skewed = SkewedClock(offset_ns=7_000_000, drift_ppb=1_000, since_ns=1_000 * SECOND_NS)
    measured = []
    for longer_ns in (0, 8_000, 40_000):
        # A path that takes longer one way than the other moves the clock behind it by half of that, and nothing can tell.
        rule = Rule(
            matches=lambda frame: (frame.sender, frame.receiver) == (BROKER, BOB),
            delay_probability=1.0,
            delay_ns=longer_ns,
            least_delay_ns=longer_ns,
        )
        bed = joined(preset, rules=[rule], lead_ns=5_000_000, clocks={BOB: skewed})
        bed.net.run_for(2 * SECOND_NS)
        application = bed.application()
        bed.net.run_for(SECOND_NS)
        _, true = entangle(bed, application)
        late_ns = 20_000 * -math.log(2 * true - 1)
        times = [bed.agents[end].endpoint.network_time_ns(bed.net.local_ns(end)) for end in (ALICE, BOB)]
        assert late_ns == pytest.approx(abs(times[0] - times[1]), abs=1_000)
        assert abs(times[0] - times[1]) == pytest.approx(longer_ns / 2, abs=1_000)
        measured.append(true)
    assert measured[0] > 0.95 > measured[1] > 0.85 > 0.75 > measured[2]
