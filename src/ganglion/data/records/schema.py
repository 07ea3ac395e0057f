"""What records consist of: named fields, of fixed or of variable length."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Self

import msgspec
import numpy as np

from ganglion.core.errors import DataError
from ganglion.data.records.columns import Array, Column

if TYPE_CHECKING:
    import pyarrow as pa

TEXT, BYTES = "text", "bytes"
"""The two kinds of values that are not numbers: Unicode text, and bytes such as those of an image file."""

_ARROW = {TEXT: "string", BYTES: "binary"}


class Field(msgspec.Struct, frozen=True, omit_defaults=True):
    """One column of a source or a dataset.

    A column is a NumPy array of shape `(records, *shape)` where every record takes the same number of bytes, and an
    Arrow array where not: text, bytes, and sequences of any length.

    Attributes:
        name: key of the column.
        dtype: NumPy name of its values, such as `uint8` or `float32`, or `text` or `bytes`.
        shape: of one record; `()` for a single value.
        sequence: whether a record holds any number of values, one after the other; `shape` is then `()`.

    Raises:
        DataError: the dtype is unknown, or what was said of the length does not go together.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    sequence: bool = False

    def __post_init__(self) -> None:
        if self.dtype in _ARROW:
            if self.shape or self.sequence:
                raise DataError(f"The field {self.name!r} holds {self.dtype}; one value to a record is possible.")
            return
        try:
            kind = np.dtype(self.dtype).kind
        except TypeError as error:
            raise DataError(f"The field {self.name!r} has the unknown dtype {self.dtype!r}.") from error
        if kind not in "biufc":
            raise DataError(
                f"The field {self.name!r} has the dtype {self.dtype}; "
                f"numbers, booleans, {TEXT!r} and {BYTES!r} are possible."
            )
        if self.sequence and self.shape:
            raise DataError(
                f"The field {self.name!r} is a sequence of arrays; a sequence of single values is possible."
            )

    @classmethod
    def of(cls, name: str, column: Column) -> Self:
        """The field that a column belongs to.

        Raises:
            DataError: the column holds values of a kind that records cannot have.
        """
        if isinstance(column, np.ndarray):
            return cls(name, column.dtype.name, column.shape[1:])
        for dtype, arrow in _ARROW.items():
            if str(column.type) == arrow:
                return cls(name, dtype)
        if str(column.type).startswith("list<"):
            return cls(name, np.dtype(column.type.value_type.to_pandas_dtype()).name, sequence=True)
        raise DataError(f"The column {name!r} holds {column.type}, which records cannot have.")

    @property
    def fixed(self) -> bool:
        """Whether every record takes the same number of bytes."""
        return not self.sequence and self.dtype not in _ARROW

    @property
    def record_bytes(self) -> int:
        """Bytes that one record takes in memory; of a field without fixed length those of one empty record."""
        if not self.fixed:
            return 4  # where it begins in the values of all records
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)

    @property
    def arrow_type(self) -> pa.DataType:
        """The Arrow type of columns that are not `fixed`.

        Raises:
            DataError: the field is of fixed length and so a NumPy array.
        """
        if self.fixed:
            raise DataError(f"The field {self.name!r} is of fixed length; its columns are NumPy arrays.")
        import pyarrow as pa

        if self.sequence:
            return pa.list_(pa.from_numpy_dtype(np.dtype(self.dtype)))
        return pa.type_for_alias(_ARROW[self.dtype])

    def empty(self) -> Column:
        """A column of this field without a record."""
        if self.fixed:
            none: Array = np.empty((0, *self.shape), self.dtype)
            return none
        import pyarrow as pa

        return pa.array([], self.arrow_type)

    def __str__(self) -> str:
        shape = "..." if self.sequence else "x".join(map(str, self.shape))
        return " ".join((self.name, self.dtype, shape)).rstrip()


Schema = tuple[Field, ...]


def describe(schema: Schema) -> str:
    """A schema in one line, for messages."""
    return ", ".join(map(str, schema)) or "no fields"


def records_within(schema: Schema, size: int) -> int:
    """How many records of `schema` fit in `size` bytes, by their fixed parts; at least one."""
    return max(1, size // max(1, sum(field.record_bytes for field in schema)))
