"""What an elastic epoch delivered, counted alike for everybody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

SCHEDULE: tuple[tuple[int, int | None], ...] = ((1, 7), (2, 5), (5, 4), (3, 6), (8, 3), (1, None))
"""Ranks, and the global batches they take before their number changes; the last ones run to the end."""

UNEVEN = (*SCHEDULE[:-1], (5, None))
"""The same, but for an end on ranks that do not divide what is left."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """The counts.

    Attributes:
        lost: records that nobody delivered; `None` where the epoch did not come to its end.
        duplicated: deliveries of a record beyond its first.
        hung: ranks that would wait in an all-reduce for one that has no batch left.
        refused: why, and where, it did not go on; empty if it did.
        identical: global batches, from the first on, that have the records of an epoch with one rank throughout.
        batches: global batches of that epoch.
    """

    lost: int | None
    duplicated: int
    hung: int
    refused: str
    identical: int
    batches: int


def score(phases: Sequence[dict[str, Any]], undisturbed: Sequence[dict[str, Any]], records: int) -> Score:
    """Count.

    Args:
        phases: of the elastic epoch, as `program.Phase`.
        undisturbed: of an epoch with one rank.
        records: numbers 0 to `records` - 1 should have been delivered.
    """
    delivered = Counter(chain.from_iterable(_global_batches(phases)))
    refused, before = "", 0
    for phase in phases:
        if phase["refused"]:
            refused = f"{before} -> {phase['world']} ranks: {phase['refused']}"
        before = phase["world"]
    batches, expected = _global_batches(phases), _global_batches(undisturbed)
    identical = 0
    for batch, right in zip(batches, expected, strict=False):
        if sorted(batch) != sorted(right):
            break
        identical += 1
    return Score(
        lost=None if refused else sum(number not in delivered for number in range(records)),
        duplicated=delivered.total() - len(delivered),
        hung=sum(_waiting(phase["batches"]) for phase in phases),
        refused=refused,
        identical=identical,
        batches=len(expected),
    )


def _waiting(ranks: Sequence[Sequence[Sequence[int]]]) -> int:
    """Ranks that have more batches than the rank with the fewest."""
    steps = [len(batches) for batches in ranks]
    return sum(count > min(steps) for count in steps)


def _global_batches(phases: Sequence[dict[str, Any]]) -> list[list[int]]:
    return [
        list(chain.from_iterable(batches))
        for phase in phases
        for batches in zip_longest(*phase["batches"], fillvalue=[])
    ]
