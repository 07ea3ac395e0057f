"""A segment of a prepared dataset: its columns as they lie in a mapped file."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ganglion.core.errors import DataError
from ganglion.data.dataset.arrow_layout import IDS, Buffer, storage
from ganglion.data.dataset.manifest import Segment
from ganglion.data.records.batch import Ids
from ganglion.data.records.columns import Array, Column
from ganglion.data.records.schema import Field, Schema

if TYPE_CHECKING:
    import pyarrow as pa


class MappedSegment:
    """Columns of one file, opened read-only; any number of processes share the pages.

    Attributes:
        segment: what the manifest says of it.
        path: the file.
        arrays: the columns of fixed length, shape `(records, *field.shape)`.

    Args:
        path: the file.
        segment: what the manifest says of it.
        schema: of the dataset.
        dataset: digest, for messages.

    Raises:
        DataError: the file does not have the size that it should have.
    """

    def __init__(self, path: Path, segment: Segment, schema: Schema, dataset: str) -> None:
        self.segment = segment
        self.path = path
        self._schema = schema
        with path.open("rb") as file:
            found = file.seek(0, 2)
            if found != segment.size:
                raise DataError(
                    f"{path} ({segment.path} of dataset {dataset}) has {found} bytes; {segment.size} were written. "
                    "Prepare the dataset again."
                )
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.arrays: dict[str, Array] = {field.name: self._array(field) for field in schema if field.fixed}

    @property
    def ids(self) -> Ids:
        """Ids of the records."""
        return self._numbers(np.dtype("<i8"), self.segment.columns[IDS][0])

    @cached_property
    def columns(self) -> Mapping[str, Column]:
        """All columns, in the order of the schema; those of any length are Arrow arrays."""
        return {
            field.name: self.arrays[field.name] if field.fixed else self._arrow_array(field) for field in self._schema
        }

    def _numbers(self, dtype: np.dtype[Any], buffer: Buffer) -> npt.NDArray[Any]:
        return np.frombuffer(self._map, dtype, buffer.size // dtype.itemsize, buffer.offset)

    def _array(self, field: Field) -> Array:
        values = self._numbers(storage(field), self.segment.columns[field.name][0])
        return values.view(np.dtype(field.dtype)).reshape(self.segment.records, *field.shape)

    def _arrow_array(self, field: Field) -> pa.Array:
        begins, values = (self._numbers(np.dtype(np.uint8), buffer) for buffer in self.segment.columns[field.name])
        return arrow_column(field, self.segment.records, begins, values)


def arrow_column(field: Field, records: int, begins: npt.NDArray[np.uint8], values: npt.NDArray[np.uint8]) -> pa.Array:
    """A column of records that differ in length, from the buffers that are stored of it.

    Args:
        field: the column.
        records: how many.
        begins: bytes of the 32-bit numbers that say where each record begins, and where the last one ends.
        values: bytes of the values.
    """
    import pyarrow as pa

    starts, content = pa.py_buffer(begins), pa.py_buffer(values)
    if not field.sequence:
        return pa.Array.from_buffers(field.arrow_type, records, [None, starts, content])
    stored = pa.from_numpy_dtype(storage(field))
    inner = pa.Array.from_buffers(stored, len(content) // storage(field).itemsize, [None, content])
    lists = pa.ListArray.from_arrays(pa.Array.from_buffers(pa.int32(), records + 1, [None, starts]), inner)
    return lists.cast(field.arrow_type)
