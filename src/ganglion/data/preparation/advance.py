"""How far a piece is that is being written, told now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

import msgspec

INTERVAL = 0.5
"""Seconds between one time that is told and the next, at least."""


class Advance(msgspec.Struct, frozen=True, kw_only=True):
    """How far a piece is.

    Attributes:
        records: written.
        size: bytes of their values.
        set_aside: bad records.
    """

    records: int
    size: int
    set_aside: int


Tell: TypeAlias = Callable[[Advance], None]
"""Told how far a piece is, after every batch."""


class Paced:
    """Passes on what it is told, `INTERVAL` seconds apart.

    Args:
        tell: what it is passed on to.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._last = time.monotonic()

    def __call__(self, advance: Advance) -> None:
        """Pass it on, or not."""
        now = time.monotonic()
        if now - self._last >= INTERVAL:
            self._last = now
            self._tell(advance)
