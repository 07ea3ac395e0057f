"""How a job ended."""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from ganglion.core.errors import ExecutionError
from ganglion.core.events import Exit


class OutcomeState(enum.StrEnum):
    """The three ways a job ends."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a job.

    Attributes:
        state: how it ended.
        message: one line for a person; empty on success.
        exits: the last exit of every member that ran, by member id.
        culprit: the member whose end made the job fail, if one did.
    """

    state: OutcomeState
    message: str = ""
    exits: dict[str, Exit] = {}
    culprit: str | None = None

    @property
    def succeeded(self) -> bool:
        """Whether the job did what it was for."""
        return self.state is OutcomeState.SUCCEEDED

    @property
    def value(self) -> Any:
        """What the first member (a task's only one, a gang's rank 0) returned.

        Of an elastic gang, what the first of those returned who did: some may be lost, and all return the same.
        """
        values = [exit_.value for exit_ in self.exits.values()]
        return next((value for value in values if value is not None), None)

    @property
    def traceback(self) -> str | None:
        """The traceback of the member that made the job fail."""
        exit_ = self.exits.get(self.culprit or "")
        return exit_.traceback if exit_ else None

    def raise_for_failure(self) -> None:
        """Raise `ExecutionError` with the culprit's traceback unless the job succeeded."""
        if not self.succeeded:
            raise JobFailedError(self)


class JobFailedError(ExecutionError):
    """A job ended without success; `outcome` has the evidence."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        super().__init__(outcome.message + (f"\n{outcome.traceback}" if outcome.traceback else ""))
