"""Structured logging for Ganglion's own processes, on standard error.

A library stays quiet: until `configure` is called only warnings and errors are written. Bound values (run, job,
member) travel with the logger. Values under keys that name a secret are masked.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, cast

import structlog
from structlog.typing import EventDict, WrappedLogger

_SECRET = ("token", "password", "secret", "authorization", "api_key")


def _mask(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for key in event:
        if any(word in key.lower() for word in _SECRET):
            event[key] = "***"
    return event


def configure(level: str = "warning", *, as_json: bool = False) -> None:
    """Choose what is logged and how.

    Args:
        level: `debug`, `info`, `warning` or `error`.
        as_json: one JSON object a line instead of text for a person.
    """
    renderer: Any = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=False)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            _mask,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # what it is when the line is written
    )


def get_logger(**values: Any) -> structlog.typing.FilteringBoundLogger:
    """Return a logger that carries `values` in every line."""
    if not structlog.is_configured():
        configure()
    return cast(structlog.typing.FilteringBoundLogger, structlog.get_logger(**values))
