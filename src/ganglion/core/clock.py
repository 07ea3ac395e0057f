"""Time, passed in so that decisions can be tested without waiting."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> float:
        """Wall time in seconds since the epoch; for records."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back; for deadlines."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """Wall time in seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since an arbitrary start, never going back."""
        return time.monotonic()
