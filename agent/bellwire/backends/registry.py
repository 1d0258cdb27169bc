"""How backends are found: by the entry points that installed packages declare in the group `bellwire.backends`."""

from __future__ import annotations

import importlib.metadata
from typing import Final, cast

from bellwire.backends.interface import BackendContext, BackendFactoryCapable, NodeBackend
from bellwire.protocols.errors import BackendError, ConfigError

GROUP: Final = "bellwire.backends"
"""The entry point group. An entry names a `BackendFactoryCapable`."""


def available() -> list[str]:
    """Name the backends that are installed."""
    return sorted({entry.name for entry in importlib.metadata.entry_points(group=GROUP)})


def load_backend(name: str, context: BackendContext) -> NodeBackend:
    """Make the backend called `name` for an agent or station.

    Raises:
        ConfigError: when no such backend is installed, or its factory says that the options are wrong.
        BackendError: when it cannot be imported or made, with the reason; or when two packages declare it.
    """
    entries = set(importlib.metadata.entry_points(group=GROUP, name=name))
    if not entries:
        known = ", ".join(available()) or "none"
        raise ConfigError(f"there is no backend {name!r}: installed are {known}")
    if len(entries) > 1:
        values = " and ".join(sorted(entry.value for entry in entries))
        raise BackendError(f"backend {name!r} is declared twice, as {values}")
    entry = entries.pop()
    try:
        factory = cast(BackendFactoryCapable, entry.load())
    except Exception as error:
        raise BackendError(f"backend {name!r} cannot be loaded from {entry.value}: {_reason(error)}") from error
    try:
        backend = factory(context)
    except (ConfigError, BackendError):
        raise
    except Exception as error:
        raise BackendError(f"backend {name!r} cannot be made: {_reason(error)}") from error
    if not isinstance(backend, NodeBackend):
        raise BackendError(f"backend {name!r}: {entry.value} made a {type(backend).__name__}, expected a NodeBackend")
    return backend


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
