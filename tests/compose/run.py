"""Bring docker-compose.yml up on a Docker engine of its own, herald pairs between its containers, and tear it all down.

    python tests/compose/run.py [--keep-base FILE]

Needs root, Debian's docker.io, docker-compose and debootstrap, and a network to a Debian mirror (`DEBIAN_MIRROR` names
another) and to PyPI. Everything is put into one temporary folder and every process is ended by its id, also on failure.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BASE = "bellwire-base:bookworm"
PACKAGES = "python3,python3-venv,python3-pip"
PYTHON = "3.11"
TOTAL_S = 900.0
"""The whole test takes about two minutes; whatever takes longer than this hangs."""
CLOSE_S = 20.0
TOOLS = ("docker", "dockerd", "docker-compose", "debootstrap", "iptables", "unshare")
OWN_NAMESPACES = ("unshare", "--net", "--mount")
"""The engine's bridges, firewall rules and mounts are its own, and vanish with it."""
NUMBER = 10

_BEGAN = time.monotonic()


class Failure(Exception):
    """The test failed, for a reason that fits into one line."""


def say(text: str) -> None:
    """Tell what happens, with the seconds since the beginning."""
    sys.stdout.write(f"compose-test {time.monotonic() - _BEGAN:6.1f} s  {text}\n")
    sys.stdout.flush()


def run(*command: str | Path, environment: Mapping[str, str] | None = None, cwd: Path = ROOT) -> str:
    """Run a command within the time that is left. Returns its standard output.

    Raises:
        Failure: with the end of what it said, when it fails or takes too long.
    """
    left_s = max(1.0, TOTAL_S - (time.monotonic() - _BEGAN))
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=left_s, env=environment, cwd=cwd, check=False
        )
    except subprocess.TimeoutExpired:
        raise Failure(f"{' '.join(words[:4])} … took too long") from None
    if done.returncode:
        sys.stdout.write(f"{done.stdout[-4000:]}{done.stderr[-4000:]}\n")
        raise Failure(f"{' '.join(words[:4])} … ended with exit code {done.returncode}")
    return done.stdout


def check_tools() -> str:
    """Find what is needed; returns the command of docker-compose."""
    if os.geteuid() != 0:
        raise Failure("needs root: it starts a Docker engine of its own")
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise Failure(f"needs {', '.join(missing)}: apt-get install docker.io docker-compose debootstrap iptables")
    return "docker-compose"


@contextmanager
def engine(folder: Path) -> Iterator[dict[str, str]]:
    """A Docker engine whose every file is below `folder`. Gives the environment that reaches it."""
    socket = f"unix://{folder}/docker.sock"
    log_path = folder / "dockerd.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [
                *OWN_NAMESPACES,
                "dockerd",
                f"--data-root={folder}/data",
                f"--exec-root={folder}/exec",
                f"--pidfile={folder}/docker.pid",
                f"--host={socket}",
                "--bridge=none",
            ],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    environment = {**os.environ, "DOCKER_HOST": socket, "DOCKER_BUILDKIT": "0", "COMPOSE_DOCKER_CLI_BUILD": "0"}
    try:
        wait_for_engine(process, environment, log_path)
        yield environment
    finally:
        say("stopping the engine")
        stop(process)


def wait_for_engine(process: subprocess.Popen[bytes], environment: Mapping[str, str], log_path: Path) -> None:
    """Wait until the engine answers."""
    deadline = time.monotonic() + 60.0
    while True:
        asked = subprocess.run(["docker", "version"], env=environment, capture_output=True, check=False)
        if asked.returncode == 0:
            return
        ended = True
        try:
            process.wait(0.2)
        except subprocess.TimeoutExpired:
            ended = time.monotonic() > deadline
        if ended:
            sys.stdout.write(log_path.read_text(errors="replace")[-4000:])
            raise Failure("the Docker engine did not start")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the engine, and what it started: all of it is in the session that was made for it."""
    process.terminate()
    try:
        process.wait(CLOSE_S)
    except subprocess.TimeoutExpired:
        say("the engine did not stop when asked, and is killed")
    for pid in session_members(process.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait(CLOSE_S)


def session_members(session: int) -> list[int]:
    """The processes of a session that are still there."""
    members = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # ended while we looked
        if int(fields[3]) == session:
            members.append(int(entry.name))
    return members


def remove(folder: Path) -> None:
    """Remove a folder in which an engine has lived."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        say(f"{folder} could not be removed whole")


def make_base(folder: Path, environment: Mapping[str, str], kept: Path | None) -> None:
    """Make the base image: a small Debian with Python, without any registry."""
    tarball = kept or folder / "base.tar"
    if not tarball.exists():
        mirror = os.environ.get("DEBIAN_MIRROR")
        say("debootstrap of Debian bookworm")
        root = folder / "root"
        named = [mirror] if mirror else []
        run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", root, *named, cwd=folder)
        shutil.rmtree(root / "var/cache/apt", ignore_errors=True)
        shutil.rmtree(root / "var/lib/apt/lists", ignore_errors=True)
        part = tarball.with_name(f"{tarball.name}.part")
        run("tar", "--create", "--file", part, "--directory", root, ".", cwd=folder)
        part.replace(tarball)
        shutil.rmtree(root, ignore_errors=True)
    say(f"importing the base image {BASE}")
    run("docker", "import", tarball, BASE, environment=environment)


class Compose:
    """docker-compose with this repository's file, under a project of its own."""

    def __init__(self, command: str, environment: Mapping[str, str], wheels: Path) -> None:
        self._command = [
            command,
            "--file",
            str(ROOT / "docker-compose.yml"),
            "--project-name",
            f"bellwire{os.getpid()}",
        ]
        self._environment = {
            **environment,
            "BELLWIRE_BASE": BASE,
            "BELLWIRE_TAG": "test",
            "BELLWIRE_WHEELS": str(wheels),
            "BELLWIRE_SOURCE": str(ROOT),
        }

    def __call__(self, *words: str) -> str:
        """Run one of its commands."""
        return run(*self._command, *words, environment=self._environment)

    def show_logs(self) -> None:
        """Print the end of what every container said."""
        command = [*self._command, "logs", "--no-color", "--tail", "40"]
        subprocess.run(command, env=self._environment, timeout=CLOSE_S, check=False)

    def client(self, *words: str) -> Any:
        """Run the client inside the network. Returns the JSON that it printed."""
        return json.loads(self("run", "--rm", "-T", "client", *words, "--json"))


def check(compose: Compose, environment: Mapping[str, str]) -> None:
    """Use the network in the containers, and look at the containers themselves."""
    told = compose.client("entangle", "alice", "bob", "--number", str(NUMBER), "--measure")
    pairs = told["pairs"]
    if len({pair["pair_id"] for pair in pairs}) != NUMBER:
        raise Failure(f"{NUMBER} different pairs were expected, got {pairs}")
    for pair in pairs:
        if (pair["bits"] in ("00", "11")) != pair["bell_state"].startswith("phi"):
            raise Failure(f"the halves of a pair disagree with its Bell state: {pair}")
    say(f"heralded {NUMBER} pairs between alice and bob in {told['seconds']:.2f} s, all of them rightly correlated")
    gates = compose.client("gate", "cnot", "alice:c", "bob:t", "--number", "3")
    if gates["as_expected"] != 3:
        raise Failure(f"a teleported CNOT did not act: {gates}")
    say("teleported 3 CNOTs between alice and bob")
    for service in ("broker", "world", "station", "alice", "bob"):
        container = compose("ps", "-q", service).strip()
        format_ = "{{.State.Health.Status}} {{.Config.User}} {{.RestartCount}}"
        state = run("docker", "inspect", "--format", format_, container, environment=environment).strip()
        if state != "healthy 10001:10001 0":
            raise Failure(f"{service} is {state!r}, expected it healthy, not root, never restarted")
    say("all five containers are healthy and not root")


def test(folder: Path, kept: Path | None) -> None:
    """The whole test, in a folder of its own."""
    command = check_tools()
    say("collecting wheels")
    wheels = folder / "wheels"
    run(sys.executable, ROOT / "tests/compose/wheels.py", wheels, "--python", PYTHON)
    say("starting a Docker engine")
    with engine(folder / "engine") as environment:
        make_base(folder, environment, kept)
        compose = Compose(command, environment, wheels)
        try:
            say("building the images, without a network")
            compose("build")
            sizes = run("docker", "images", "--format", "{{.Repository}} {{.Size}}", environment=environment)
            say(", ".join(sorted(line for line in sizes.splitlines() if line.startswith("bellwire"))))
            say("bringing up broker, world, station, alice and bob")
            compose("up", "--detach", "broker", "world", "station", "alice", "bob")
            check(compose, environment)
            began = time.monotonic()
            compose("stop")
            say(f"all containers stopped in {time.monotonic() - began:.1f} s")
        except Failure:
            compose.show_logs()
            raise
        finally:
            say("taking it down")
            compose("down", "--volumes", "--timeout", "3")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the test. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--keep-base", type=Path, help="keep the base image's files here, and use them if they are there"
    )
    parsed = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    folder = Path(tempfile.mkdtemp(prefix="bellwire-compose-"))
    (folder / "engine").mkdir()
    try:
        test(folder, parsed.keep_base.absolute() if parsed.keep_base else None)
    except Failure as failure:
        say(f"FAILED: {failure}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    finally:
        remove(folder)
    say("passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
