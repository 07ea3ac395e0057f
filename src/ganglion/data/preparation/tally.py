"""Every record of a unit counted once: good, bad, or an error of whoever reads."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np

from ganglion.core.errors import DataError
from ganglion.data.records.batch import Ids
from ganglion.data.records.unit import RECORDS, Unit
from ganglion.data.source import Source
from ganglion.data.sources.mixed import MixedSource
from ganglion.data.sources.transformed import TransformedSource
from ganglion.data.transform import Transform


def numbers_through(source: Source) -> bool:
    """Whether a source numbers the records of a unit through from 0, as those do that read data themselves.

    A mixture numbers in another way, and transforms leave numbers out.
    """
    return not any(isinstance(inner, MixedSource | TransformedSource) for inner in sources_within(source))


def makes_records(source: Source) -> bool:
    """Whether transforms make new records of several, with ids of their own, as packing does."""
    return any(
        type(transform).combiner is not Transform.combiner
        for inner in sources_within(source)
        if isinstance(inner, TransformedSource)
        for transform in inner.transforms
    )


def sources_within(source: Source) -> Iterator[Source]:
    """A source, and those that it reads from."""
    yield source
    if isinstance(source, msgspec.Struct):
        for name in ("source", "sources"):
            inner = getattr(source, name, ())
            for one in inner if isinstance(inner, tuple) else (inner,):
                if isinstance(one, msgspec.Struct):
                    yield from sources_within(one)  # type: ignore[arg-type]  # what a source holds under these names


class Tally:
    """Counts the records of one unit and sees that each comes once.

    Attributes:
        good: records that came.

    Args:
        unit: which.
        numbered: whether its records are numbered through from 0, bad ones included, and come in this order.
    """

    def __init__(self, unit: Unit, numbered: bool = True) -> None:
        self.good = 0
        self._unit = unit
        self._numbered = numbered
        self._first = unit.number * RECORDS
        self._last = self._first - 1
        self._bad: set[int] = set()

    @property
    def bad(self) -> int:
        """Records that were set aside."""
        return len(self._bad)

    def came(self, ids: Ids) -> None:
        """Take note of records.

        Raises:
            DataError: one came before, was set aside, or does not belong to the unit.
        """
        if not len(ids):
            return
        if not (self._first <= int(ids.min()) and int(ids.max()) < self._first + RECORDS):
            self._refuse(f"its records have the ids {int(ids.min())} to {int(ids.max())}, some of another unit")
        if self._numbered and (int(ids[0]) <= self._last or not (np.diff(ids) > 0).all()):
            self._refuse(f"its records have ids that do not ascend, after {self._last}")
        if self._bad and (both := self._bad.intersection(ids.tolist())):
            self._refuse(f"record {min(both)} was set aside and came")
        self._last = int(ids[-1])
        self.good += len(ids)

    def set_aside(self, record: int) -> bool:
        """Take note of a bad record; returns whether it is the first time.

        Raises:
            DataError: it does not belong to the unit.
        """
        if not self._first <= record < self._first + RECORDS:
            self._refuse(f"it sets record {record} aside, which belongs to another unit")
        new = record not in self._bad
        self._bad.add(record)
        return new

    def check_complete(self) -> None:
        """See that no record is missing, once the unit is read.

        Raises:
            DataError: numbers are missing among its records, or there are not as many as were announced.
        """
        found = self.good + self.bad
        expected = max([self._last, *self._bad]) + 1 - self._first if found else 0
        if self._numbered and found != expected:
            self._refuse(f"{expected - found} of {expected} records neither came nor were set aside")
        if self._unit.records is not None and found != self._unit.records:
            self._refuse(f"it announced {self._unit.records} records and yields {found}")

    def _refuse(self, problem: str) -> None:
        raise DataError(f"{self._unit.name} (unit {self._unit.number}) is not read as sources have to be: {problem}.")
