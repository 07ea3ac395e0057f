"""Parts of a dataset, such as train and held-out: random, the same every time, with no record in two of them.

A split stores no indices. Records are put in one fixed random order, given by the seed, and each part is a range of
positions in it.
"""

from __future__ import annotations

import math
from itertools import accumulate, pairwise
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ganglion.core.errors import DataError, suggest
from ganglion.data.order import Order, Positions, derive_seed


class Part(msgspec.Struct, frozen=True):
    """Some records of a dataset, numbered from 0 to `count` - 1.

    Attributes:
        order: of all records of the dataset.
        first: position of the part's first record in that order.
        count: records in the part.
    """

    order: Order
    first: int
    count: int

    def records(self, numbers: npt.NDArray[Any]) -> Positions:
        """The dataset's records that have these numbers in the part.

        Args:
            numbers: integers from 0 to `count` - 1, of any shape.

        Returns:
            Records of the dataset, of the same shape.

        Raises:
            DataError: a number is out of range.
        """
        given = np.asarray(numbers)
        if given.size and not 0 <= int(given.min()) <= int(given.max()) < self.count:
            raise DataError(
                f"Numbers {given.min()} to {given.max()} were asked for; the part has {self.count} records."
            )
        return self.order.at(0, given + self.first)


def whole(count: int) -> Part:
    """The part that is all of a dataset, in its own order."""
    return Part(Order(count, shuffle=False), 0, count)


class Split(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to divide a dataset at random; plain data.

    Which part a record belongs to is a function of (seed, sizes, number of records, record) alone.

    Attributes:
        parts: size of each part by name: fractions that sum to 1, such as `{"train": 0.9, "held_out": 0.1}`, or
            numbers of records that sum to the size of the dataset.
        seed: 0 to 2**64 - 1; another seed divides in another way.

    Raises:
        DataError: no part is named, sizes are not positive, of both kinds, or fractions do not sum to 1.
    """

    parts: dict[str, float | int]
    seed: int = 0

    def __post_init__(self) -> None:
        sizes = self.parts.values()
        given = ", ".join(f"{name}={size}" for name, size in self.parts.items()) or "nothing"
        if not sizes or not all(size > 0 for size in sizes):
            raise DataError(f"A split needs parts with positive sizes; given: {given}.")
        if not (self._by_fraction or all(isinstance(size, int) for size in sizes)):
            raise DataError(f"A split takes either fractions or numbers of records, not both; given: {given}.")
        if self._by_fraction and not math.isclose(math.fsum(sizes), 1.0, abs_tol=1e-9):
            raise DataError(f"Fractions of a split must sum to 1, so that every record has its part; given: {given}.")

    def part(self, name: str, count: int) -> Part:
        """The part `name` of a dataset with `count` records.

        Raises:
            DataError: there is no such part, numbers of records do not sum to `count`, or a part would be empty.
        """
        if name not in self.parts:
            raise DataError(f"The split has no part {name!r}. {suggest(name, self.parts)}")
        first = 0
        for part, size in self.sizes(count).items():
            if part == name:
                break
            first += size
        return Part(Order(count, derive_seed(self.seed, "split")), first, size)

    def sizes(self, count: int) -> dict[str, int]:
        """Number of records in each part of a dataset with `count` records; they sum to `count`.

        Raises:
            DataError: as for `part`.
        """
        if self._by_fraction:
            ends = [0, *(round(share * count) for share in accumulate(self.parts.values()))]
            sizes = [end - start for start, end in pairwise(ends)]
        else:
            sizes = [int(size) for size in self.parts.values()]
        described = ", ".join(f"{name}={size}" for name, size in zip(self.parts, sizes, strict=True))
        if sum(sizes) != count:
            raise DataError(f"The parts {described} have {sum(sizes)} records together; the dataset has {count}.")
        if min(sizes) < 1:
            raise DataError(
                f"The dataset has {count} records, too few for these parts, one of them empty: {described}."
            )
        return dict(zip(self.parts, sizes, strict=True))

    @property
    def _by_fraction(self) -> bool:
        return all(isinstance(size, float) for size in self.parts.values())
