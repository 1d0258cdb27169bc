"""The experiment's own code over whole testbeds in virtual time: the protocol that the daemons run, without sockets."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from oxford import experiments, model
from oxford.circuits import MARKED, Circuit, cz, grover, iswap, swap
from oxford.experiments import MEASUREMENTS, Row, Shots
from oxford.lab import MOST_LOST_SHOTS, Lab, PairCapable
from oxford.tomography import Setting
from tests.unit.oxford.conftest import in_lab

from bellwire.client import Network
from bellwire.protocols.errors import ErrorCode, RequestError
from bellwire.protocols.messages import GateResult, ProgramResult, Step
from bellwire.sim.preset import Preset
from bellwire.sim.virtual import VirtualTestbed

FEW = Shots(bell_per_basis=4, cz_per_setting=2, grover_per_item=2, iswap_per_operator=4, swap_per_operator=4, exact=4)


def nothing(_: str) -> None:
    pass


@pytest.mark.parametrize("circuit", [cz(), iswap(), swap()], ids=lambda circuit: circuit.name)
def test_choi_state_of_a_circuit_in_an_ideal_testbed_is_exact(ideal_bed: VirtualTestbed, circuit: Circuit) -> None:
    async def work(lab: Lab) -> None:
        for _ in range(12):
            assert experiments.choi_fidelity(await lab.choi_state(circuit), circuit) == pytest.approx(1.0, abs=1e-9)

    in_lab(ideal_bed, work)


@pytest.mark.parametrize("marked", MARKED)
def test_grover_in_an_ideal_testbed_always_finds_the_marked_item(ideal_bed: VirtualTestbed, marked: str) -> None:
    async def work(lab: Lab) -> None:
        for _ in range(5):
            assert await lab.shot(grover(marked), Setting(inputs=("0", "0"), basis="ZZ")) == tuple(map(int, marked))
        state = await lab.final_state(grover(marked))
        assert state[int(marked, 2), int(marked, 2)].real == pytest.approx(1.0, abs=1e-9)

    in_lab(ideal_bed, work)


def test_rows_of_an_ideal_testbed_are_perfect(ideal_bed: VirtualTestbed) -> None:
    async def work(lab: Lab) -> dict[str, Row]:
        names = ("Bell pairs", "Grover", "iSWAP", "SWAP")
        return {name: (await MEASUREMENTS[name](lab, FEW, Random(1), nothing))[0] for name in names}

    rows = in_lab(ideal_bed, work)
    assert [row.exact.value for row in rows.values()] == pytest.approx([1.0] * 4, abs=1e-9)
    assert rows["Bell pairs"].ours.value == rows["Grover"].ours.value == 1.0
    # Operators with an identity factor are sampled at random signs: only the mean over all four is exact.
    assert [rows[name].ours.value for name in ("iSWAP", "SWAP")] == pytest.approx([1.0, 1.0], abs=1e-9)


def test_tomography_of_an_ideal_testbed_agrees_with_a_perfect_cz(ideal_bed: VirtualTestbed) -> None:
    told: list[str] = []
    (row,) = in_lab(ideal_bed, lambda lab: experiments.teleported_cz(lab, FEW, Random(1), told.append))
    assert row.ours.value == pytest.approx(1.0, abs=4 * row.ours.sigma + 1e-9)
    assert row.exact.value == pytest.approx(1.0, abs=1e-9)
    assert len(told) == FEW.totals()["CZ"] == row.pairs


def test_exact_fidelity_in_the_oxford_testbed_is_what_the_model_predicts(
    oxford: Preset, oxford_bed: VirtualTestbed
) -> None:
    found = in_lab(oxford_bed, lambda lab: experiments.exact_fidelity(lab, cz(), 150, lambda: None))
    # A misread mid-circuit bit costs a shot 0.6 and comes in 2 of 1,000: 150 shots tell the mean to about 0.002.
    assert found.value == pytest.approx(model.predict(oxford).cz, abs=0.006)


def test_grover_and_pairs_in_the_oxford_testbed_are_what_the_model_predicts(
    oxford: Preset, oxford_bed: VirtualTestbed
) -> None:
    shots, predicted = Shots().scaled(0.6), model.predict(oxford)

    async def work(lab: Lab) -> list[Row]:
        rows = await experiments.bell_pairs(lab, shots, Random(2), nothing)
        return rows + await experiments.grover_search(lab, shots, Random(2), nothing)

    bell, rate, search = in_lab(oxford_bed, work)
    assert bell.exact.value == pytest.approx(predicted.bell_fidelity, abs=1e-9)
    assert bell.ours.value == pytest.approx(predicted.bell_fidelity, abs=4 * bell.ours.sigma)
    assert rate.ours.value == pytest.approx(predicted.pairs_per_s, abs=4 * rate.ours.sigma)
    assert search.ours.value == pytest.approx(predicted.grover, abs=4 * search.ours.sigma)


def test_shots_without_exact_ones_say_nothing_of_the_state(ideal_bed: VirtualTestbed) -> None:
    shots = Shots(exact=0).scaled(0.05)

    async def work(lab: Lab) -> list[Row]:
        return [row for each in MEASUREMENTS.values() for row in await each(lab, shots, Random(1), nothing)]

    rows = in_lab(ideal_bed, work)
    assert {row.exact.shots for row in rows} == {0}
    assert all(np.isnan(row.exact.value) for row in rows)


class FaultyNetwork:
    """Fails some gates with a named error, before anything has happened to the qubits."""

    def __init__(self, network: Network, failures: int) -> None:
        self._network = network
        self._failures = failures

    async def run(self, node: str, steps: Sequence[Step]) -> ProgramResult:
        return await self._network.run(node, steps)

    async def entangle(self, first: str, second: str) -> PairCapable:
        return await self._network.entangle(first, second)

    async def cz(self, source: str, target: str) -> GateResult:
        if self._failures:
            self._failures -= 1
            raise RequestError(ErrorCode.TIMEOUT, "a test")
        return await self._network.cz(source, target)


def test_shot_that_fails_is_discarded_and_made_again(ideal_bed: VirtualTestbed) -> None:
    async def work(lab: Lab) -> int:
        assert experiments.choi_fidelity(await lab.choi_state(swap()), swap()) == pytest.approx(1.0, abs=1e-9)
        return lab.lost

    assert in_lab(ideal_bed, work, lambda network: FaultyNetwork(network, failures=2)) == 2


def test_shots_that_fail_too_often_end_the_experiment_with_the_error(ideal_bed: VirtualTestbed) -> None:
    async def work(lab: Lab) -> int:
        with pytest.raises(RequestError, match="a test"):
            await lab.choi_state(cz())
        return lab.lost

    assert in_lab(ideal_bed, work, lambda network: FaultyNetwork(network, failures=1_000)) == MOST_LOST_SHOTS + 1


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
