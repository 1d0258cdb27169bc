"""Logs: structured, to standard error, readable at a terminal and JSON everywhere else. Secrets never get in."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog
from structlog.tracebacks import ExceptionDictTransformer

LEVELS = ("debug", "info", "warning", "error")
HIDDEN = "(hidden)"


def configure(level: str = "info", stream: TextIO | None = None) -> None:
    """Set up structlog for this process. `level` is one of `LEVELS`."""
    out = stream if stream is not None else sys.stderr
    human = out.isatty()
    renderer: Any = structlog.processors.JSONRenderer(ensure_ascii=False)
    # Neither kind of traceback shows local variables: keys are among them.
    tracebacks: Any = structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False))
    if human:
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        tracebacks = _keep
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if human else "iso", utc=not human),
            _hide_secrets,
            tracebacks,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )


def _hide_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Whatever is called a secret is not written down, even when somebody logs it by mistake."""
    for key in event:
        if "secret" in key.lower() and not key.lower().endswith(("_path", "_file")):
            event[key] = HIDDEN
    return event


def _keep(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return event
