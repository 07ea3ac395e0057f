"""What becomes of requests whose replica died: another try, an error, or an error and a place in the quarantine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.prediction import Part
from ganglion.serving.gateway.quarantine import Quarantine
from ganglion.serving.gateway.retry_budget import RetryBudget
from ganglion.serving.routes import ModelRoute

_RETRY_AFTER = 1


class SecondTries:
    """Decides for one version of a model.

    Args:
        loop: the gateway's event loop.
        version: number of the version.
        now: monotonic seconds.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, version: int, now: float) -> None:
        self._loop = loop
        self._version = version
        self._budget = RetryBudget(now)

    def count(self) -> None:
        """A request came."""
        self._budget.deposit()

    def sort_out(self, parts: Sequence[Part], model: ModelRoute, now: float) -> list[Part]:
        """Blame what a dead replica was at; returns what is tried again, the rest is answered.

        Args:
            parts: that it was at.
            model: the model.
            now: monotonic seconds.
        """
        again: list[Part] = []
        for part in parts:
            error = part.blame(alone=len(parts) == 1)
            if error is not None:
                part.prediction.fail(error)
                if part.guilty and model.quarantine:
                    self._keep(part, model, str(error))
            elif part.settled or self._budget.withdraw(now):
                again.append(part)
            else:
                text = f"The replica ended, and too many requests to model {model.name!r} are tried again already."
                part.prediction.fail(RequestError(503, text, retry_after=_RETRY_AFTER))
        return again

    def _keep(self, part: Part, model: ModelRoute, reason: str) -> None:
        quarantine = Quarantine(Path(model.quarantine))
        self._loop.run_in_executor(
            None, lambda: quarantine.keep(part.payload, model=model.name, version=self._version, reason=reason)
        )
