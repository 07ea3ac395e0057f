"""What becomes of requests whose replica died: another try, an error, or an error and a place in the quarantine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.prediction import Part
from ganglion.serving.gateway.quarantine import Quarantine
from ganglion.serving.gateway.retry_budget import RetryBudget
from ganglion.serving.routes import ModelRoute, ReplicaEnd

MOST_DEATHS = 3
"""Replica deaths after which a part is no longer tried: the first try and two retries."""

MOST_DEATHS_ALONE = 2
"""Replica deaths after which a part that was the only one there is held to be their cause."""

VERDICT_PATIENCE = 1.0
"""Seconds for which it is waited to hear how a replica ended."""

_RETRY_AFTER = 1


class SecondTries:
    """Decides for one version of a model.

    A part that was alone at two replicas that died is their cause, unless they were killed from outside, or another
    replica could answer it. The gateway sees a death before anybody can say what it was, so such a part is held until
    that is heard; also one that nobody waits for any more, since it is kept for whoever wants to know.

    Args:
        loop: the gateway's event loop.
        version: number of the version.
        now: monotonic seconds.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, version: int, now: float) -> None:
        self._loop = loop
        self._version = version
        self._budget = RetryBudget(now)
        self._ends: dict[str, ReplicaEnd] = {}
        self._held: list[tuple[Part, float, bool]] = []

    @property
    def holding(self) -> bool:
        """Whether the fate of a part is open."""
        return bool(self._held)

    def count(self) -> None:
        """A request came."""
        self._budget.deposit()

    def sort_out(
        self, replica: str, parts: Sequence[Part], model: ModelRoute, now: float, *, elsewhere: bool = False
    ) -> list[Part]:
        """Blame what a dead replica was at; returns what is tried again, the rest is answered or held.

        Args:
            replica: id of the replica.
            parts: that it was at.
            model: the model.
            now: monotonic seconds.
            elsewhere: they are tried elsewhere already: none is tried once more for this death.
        """
        for part in parts:
            part.blame(replica, alone=len(parts) == 1)
        patience = now + VERDICT_PATIENCE
        return [
            part
            for part in parts
            if self._again(part, model, now, patience if part.settled else min(patience, part.deadline), elsewhere)
        ]

    def hear(self, ends: Sequence[ReplicaEnd], model: ModelRoute, now: float) -> list[Part]:
        """Take note of how replicas ended; returns what was held and is tried again."""
        self._ends = {end.id: end for end in ends}
        return self.look(model, now)

    def look(self, model: ModelRoute, now: float) -> list[Part]:
        """Decide about what has been held for long enough; returns what is tried again."""
        held, self._held = self._held, []
        return [part for part, until, elsewhere in held if self._again(part, model, now, until, elsewhere)]

    def _again(self, part: Part, model: ModelRoute, now: float, until: float, elsewhere: bool) -> bool:
        """Whether to try a part again; until a moment it may be held, then it is answered."""
        if part.answered or part.condemned:
            return False
        ends = [self._ends.get(replica) for replica in part.lone_deaths]
        blamed = [end for end in ends if end is None or not end.outside]
        if len(blamed) >= MOST_DEATHS_ALONE:
            if None in blamed:
                if now < until:
                    self._held.append((part, until, elsewhere))
                    return False
                if part.deadline <= now and not part.settled:
                    text = (
                        f"The replica ended, and the {part.prediction.allowed:.3g} s that the request allows are over."
                    )
                    part.prediction.fail(RequestError(504, text))
                    return False
            hung = all(end is not None and end.hanging for end in blamed)
            did = f"made {part.deaths} replicas hang" if hung else f"ended {part.deaths} replicas"
            self._condemn(part, model, f"This request {did} and is not tried again.")
            return False
        if part.settled:
            return False
        if part.deaths >= MOST_DEATHS:
            text = f"{part.deaths} replicas ended while they held this request; it is given up."
            if len(part.lone_deaths) == part.deaths:
                self._condemn(part, model, text)  # killed from outside, but perhaps by the kernel, for their memory
            else:
                part.prediction.fail(RequestError(500, text))
            return False
        if elsewhere:
            return False
        if self._budget.withdraw(now):
            return True
        text = f"The replica ended, and too many requests to model {model.name!r} are tried again already."
        part.prediction.fail(RequestError(503, text, retry_after=_RETRY_AFTER))
        return False

    def _condemn(self, part: Part, model: ModelRoute, reason: str) -> None:
        part.condemned = True
        part.prediction.fail(RequestError(500, reason))
        if not model.quarantine:
            return
        quarantine = Quarantine(Path(model.quarantine))
        self._loop.run_in_executor(
            None, lambda: quarantine.keep(part.payload, model=model.name, version=self._version, reason=reason)
        )
