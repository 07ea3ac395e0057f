"""How many records a source has at most, while it is read: to give up as soon as too many are sure to be bad; pure."""

from __future__ import annotations

from collections.abc import Iterable

from ganglion.data.dataset.quarantine import MaxBad
from ganglion.data.records.unit import Unit

SEEN = 10_000
"""Records that have to be read before their size says something about that of others."""

MARGIN = 4
"""How many times as dense as the records so far those to come may be, in bytes of the source."""


def most_to_come(units: Iterable[Unit], read: int, size: int) -> int | None:
    """How many records some units have at most.

    Units that know say so. Of others, the bytes tell: records may be a quarter as large as those that were read.

    Args:
        units: that have not been read to their end.
        read: records that were read of other units.
        size: bytes of those units; 0 where not known.

    Returns:
        The number; `None` while nothing can be said.
    """
    known = unknown = 0
    for unit in units:
        records = _records(unit)
        if records is not None:
            known += records
        elif unit.size and size and read >= SEEN:
            unknown += unit.size
        else:
            return None
    return known + (-(-MARGIN * read * unknown // size) if unknown else 0)


def most_tolerated(max_bad: MaxBad, read: int, to_come: int | None) -> int | None:
    """Bad records after which there are too many, whatever comes.

    Args:
        max_bad: a count, or a share of all records.
        read: records that were read.
        to_come: further ones, at most; `None` where that is not known.

    Returns:
        The number; `None` where every share is possible yet.
    """
    if not isinstance(max_bad, float):
        return max_bad
    return None if to_come is None else int(max_bad * (read + to_come))


def _records(unit: Unit) -> int | None:
    """Records of a unit, or of the unit of another source that it is made of, where these are more."""
    inner = unit.records if unit.inner is None else _records(unit.inner)
    return None if unit.records is None or inner is None else max(unit.records, inner)
