"""The access log: one JSON object a line for each request that was answered or given up by its client.

It is off unless a file is given, as with other model servers: at thousands of requests a second its lines are the most
that a server writes. When it is off nothing is asked on the way of a request. Lines are collected and written at the
gateway's ticks, each write whole lines, so that several gateways can append to one file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import orjson

from ganglion.core.errors import UserError
from ganglion.core.log import get_logger
from ganglion.serving.gateway.exchange import JSON, Exchange
from ganglion.serving.gateway.head import Head

CLIENT_GONE = 499
"""What is logged for a request whose client was gone before the answer; no client ever sees it."""

_MOST_LINES = 1000
"""Lines that are collected before they are written without waiting for a tick."""

_log = get_logger(part="serving.gateway")


def nobody(_head: Head) -> str:
    """What callers are called where nobody is asked who he is."""
    return "-"


class AccessLog:
    """Appends to a file.

    Args:
        path: of the file; it is made if there is none, and may be truncated by others at any time.

    Attributes:
        identify: names the caller of a request, never by the key itself.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise UserError(f"The access log {path} cannot be written: {error.strerror}. Give another file.") from error
        self._path = path
        self._lines: list[bytes] = []
        self.identify: Callable[[Head], str] = nobody

    def exchange(self, flush: Callable[[], None], head: Head, body: bytes, *, closes: bool) -> Exchange:
        """An exchange that is logged once it is over."""
        return LoggedExchange(flush, head, body, closes=closes, note=self._note)

    def _note(self, head: Head, received: int, status: int, sent: int, seconds: float) -> None:
        line = {
            "time": datetime.now(UTC),
            "method": head.method if head.path else "-",
            "path": head.path or "-",  # of what could not be read
            "status": status,
            "ms": round(1000.0 * seconds, 3),
            "received": received,
            "sent": sent,
            "caller": self.identify(head),
        }
        self._lines.append(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        if len(self._lines) >= _MOST_LINES:
            self.flush()

    def flush(self) -> None:
        """Write what has been collected; what cannot be written is lost, requests go on."""
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        try:
            os.write(self._file, b"".join(lines))
        except OSError as error:
            _log.error("access_log_failed", path=str(self._path), lost=len(lines), error=error.strerror)

    def close(self) -> None:
        """Write the rest."""
        self.flush()
        os.close(self._file)


Note = Callable[[Head, int, int, int, float], None]
"""Takes head, bytes of the body, status, bytes of the answer, and seconds."""


class LoggedExchange(Exchange):
    """An exchange that tells what became of it."""

    __slots__ = ("_began", "_note", "_received")

    def __init__(self, flush: Callable[[], None], head: Head, body: bytes, *, closes: bool, note: Note) -> None:
        super().__init__(flush, head, body, closes=closes)
        self._note = note
        self._received = len(body)
        self._began = time.monotonic()

    def respond(
        self, status: int, body: bytes, *, content_type: str = JSON, headers: Mapping[str, str] | None = None
    ) -> None:
        """Answer, and note it."""
        super().respond(status, body, content_type=content_type, headers=headers)
        self._note(self.head, self._received, status, len(self.answer or b""), time.monotonic() - self._began)

    def abandon(self) -> None:
        """The client is gone before the answer."""
        self._note(self.head, self._received, CLIENT_GONE, 0, time.monotonic() - self._began)
        super().abandon()


def check_writable(path: Path) -> None:
    """Refuse a file that no gateway could write.

    Raises:
        UserError: it cannot be written.
    """
    AccessLog(path).close()
