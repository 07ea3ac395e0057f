"""How many requests may be tried again: a part of those that come, and some in any case; no clock.

Retries of everything that fails would double the load of replicas that fail for their load. Source: the retry budgets
of Finagle.
"""

from __future__ import annotations

_SHARE = 0.2
"""Retries for each request."""

_RATE = 10.0
"""Retries a second in any case."""

_RESERVE = 200.0
"""Retries that may be saved up: several replicas that die with full batches are no overload."""


class RetryBudget:
    """Saved by requests and by time, spent by retries.

    Args:
        now: seconds of any clock that does not go back.
    """

    def __init__(self, now: float) -> None:
        self._saved = _RESERVE
        self._at = now

    def deposit(self) -> None:
        """A request came."""
        self._saved = min(_RESERVE, self._saved + _SHARE)

    def withdraw(self, now: float) -> bool:
        """Whether one more may be tried again."""
        self._saved = min(_RESERVE, self._saved + _RATE * (now - self._at))
        self._at = now
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True
