"""`Cross`: several columns as one, by hash."""

from __future__ import annotations

import numpy as np

from ganglion.core.errors import DataError
from ganglion.data.records.batch import Batch
from ganglion.data.records.draw import Draw
from ganglion.data.records.hashing import hash_values
from ganglion.data.records.ragged import check_present
from ganglion.data.records.schema import Field, Schema
from ganglion.data.transform import Transform, find_field, refuse_field, with_field


class Cross(Transform, frozen=True, tag="ganglion.data.transforms.cross:Cross"):
    """The values of some columns together become a number below `buckets`, by their hash.

    Equal combinations get equal numbers, in every run; different ones may share one. With a single column this is
    hashing of categories. NaN is a value like others, all NaN the same.

    Attributes:
        columns: fields of single numbers or text, in an order that counts.
        buckets: how many numbers there are.
        into: name of the field for the result, of type int64.

    Raises:
        DataError: no column is named, or there are no buckets.
    """

    columns: tuple[str, ...]
    buckets: int
    into: str

    def __post_init__(self) -> None:
        if not self.columns or self.buckets < 1:
            raise DataError(
                f"{len(self.columns)} columns cannot be crossed into {self.buckets} buckets; 1 of each is needed."
            )

    def schema(self, given: Schema) -> Schema:
        """The given fields and that of the result."""
        for name in self.columns:
            field = find_field(given, name, self)
            if field.shape or field.sequence or field.dtype.startswith("complex"):
                raise refuse_field(field, self, "single numbers or text are needed")
        return with_field(given, Field(self.into, "int64"))

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Hash column after column."""
        mixed = np.zeros(len(batch), np.uint64)
        for place, name in enumerate(self.columns):
            column = batch.columns[name]
            if not isinstance(column, np.ndarray):
                check_present(column, name)
            mixed = Draw().bits((mixed ^ hash_values(column)).view(np.int64), f"cross {place}")[:, 0]
        return batch.having({**batch.columns, self.into: (mixed % np.uint64(self.buckets)).astype(np.int64)})
