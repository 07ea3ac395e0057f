"""How `ganglion serve` is told to end: Ctrl-C, SIGTERM, or a terminal that is closed."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

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

    While the service is patient, a signal lets it end in its own time; before and after it interrupts what is done.
    A terminal that is closed says so more than once (the shell and the kernel do), and a service manager may send it
    after SIGTERM: once the service was told to end it is no second wish.

    What is waited for is a byte in a pipe, which the signal handler of the interpreter itself writes. So no moment
    between a look and the wait loses a signal, and the handler here takes no lock that the thread which it interrupts
    may hold.
    """

    def __init__(self) -> None:
        self._patient = self._told = False
        self._ear, self._bell = os.pipe()
        os.set_blocking(self._bell, False)
        signal.set_wakeup_fd(self._bell, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=_ring_nobody)
        self._taken = [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]
        for number in self._taken:
            signal.signal(number, self._take)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # held back while this program started

    def be_patient(self) -> None:
        """From now on let what is done go on after the first signal: `wait` returns for it."""
        self._patient = True

    def wait(self) -> None:
        """Wait for a signal or for `end`; to be called after `be_patient`."""
        while not self._told:
            os.read(self._ear, 64)
        self._patient = False

    def end(self) -> None:
        """End the wait, from any thread."""
        self._told = True
        with suppress(BlockingIOError):  # what fills the pipe wakes it too
            os.write(self._bell, b"\0")

    def release(self) -> None:
        """Let the next signal end the process without more ado, but for a terminal that is closed."""
        for number in self._taken:
            if number != signal.SIGHUP:
                signal.signal(number, signal.SIG_DFL)

    def _take(self, number: int, _frame: object) -> None:
        if self._told and number == signal.SIGHUP:
            return
        patient, self._patient, self._told = self._patient, False, True
        if not patient:
            raise Interrupted(number)


def _ring_nobody() -> None:
    """In a fork the number of the pipe may be another's."""
    signal.set_wakeup_fd(-1)
