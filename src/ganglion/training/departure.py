"""How a process leaves a training when it is asked to (SIGTERM: a preemption, a drain), and what is left behind.

It finishes the transaction that is under way, so nobody's work is lost. In its note of a step it says that it leaves;
after that commit the others wait for the membership without it. Where everyone leaves, the chief saves the state first,
so that the training can be taken up where it was.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import NoReturn, Self

from ganglion.core.errors import ControlError
from ganglion.execution.agent import Terminated
from ganglion.execution.member import Member


class LeftAloneError(ControlError):
    """This process has been asked to leave while it waited for others: there is no transaction to finish."""


class Departure:
    """Makes SIGTERM a request that is answered between two transactions, while it is used as a context manager.

    Before and after, it ends the process at once. A controller that gives a process some time to leave kills it when
    that is over.

    Args:
        member: this process.
    """

    def __init__(self, member: Member) -> None:
        self.asked = member.draining
        self._member = member
        self._before: object = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # signals arrive nowhere else
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)  # type: ignore[arg-type]  # what `signal` itself returned
            self._before = None

    def leave(self) -> NoReturn:
        """End this process as one that was asked to."""
        raise Terminated

    def _ask(self, _signal: int, _frame: FrameType | None) -> None:
        self._member.ask_to_leave()
