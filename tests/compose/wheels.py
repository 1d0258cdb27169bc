"""Collect the wheels that the container images are built from, for the Python of the images and not for this one.

python tests/compose/wheels.py FOLDER [--python 3.11]
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GLIBC_MINORS = (36, 35, 34, 31, 28, 27, 26, 24, 17)
"""Platform tags to accept: a wheel for an older glibc runs with a newer one. Debian 12 has glibc 2.36."""


def collect(folder: Path, python: str, timeout_s: float = 600.0) -> list[Path]:
    """Build this package's wheel into `folder` and download those that it needs. Returns all of them."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT], check=True, timeout=timeout_s)
    (own,) = folder.glob("bellwire-*.whl")
    machine = platform.machine()
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in GLIBC_MINORS]
    target = ["--python-version", python, "--implementation", "cp", "--only-binary=:all:"]
    platforms += [f"--platform=manylinux2014_{machine}"]
    subprocess.run([*pip, "download", *target, *platforms, "--dest", folder, own], check=True, timeout=timeout_s)
    return sorted(folder.glob("*.whl"))


def main() -> None:
    """Collect, and say what was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.11", help="of the base image")
    arguments = parser.parse_args()
    for wheel in collect(arguments.folder, arguments.python):
        sys.stdout.write(f"{wheel}\n")


if __name__ == "__main__":
    main()
