"""A call that waits until something is served."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from ganglion.core.errors import ModelError


class Waiter:
    """Waits for a condition, and then for the gateway to know of it.

    Args:
        condition: what is waited for.
        failed: why it can never come true; empty while it can.

    Attributes:
        future: done when both are there, or with `ModelError`.
    """

    def __init__(self, condition: Callable[[], bool], failed: Callable[[], str]) -> None:
        self.future: Future[None] = Future()
        self._condition = condition
        self._failed = failed
        self._generation: int | None = None

    def check(self, generation: int, settled: int) -> bool:
        """Whether it is over.

        Args:
            generation: of the routes that were pushed last.
            settled: of those that the gateway has settled on.
        """
        problem = self._failed()
        if problem:
            self.future.set_exception(ModelError(problem))
        elif self._generation is None and self._condition():
            self._generation = generation
        if self._generation is not None and settled >= self._generation and not problem:
            self.future.set_result(None)
        return self.future.done()
