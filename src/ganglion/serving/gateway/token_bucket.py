"""A limit of events a second that lets short bursts pass. No clock: time is passed in."""

from __future__ import annotations


class TokenBucket:
    """Holds up to `burst` tokens and gets `rate` a second; each event takes one.

    Args:
        rate: events a second in the long run.
        burst: events at once after a pause.
        now: seconds of any clock that does not go back.
    """

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._filled = now

    def take(self, now: float) -> float:
        """Take a token; seconds until there is one if there is none, else 0."""
        self.spend(0, now)
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) / self._rate

    def spend(self, tokens: int, now: float) -> None:
        """So many have been taken since the last time, wherever that was; there may be fewer than none after it."""
        self._tokens = min(float(self._burst), self._tokens + (now - self._filled) * self._rate - tokens)
        self._filled = now
