"""Shards: a dataset divided among workers, balanced, and balanced again with the least movement; pure.

A shard is a list of ranges of record numbers. Those never change when a dataset grows, so that a shard that was
computed for an earlier generation stays what it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate, pairwise

import msgspec
import numpy as np
import numpy.typing as npt

from ganglion.core.errors import DataError


class Range(msgspec.Struct, frozen=True, array_like=True):
    """Records `start` to `stop` (exclusive) of a dataset."""

    start: int
    stop: int


class Shard(msgspec.Struct, frozen=True):
    """The records of one worker.

    Attributes:
        ranges: in order, none empty, none touching the next.
    """

    ranges: tuple[Range, ...] = ()

    @property
    def count(self) -> int:
        """Number of records."""
        return sum(part.stop - part.start for part in self.ranges)

    def records(self) -> npt.NDArray[np.int64]:
        """Their numbers in the dataset, ascending."""
        parts = [np.arange(part.start, part.stop, dtype=np.int64) for part in self.ranges]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)


Shards = tuple[Shard, ...]


def divide(count: int, weights: Sequence[float]) -> Shards:
    """Divide the records of a dataset.

    Args:
        count: records in all.
        weights: one positive number for each shard: its share of the records. Equal workers have equal weights.

    Returns:
        Shards of neighbouring records that hold each record once. A shard differs from its share by less than one
        record; if there are as many records as shards none is empty, which may cost the largest shards a record.

    Raises:
        DataError: there is no shard, or a weight is not a positive finite number.
    """
    ends = [0, *accumulate(_targets(count, weights, (0,) * len(weights)))]
    return tuple(Shard((Range(start, stop),) if stop > start else ()) for start, stop in pairwise(ends))


def rebalance(shards: Shards, count: int, weights: Sequence[float]) -> Shards:
    """Divide a dataset anew, with the least movement: after growth, or among other workers.

    A worker keeps what it has as far as its new share goes; new records, and those of workers that are gone, go where
    records are missing.

    Args:
        shards: as they are.
        count: records in all; at least those of the shards. The additional ones have the highest numbers.
        weights: as for `divide`; shard *i* stays with worker *i*. Where there are fewer than shards, the last ones go.

    Raises:
        DataError: as for `divide`, or the shards hold more than `count` records.
    """
    held = sum(shard.count for shard in shards)
    if held > count:
        raise DataError(f"The shards hold {held} records, and {count} are to be divided; a dataset never shrinks.")
    kept = [*shards[: len(weights)], *(Shard() for _ in range(len(weights) - len(shards)))]
    free = [part for shard in shards[len(weights) :] for part in shard.ranges]
    targets = _targets(count, weights, [shard.count for shard in kept])
    ranges: list[list[Range]] = []
    for shard, target in zip(kept, targets, strict=True):
        stays, goes = _cut(shard.ranges, target)
        ranges.append(stays)
        free += goes
    free = _joined([*free, *([Range(held, count)] if count > held else [])])
    for mine, target in zip(ranges, targets, strict=True):
        missing = target - sum(part.stop - part.start for part in mine)
        taken, free = _cut(free, missing)
        mine += taken
    return tuple(Shard(tuple(_joined(mine))) for mine in ranges)


def moved(before: Shards, after: Shards) -> int:
    """How many records another worker has afterwards; records that nobody had before do not count."""
    stay = sum(_common(old.ranges, new.ranges) for old, new in zip(before, after, strict=False))
    return sum(shard.count for shard in before) - stay


def _targets(count: int, weights: Sequence[float], held: Sequence[int]) -> list[int]:
    """Records of each shard: its share rounded down or up, so that the fewest of those held have to go."""
    if not len(weights) or not all(0 < weight < float("inf") for weight in weights):
        raise DataError(f"Shards need positive weights, one for each; given: {', '.join(map(str, weights)) or 'none'}.")
    exact = [Fraction(weight) for weight in weights]
    whole = sum(exact)
    shares = [count * weight / whole for weight in exact]
    targets = [int(share) for share in shares]

    def order(number: int) -> tuple[bool, Fraction, int]:
        return held[number] <= targets[number], targets[number] - shares[number], number

    uneven = [number for number, share in enumerate(shares) if share != targets[number]]
    for number in sorted(uneven, key=order)[: count - sum(targets)]:
        targets[number] += 1
    if count >= len(weights):
        for number in (number for number, target in enumerate(targets) if target == 0):
            targets[targets.index(max(targets))] -= 1
            targets[number] = 1
    return targets


def _cut(ranges: Sequence[Range], records: int) -> tuple[list[Range], list[Range]]:
    """The first so many records of `ranges`, and the rest."""
    first: list[Range] = []
    rest: list[Range] = []
    for part in ranges:
        middle = min(part.stop, part.start + records)
        records -= middle - part.start
        if middle > part.start:
            first.append(Range(part.start, middle))
        if part.stop > middle:
            rest.append(Range(middle, part.stop))
    return first, rest


def _joined(ranges: Sequence[Range]) -> list[Range]:
    """The same records, ascending, with ranges that touch made one."""
    found: list[Range] = []
    for part in sorted(ranges, key=lambda part: part.start):
        if found and found[-1].stop == part.start:
            found[-1] = Range(found[-1].start, part.stop)
        else:
            found.append(part)
    return found


def _common(left: Sequence[Range], right: Sequence[Range]) -> int:
    """Records that are in both of two ascending lists of ranges."""
    found = first = second = 0
    while first < len(left) and second < len(right):
        one, other = left[first], right[second]
        found += max(0, min(one.stop, other.stop) - max(one.start, other.start))
        if one.stop <= other.stop:
            first += 1
        else:
            second += 1
    return found
