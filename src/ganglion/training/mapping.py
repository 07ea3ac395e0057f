"""Which process computes which logical workers; pure.

The result of a training does not depend on it, only the time: so it may follow the speed of the processes, and change
between any two steps.
"""

from __future__ import annotations

import heapq
import statistics
from collections import deque
from collections.abc import Sequence
from itertools import accumulate

GAIN = 1.25
"""A mapping is changed when the step would become at least this many times as fast."""

WINDOW = 8
"""Steps over which the time for a slice is measured (their median, which one disturbed step does not move)."""

CERTAIN = 3
"""Steps in a row after which a mapping is changed earlier, if each process were as fast as in the best of them."""

RETRY, SELDOM = 64, 4096
"""Steps after which a mapping that leaves everything to one process is given up for a trial; twice as many after each
trial, up to the latter."""


def assign(costs: Sequence[float], logical: int) -> tuple[range, ...]:
    """Cut the logical workers into one contiguous range for each process so that the slowest ends as early as can be.

    Each logical worker in turn goes to the process that would then end first. A range may be empty.

    Args:
        costs: seconds that each process takes for a slice; at least one process.
        logical: number of logical workers.
    """
    queue = [(cost, rank, cost) for rank, cost in enumerate(costs)]
    heapq.heapify(queue)
    counts = [0] * len(costs)
    for _ in range(logical):
        end, rank, cost = queue[0]
        counts[rank] += 1
        heapq.heapreplace(queue, (end + cost, rank, cost))
    ends = list(accumulate(counts))
    return tuple(range(end - count, end) for end, count in zip(ends, counts, strict=True))


def duration(spans: Sequence[range], costs: Sequence[float]) -> float:
    """Seconds until the slowest process has computed its slices."""
    return max(len(span) * cost for span, cost in zip(spans, costs, strict=True))


def adders(spans: Sequence[range]) -> tuple[int, ...]:
    """The processes that add up the vectors: those that compute more than half as many slices as the fastest.

    What a slower one could add the others have added sooner than it, and nobody has to wait for its word.
    """
    most = max(len(span) for span in spans)
    return tuple(rank for rank, span in enumerate(spans) if 2 * len(span) > most)


class Balance:
    """Follows how long each process takes for a slice and says when another mapping would be worth it.

    Every process feeds its own instance the same numbers, so all of them come to the same mapping.

    Args:
        world: number of processes.
        logical: number of logical workers.

    Attributes:
        spans: the present mapping.
    """

    def __init__(self, world: int, logical: int) -> None:
        self._logical = logical
        self._seconds: list[deque[float]] = [deque(maxlen=WINDOW) for _ in range(world)]
        self._world = world
        self._alone, self._retry = 0, RETRY
        self.spans = assign([1.0] * world, logical)

    def observe(self, seconds: Sequence[float]) -> None:
        """Take in how long each process computed in a step, and change `spans` if that pays.

        Args:
            seconds: by rank; of those with an empty range it is not looked at.
        """
        for history, span, value in zip(self._seconds, self.spans, seconds, strict=True):
            if len(span):
                history.append(value / len(span))
        busy = [history for history, span in zip(self._seconds, self.spans, strict=True) if len(span)]
        if len(busy) < 2:
            self._try_again()
            return
        if all(len(history) == WINDOW for history in busy):
            self._follow([statistics.median(history) if history else 0.0 for history in self._seconds])
        elif all(len(history) >= CERTAIN for history in busy):
            self._follow([min(list(history)[-CERTAIN:], default=0.0) for history in self._seconds])

    def _try_again(self) -> None:
        """Let all compute now and then: whoever was held up may be as fast as the others by now."""
        self._alone += 1
        if self._alone >= self._retry:
            self._alone, self._retry = 0, min(2 * self._retry, SELDOM)
            self.spans = assign([1.0] * self._world, self._logical)
            for history in self._seconds:
                history.clear()

    def _follow(self, typical: Sequence[float]) -> None:
        """Change the mapping if that pays, given the seconds for a slice; 0 where nothing is known."""
        fallback = min(cost for cost in typical if cost > 0.0) if any(typical) else 1.0
        costs = [cost or fallback for cost in typical]
        better = assign(costs, self._logical)
        if duration(better, costs) * GAIN <= duration(self.spans, costs):
            self.spans = better
            for history in self._seconds:
                history.clear()
