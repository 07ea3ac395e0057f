"""Training pauses where its source is away, safe in a checkpoint, and goes on when the source is back.

A process that reads stands between two commits: nothing of the next one has been touched. So when reading takes
suspiciously long, or the source says that it is away, the state is secured as it is, the controller is told, and the
process waits. The others wait for it in their sums; the result is the same to the last bit.

Reading blocks, for as long as the source itself is patient. A thread therefore looks at the clock; whatever it does
about the state it does while the reader waits, as both hold one lock.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from ganglion.core.errors import GanglionError, OutageError
from ganglion.core.log import get_logger

NOTICE = 1.0
"""Seconds after which a read counts as a pause, if usual ones are much shorter."""

UNUSUAL = 10.0
"""How many times as long as the longest of the last reads a pause is."""

LONGEST_DELAY = 2.0
"""Seconds between two attempts at a source that is away, at most."""

_FADING = 0.9
"""What a long read counts for after each further one."""

_LOOK = 0.25
_FIRST_DELAY = 0.1

Read = TypeVar("Read")


class Paused(msgspec.Struct, frozen=True, kw_only=True):
    """What the controller is told, under the key `paused` of a report: the training waits for its source.

    Attributes:
        step: that the records are for, from 0.
        reason: what is known of it.
    """

    step: int
    reason: str


class Resumed(msgspec.Struct, frozen=True, kw_only=True):
    """The same under the key `resumed`: the records have come.

    Attributes:
        step: as in `Paused`.
        seconds: that the pause took.
    """

    step: int
    seconds: float


class Pauses:
    """Watches the reading of one process.

    Args:
        patience: seconds for which a source may be away.
        secure: makes the state safe; called in either thread, while the other waits.
        report: tells the controller.
        leaving: whether the process has been asked to leave, so that it must not wait any longer.
    """

    def __init__(
        self,
        *,
        patience: float,
        secure: Callable[[], None],
        report: Callable[[dict[str, Any]], None],
        leaving: threading.Event,
    ) -> None:
        self._patience = patience
        self._secure = secure
        self._report = report
        self._leaving = leaving
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._since: float | None = None
        self._step = 0
        self._paused = False
        self._usual = NOTICE / UNUSUAL

    def read(
        self, read: Callable[[], Read], *, step: int, again: Callable[[], None] = lambda: None, timed: bool = True
    ) -> Read:
        """Read, however long that takes.

        Args:
            read: gives records, or raises that the source is away.
            step: that they are for.
            again: called after an outage, before the next attempt.
            timed: whether it counts as a pause if it takes long; what computes as well as it reads may take long.

        Raises:
            OutageError: it was away for longer than patience lasts, or this process has been asked to leave.
        """
        if timed and self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="pauses", daemon=True)
            self._thread.start()
        begun = time.monotonic()
        self._step = step
        self._since = begun if timed else None
        try:
            for failures in itertools.count():
                try:
                    return read()
                except OutageError as error:
                    again()
                    delay = min(LONGEST_DELAY, _FIRST_DELAY * 2.0 ** min(failures, 10))
                    if time.monotonic() + delay - begun > self._patience:
                        raise
                    with self._lock:
                        self._pause(str(error))
                    if self._leaving.wait(delay):
                        raise
        finally:
            with self._lock:
                self._since = None
                seconds = time.monotonic() - begun
                if self._paused:
                    self._paused = False
                    get_logger().info("the source is back", step=step, seconds=round(seconds, 3))
                    self._tell("resumed", Resumed(step=step, seconds=round(seconds, 3)))
                elif timed:
                    self._usual = max(NOTICE / UNUSUAL, _FADING * self._usual, seconds)
        raise AssertionError("unreachable: attempts are unlimited")

    def close(self) -> None:
        """End the thread."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_LOOK):
            with self._lock:
                if self._since is not None and time.monotonic() - self._since >= UNUSUAL * self._usual:
                    self._pause(f"no records for {UNUSUAL * self._usual:.1f} seconds")

    def _pause(self, reason: str) -> None:
        if self._paused:
            return
        self._paused = True
        get_logger().warning("the source is away; the training pauses", step=self._step, reason=reason)
        try:
            self._secure()
        except GanglionError as error:
            get_logger().warning("the state could not be secured", step=self._step, reason=str(error))
        self._tell("paused", Paused(step=self._step, reason=reason))

    def _tell(self, word: str, what: Paused | Resumed) -> None:
        self._report({word: msgspec.to_builtins(what)})
