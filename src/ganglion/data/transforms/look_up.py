"""`LookUp`: words and other categories as their numbers in a vocabulary."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ganglion.core.errors import DataError
from ganglion.data.records.batch import Batch
from ganglion.data.records.columns import Column
from ganglion.data.records.draw import Draw
from ganglion.data.records.ragged import check_present, put_together, take_apart
from ganglion.data.records.schema import BYTES, TEXT, Field, Schema
from ganglion.data.statistics import Statistics
from ganglion.data.transform import BadRecordsError, Transform, find_field, refuse_field, with_field


class LookUp(Transform, frozen=True, tag="ganglion.data.transforms.look_up:LookUp"):
    """Values become their places in a vocabulary, from 0, of type int64.

    Attributes:
        column: the field: text, or integers, alone, in arrays or in sequences.
        vocabulary: the values, each once.
        unknown: what a value that is not there becomes; for `None` its record is bad. A number beside those of the
            vocabulary is its length.
        into: name of the field for the result; that of `column` for `None`.

    Raises:
        DataError: the vocabulary is empty, or has a value twice or values of several types.
    """

    column: str
    vocabulary: tuple[str, ...] | tuple[int, ...]
    unknown: int | None = None
    into: str | None = None

    def __post_init__(self) -> None:
        kinds = {type(value) for value in self.vocabulary}
        if len(kinds) != 1 or len(set(self.vocabulary)) < len(self.vocabulary):
            raise DataError(f"The vocabulary of {self.column!r} needs values of one type, each once, and one at least.")

    @classmethod
    def fitted(
        cls,
        column: str,
        statistics: Statistics,
        *,
        most: int | None = None,
        at_least: int = 1,
        unknown: int | None = None,
        into: str | None = None,
    ) -> Self:
        """With the vocabulary that was found, the most frequent value first.

        Args:
            column: the field.
            statistics: of the training part.
            most: keep so many values.
            at_least: leave out values that were found less often.
            unknown: as the attribute; -1 is put after the vocabulary: it becomes its length.
            into: as the attribute.

        Raises:
            DataError: no vocabulary was made of the column, or not all of its values are known and `most` was not said.
        """
        found = statistics.vocabulary(column, most=most, at_least=at_least)
        return cls(column, found, len(found) if unknown == -1 else unknown, into)

    def schema(self, given: Schema) -> Schema:
        """The field of the result, in the place of the column or behind the others."""
        field = find_field(given, self.column, self)
        text = isinstance(self.vocabulary[0], str)
        if (
            field.dtype == BYTES
            or text != (field.dtype == TEXT)
            or (not text and np.dtype(field.dtype).kind not in "biu")
        ):
            raise refuse_field(field, self, f"{'text' if text else 'integers'} can be looked up in this vocabulary")
        return with_field(given, Field(self.into or self.column, "int64", field.shape, field.sequence))

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Find the place of each value."""
        return batch.having({**batch.columns, self.into or self.column: self._found(batch.columns[self.column])})

    def _found(self, column: Column) -> Column:
        if isinstance(column, np.ndarray):
            places = self._places_of_numbers(column)
            self._check(places.reshape(len(column), -1).min(axis=1, initial=0) < 0)
            return self._known(places)
        if str(column.type).startswith("list<"):
            lengths, values = take_apart(column, self.column)
            places = self._places_of_numbers(values)
            owner = np.repeat(np.arange(len(lengths)), lengths)
            self._check(np.bincount(owner[places < 0], minlength=len(lengths)) > 0)
            return put_together(lengths, self._known(places))
        check_present(column, self.column)
        import pyarrow as pa
        import pyarrow.compute as pc

        found = pc.index_in(column, value_set=pa.array(self.vocabulary)).fill_null(-1)
        places = found.to_numpy(zero_copy_only=False).astype(np.int64)
        self._check(places < 0)
        return self._known(places)

    def _places_of_numbers(self, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        words = np.array(self.vocabulary)
        order = np.argsort(words)
        near = order[np.searchsorted(words, values, sorter=order).clip(max=len(words) - 1)]
        places: npt.NDArray[np.int64] = np.where(words[near] == values, near, -1)
        return places

    def _known(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return places if self.unknown is None else np.where(places < 0, self.unknown, places)

    def _check(self, bad: npt.NDArray[np.bool_]) -> None:
        if self.unknown is None and bad.any():
            reason = f"{self.column!r} has a value that is not in the vocabulary"
            raise BadRecordsError(dict.fromkeys(np.flatnonzero(bad).tolist(), reason))
