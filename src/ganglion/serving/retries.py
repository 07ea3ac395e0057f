"""Whether and when a request is tried again. No clock and no chance: seconds and random numbers are passed in."""

from __future__ import annotations

_FIRST = 0.02
_LONGEST = 2.0
_RESERVE = 100.0
_EARNED = 0.2


class RetryBudget:
    """Bounds how much load retries add to a service that is in trouble.

    A reserve is there for the moment when many requests fail at once, as when a gateway ends; beyond it one request in
    five may be tried again. (The idea is that of `retryThrottling` in gRPC and of Finagle's `RetryBudget`.)
    """

    def __init__(self) -> None:
        self._tokens = _RESERVE

    def earn(self) -> None:
        """A request succeeded."""
        self._tokens = min(_RESERVE, self._tokens + _EARNED)

    def spend(self) -> bool:
        """Take one retry; whether there was one."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


def pause_before(attempt: int, chance: float, *, at_least: float = 0.0) -> float:
    """Seconds to wait before a retry: exponential, with full jitter, so that those who failed together come apart.

    Source: M. Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015).

    Args:
        attempt: which retry, from 1.
        chance: a random number from 0 to 1.
        at_least: what the service asked for.
    """
    return at_least + chance * min(_LONGEST, _FIRST * 2.0 ** min(attempt - 1, 32))
