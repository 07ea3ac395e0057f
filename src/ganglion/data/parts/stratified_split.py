"""A random split that keeps the proportions of classes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ganglion.data.dataset.column_stream import find_fields, stream_columns
from ganglion.data.order import Order, derive_seed
from ganglion.data.parts.apportion import apportion
from ganglion.data.parts.selection_split import SelectionSplit
from ganglion.data.parts.split import Divisible
from ganglion.data.records.hashing import Hashes, hash_values


class StratifiedSplit(SelectionSplit, frozen=True, tag="ganglion.data.parts.stratified_split:StratifiedSplit"):
    """How to divide a dataset at random such that each part has its share of every class.

    Of every class each part gets its share within 1 record, and so it does, nearly, of all records together. Records
    stay in their parts when a generation is added, which is divided by itself.

    Attributes:
        parts: fraction of each part by name; they sum to 1.
        by: the field that holds the class: single numbers or text. All NaN together are one class.
        seed: 0 to 2**64 - 1; another seed divides in another way.

    Raises:
        DataError: the fractions do not go together.
    """

    seed: int = 0

    def masks(self, place: int, dataset: Divisible) -> Iterator[npt.NDArray[np.bool_]]:
        """Which records belong to the part at this place; classes are read twice: to count, and to divide them."""
        shares = tuple(self.parts.values())
        totals: dict[int, tuple[int, ...]] = {}
        owed = [0.0] * len(shares)
        for generation, (start, stop) in enumerate(zip((0, *dataset.generations), dataset.generations, strict=False)):
            counts = _count(self._classes(dataset, start, stop))
            ranges: dict[int, tuple[int, int]] = {}
            for key, count in sorted(counts.items()):
                had = totals.get(key, (0,) * len(shares))
                end = sum(had) + count
                owed = [debt + share * count for debt, share in zip(owed, shares, strict=True)]
                given = apportion(shares, end, had, owed)
                owed = [debt - more for debt, more in zip(owed, given, strict=True)]
                totals[key] = tuple(map(sum, zip(had, given, strict=True)))
                ranges[key] = (sum(given[:place]), sum(given[: place + 1]))
            seen = dict.fromkeys(counts, 0)
            for classes in self._classes(dataset, start, stop):
                mask = np.zeros(len(classes), bool)
                for key, members in _members(classes):
                    order = Order(counts[key], derive_seed(self.seed, f"stratified {key} {generation}"))
                    positions = order.inverse(0, np.arange(seen[key], seen[key] + len(members)))
                    first, last = ranges[key]
                    mask[members] = (positions >= first) & (positions < last)
                    seen[key] += len(members)
                yield mask

    def _classes(self, dataset: Divisible, start: int, stop: int) -> Iterator[Hashes]:
        for _, columns in stream_columns(dataset, find_fields(dataset, (self.by,)), start, stop):
            yield hash_values(columns[self.by])


def _count(pieces: Iterator[Hashes]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for piece in pieces:
        for key, count in zip(*map(np.ndarray.tolist, np.unique(piece, return_counts=True)), strict=True):
            counts[key] = counts.get(key, 0) + count
    return counts


def _members(classes: Hashes) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Each class with the places of its records, in order."""
    order = np.argsort(classes, kind="stable")
    ordered = classes[order]
    borders = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    for members in np.split(order, borders):
        if len(members):
            yield int(classes[members[0]]), members
