"""How long the bytes of a request may have been there before the gateway came to read them.

Where all cores are busy a process waits for one, for milliseconds on many systems, and what arrives meanwhile is not
seen. Of a request that may take 50 ms that is a good part; a deadline that counts from its reading comes too late.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from ganglion.core.log import get_logger

_FRESH = 0.05
"""Seconds after which the last reading says nothing of now."""

_FILE = "/proc/thread-self/schedstat"
"""Says for the thread that opens it how many nanoseconds it has waited for a core; only Linux has it."""

_log = get_logger(part="serving.gateway")


class LoopLag:
    """Looks once in each turn of the loop; belongs to the loop's thread.

    A turn begins, as far as it is known here, with the first request of it that is looked at: `loop.time` of uvloop
    does not tell, it is brought up to date whenever it is asked.

    Args:
        soon: calls a function when all that can be read now has been read; `loop.call_soon`.
        waited: seconds for which the thread has waited for a core so far; by default what the kernel says.
    """

    def __init__(self, soon: Callable[[Callable[[], None]], object], waited: Callable[[], float] | None = None) -> None:
        self._soon = soon
        self._turn: float | None = None
        self._descriptor = _open() if waited is None else -1
        self._waited = waited or self._ask
        self._seen = 0.0
        self._before = 0.0
        self._lag = 0.0

    def seconds(self, now: float) -> float:
        """Seconds for which bytes that are handled now may have been there: since the turn began, and before it.

        Args:
            now: monotonic seconds.
        """
        if self._turn is None:
            waited = self._waited()
            lag = waited - self._before
            self._lag = lag if now - self._seen - lag < _FRESH else 0.0
            self._before, self._seen, self._turn = waited, now, now
            self._soon(self._end_turn)
        return self._lag + now - self._turn

    def _end_turn(self) -> None:
        self._turn = None

    def close(self) -> None:
        """Ask no more; nobody is held to have waited from now on."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _ask(self) -> float:
        return int(os.pread(self._descriptor, 64, 0).split()[1]) / 1e9 if self._descriptor >= 0 else 0.0


def _open() -> int:
    try:
        return os.open(_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        _log.info("loop_lag_unknown", error=error.strerror)
        return -1
