"""The demo's files and flags. The demo itself runs five processes for two minutes: `make demo`."""

from __future__ import annotations

from pathlib import Path

import demo
import pytest
from oxford.experiments import Shots
from oxford.lab import NETWORK_QUBIT

from bellwire.agent.testbed import load_testbed, prepare
from bellwire.protocols.node import QubitKind
from bellwire.sim.preset import Preset


def test_testbed_of_the_demo_fits_its_preset_and_names_the_network_qubit(oxford: Preset) -> None:
    config, preset = load_testbed(demo.TESTBED)
    assert preset == oxford
    assert set(config.nodes) == {"alice", "bob"}
    for node in config.nodes.values():
        kinds = {name: kind for name, kind in node.qubits().items() if kind is QubitKind.COMMUNICATION}
        assert set(kinds) == {NETWORK_QUBIT}


def test_testbed_with_another_seed_and_pace_is_the_same_but_for_that(tmp_path: Path) -> None:
    path = demo.own_testbed(tmp_path, 42, 2.5)
    seeded, preset = load_testbed(path)
    config, original = load_testbed(demo.TESTBED)
    assert (seeded.seed, seeded.time_scale, seeded.nodes) == (42, 2.5, config.nodes)
    assert preset == original
    assert len(prepare(path, tmp_path / "state").parts) == 5


def test_demo_with_a_folder_that_is_not_there_says_so_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        demo.main(json=tmp_path / "none" / "rows.json")
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "--json" in captured.err
    assert "No such file or directory" in captured.err


def test_shots_of_the_demo_need_the_pairs_that_its_time_allows() -> None:
    # 34 ms of waiting for a pair at three times the wall's clock, and some latency.
    assert Shots().pairs() * 0.042 < demo.MEASURING_S
