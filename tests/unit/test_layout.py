"""The three rooms are portions of one namespace package: what would hide one of them from the others is forbidden."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("agent", "protocols", "broker")


def portions() -> list[Path]:
    return sorted(path for room in ROOMS for path in (ROOT / room / "bellwire").iterdir() if path.is_dir())


@pytest.mark.parametrize("room", ROOMS)
def test_room_namespace_has_no_init_file(room: str) -> None:
    assert not (ROOT / room / "bellwire" / "__init__.py").exists()
    assert not (ROOT / room / "__init__.py").exists()


@pytest.mark.parametrize("portion", portions(), ids=lambda path: f"{path.parents[1].name}-{path.name}")
def test_portion_is_typed_and_says_what_it_is(portion: Path) -> None:
    if portion.name == "__pycache__":
        return
    assert (portion / "py.typed").exists()
    assert (portion / "__init__.py").read_text(encoding="utf-8").startswith('"""')


def test_import_contracts_know_every_portion() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    names = {f"bellwire.{path.name}" for path in portions() if path.name != "__pycache__"}
    assert set(contracts["root_packages"]) == names


def test_no_module_is_longer_than_500_lines() -> None:
    modules = [path for room in ROOMS for path in (ROOT / room / "bellwire").rglob("*.py")]
    modules += (ROOT / "tests" / "interop" / "agent" / "src").glob("*.ts")
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in modules}
    assert len(lengths) > 200
    assert {name: length for name, length in lengths.items() if length > 500} == {}
