"""The conformance kit over the node of another implementation."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

import pytest

from bellwire.conformance.cases import wire_cases
from bellwire.shell.main import run

NO_SIDE_PATH = {"TIME-3.5-01", "TIME-3.5-02", "TIME-3.5-03"}
"""The cases of side paths, which it makes no use of."""


def test_kit_over_the_other_implementation_fails_nothing_and_skips_what_is_left_out(
    typescript_agent: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    start = shlex.join([*typescript_agent, "{dir}/settings.json"])
    run(["conformance", "--role", "node", "--strict", "--json", "--without", "paths", "--start", start])
    told = json.loads(capsys.readouterr().out)
    assert {case["id"]: case["text"] for case in told["cases"] if case["verdict"] == "fail"} == {}
    left_out = {case.id for case in wire_cases() if case.needs == "paths"}
    assert {case["id"] for case in told["cases"] if case["verdict"] == "skip"} == NO_SIDE_PATH | left_out
