"""What a target must be told, and its process where the kit starts it.

The kit writes into one folder: keys of all parties, `settings.json` with everything that a target is configured with, and
the same as `node.toml`, `station.toml` or `broker.toml`, the files that Bellwire's own daemons read.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from bellwire.conformance.catalogue import Role
from bellwire.conformance.keys import Keys
from bellwire.protocols.errors import BellwireError, ConfigError

TARGET: Final = "kit-target"
PEER: Final = "kit-peer"
FAR: Final = "kit-far"
STATION: Final = "kit-station"
APPLICATION: Final = "kit-app"
OTHER: Final = "kit-other"
WEST: Final = "kit-west"
EAST: Final = "kit-east"
NORTH: Final = "kit-north"
GUEST: Final = "kit-guest"
CROWD: Final = tuple(f"kit-crowd-{number}" for number in range(1, 121))
"""Applications that only a broker meets, and only to have many of them."""

STRANGER: Final = "kit-stranger"
BROKER: Final = "broker"

LINK: Final = "kit-link"
LEAD: Final = "kit-lead"
DARK: Final = "kit-dark"
BRIGHT: Final = "kit-bright"
GLOW: Final = "kit-glow"
RAY: Final = "kit-ray"

WIRE_ROLES: Final = {Role.NODE: "agent", Role.STATION: "station", Role.BROKER: "broker"}
PARTIES: Final = {
    BROKER: "broker",
    PEER: "agent",
    FAR: "agent",
    STATION: "station",
    APPLICATION: "application",
    OTHER: "application",
    WEST: "agent",
    EAST: "agent",
    NORTH: "agent",
    GUEST: "application",
} | dict.fromkeys(CROWD, "application")
"""Whom the kit plays, with their roles. West is the one whose name is greater than the target's; guests may not use a node."""

USERS: Final = (APPLICATION, OTHER)
"""The applications that may use a node."""

ATTEMPTS: Final = 4
DETECTORS: Final = 1
GOODNESS: Final = 0.75
BRIGHT_STATES: Final = ((0.05, 0.95), (0.45, 0.55))
"""Points of bright ratio and fidelity, of the links that herald by single-click: the two always add up to 1."""
END_S: Final = 3.0
_EVERYWHERE: Final = ("*", "0.0.0.0", "::")


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """How fast a target is to be configured, in milliseconds. Defaults fit one on the same machine."""

    heartbeat_ms: float = 200.0
    liveness_ms: float = 800.0
    retry_ms: float = 50.0
    retry_limit_ms: float = 200.0
    window_timeout_ms: float = 400.0
    report_timeout_ms: float = 200.0
    pair_lifetime_ms: float = 1_500.0
    backoff_ms: float = 2.0
    application_timeout_ms: float = 600.0
    guard_ms: float = 50.0
    pair_time_ms: float = 20.0
    time_interval_ms: float = 200.0

    def scaled(self, factor: float) -> Times:
        """The same, so many times slower."""
        return Times(**{name: value * factor for name, value in asdict(self).items()})


class Folder:
    """The kit's folder: keys, and what the target is told."""

    def __init__(self, path: Path, role: Role, times: Times, without: frozenset[str] = frozenset()) -> None:
        """Take what the target does `without`, of the OPTIONS: it is not told of that."""
        self.without = without
        self.path = path
        self.role = role
        self.times = times
        self.keys = Keys(path)
        self.target = BROKER if role is Role.BROKER else TARGET

    @property
    def authorized(self) -> Path:
        """Where a broker that the kit starts looks for the keys of the kit's parties."""
        return self.path / "authorized"

    def make_keys(self) -> None:
        """Make the keys that are missing. A stranger's is kept apart: nobody may authorise it.

        Raises:
            ConfigError: when the folder cannot be written.
        """
        parties = self._parties()
        if self.role is not Role.BROKER:
            parties[TARGET] = WIRE_ROLES[self.role]
        self.keys.make(parties)
        Keys(self.path / "unauthorized").make({STRANGER: "application"})

    def _parties(self) -> dict[str, str]:
        """Whom the kit plays around this target."""
        crowd = CROWD if self.role is Role.BROKER else ()
        return {name: role for name, role in PARTIES.items() if name in crowd or name not in CROWD}

    def write(self, endpoint: str) -> None:
        """Write what the target is to be told: the broker's endpoint, names, links and times.

        Raises:
            ConfigError: when the folder cannot be written, or nobody can connect to the endpoint.
        """
        if self.role is not Role.BROKER and urlsplit(endpoint).hostname in _EVERYWHERE:
            raise ConfigError(f"--target {endpoint}: targets connect to it, so it needs an address of this machine")
        settings = self._settings(endpoint)
        try:
            (self.path / "settings.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
            (self.path / f"{self.role}.toml").write_text(self._toml(endpoint), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be written: {error.strerror}") from None

    def _settings(self, endpoint: str) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "role": str(self.role),
            "name": self.target,
            "endpoint": endpoint,
            "keys": str(self.path),
            "times": asdict(self.times),
        }
        if self.role is not Role.BROKER:
            settings["links"] = self._links()
        if self.role is Role.NODE and "applications" not in self.without:
            settings["applications"] = list(USERS)
        if self.role is Role.STATION:
            settings["detectors"] = {"sets": DETECTORS, "switch_ms": 0}
        return settings

    def _links(self) -> dict[str, dict[str, Any]]:
        if self.role is Role.STATION:
            ends = {"primary": PEER, "secondary": FAR, "report_timeout_ms": self.times.report_timeout_ms}
            ends |= {"guard_ms": self.times.guard_ms}
            return {LINK: ends, DARK: ends}
        common = {
            "station": STATION,
            "scheme": "double-click",
            "attempts": ATTEMPTS,
            "goodness": GOODNESS,
            "window_timeout_ms": self.times.window_timeout_ms,
            "report_timeout_ms": self.times.report_timeout_ms,
            "pair_lifetime_ms": self.times.pair_lifetime_ms,
            "backoff_ms": self.times.backoff_ms,
            "guard_ms": self.times.guard_ms,
            "pair_time_ms": self.times.pair_time_ms,
        }
        links = {LINK: {"peer": PEER, "primary": False, **common}, LEAD: {"peer": FAR, "primary": True, **common}}
        if "schemes" in self.without:
            return links
        bright = common | {"scheme": "single-click", "bright_states": BRIGHT_STATES}
        ray = common | {"scheme": "direct", "station": NORTH}
        links |= {BRIGHT: {"peer": EAST, "primary": False, **bright}, GLOW: {"peer": WEST, "primary": True, **bright}}
        return links | {RAY: {"peer": NORTH, "primary": False, **ray}}

    def _toml(self, endpoint: str) -> str:
        times = self.times
        session = ("heartbeat_ms", "liveness_ms", "retry_ms", "retry_limit_ms")
        lines = [f'secret_key = "{self.target}.key_secret"']
        if self.role is Role.BROKER:
            lines += [f'bind = "{endpoint}"', 'authorized_keys = "authorized"']
        elif self.role is Role.NODE:
            lines.append(f"application_timeout_ms = {times.application_timeout_ms}")
            if "applications" not in self.without:
                lines.append(f"applications = {json.dumps(USERS)}")
        lines += ["", "[session]", *(f"{name} = {getattr(times, name)}" for name in session)]
        if self.role is not Role.BROKER:
            lines += ["", "[time]", f"interval_ms = {times.time_interval_ms}"]
            lines += ["", "[broker]", f'endpoint = "{endpoint}"', f'key = "{BROKER}.key"']
            lines += ["", "[backend]", 'name = "mock"', "", "[backend.options]"]
            kinds = 'c0 = "communication", s0 = "storage", s1 = "storage"'
            lines += [f"qubits = {{ {kinds} }}"] if self.role is Role.NODE else ["qubits = {}"]
            heralded = ", ".join(f'{link} = "psi+"' for link in (LINK, LEAD, BRIGHT, GLOW, RAY))
            lines.append(f'windows = {{ {heralded}, {DARK} = "none" }}')
            if "paths" in self.without:
                lines += ["", "[direct]", "enabled = false"]
            if self.role is Role.STATION:
                lines += ["", "[detectors]", f"sets = {DETECTORS}"]
            for link, table in self._links().items():
                lines += ["", f"[links.{link}]", *(f"{name} = {json.dumps(value)}" for name, value in table.items())]
        return "\n".join(lines) + "\n"

    def authorize(self) -> None:
        """Put the public keys of the kit's parties where a broker started by the kit looks for them."""
        self.authorized.mkdir(exist_ok=True)
        for name in self._parties():
            if name != BROKER:
                (self.authorized / f"{name}.key").write_bytes((self.path / f"{name}.key").read_bytes())


class Process:
    """A target that the kit starts, kills and starts again. Its output goes to `target.log` in the folder."""

    def __init__(self, command: str, folder: Folder, endpoint: str) -> None:
        """Take the command, with `{endpoint}`, `{keys}`, `{dir}` and `{name}` in it filled in.

        Raises:
            ConfigError: when it has another placeholder, or is no command line.
        """
        places = {"endpoint": endpoint, "keys": str(folder.path), "dir": str(folder.path), "name": folder.target}
        try:
            self._command = [part.format(**places) for part in shlex.split(command)]
        except (KeyError, ValueError, IndexError) as error:
            known = ", ".join(f"{{{name}}}" for name in places)
            raise ConfigError(f"--start {command!r}: {error}; placeholders are {known}") from None
        if not self._command:
            raise ConfigError("--start: the command is empty")
        self.log = folder.path / "target.log"
        self.started_ns = 0
        """When it was started last, by the wall clock."""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it.

        Raises:
            ConfigError: when it cannot be run.
        """
        self.started_ns = time.time_ns()
        try:
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
        except OSError as error:
            raise ConfigError(f"--start: cannot run {self._command[0]!r}: {error.strerror}") from None

    @property
    def runs(self) -> bool:
        """Whether it is there: started, and not ended since."""
        return self._process is not None and self._process.poll() is None

    def ended(self) -> str:
        """That it has ended by itself, with the last line that it wrote; empty when it has not."""
        if self._process is None or self._process.poll() is None:
            return ""
        said = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = said[-1] if said else "it said nothing"
        return f"the target ended with exit code {self._process.returncode}: {last}"

    def check(self) -> None:
        """See whether it runs.

        Raises:
            BellwireError: when it has ended by itself, with the last line that it wrote.
        """
        ended = self.ended()
        if ended:
            raise BellwireError(ended)

    def end(self, number: int = signal.SIGKILL) -> None:
        """End it, at once or by another signal, and wait until it is gone."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
