"""The experiment's own code over whole testbeds in virtual time: the protocol that the daemons run, without sockets."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from oxford import experiments, model
from oxford.circuits import MARKED, Circuit, cz, grover, iswap, swap
from oxford.experiments import Shots
from oxford.lab import MOST_LOST_SHOTS, Lab
from oxford.published import ISWAP, SWAP
from oxford.tomography import Setting
from tests.unit.oxford.conftest import IDEAL_NETWORK_QUBIT, VirtualNetwork

from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.messages import GateResult
from bellwire.sim.preset import Preset

FEW = Shots(bell_per_basis=4, cz_per_setting=2, grover_per_item=2, iswap_per_operator=4, swap_per_operator=4, exact=4)


def lab(network: VirtualNetwork) -> Lab:
    return Lab(network, network, IDEAL_NETWORK_QUBIT)


def nothing(_: str) -> None:
    pass


@pytest.mark.parametrize("circuit", [cz(), iswap(), swap()], ids=lambda circuit: circuit.name)
async def test_choi_state_of_a_circuit_in_an_ideal_testbed_is_exact(
    ideal_network: VirtualNetwork, circuit: Circuit
) -> None:
    here = lab(ideal_network)
    for _ in range(12):
        assert experiments.choi_fidelity(await here.choi_state(circuit), circuit) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("marked", MARKED)
async def test_grover_in_an_ideal_testbed_always_finds_the_marked_item(
    ideal_network: VirtualNetwork, marked: str
) -> None:
    here = lab(ideal_network)
    for _ in range(5):
        assert await here.shot(grover(marked), Setting(inputs=("0", "0"), basis="ZZ")) == tuple(map(int, marked))
    state = await here.final_state(grover(marked))
    assert state[int(marked, 2), int(marked, 2)].real == pytest.approx(1.0, abs=1e-9)


async def test_rows_of_an_ideal_testbed_are_perfect(ideal_network: VirtualNetwork) -> None:
    here, random = lab(ideal_network), Random(1)
    bell, _ = await experiments.bell_pairs(here, FEW, 1.0, random, nothing)
    search = await experiments.grover_search(here, FEW, random, nothing)
    rows = [bell, search]
    for circuit, published in ((iswap(), ISWAP), (swap(), SWAP)):
        rows.append(await experiments.clifford(here, circuit, published, 4, 4, random, nothing))
    assert [row.exact.value for row in rows] == pytest.approx([1.0] * 4, abs=1e-9)
    assert [row.ours.value for row in rows[:2]] == [1.0, 1.0]
    # Operators with an identity factor are sampled at random signs: only the mean over all four is exact.
    assert [row.ours.value for row in rows[2:]] == pytest.approx([1.0, 1.0], abs=1e-9)


async def test_tomography_of_an_ideal_testbed_agrees_with_a_perfect_cz(ideal_network: VirtualNetwork) -> None:
    told: list[str] = []
    row = await experiments.teleported_cz(lab(ideal_network), FEW, Random(1), told.append)
    assert row.ours.value == pytest.approx(1.0, abs=4 * row.ours.sigma + 1e-9)
    assert row.exact.value == pytest.approx(1.0, abs=1e-9)
    assert len(told) == FEW.totals()["CZ"] == row.pairs


async def test_exact_fidelity_in_the_oxford_testbed_is_what_the_model_predicts(
    oxford: Preset, oxford_network: VirtualNetwork
) -> None:
    found = await experiments.exact_fidelity(lab(oxford_network), cz(), 150, lambda: None)
    # A misread mid-circuit bit costs a shot 0.6 and comes in 2 of 1,000: 150 shots tell the mean to about 0.002.
    assert found.value == pytest.approx(model.predict(oxford).cz, abs=0.006)


async def test_grover_and_pairs_in_the_oxford_testbed_are_what_the_model_predicts(
    oxford: Preset, oxford_network: VirtualNetwork
) -> None:
    here, shots, predicted = lab(oxford_network), Shots().scaled(0.5), model.predict(oxford)
    bell, rate = await experiments.bell_pairs(here, shots, 1.0, Random(2), nothing)
    assert bell.exact.value == pytest.approx(predicted.bell_fidelity, abs=1e-9)
    assert bell.ours.value == pytest.approx(predicted.bell_fidelity, abs=4 * bell.ours.sigma)
    assert rate.published.value == 9.7
    search = await experiments.grover_search(here, shots, Random(2), nothing)
    assert search.ours.value == pytest.approx(predicted.grover, abs=4 * search.ours.sigma)


class FaultyNetwork(VirtualNetwork):
    """Fails some gates with a named error, before anything has happened to the qubits."""

    failures = 0

    async def cz(self, source: str, target: str) -> GateResult:
        if self.failures:
            self.failures -= 1
            raise RequestError(ErrorCode.TIMEOUT, "a test")
        return await super().cz(source, target)


@pytest.fixture
def faulty_network(ideal_network: VirtualNetwork) -> FaultyNetwork:
    ideal_network.__class__ = FaultyNetwork
    assert isinstance(ideal_network, FaultyNetwork)
    return ideal_network


async def test_shot_that_fails_is_discarded_and_made_again(faulty_network: FaultyNetwork) -> None:
    here = lab(faulty_network)
    faulty_network.failures = 2
    assert experiments.choi_fidelity(await here.choi_state(swap()), swap()) == pytest.approx(1.0, abs=1e-9)
    assert here.lost == 2


async def test_shots_that_fail_too_often_end_the_experiment_with_the_error(faulty_network: FaultyNetwork) -> None:
    here = lab(faulty_network)
    faulty_network.failures = 1_000
    with pytest.raises(RequestError, match="a test"):
        await here.choi_state(cz())
    assert here.lost == MOST_LOST_SHOTS + 1


def test_latency_of_gates_is_what_their_mean_has_above_the_wait_for_a_herald(oxford: Preset) -> None:
    facts = model.Facts.of(oxford)
    wait_s = facts.mean_wait_ns / 1e9 / 4.0
    rng = np.random.default_rng(1)
    gates = list(0.003 + rng.exponential(wait_s, 4_000))
    latency = experiments.latency(gates, [0.001] * 10, facts, 4.0)
    assert latency.gate_s == pytest.approx(0.003, abs=4 * latency.gate_sigma_s)
    assert latency.program_s == pytest.approx(0.001)
    assert latency.costs["cz"] == pytest.approx(0.75 * 0.8 * 4 * (latency.gate_s + 0.001) / 30, rel=0.15)
    assert latency.worst == max(latency.costs.values())


def test_fitting_time_scale_keeps_the_cost_of_latency_below_its_aim(oxford: Preset) -> None:
    facts = model.Facts.of(oxford)
    scales = [experiments.fitting_time_scale(facts, per_gate_s) for per_gate_s in (1e-4, 0.005, 0.008, 1.0)]
    assert scales[0] == experiments.TIME_SCALES[1]
    assert scales[3] == experiments.TIME_SCALES[0]
    assert scales[1] > scales[2] > 1.0
    for per_gate_s, scale in ((0.005, scales[1]), (0.008, scales[2])):
        worst = max(experiments.latency_costs(facts, per_gate_s, scale).values())
        assert 0.9 * experiments.LATENCY_AIM < worst <= 1.001 * experiments.LATENCY_AIM
