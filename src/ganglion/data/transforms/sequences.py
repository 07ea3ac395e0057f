"""`Pad`, `Truncate` and `BucketByLength`: sequences that are too short, too long, or of all lengths."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ganglion.core.errors import DataError
from ganglion.data.records.batch import Batch
from ganglion.data.records.draw import Draw
from ganglion.data.records.ragged import places_within, put_together, take_apart
from ganglion.data.records.schema import Field, Schema
from ganglion.data.transform import BadRecordsError, Transform, find_field, refuse_field, with_field


class Pad(Transform, frozen=True, tag="ganglion.data.transforms.sequences:Pad"):
    """Sequences become arrays of one length, filled up at their ends; a longer one is bad (see `Truncate`).

    Attributes:
        column: the field of sequences.
        length: of the arrays.
        value: what they are filled up with.
        mask: name of a further field of booleans, true for values that were there; none for `None`.

    Raises:
        DataError: the length is not positive.
    """

    column: str
    length: int
    value: int | float = 0
    mask: str | None = None

    def __post_init__(self) -> None:
        _check_length(self.length)

    def schema(self, given: Schema) -> Schema:
        """The field as an array of fixed length."""
        field = _sequence(given, self.column, self)
        if np.array(self.value).astype(field.dtype) != self.value:
            raise refuse_field(field, self, f"the value {self.value} is no {field.dtype}")
        padded = with_field(given, Field(self.column, field.dtype, (self.length,)))
        return padded if self.mask is None else with_field(padded, Field(self.mask, "bool", (self.length,)))

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Fill up sequences."""
        lengths, values = take_apart(batch.columns[self.column], self.column)
        long = np.flatnonzero(lengths > self.length)
        if len(long):
            reason = "{!r} has {} values, more than the {} that it is padded to"
            raise BadRecordsError({int(n): reason.format(self.column, lengths[n], self.length) for n in long})
        there = np.arange(self.length) < lengths[:, None]
        padded = np.full(there.shape, self.value, values.dtype)
        padded[there] = values
        columns = {**batch.columns, self.column: padded}
        return batch.having(columns if self.mask is None else {**columns, self.mask: there})


class Truncate(Transform, frozen=True, tag="ganglion.data.transforms.sequences:Truncate"):
    """Sequences that are longer than `length` are cut.

    Attributes:
        column: the field of sequences.
        length: of what is kept, at most.
        keep: the first or the last values.

    Raises:
        DataError: the length is not positive.
    """

    column: str
    length: int
    keep: Literal["start", "end"] = "start"

    def __post_init__(self) -> None:
        _check_length(self.length)

    def schema(self, given: Schema) -> Schema:
        """The given fields."""
        _sequence(given, self.column, self)
        return given

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Cut sequences."""
        lengths, values = take_apart(batch.columns[self.column], self.column)
        places = places_within(lengths)
        if self.keep == "end":
            places = np.repeat(lengths, lengths) - 1 - places
        cut = put_together(np.minimum(lengths, self.length), values[places < self.length])
        return batch.having({**batch.columns, self.column: cut})


class BucketByLength(Transform, frozen=True, tag="ganglion.data.transforms.sequences:BucketByLength"):
    """A further field says which bucket of lengths a sequence belongs to.

    Records of one bucket can then be loaded by themselves (see `where`) and padded to its boundary, which wastes less
    than padding all to the longest.

    Attributes:
        column: the field of sequences.
        boundaries: greatest length of each bucket, ascending; longer sequences are in one more bucket.
        into: name of the further field, of type int64.

    Raises:
        DataError: the boundaries do not ascend.
    """

    column: str
    boundaries: tuple[int, ...]
    into: str = "bucket"

    def __post_init__(self) -> None:
        if not self.boundaries or not all(np.diff(self.boundaries) > 0):
            raise DataError(f"Boundaries of buckets have to ascend; given: {', '.join(map(str, self.boundaries))}.")

    def schema(self, given: Schema) -> Schema:
        """The given fields and that of the bucket."""
        _sequence(given, self.column, self)
        return with_field(given, Field(self.into, "int64"))

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Find the bucket of each sequence."""
        lengths, _ = take_apart(batch.columns[self.column], self.column)
        bucket = np.searchsorted(np.array(self.boundaries), lengths, side="left").astype(np.int64)
        return batch.having({**batch.columns, self.into: bucket})


def _sequence(given: Schema, name: str, transform: Transform) -> Field:
    field = find_field(given, name, transform)
    if not field.sequence:
        raise refuse_field(field, transform, "a field of sequences is needed")
    return field


def _check_length(length: int) -> None:
    if length < 1:
        raise DataError(f"Sequences of length {length} were asked for; 1 or more is needed.")
