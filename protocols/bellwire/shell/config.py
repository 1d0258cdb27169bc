"""Configuration files: TOML to frozen structs, and what is wrong with them in one line."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from bellwire.protocols.errors import ConfigError
from bellwire.protocols.ids import BROKER, node_id
from bellwire.protocols.session import SessionSettings
from bellwire.protocols.time_servo import ClockSpec
from bellwire.protocols.time_sources import TimeSettings

S = TypeVar("S", bound=msgspec.Struct)

MAX_FILE_BYTES = 1_048_576
MILLISECOND_NS = 1_000_000

Text = Annotated[str, Meta(min_length=1)]
Milliseconds = Annotated[float, Meta(gt=0.0, le=1e12)]
Ratio = Annotated[float, Meta(ge=0.0, le=1.0)]


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every table that a person writes: a key that is not known is a mistake, and named."""


class SessionTable(Table, frozen=True, kw_only=True):
    """The table `[session]` of a daemon: how soon a silent peer is lost, and how soon a request is repeated."""

    heartbeat_ms: Milliseconds = 1_000.0
    liveness_ms: Milliseconds = 3_000.0
    retry_ms: Milliseconds = 200.0
    retry_limit_ms: Milliseconds = 1_000.0

    def __post_init__(self) -> None:
        self.settings()

    def settings(self) -> SessionSettings:
        """Give the times as the session has them."""
        return SessionSettings(
            heartbeat_ns=nanoseconds(self.heartbeat_ms),
            liveness_ns=nanoseconds(self.liveness_ms),
            retry_ns=nanoseconds(self.retry_ms),
            retry_limit_ns=nanoseconds(self.retry_limit_ms),
        )


class TimeTable(Table, frozen=True, kw_only=True):
    """The table `[time]` of a daemon: from whom it takes the network's time, and what is promised of its own clock.

    Without `sources` the daemon is a grandmaster: its own clock is the network's time. `hardware` among them is a clock of its
    own backend, which is followed wherever there is one; alone it says that there is no other source. With a `priority` (0 to
    255, less is better, 128 for a grandmaster) it is a source for others.
    """

    sources: tuple[Text, ...] = (BROKER,)
    priority: Annotated[int, Meta(ge=0, le=255)] | None = None
    interval_ms: Milliseconds = 1_000.0
    max_drift_ppm: Annotated[float, Meta(gt=0.0, le=100_000.0)] = 100.0
    wander_ppb_per_s: Annotated[int, Meta(ge=0, le=1_000_000)] = 50

    def __post_init__(self) -> None:
        self.settings()

    def settings(self) -> TimeSettings:
        """Give the settings as the protocol has them.

        Raises:
            ConfigError: when a source has no proper name.
            ValueError: when they contradict each other.
        """
        interval_ns = nanoseconds(self.interval_ms)
        usual = TimeSettings()
        return TimeSettings(
            sources=tuple(node_id(name) for name in self.sources),
            priority=self.priority,
            interval_ns=interval_ns,
            acquire_interval_ns=min(interval_ns, usual.acquire_interval_ns),
            silence_ns=max(4 * interval_ns, usual.acquire_interval_ns),
            lease_ns=max(4 * interval_ns, usual.lease_ns),
            clock=ClockSpec(max_drift_ppb=round(self.max_drift_ppm * 1_000), wander_ppb_per_s=self.wander_ppb_per_s),
        )


class LoopTable(Table, frozen=True, kw_only=True):
    """The table `[loop]` of a daemon: for the last `timer_spin_us` before something is due it does nothing but wait for it."""

    timer_spin_us: Annotated[float, Meta(ge=0.0, le=1e3)] = 0.0

    @property
    def spin_ns(self) -> int:
        """`timer_spin_us` in nanoseconds."""
        return round(self.timer_spin_us * 1_000)


def nanoseconds(milliseconds: float) -> int:
    """Whole nanoseconds, at least one, of the milliseconds that people write."""
    return max(1, round(milliseconds * MILLISECOND_NS))


GRANDMASTER: Final = TimeTable(sources=())
"""The table of who takes the time from nobody: a broker, unless its file says otherwise."""


def load_config(path: Path, kind: type[S]) -> S:
    """Read a TOML file as a `kind`.

    Raises:
        ConfigError: one line with file and key, when the file is missing, is not TOML, or is not a `kind`.
    """
    return convert(read_toml(path), kind, str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: one line, when it is missing, too long or not TOML.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: is longer than {MAX_FILE_BYTES} bytes")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from None


def convert(raw: Mapping[str, Any], kind: type[S], file: str, key: str = "") -> S:
    """Make a `kind` of what a TOML file says. `file` and `key` name the place in errors.

    Tables of tables are made one by one, so that an error names the very table.

    Raises:
        ConfigError: one line with file and key.
    """
    parts: dict[str, dict[str, Any]] = {}
    for name, hint in get_type_hints(kind).items():
        entry = _struct_of_dict(hint)
        tables = raw.get(name)
        if entry is None or not isinstance(tables, dict):
            continue
        place = f"{key}.{name}" if key else name
        made = {}
        for each, table in tables.items():
            if not isinstance(table, dict):
                raise ConfigError(f"{file}: {place}.{each}: expected a table")
            made[each] = convert(table, entry, file, f"{place}.{each}")
        parts[name] = made
    try:
        head = msgspec.convert({**raw, **{name: {} for name in parts}}, kind, strict=True)
        return msgspec.structs.replace(head, **parts) if parts else head
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(str(error), kind, file, key)) from None
    except ConfigError as error:
        raise ConfigError(f"{file}: {key + ': ' if key else ''}{error}") from None


def _struct_of_dict(hint: Any) -> type[msgspec.Struct] | None:
    if get_origin(hint) is not dict:
        return None
    value = get_args(hint)[1]
    return value if isinstance(value, type) and issubclass(value, msgspec.Struct) else None


_PLACE = re.compile(r" - at `\$(?P<path>[^`]*)`$")
_FIELD = re.compile(r"`(?P<name>[^`]*)`$")
_WORDS = (
    ("Object contains unknown field", "unknown key"),
    ("Object missing required field", "missing key"),
    ("Expected `object`", "expected a table"),
    ("Expected", "expected"),
    ("Invalid", "invalid"),
)


def _explain(text: str, kind: type[msgspec.Struct], file: str, key: str) -> str:
    """The validator's words in a person's, with the place in front."""
    place = _PLACE.search(text)
    if place is not None:
        text = text[: place.start()]
        key = (key + place["path"]).lstrip(".")
    for theirs, ours in _WORDS:
        if text.startswith(theirs):
            text = ours + text[len(theirs) :]
            break
    field = _FIELD.search(text)
    if text.startswith("unknown key") and field is not None:
        known = _keys_at(kind, place["path"] if place is not None else "")
        close = difflib.get_close_matches(field["name"], known, n=1)
        text += f", did you mean `{close[0]}`?" if close else f", known are {', '.join(known)}"
    return f"{file}: {key}: {text}" if key else f"{file}: {text}"


def _keys_at(kind: type[msgspec.Struct], path: str) -> list[str]:
    """The keys of the table at a validator's path below a struct, as far as structs go."""
    here: Any = kind
    for name in filter(None, path.split(".")):
        hints = get_type_hints(here)
        options = [hints.get(name), *get_args(hints.get(name))]
        structs = [option for option in options if isinstance(option, type) and issubclass(option, msgspec.Struct)]
        if not structs:
            return []
        here = structs[0]
    return [field.encode_name for field in msgspec.structs.fields(here)]


def to_toml(content: Mapping[str, Any]) -> str:
    """Write a TOML file's text: strings, numbers, booleans, lists of them, and tables. `None` is left out."""
    lines: list[str] = []
    _write_table(content, (), lines)
    return "\n".join(lines).strip() + "\n"


def _write_table(content: Mapping[str, Any], place: tuple[str, ...], lines: list[str]) -> None:
    if place:
        lines.append(f"\n[{'.'.join(_toml_key(name) for name in place)}]")
    tables = {name: value for name, value in content.items() if isinstance(value, Mapping)}
    for name, value in content.items():
        if name not in tables and value is not None:
            lines.append(f"{_toml_key(name)} = {_toml_value(value)}")
    for name, table in tables.items():
        _write_table(table, (*place, name), lines)


def _toml_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml_value(name)


def _toml_value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml_value(each) for each in value)}]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
