"""What has arrived from an iterator so far: a thread takes from it, so that nobody waits for a batch to be full."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")


class Arrivals(Generic[Item]):
    """Items of an iterable in order, as many at a time as there are; use as a context manager.

    Args:
        items: taken from by a thread of its own, one after the other.
        ahead: items that may wait here.
    """

    def __init__(self, items: Iterable[Item], ahead: int) -> None:
        self._items = items
        self._ahead = ahead
        self._waiting: deque[Item] = deque()
        self._error: BaseException | None = None
        self._over = False
        self._changed = threading.Condition()

    def take(self, most: int) -> list[Item]:
        """Wait for an item; then all that are there, `most` at most. Nothing at the end.

        Raises:
            BaseException: what the iterable raised, in the place where it did.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._over)
            taken = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
            self._changed.notify_all()
            if not taken and self._error is not None:
                raise self._error
            return taken

    def close(self) -> None:
        """Take no more from the iterable; whoever waits for an item gets none."""
        with self._changed:
            self._over = True
            self._waiting.clear()
            self._changed.notify_all()

    def __enter__(self) -> Self:
        threading.Thread(target=self._collect, name="ganglion-arrivals", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _collect(self) -> None:
        found: BaseException | None = None
        try:
            for item in self._items:
                with self._changed:
                    self._changed.wait_for(lambda: len(self._waiting) < self._ahead or self._over)
                    if self._over:
                        return
                    self._waiting.append(item)
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001  it is raised where the item would have been
            found = error
        with self._changed:
            self._error = found
            self._over = True
            self._changed.notify_all()
