"""A part of a dataset, seen as a dataset; and parts by what their records are like."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ganglion.core.errors import DataError
from ganglion.data.dataset.column_stream import stream_columns
from ganglion.data.parts.part import Part, SelectionPart
from ganglion.data.parts.selection import Selection
from ganglion.data.parts.split import Divisible
from ganglion.data.records.columns import Columns, records_of
from ganglion.data.records.schema import Schema


class Gathering(Divisible, Protocol):
    """A dataset whose records can be gathered in any order, as those of a prepared dataset."""

    def take(self, records: npt.NDArray[np.integer], columns: Sequence[str] | None = None) -> Columns:
        """Gather some columns of records; all if `None`."""
        ...


class DatasetPart:
    """The records of a part, numbered as the part numbers them.

    Attributes:
        count: number of records.
        generations: number of records up to the end of each generation.
        schema: the columns.

    Args:
        dataset: what the part belongs to.
        part: which of its records.

    Raises:
        DataError: the part belongs to a dataset of another size.
    """

    def __init__(self, dataset: Gathering, part: Part) -> None:
        check_part(part, dataset)
        self._dataset = dataset
        self._part = part
        self.count = part.count
        self.generations = part.generations
        self.schema: Schema = dataset.schema

    def take(self, records: npt.NDArray[np.integer], columns: Sequence[str] | None = None) -> Columns:
        """Gather records of the part, by their numbers in it.

        Args:
            records: numbers in the part.
            columns: which columns are read; all if `None`.

        Raises:
            DataError: a number is out of range, or there is no such column.
        """
        return self._dataset.take(self._part.records(records), columns)

    def slice(self, start: int, stop: int) -> Columns:
        """Records `start` to `stop` (exclusive) of the part by column."""
        return self.take(np.arange(start, stop))


def check_part(part: Part, dataset: Divisible) -> None:
    """Refuse a part of another dataset.

    Raises:
        DataError: the part belongs to a dataset of another size.
    """
    if part.of != dataset.count:
        raise DataError(f"The part is of {part.of} records; the dataset has {dataset.count}.")


def where(
    dataset: Gathering, keep: Callable[[Columns], npt.NDArray[np.bool_]], within: Part | None = None
) -> SelectionPart:
    """The records of a dataset that a function keeps, as a part of it.

    Args:
        dataset: what is looked through, once, from its first record to its last.
        keep: of a dictionary of columns makes an array of booleans, one for each record.
        within: only records of this part.

    Raises:
        DataError: the function returns something else, or the part is of another dataset.
    """
    if within is not None:
        check_part(within, dataset)

    def masks() -> Iterator[npt.NDArray[np.bool_]]:
        for first, columns in stream_columns(dataset, dataset.schema):
            records = records_of(columns)
            mask = np.asarray(keep(columns))
            if mask.dtype != bool or mask.shape != (records,):
                raise DataError(
                    f"The function returned {mask.dtype} of shape {mask.shape} for {records} records; booleans of "
                    f"shape ({records},) are needed."
                )
            yield mask if within is None else mask & within.has(np.arange(first, first + records))

    return SelectionPart(Selection.join(masks()), dataset.generations)
