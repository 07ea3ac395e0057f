"""A limit of requests in hand at once, with a bounded queue of those that wait for their turn; pure."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Entry(enum.Enum):
    """What becomes of a request that comes."""

    RUNS = "runs"
    WAITS = "waits"
    REFUSED = "refused"


class ConcurrencyLimit(Generic[T]):
    """Lets `most` run; the others wait, first come first served, up to a number and a size.

    Args:
        most: that run at once.
        waiting: that may wait.
        waiting_bytes: that may wait.

    Attributes:
        running: how many run.
        size: bytes that wait.
    """

    def __init__(self, most: int, waiting: int, waiting_bytes: int) -> None:
        self._most = most
        self._waiting_limit = waiting
        self._size_limit = waiting_bytes
        self._waiting: dict[T, int] = {}
        self.running = 0
        self.size = 0

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def __iter__(self) -> Iterator[T]:
        """Those that wait, in order."""
        return iter(tuple(self._waiting))

    def enter(self, item: T, size: int) -> Entry:
        """Somebody comes with `size` bytes."""
        if self.running < self._most:
            self.running += 1
            return Entry.RUNS
        if len(self._waiting) >= self._waiting_limit or self.size + size > self._size_limit:
            return Entry.REFUSED
        self._waiting[item] = size
        self.size += size
        return Entry.WAITS

    def leave(self) -> T | None:
        """One that ran is through; returns the next, which runs now, if any waits."""
        self.running -= 1
        item = next(iter(self._waiting), None)
        if item is not None:
            self.withdraw(item)
            self.running += 1
        return item

    def withdraw(self, item: T) -> bool:
        """One waits no more; whether it did."""
        size = self._waiting.pop(item, None)
        if size is None:
            return False
        self.size -= size
        return True
