"""`make traces`: which Pythons it finds, and what it says when their traces differ. That they do not is for it to see."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from scripts import load_script

traces = load_script("simulation/traces.py")


def python(path: Path, version: str, *, venv: bool = True) -> str:
    """A pretended Python, that knows its version."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {version}\nexit {0 if venv else 1}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def pyenv(folder: Path, prefixes: dict[str, Path]) -> None:
    """A pretended pyenv."""
    cases = "".join(f'"prefix {name}") echo {prefix} ;;\n' for name, prefix in prefixes.items())
    names = "\n".join(prefixes)
    text = f'#!/bin/sh\ncase "$*" in\n"versions --bare") echo "{names}" ;;\n{cases}*) exit 1 ;;\nesac\n'
    (folder / "pyenv").write_text(text, encoding="utf-8")
    (folder / "pyenv").chmod(0o755)


def test_pythons_are_found_on_the_path_and_in_pyenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "bin"
    plain = python(here / "python3", "3.13")
    python(here / "python3.12", "3.12", venv=False)  # As Debian's, without its package of venv.
    in_pyenv = python(tmp_path / "pyenv/3.12.1/bin/python", "3.12")
    python(tmp_path / "pyenv/3.13.0/bin/python", "3.13")
    python(tmp_path / "pyenv/3.9.1/bin/python", "3.9")
    pyenv(here, {name: tmp_path / "pyenv" / name for name in ("3.12.1", "3.13.0", "3.9.1", "gone")})
    monkeypatch.setenv("PATH", f"{here}:/bin:/usr/bin")
    monkeypatch.setattr(sys, "executable", python(tmp_path / "own", "3.11"))
    usable, remarks = traces.interpreters(["3.11", "3.12", "3.13", "3.99"])
    assert usable == {"3.11": sys.executable, "3.12": in_pyenv, "3.13": plain}
    [remark] = remarks
    assert remark == f"{here}/python3.12 is left out: Python 3.12 has no venv there"


def test_traces_are_compared_on_every_version_that_the_package_supports() -> None:
    assert traces.supported()[:3] == ["3.11", "3.12", "3.13"]


def test_difference_names_the_trace_and_who_has_which() -> None:
    same, other = (
        {"ring --seed 1": "a" * 64, "star --seed 1": "b" * 64},
        {"ring --seed 1": "a" * 64, "star --seed 1": "c" * 64},
    )
    told = [traces.Told(python=f"3.1{n}", numpy="2.4", digests=each) for n, each in enumerate((same, same, other))]
    assert traces.differences(dict(zip(("3.11", "3.12"), told[:2], strict=True))) == []
    [said] = traces.differences(dict(zip(("3.11", "3.12", "3.13"), told, strict=True)))
    assert said == f"star --seed 1 differs. Python 3.11, 3.12: {'b' * 12}; 3.13: {'c' * 12}"


@pytest.mark.parametrize(("least", "code"), [(1, 0), (2, 1)])
def test_one_python_compares_nothing_which_is_said_and_fails_only_where_more_were_to_be_had(
    least: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = "{}.{}".format(*sys.version_info[:2])
    monkeypatch.setattr(traces, "interpreters", lambda _: ({own: sys.executable}, []))
    monkeypatch.setattr(traces, "_run", lambda *_: '{"python": "3", "numpy": "2", "digests": {"ring --seed 1": "a"}}')
    assert traces.compare(least) == code
    assert "only" in capsys.readouterr().out.splitlines()[-1]
