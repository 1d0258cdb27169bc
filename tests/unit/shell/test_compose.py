"""docker-compose.yml: valid by the specification's schema, and fitting the testbed that it runs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
COMPOSE = ROOT / "docker-compose.yml"


def test_compose_file_follows_the_compose_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_services_are_the_parts_of_the_testbed() -> None:
    testbed = tomllib.loads((ROOT / "examples/two-nodes/testbed.toml").read_text(encoding="utf-8"))
    text = COMPOSE.read_text(encoding="utf-8")
    for name in (*testbed["nodes"], *testbed["stations"], "broker", "world"):
        assert f"/lab/{name}.toml" in text


@pytest.mark.parametrize("room", ["agent", "broker"])
def test_dockerfile_ends_as_a_user_without_rights(room: str) -> None:
    lines = (ROOT / room / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert "ARG BASE=python:3.11-slim" in lines
    assert [line for line in lines if line.startswith("USER ")] == ["USER 10001:10001"]
    assert not any("pip install" in line and "--no-index" not in line for line in lines)
