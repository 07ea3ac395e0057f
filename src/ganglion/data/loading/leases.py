"""Leases: how many of the logical workers each process computes, when processes are of unequal speed.

The global batch and its slices stay what they are; only who computes how many of them follows the speeds. Ranges of
logical workers are contiguous and in the order of the ranks, so that a rank's records are contiguous in every batch.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

import msgspec

from ganglion.core.errors import DataError

Leases = tuple[range, ...]
"""For each rank its logical workers."""

_PATIENCE = 1.05


def lease(speeds: Sequence[float], logical: int, previous: Leases | None = None) -> Leases:
    """Divide logical workers among ranks so that the slowest is done as early as can be.

    Every rank gets one, the others go one by one to the rank that would be done with it first, which gives the least
    possible time for a step. What was agreed on before is kept while it is at most 5% slower, so that noise in the
    measurements moves nothing.

    Args:
        speeds: of each rank, in slices per second or any other unit; positive.
        logical: logical workers in all.
        previous: the leases so far, for as many ranks.

    Returns:
        A range for each rank; together they are `range(logical)`. Equal arguments give equal leases on every rank.

    Raises:
        DataError: there are fewer logical workers than ranks, no rank, or a speed is not a positive number.
    """
    if not speeds or logical < len(speeds):
        raise DataError(
            f"{logical} logical workers cannot be divided among {len(speeds)} ranks; at least one rank, and a logical "
            "worker for each, is needed."
        )
    if not all(math.isfinite(speed) and speed > 0 for speed in speeds):
        raise DataError(f"Speeds are positive numbers; given: {', '.join(map(str, speeds))}.")
    counts = [1] * len(speeds)
    ready = [(2 / speed, rank) for rank, speed in enumerate(speeds)]
    heapq.heapify(ready)
    for _ in range(logical - len(speeds)):
        _, rank = heapq.heappop(ready)
        counts[rank] += 1
        heapq.heappush(ready, ((counts[rank] + 1) / speeds[rank], rank))
    best = tuple(range(begin, end) for begin, end in pairwise(accumulate(counts, initial=0)))
    if previous is None or not _fits(previous, len(speeds), logical):
        return best
    return previous if step_time(previous, speeds) <= _PATIENCE * step_time(best, speeds) else best


def step_time(leases: Leases, speeds: Sequence[float]) -> float:
    """How long the slowest rank takes for its slices of a global batch, in the unit of the speeds."""
    return max(len(span) / speed for span, speed in zip(leases, speeds, strict=True))


class Speed(msgspec.Struct, frozen=True):
    """How fast a rank has been lately: a mean of slices per second in which what is long ago counts less and less.

    Attributes:
        slices: weighted number of slices.
        seconds: weighted time that they took.
        memory: by how much older measurements count less with each new one, 0 to 1.
    """

    slices: float = 0.0
    seconds: float = 0.0
    memory: float = 0.9

    def measured(self, slices: int, seconds: float) -> Speed:
        """The speed after one more measurement: `slices` were computed in `seconds`."""
        return Speed(self.slices * self.memory + slices, self.seconds * self.memory + seconds, self.memory)

    @property
    def per_second(self) -> float | None:
        """Slices per second; `None` before anything was measured."""
        return self.slices / self.seconds if self.slices > 0 and self.seconds > 0 else None


def _fits(leases: Leases, ranks: int, logical: int) -> bool:
    together = [worker for span in leases for worker in span]
    return len(leases) == ranks and together == list(range(logical)) and all(len(span) for span in leases)
