"""`Bucketise`: numbers as the numbers of ranges."""

from __future__ import annotations

import numpy as np

from ganglion.core.errors import DataError
from ganglion.data.records.batch import Batch
from ganglion.data.records.draw import Draw
from ganglion.data.records.schema import Field, Schema
from ganglion.data.transform import BadRecordsError, Transform, find_field, refuse_field, with_field


class Bucketise(Transform, frozen=True, tag="ganglion.data.transforms.bucketise:Bucketise"):
    """Each value becomes the number of boundaries that are not above it: 0 below the first, 1 from it on, and so on.

    A record with NaN is bad, unless a number for NaN is given.

    Attributes:
        column: the field; numbers of any shape.
        boundaries: ascending.
        into: name of the field for the result, of type int64; that of `column` for `None`.
        missing: what NaN becomes.

    Raises:
        DataError: there are no boundaries, or they do not ascend.
    """

    column: str
    boundaries: tuple[int | float, ...]
    into: str | None = None
    missing: int | None = None

    def __post_init__(self) -> None:
        if not self.boundaries or not all(np.diff(np.array(self.boundaries)) > 0):
            given = ", ".join(map(str, self.boundaries)) or "none"
            raise DataError(f"{self.column!r} needs ascending boundaries; given: {given}.")

    def schema(self, given: Schema) -> Schema:
        """The field of the result, in the place of the column or behind the others."""
        field = find_field(given, self.column, self)
        if not field.fixed or np.dtype(field.dtype).kind not in "biuf":
            raise refuse_field(field, self, "numbers of fixed length are needed")
        return with_field(given, Field(self.into or self.column, "int64", field.shape))

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Find the range of each value."""
        values = np.asarray(batch.columns[self.column])
        made = np.searchsorted(np.array(self.boundaries), values, side="right").astype(np.int64)
        missing = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
        if self.missing is not None:
            made[missing] = self.missing
        elif missing.any():
            records = np.flatnonzero(missing.reshape(len(batch), -1).any(axis=1)).tolist()
            raise BadRecordsError(dict.fromkeys(records, f"{self.column!r} is NaN, which is in no range"))
        return batch.having({**batch.columns, self.into or self.column: made})
