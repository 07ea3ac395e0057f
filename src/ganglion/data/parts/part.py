"""Parts of a dataset: some of its records, numbered from 0, as plain data that any process can be sent."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ganglion.core.errors import DataError
from ganglion.data.order import Order
from ganglion.data.parts.selection import Numbers, Selection


class Part(msgspec.Struct, frozen=True, tag_field="type"):
    """Some records of a dataset, numbered from 0 to `count` - 1; one of the classes below.

    When a generation is added to the dataset, the part of it has the same records under the same numbers and further
    ones behind them.
    """

    @property
    def count(self) -> int:
        """Records in the part."""
        raise NotImplementedError

    @property
    def of(self) -> int:
        """Records of the dataset that the part belongs to."""
        raise NotImplementedError

    @property
    def generations(self) -> tuple[int, ...]:
        """Records of the part up to the end of each generation of the dataset."""
        raise NotImplementedError

    def records(self, numbers: npt.NDArray[Any]) -> Numbers:
        """The dataset's records that have these numbers in the part.

        Args:
            numbers: integers from 0 to `count` - 1, of any shape.

        Returns:
            Records of the dataset, of the same shape.

        Raises:
            DataError: a number is out of range.
        """
        raise NotImplementedError

    def numbers(self, records: npt.NDArray[Any]) -> Numbers:
        """The numbers in the part of records of the dataset; -1 for those that are not in it. Undoes `records`.

        Args:
            records: integers from 0 to `of` - 1, of shape `(n,)`.

        Raises:
            DataError: a record is out of range.
        """
        raise NotImplementedError

    def has(self, records: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Which records of the dataset are in the part; arguments and errors as for `numbers`."""
        return self.numbers(records) >= 0


class Range(msgspec.Struct, frozen=True, array_like=True):
    """Positions of one generation in its order.

    Attributes:
        order: of all records of the generation.
        start: number of the generation's first record in the dataset.
        first: position of the first record of the range.
        count: records in the range.
    """

    order: Order
    start: int
    first: int
    count: int


class RangesPart(Part, frozen=True, tag="ranges", dict=True):
    """Ranges of fixed orders: nothing is stored for a record.

    Attributes:
        ranges: of generation after generation; one generation may have several.
    """

    ranges: tuple[Range, ...]

    @cached_property
    def count(self) -> int:
        """Records in the part."""
        return int(self._ends[-1])

    @cached_property
    def of(self) -> int:
        """Records of the dataset."""
        return max(piece.start + piece.order.count for piece in self.ranges)

    @cached_property
    def generations(self) -> tuple[int, ...]:
        """Records of the part up to the end of each generation."""
        counts = {piece.start: 0 for piece in self.ranges}
        for piece in self.ranges:
            counts[piece.start] += piece.count
        return tuple(accumulate(counts.values()))

    def records(self, numbers: npt.NDArray[Any]) -> Numbers:
        """The dataset's records that have these numbers in the part."""
        given = _checked(numbers, self.count, "the part")
        if len(self.ranges) == 1:
            return self._at(0, given)
        flat = given.reshape(-1)
        holders = np.searchsorted(self._ends[1:], flat, side="right")
        found = np.empty(len(flat), np.int64)
        for holder in np.unique(holders).tolist():
            mine = holders == holder
            found[mine] = self._at(holder, flat[mine] - self._ends[holder])
        return found.reshape(given.shape)

    def numbers(self, records: npt.NDArray[Any]) -> Numbers:
        """The numbers in the part of records of the dataset; -1 for those that are not in it."""
        given = _checked(records, self.of, "the dataset")
        found = np.full(len(given), -1, np.int64)
        for piece, begin in zip(self.ranges, self._ends.tolist(), strict=False):
            mine = np.flatnonzero((given >= piece.start) & (given < piece.start + piece.order.count))
            if not len(mine) or not piece.count:
                continue
            positions = piece.order.inverse(0, given[mine] - piece.start) - piece.first
            inside = (positions >= 0) & (positions < piece.count)
            found[mine[inside]] = positions[inside] + begin
        return found

    def _at(self, holder: int, numbers: Numbers) -> Numbers:
        piece = self.ranges[holder]
        return piece.order.at(0, numbers + piece.first) + piece.start

    @cached_property
    def _ends(self) -> Numbers:
        return np.cumsum([0, *(piece.count for piece in self.ranges)])


class SelectionPart(Part, frozen=True, tag="selection", dict=True):
    """Records by a bitmap, in the order of the dataset.

    Attributes:
        selection: which.
        ends: number of records of the dataset up to the end of each of its generations.
    """

    selection: Selection
    ends: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.ends or self.ends[-1] != self.selection.of:
            raise DataError(
                f"A bitmap of {self.selection.of} records was given for a dataset whose generations end at {self.ends}."
            )

    @property
    def count(self) -> int:
        """Records in the part."""
        return self.selection.count

    @property
    def of(self) -> int:
        """Records of the dataset."""
        return self.selection.of

    @cached_property
    def generations(self) -> tuple[int, ...]:
        """Records of the part up to the end of each generation."""
        return tuple(self.selection.rank(np.array(self.ends)).tolist())

    def records(self, numbers: npt.NDArray[Any]) -> Numbers:
        """The dataset's records that have these numbers in the part."""
        return self.selection.select(_checked(numbers, self.count, "the part"))

    def numbers(self, records: npt.NDArray[Any]) -> Numbers:
        """The numbers in the part of records of the dataset; -1 for those that are not in it."""
        given = _checked(records, self.of, "the dataset")
        return np.where(self.selection.has(given), self.selection.rank(given), -1)


class NestedPart(Part, frozen=True, tag="nested"):
    """A part of a part, such as a fold of the training part.

    Attributes:
        outer: part of the dataset.
        inner: part of `outer`, whose numbers are its records.
    """

    outer: RangesPart | SelectionPart | NestedPart
    inner: RangesPart | SelectionPart | NestedPart

    def __post_init__(self) -> None:
        if self.inner.of != self.outer.count:
            raise DataError(f"A part of {self.inner.of} records was nested in one that has {self.outer.count}.")

    @property
    def count(self) -> int:
        """Records in the part."""
        return self.inner.count

    @property
    def of(self) -> int:
        """Records of the dataset."""
        return self.outer.of

    @property
    def generations(self) -> tuple[int, ...]:
        """Records of the part up to the end of each generation."""
        return self.inner.generations

    def records(self, numbers: npt.NDArray[Any]) -> Numbers:
        """The dataset's records that have these numbers in the part."""
        return self.outer.records(self.inner.records(numbers))

    def numbers(self, records: npt.NDArray[Any]) -> Numbers:
        """The numbers in the part of records of the dataset; -1 for those that are not in it."""
        found = self.outer.numbers(records)
        inside = np.flatnonzero(found >= 0)
        found[inside] = self.inner.numbers(found[inside])
        return found


AnyPart = RangesPart | SelectionPart | NestedPart


def whole(dataset: int | Sequence[int]) -> RangesPart:
    """The part that is all of a dataset, in its own order.

    Args:
        dataset: number of records, or `generations` of the dataset.
    """
    ends = (dataset,) if isinstance(dataset, int) else tuple(dataset)
    return RangesPart(
        tuple(
            Range(Order(end - start, shuffle=False), start, 0, end - start)
            for start, end in zip((0, *ends), ends, strict=False)
            if end > start
        )
    )


def part_from(data: Any) -> AnyPart:
    """A part from its plain data; a part is returned as it is.

    Raises:
        DataError: the data does not describe a part.
    """
    try:
        part: AnyPart = msgspec.convert(data, AnyPart)
    except msgspec.ValidationError as error:
        raise DataError(f"{data!r} does not describe a part of a dataset: {error}.") from error
    return part


def _checked(values: npt.NDArray[Any], count: int, what: str) -> Numbers:
    given = np.asarray(values)
    if given.size and not 0 <= int(given.min()) <= int(given.max()) < count:
        raise DataError(f"Numbers {given.min()} to {given.max()} were asked for; {what} has {count} records.")
    return given.astype(np.int64, copy=False)
