"""How `ganglion serve` is told to end: Ctrl-C, SIGTERM, or a terminal that is closed."""

from __future__ import annotations

import signal
import threading

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A signal wants that what is being done is left.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        """As shells count the ends by a signal."""
        return 128 + self.number


class EndSignals:
    """Takes the signals that end a service; those that were ignored stay so, as `nohup` wants it.

    While the service waits, a signal lets it end in its own time; before and after that it interrupts what is done.
    """

    def __init__(self) -> None:
        self.over = threading.Event()
        self._waiting = False
        self._taken = [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]
        for number in self._taken:
            signal.signal(number, self._take)

    def wait(self) -> None:
        """Wait for a signal, or until `over` is set by somebody else."""
        self._waiting = True
        self.over.wait()
        self._waiting = False

    def release(self) -> None:
        """Let the next signal end the process without more ado."""
        for number in self._taken:
            signal.signal(number, signal.SIG_DFL)

    def _take(self, number: int, _frame: object) -> None:
        if not self._waiting:
            raise Interrupted(number)
        self._waiting = False
        self.over.set()
