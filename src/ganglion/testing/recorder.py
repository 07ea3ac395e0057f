"""Waiting for what happens to jobs and processes, instead of sleeping."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import psutil

from ganglion.core.events import Event

E = TypeVar("E", bound=Event)
PATIENCE = 60.0
"""Seconds after which something awaited counts as not happening."""


class Recorder:
    """A listener that keeps every event and lets a test wait for one."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._changed = threading.Condition()

    def __call__(self, event: Event) -> None:
        """Take one event."""
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def of(self, kind: type[E]) -> list[E]:
        """The events of one kind so far."""
        return [event for event in list(self.events) if isinstance(event, kind)]

    def wait(self, kind: type[E], matches: Callable[[E], bool] = lambda _event: True, count: int = 1) -> E:
        """Wait for the `count`-th matching event."""

        def found() -> list[E]:
            return [event for event in self.of(kind) if matches(event)]

        with self._changed:
            if not self._changed.wait_for(lambda: len(found()) >= count, PATIENCE):
                raise AssertionError(f"no {kind.__name__} within {PATIENCE} s; seen: {self.events}")
        return found()[count - 1]


def await_gone(pids: list[int]) -> None:
    """Wait until none of the processes is running any more."""
    processes = []
    for pid in pids:
        try:
            processes.append(psutil.Process(pid))
        except psutil.NoSuchProcess:
            continue
    deadline = time.monotonic() + PATIENCE
    while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes):
        assert time.monotonic() < deadline, f"still running: {processes}"
        threading.Event().wait(0.01)
