"""Who holds which part of the machine, and who waits for it, first come first served.

A request is granted whole or not at all. Nobody overtakes: a large gang at the head of the queue is not starved by
small tasks behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ganglion.core.resources import NOTHING, Resources, total
from ganglion.execution.spec import MemberPlan

Grant = Callable[[], None]


class Ledger:
    """Accounts for one machine; the caller holds a lock around every call and runs the grants it gets back."""

    def __init__(self, declared: Resources) -> None:
        self.declared = declared
        self._held: dict[tuple[str, str], Resources] = {}
        self._queue: list[tuple[dict[tuple[str, str], Resources], Grant]] = []

    @property
    def free(self) -> Resources:
        """What is not held."""
        return self.declared - total(tuple(self._held.values()))

    def ask(self, plans: Sequence[MemberPlan], grant: Grant) -> list[Grant]:
        """Join the queue.

        Returns:
            The grants to run now, outside the lock.
        """
        self._queue.append(({plan.key: plan.resources for plan in plans}, grant))
        return self._serve()

    def give_back(self, plans: Sequence[MemberPlan]) -> list[Grant]:
        """Free what is held for `plans` and forget what they wait for.

        Returns:
            The grants that became possible.
        """
        keys = {plan.key for plan in plans}
        for key in keys:
            self._held.pop(key, None)
        self._queue = [(wanted, grant) for wanted, grant in self._queue if not keys & wanted.keys()]
        return self._serve()

    def _serve(self) -> list[Grant]:
        grants = []
        free = self.free if self._queue else NOTHING
        while self._queue:
            wanted, grant = self._queue[0]
            needed = total(tuple(amount for key, amount in wanted.items() if key not in self._held))
            if not needed.fits(free):
                break
            del self._queue[0]
            self._held |= wanted
            free = free - needed
            grants.append(grant)
        return grants
