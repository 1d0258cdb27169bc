"""The cases, a module for every section of the specification."""

from __future__ import annotations

import importlib
import pkgutil

from bellwire.conformance.catalogue import Case
from bellwire.conformance.extensions import backend_runner


def wire_cases() -> list[Case]:
    """The cases that are checked on the wire."""
    found: list[Case] = []
    for module in pkgutil.iter_modules(__path__):
        found += importlib.import_module(f"{__name__}.{module.name}").section.cases
    return found


def all_cases() -> list[Case]:
    """Every case, those of backends included."""
    return [*wire_cases(), *backend_runner().cases]
