"""The place of one request under the limit of its caller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ganglion.serving.gateway.concurrency import ConcurrencyLimit


class Startable(Protocol):
    """What waits for its turn."""

    def start(self) -> None:
        """It is its turn."""
        ...


class Turn:
    """Given back once, when the request is answered, refused or given up by its caller.

    Args:
        limit: that it counts under.
        request: that has it.
        soon: calls a function on the event loop's next turn; a chain of requests that end at once is no recursion.
    """

    __slots__ = ("_limit", "_request", "_soon")

    def __init__(
        self,
        limit: ConcurrencyLimit[Startable],
        request: Startable,
        soon: Callable[[Callable[[], None]], object],
    ) -> None:
        self._limit = limit
        self._request = request
        self._soon = soon

    def leave(self) -> None:
        """Let the next one in."""
        if not self._limit.withdraw(self._request):
            following = self._limit.leave()
            if following is not None:
                self._soon(following.start)
