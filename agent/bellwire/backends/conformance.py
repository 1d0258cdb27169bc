"""Backends as targets of the conformance kit."""

from __future__ import annotations


class BackendRunner:
    cases = ()


RUNNER = BackendRunner()
