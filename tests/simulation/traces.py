"""See whether a seed has the same trace, byte for byte, on every Python that Bellwire supports and that this machine has.

    python tests/simulation/traces.py [--least N]

Pythons are looked for on the PATH and in pyenv. Each has a virtual environment in .venv/traces, kept for the next time.
Exit code 1 if traces differ, if a Python cannot run them, or if fewer than N Pythons were found.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from itertools import product
from pathlib import Path

ROOT = Path(__file__).parents[2]
SEEDS = range(3)
LONG = "no-faults"
"""The scenario that is there for its speed: its traces are long, and show nothing that those of others do not."""

PROBE = "import sys; v = '%d.%d' % sys.version_info[:2]; print(v, flush=True); import venv, ensurepip"


@dataclass(frozen=True, kw_only=True)
class Told:
    """What one Python told: its version, NumPy's, and the digest of every trace by scenario and seed."""

    python: str
    numpy: str
    digests: dict[str, str]


def supported() -> list[str]:
    """The versions of Python that the package says it runs on."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    versions = (classifier.rpartition(":: ")[2] for classifier in project["classifiers"])
    return [version for version in versions if version.startswith("3.")]


def candidates(versions: Iterable[str]) -> list[str]:
    """Commands that may be a Python: this one, those on the PATH, and pyenv's."""
    found = [sys.executable, *filter(None, map(shutil.which, ("python3", *(f"python{each}" for each in versions))))]
    if shutil.which("pyenv"):
        for name in _lines("pyenv", "versions", "--bare"):
            found += [f"{prefix}/bin/python" for prefix in _lines("pyenv", "prefix", name)]
    return found


def interpreters(versions: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """The first interpreter of each version that can make an environment, and what is to be said of others."""
    wanted, usable, remarks = set(versions), dict[str, str](), list[str]()
    for command in candidates(versions):
        try:
            probe = subprocess.run([command, "-c", PROBE], capture_output=True, text=True, check=False, timeout=60)
        except OSError:
            continue
        version = probe.stdout.strip()
        if version not in wanted or version in usable:
            continue
        if probe.returncode:
            remarks.append(f"{command} is left out: Python {version} has no venv there")
        else:
            usable[version] = command
    return {version: usable[version] for version in versions if version in usable}, remarks


def environment(version: str, command: str) -> str:
    """The Python of an environment that has Bellwire: this one, or one that is made for the purpose and kept."""
    if command == sys.executable:
        return command
    folder = ROOT / ".venv" / "traces" / version
    stamp = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + command.encode()).hexdigest()
    installed, python = folder / "installed", str(folder / "bin" / "python")
    if not installed.exists() or installed.read_text(encoding="utf-8") != stamp:
        _run(command, "-m", "venv", "--clear", str(folder))
        _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--editable", str(ROOT))
        installed.write_text(stamp, encoding="utf-8")
    return python


def digests() -> Told:
    """The digests of this very Python."""
    from bellwire.simnet.trace import Trace
    from bellwire.virtual.run import run_seed
    from bellwire.virtual.scenario import load_scenario, packaged_scenarios

    found = {}
    for name, seed in product(packaged_scenarios(), SEEDS):
        if name != LONG:
            scenario, digest = load_scenario(name), hashlib.sha256()
            run_seed(scenario, seed, trace=Trace(lambda line, digest=digest: digest.update(line.encode())))  # type: ignore[misc]
            found[f"{name} --seed {seed}"] = digest.hexdigest()
    return Told(python=platform.python_version(), numpy=metadata.version("numpy"), digests=found)


def differences(told: Mapping[str, Told]) -> list[str]:
    """What to say of every trace that is not the same everywhere."""
    said = []
    names = dict.fromkeys(name for each in told.values() for name in each.digests)
    for name in names:
        by_digest: dict[str, list[str]] = {}
        for version, each in told.items():
            by_digest.setdefault(each.digests.get(name, "none"), []).append(version)
        if len(by_digest) > 1:
            groups = "; ".join(f"{', '.join(versions)}: {digest[:12]}" for digest, versions in by_digest.items())
            said.append(f"{name} differs. Python {groups}")
    return said


def _run(*command: str) -> str:
    """Run a command that has to succeed, and give its output.

    Raises:
        SystemExit: one line with what it said last, when it does not.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise SystemExit(f"{' '.join(command)} failed: {last}")
    return done.stdout


def _lines(*command: str) -> list[str]:
    """The lines that a command prints, none if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return [] if done.returncode else done.stdout.split()


def compare(least: int) -> int:
    """Find Pythons, compare what they trace, and say so. The exit code."""
    versions = supported()
    found, remarks = interpreters(versions)
    with ThreadPoolExecutor() as pool:
        pythons = dict(zip(found, pool.map(environment, found, found.values()), strict=True))
        printed = pool.map(lambda python: _run(python, __file__, "--digests"), pythons.values())
        told = {version: Told(**json.loads(line)) for version, line in zip(pythons, printed, strict=True)}
    for each in told.values():
        say(f"Python {each.python}, NumPy {each.numpy}: {len(each.digests)} traces")
    missing = [version for version in versions if version not in found]
    if missing:
        remarks.append(f"not found here: Python {', '.join(missing)}")
    say(*remarks)
    differ = differences(told)
    if differ:
        name = differ[0].partition(" differs")[0]
        replay = "-m bellwire.shell simnet"
        say(*differ, "see where:", *(f"  {python} {replay} {name} --trace {v}.jsonl" for v, python in pythons.items()))
        return 1
    if len(told) < least:
        say(f"at least {least} Pythons were to be compared, only {len(told)} can be used here")
        return 1
    if len(told) < 2:
        say("nothing was compared: only one Python can be used here")
    else:
        say(f"every trace is the same on Python {', '.join(each.python for each in told.values())}")
    return 0


def say(*lines: str) -> None:
    """Print lines."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def main() -> int:
    """Parse the command line and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--least", type=int, default=1, metavar="N", help="fail if fewer Pythons are found")
    parser.add_argument("--digests", action="store_true", help="print the digests of this Python as JSON, and leave")
    arguments = parser.parse_args()
    if arguments.digests:
        say(json.dumps(asdict(digests())))
        return 0
    return compare(arguments.least)


if __name__ == "__main__":
    sys.exit(main())
