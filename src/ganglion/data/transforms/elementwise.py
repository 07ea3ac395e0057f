"""Transforms of single values, such as scaling: they can be done while records are gathered, at next to no cost."""

from __future__ import annotations

import numpy as np

from ganglion.core.errors import DataError
from ganglion.data.records.batch import Batch
from ganglion.data.records.columns import Array
from ganglion.data.records.draw import Draw
from ganglion.data.records.schema import Field, Schema, describe
from ganglion.data.transform import Transform


class Elementwise(Transform, frozen=True):
    """A transform that makes each value of a column from the value that was there; subclasses give `field`, `write`.

    Attributes:
        column: name of the column; its records are of fixed length, and keep their shape.
    """

    column: str

    def field(self, given: Field) -> Field:
        """The field after the transform, of the same name and shape.

        Raises:
            DataError: the field is of a kind that cannot be transformed.
        """
        raise NotImplementedError

    def write(self, values: Array, out: Array) -> None:
        """Put the values made of `values` into `out`, which is of the same shape and of the dtype of `field`."""
        raise NotImplementedError

    def schema(self, given: Schema) -> Schema:
        """The given fields, with this one's dtype changed."""
        found = [field for field in given if field.name == self.column]
        if not found or not found[0].fixed:
            raise DataError(
                f"{type(self).__name__} needs the column {self.column!r} of fixed length; there are {describe(given)}."
            )
        return tuple(self.field(field) if field.name == self.column else field for field in given)

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Transform a batch; nothing random is in it."""
        values = batch.columns[self.column]
        assert isinstance(values, np.ndarray), "the schema was checked"
        out = np.empty(values.shape, self.field(Field.of(self.column, values)).dtype)
        self.write(values, out)
        return batch.having({**batch.columns, self.column: out})
