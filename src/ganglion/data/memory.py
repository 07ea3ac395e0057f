"""Arrays in memory as a source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import numpy as np

from ganglion.core.errors import DataError
from ganglion.data.columns import Array, Columns
from ganglion.data.schema import Field, Schema
from ganglion.data.source import PlainSource, check_range

_KINDS = "biuf"  # bool, signed and unsigned integers, floating point


class ArraySource(PlainSource, frozen=True, eq=False, tag="ganglion.data.memory:ArraySource"):
    """NumPy arrays, or what NumPy makes arrays of.

    Attributes:
        columns: arrays of shape `(records, ...)` by name. They are not copied; do not change them afterwards. As plain
            data each is `{"dtype", "shape", "data"}` with the values as bytes.

    Raises:
        DataError: there is no column, a column has no first axis or values that are not numbers, or columns differ in
            their number of records.
    """

    columns: dict[str, Any]

    def __post_init__(self) -> None:
        arrays = {name: _array(name, column) for name, column in self.columns.items()}
        counts = {name: len(column) for name, column in arrays.items()}
        if len(set(counts.values())) != 1:
            given = ", ".join(f"{name!r} has {count}" for name, count in counts.items()) or "there are no columns"
            raise DataError(f"Columns need the same number of records: {given}.")
        msgspec.structs.force_setattr(self, "columns", arrays)

    @property
    def schema(self) -> Schema:
        """The fields of every record, in the order of the columns."""
        return tuple(Field.of(name, column) for name, column in self.columns.items())

    @property
    def count(self) -> int:
        """Number of records."""
        return len(next(iter(self.columns.values())))

    def scan(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Columns]:
        """Views of the arrays from `start` to `stop`, at most `size` records at a time."""
        start, stop = check_range(start, stop, self.count)
        for first in range(start, stop, size):
            yield {name: column[first : min(first + size, stop)] for name, column in self.columns.items()}


def _array(name: str, column: Any) -> Array:
    if isinstance(column, Mapping):
        column = np.frombuffer(column["data"], column["dtype"]).reshape(column["shape"])
    array = np.asarray(column)
    if array.ndim == 0 or array.dtype.kind not in _KINDS:
        raise DataError(
            f"Column {name!r} is {array.dtype} of shape {array.shape}; an array of numbers whose first axis counts "
            "records is needed."
        )
    return array.astype(array.dtype.newbyteorder("="), copy=False)
