"""Whether a process that computes makes headway, judged by itself; `judge` is pure.

A process that is stopped or cut off falls silent, and others notice (`stall`, `execution.presence`). One whose training
thread is stuck (an endless loop, a lock that is never released) goes on to give signs of life. It is watched by a
second thread, from the moment at which it begins to compute its slices until it has: processor time against the time
that the clock shows, and both against what slices have taken so far, on this process and on its peers. Reading records
is not watched, since a source may keep anybody waiting.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ganglion.training.stall import read_thread

PATIENCE = 30.0
"""Seconds after which a process can count as stuck; first uses of a device or a compiler take some."""

UNUSUAL = 50.0
"""How many times as long as usual it has to be."""

LOOK = 1.0
"""Seconds between two looks."""

_WANTS = ("R", "D")
"""States of a thread that uses a processor, waits for one, or waits for a disk."""

_BUSY = 0.05
"""The part of the time for which a process uses a processor that does more than to watch itself."""


class Effort(NamedTuple):
    """What a process has done since it began to compute.

    Attributes:
        seconds: by the clock.
        cpu: processor seconds.
        idle: seconds since it last used a processor or was waiting for one or for a disk.
        usual: seconds that as many slices take, on the slowest process.
    """

    seconds: float
    cpu: float
    idle: float
    usual: float


def judge(effort: Effort, patience: float) -> str:
    """Why a process counts as stuck; empty where it does not.

    A busy machine gives a process little processor time, which is why the clock alone proves nothing: it is stuck when
    it has used far more processor time than its slices take, or has wanted none for very long.
    """
    limit = max(patience, UNUSUAL * effort.usual)
    if effort.cpu >= limit:
        return f"{effort.cpu:.0f} s of processor time for slices that take {effort.usual:.2g} s"
    if effort.idle >= limit:
        return f"idle for {effort.idle:.0f} s over slices that take {effort.usual:.2g} s"
    return ""


class _Task(NamedTuple):
    """What is being watched: when it began, by the clock and in processor time, what is usual, and by which thread."""

    began: float
    cpu: float
    usual: float
    thread: int


class Vigil:
    """Watches the thread that trains.

    Args:
        stuck: called once, in the watching thread, with the reason.
    """

    def __init__(self, stuck: Callable[[str], None]) -> None:
        self._stuck = stuck
        self._task: _Task | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def watch(self, usual: float) -> Iterator[None]:
        """Watch what the calling thread does within.

        Args:
            usual: seconds that it takes, as far as is known; 0 for nothing known.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._look, name="ganglion-vigil", daemon=True)
            self._thread.start()
        self._task = _Task(time.monotonic(), time.thread_time(), usual, threading.get_native_id())
        try:
            yield
        finally:
            self._task = None

    def close(self) -> None:
        """Watch no more."""
        self._over.set()

    def _look(self) -> None:
        seen: _Task | None = None
        process = active = 0.0
        while not self._over.wait(min(LOOK, PATIENCE / 8)):
            task, now, used = self._task, time.monotonic(), time.process_time()
            if task is None:
                continue
            thread = read_thread(task.thread)
            if task is not seen or thread.state in _WANTS or used - process > _BUSY * min(LOOK, PATIENCE / 8):
                active = now
            seen, process = task, used
            effort = Effort(now - task.began, max(0.0, thread.seconds - task.cpu), now - active, task.usual)
            if reason := judge(effort, PATIENCE):
                self._stuck(reason)
                return
