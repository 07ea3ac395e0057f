"""A run as the caller of the engine sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ganglion.core.errors import ExecutionError
from ganglion.core.run_events import StepFinished


class RunFailedError(ExecutionError):
    """A run ended without success; the message has the step and the traceback of its process."""


class RunResult:
    """The end of a run.

    Attributes:
        run: its id.
        state: `succeeded`, `failed` or `cancelled`.
        message: one line for a person; empty on success.
        steps: the last end of every step, by name.
        resumed: whether an earlier orchestrator had begun it.
    """

    def __init__(
        self,
        run: str,
        state: str,
        message: str,
        steps: dict[str, StepFinished],
        resumed: bool,
        decode: Callable[[], Any],
    ) -> None:
        self.run = run
        self.state = state
        self.message = message
        self.steps = steps
        self.resumed = resumed
        self._decode = decode

    @property
    def succeeded(self) -> bool:
        """Whether every step did what it was for."""
        return self.state == "succeeded"

    @property
    def traceback(self) -> str | None:
        """The traceback of the process that made the run fail."""
        return next((end.traceback for end in self.steps.values() if end.state == "failed" and end.traceback), None)

    @property
    def value(self) -> Any:
        """What the pipeline returned, decoded.

        Raises:
            RunFailedError: the run did not succeed.
        """
        self.raise_for_failure()
        return self._decode()

    def raise_for_failure(self) -> None:
        """Raise `RunFailedError` with the traceback unless the run succeeded."""
        if not self.succeeded:
            text = f"Run {self.run} {self.state}: {self.message}"
            raise RunFailedError(text + (f"\n{self.traceback}" if self.traceback else ""))
