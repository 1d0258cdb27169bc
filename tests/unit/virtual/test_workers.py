"""Work spread over processes: its order, its errors and its end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tasks import die_of_three, refuse_three, square

from bellwire.protocols.errors import BellwireError, ErrorCode, RequestError
from bellwire.virtual.workers import derived_seed, spread


@pytest.mark.parametrize("jobs", [1, 3])
def test_results_come_in_the_order_of_the_items(jobs: int) -> None:
    assert list(spread(square, range(20), jobs)) == [number * number for number in range(20)]
    assert multiprocessing.active_children() == []


def test_no_items_give_no_results() -> None:
    assert list(spread(square, [], 4)) == []


@pytest.mark.parametrize("jobs", [1, 2])
def test_error_of_an_item_is_raised_whole_after_the_results_before_it(jobs: int) -> None:
    results: list[int] = []
    with pytest.raises(RequestError) as refused:
        results.extend(spread(refuse_three, range(20), jobs))
    assert results == [0, 1, 2]
    assert (refused.value.code, refused.value.text) == (ErrorCode.NORES, "three is too many")
    assert str(refused.value) == "NORES: three is too many"
    assert multiprocessing.active_children() == []


def test_process_that_dies_is_an_error_and_not_waited_for_forever() -> None:
    with pytest.raises(BellwireError, match="a process of the simulation has died"):
        list(spread(die_of_three, range(4), 2))
    assert multiprocessing.active_children() == []


def test_caller_that_stops_leaves_no_process() -> None:
    results = spread(square, range(1_000), 2)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: signal.Signals(number).name)
def test_caller_that_is_interrupted_or_killed_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from bellwire.virtual.workers import spread\n"
        "if __name__ == '__main__':\n"
        "    for _ in spread(abs, range(100), 2):\n"
        "        print('begun', flush=True)\n"
        "        sys.stdin.read()\n",
        encoding="utf-8",
    )
    command = [sys.executable, str(script)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        # As a terminal does; every process of the script holds its standard error, which ends with the last of them.
        os.killpg(process.pid, number) if number is signal.SIGINT else process.kill()
        _, said = process.communicate(timeout=60)
    assert said.count(b"KeyboardInterrupt") == (number is signal.SIGINT)


def test_derived_seeds_differ_by_seed_and_part_and_are_the_same_everywhere() -> None:
    assert len({derived_seed(seed, f"batch {number}") for seed in range(20) for number in range(20)}) == 400
    assert derived_seed(1, "batch 0") == derived_seed(1, "batch 0") < 2**63
