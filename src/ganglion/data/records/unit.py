"""Units: the pieces of a source that are read independently of each other, and the identity of their records."""

from __future__ import annotations

import msgspec
import numpy as np

from ganglion.core.errors import DataError
from ganglion.data.records.batch import Ids

RECORDS = 2**40
"""Records that one unit may have, those that were set aside included."""

UNITS = 2**23
"""Units that one source may have."""


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a source, read from its beginning to its end by one reader.

    How a source is divided is a function of its data and options alone, never of who reads it with how many workers,
    so that ids of records stay what they are. Where a source grows, new units are added behind the old ones.

    Attributes:
        number: its place in the source, from 0.
        name: for people: the file, and which part of it, such as `part-3.parquet row group 2`.
        path: of the file that it lies in; empty where there is none.
        start: where it begins; what is counted (bytes, records, row groups, keys) is the source's matter.
        stop: where it ends, exclusive.
        size: bytes to be read, about, for balancing work; 0 where not known.
        records: how many there are, if that is known without reading.
        fingerprint: changes when the content changes.
        inner: in a source that wraps another one, the unit of that one which it is made of.
    """

    number: int
    name: str
    path: str = ""
    start: int = 0
    stop: int = 0
    size: int = 0
    records: int | None = None
    fingerprint: str = ""
    inner: Unit | None = None

    def ids(self, first: int, last: int) -> Ids:
        """Ids of the records `first` to `last` (exclusive) of this unit, counted from 0 with those set aside.

        Raises:
            DataError: the unit has more records, or the source more units, than ids can tell apart.
        """
        if last > RECORDS or self.number >= UNITS:
            raise DataError(
                f"Record {last} of unit {self.number} has no id; "
                f"{RECORDS} records to a unit and {UNITS} units are possible."
            )
        return np.arange(self.number * RECORDS + first, self.number * RECORDS + last, dtype=np.int64)

    def id(self, record: int) -> int:
        """Id of one record of this unit."""
        return int(self.ids(record, record + 1)[0])


def unit_of(record: int) -> tuple[int, int]:
    """The number of the unit that a record, given by its id, belongs to, and its number in there."""
    return divmod(record, RECORDS)


def inner_unit(unit: Unit) -> Unit:
    """The unit that one of a source that wraps another one is made of.

    Raises:
        DataError: the unit is not of such a source.
    """
    if unit.inner is None:
        raise DataError(f"{unit.name} is not made of another unit; give one of `units()` of the source that is read.")
    return unit.inner
