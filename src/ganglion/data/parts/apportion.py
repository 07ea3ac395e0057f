"""Whole records for shares: how many each part gets, such that growth takes nothing away from any; pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

_ROUNDING = 1e-9


def apportion(
    shares: Sequence[float], end: int, had: Sequence[int], owed: Sequence[float] | None = None
) -> tuple[int, ...]:
    """Divide what has come among parts that already have something.

    Each part first gets the whole records that it misses to its share; what is left goes, one record each, to the parts
    that miss more than whole records. So every part comes within 1 of its share, unless it had more than that already.

    Args:
        shares: of the parts; they sum to 1.
        end: number of records in all.
        had: records that each part has so far.
        owed: what each part misses, of this and of other things that are divided; of what is left those get it that
            are then owed most. By default those with the largest remainders do. The earlier part wins ties.

    Returns:
        How many more records each part gets, none less than 0; with `had` they sum to `end`.
    """
    missing = [share * end - have for share, have in zip(shares, had, strict=True)]
    given = [max(0, math.floor(wanted + _ROUNDING)) for wanted in missing]
    remainder = [wanted - whole for wanted, whole in zip(missing, given, strict=True)]
    left = end - sum(had) - sum(given)
    need = remainder if owed is None else [debt - whole for debt, whole in zip(owed, given, strict=True)]
    first = sorted(range(len(shares)), key=lambda part: (remainder[part] <= _ROUNDING, -need[part], part))
    for part in first[: max(0, left)]:
        given[part] += 1
    for _ in range(-left):  # some part had more than its share
        most = max((part for part in first if given[part]), key=lambda part: (-remainder[part], part))
        given[most] -= 1
        remainder[most] += 1
    return tuple(given)
