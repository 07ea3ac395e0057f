"""Names for runs, jobs and everything else that needs one, passed in so that tests can predict them."""

from __future__ import annotations

import secrets
import time
from typing import Protocol


class Ids(Protocol):
    """Where new ids come from."""

    def new(self, prefix: str) -> str:
        """Return an id that was never returned before and starts with `prefix`."""
        ...


class RandomIds:
    """Ids that sort by time of creation: `run-20260731-142501-9f3a1c`."""

    def new(self, prefix: str) -> str:
        """Return `prefix`, the UTC second and six random hexadecimal digits."""
        return f"{prefix}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"


class CountingIds:
    """Ids that count: `job-1`, `job-2`; for tests and for pure planning."""

    def __init__(self) -> None:
        self._count = 0

    def new(self, prefix: str) -> str:
        """Return `prefix` and the next number."""
        self._count += 1
        return f"{prefix}-{self._count}"
