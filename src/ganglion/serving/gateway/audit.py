"""Who was limited: a line in the log for each caller and limit, at most one a second, with the number of refusals."""

from __future__ import annotations

from typing import NamedTuple

_INTERVAL = 1.0


class Refusals(NamedTuple):
    """Refusals of one caller by one limit since the last line.

    Attributes:
        caller: its name.
        limit: `rate`, `concurrency` or `key`.
        refused: how many requests.
    """

    caller: str
    limit: str
    refused: int


class Audit:
    """Counts refusals; the first is told at once. No clock: time is passed in."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], float] = {}
        self._counts: dict[tuple[str, str], int] = {}

    def note(self, caller: str, limit: str, now: float) -> Refusals | None:
        """A request was refused; what is to be told now, if anything."""
        key = (caller, limit)
        self._counts[key] = self._counts.get(key, 0) + 1
        if now - self._told.get(key, float("-inf")) < _INTERVAL:
            return None
        return self._tell(key, now)

    def due(self, now: float) -> list[Refusals]:
        """What has been counted and not told for long enough."""
        ready = [key for key in self._counts if now - self._told[key] >= _INTERVAL]
        return [self._tell(key, now) for key in ready]

    def _tell(self, key: tuple[str, str], now: float) -> Refusals:
        self._told[key] = now
        return Refusals(*key, self._counts.pop(key))
