"""Structured logging for Ganglion's own processes, on standard error.

A library stays quiet: until `configure` is called only warnings and errors are written. Bound values (run, job,
member) travel with the logger. Values under keys that name a secret are masked.

It imports next to nothing: every process logs, most never say a word, and a start is waited for.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ganglion.core.errors import ConfigurationError, suggest

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
"""Levels by name; what is below the chosen one is not written."""

_SECRET = ("token", "password", "secret", "authorization", "api_key")


class _Chosen:
    """What is logged in this process."""

    level = LEVELS["warning"]


class Logger:
    """Writes one line for each event, with the values that it carries and those that are given.

    Args:
        values: that are in every line.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def bind(self, **values: Any) -> Logger:
        """A logger that carries these values as well."""
        return Logger({**self._values, **values})

    def debug(self, event: str, **values: Any) -> None:
        """Say what helps to understand the program."""
        self._write("debug", event, values)

    def info(self, event: str, **values: Any) -> None:
        """Say what happened as it should."""
        self._write("info", event, values)

    def warning(self, event: str, **values: Any) -> None:
        """Say what should not be, although the program goes on as it was meant to."""
        self._write("warning", event, values)

    def error(self, event: str, **values: Any) -> None:
        """Say what failed; with `exc_info=True` the exception that is handled is shown with its traceback."""
        self._write("error", event, values)

    def _write(self, level: str, event: str, values: dict[str, Any]) -> None:
        if LEVELS[level] < _Chosen.level:
            return
        trace = traceback.format_exc().rstrip() if values.pop("exc_info", False) else ""
        shown = {key: _masked(key, value) for key, value in {**self._values, **values}.items()}
        line = _line(level, event, shown, trace)
        with suppress(OSError, ValueError, AttributeError):  # standard error is closed: there is nobody to tell
            sys.stderr.write(f"{line}\n")  # to what standard error is when the line is written
            sys.stderr.flush()


def configure(level: str = "warning") -> None:
    """Choose what is logged.

    Args:
        level: `debug`, `info`, `warning` or `error`, in letters of any case.

    Raises:
        ConfigurationError: there is no such level.
    """
    if level.lower() not in LEVELS:
        raise ConfigurationError(f"There is no log level {level!r}. {suggest(level, LEVELS)}")
    _Chosen.level = LEVELS[level.lower()]


def get_logger(**values: Any) -> Logger:
    """Return a logger that carries `values` in every line."""
    return Logger(values)


def _masked(key: str, value: Any) -> Any:
    return "***" if any(word in key.lower() for word in _SECRET) else value


def _line(level: str, event: str, values: Mapping[str, Any], trace: str) -> str:
    said = " ".join(f"{key}={_text(value)}" for key, value in sorted(values.items()))
    line = f"{_now()} [{level:<7}] {event:<30} {said}".rstrip()
    return f"{line}\n{trace}" if trace else line


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if text.isprintable() and " " not in text and text else repr(text)


def _now() -> str:
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds // 1000:06}Z"
