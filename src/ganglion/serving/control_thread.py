"""The thread of the model server: carries out one call after the other, and looks around in between."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from ganglion.core.errors import ControlError
from ganglion.core.log import get_logger

T = TypeVar("T")
_log = get_logger(part="serving.controller")


class ControlThread:
    """What belongs to the thread is touched by nobody else, so it needs no locks.

    Args:
        name: of the thread.
        look: called every now and then, until no more calls are taken.
        interval: seconds between two looks.

    Attributes:
        closed: whether calls are refused; what is posted is still carried out.
    """

    def __init__(self, name: str, look: Callable[[], None], interval: float) -> None:
        self.closed = False
        self._look = look
        self._interval = interval
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        """Begin; what was posted before waits until then."""
        self._thread.start()

    def post(self, function: Callable[[], None]) -> None:
        """Carry out `function` soon; from any thread."""
        self._queue.put(function)

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Carry out `function` soon and give its result, or what it raises, to the future.

        Raises:
            ControlError: no more calls are taken.
        """
        future: Future[T] = Future()

        def run() -> None:
            try:
                if self.closed:
                    raise ControlError("The model server is closed.")
                future.set_result(function())
            except Exception as error:  # noqa: BLE001  handed to the caller
                future.set_exception(error)

        if self.closed:
            raise ControlError("The model server is closed.")
        self._queue.put(run)
        return future

    def end(self) -> None:
        """Carry out what is there, then end; returns when that is done."""
        self.closed = True
        self._queue.put(None)
        self._thread.join()

    def _loop(self) -> None:
        next_look = time.monotonic()
        while True:
            item = self._take(max(0.0, next_look - time.monotonic()))
            if item is None:
                break
            if time.monotonic() >= next_look and not self.closed:
                next_look = time.monotonic() + self._interval
                self._carry_out(self._look)
            self._carry_out(item)
        while not self._queue.empty():
            item = self._queue.get()
            if item is not None:
                self._carry_out(item)

    def _carry_out(self, item: Callable[[], None]) -> None:
        try:
            item()
        except Exception:  # noqa: BLE001  one event that breaks a rule must not end everything that is served
            _log.error("an event could not be taken in", exc_info=True)

    def _take(self, patience: float) -> Callable[[], None] | None:
        try:
            return self._queue.get(timeout=patience)
        except queue.Empty:
            return lambda: None
