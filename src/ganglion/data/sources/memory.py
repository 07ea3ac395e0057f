"""Arrays and data frames in memory as a source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from ganglion.core.errors import DataError
from ganglion.data.records.bad_record import BadRecord, SetAside
from ganglion.data.records.batch import Batch
from ganglion.data.records.column_data import column_from
from ganglion.data.records.columns import Column
from ganglion.data.records.fingerprint import fingerprint_columns
from ganglion.data.records.schema import Field, Schema, records_within
from ganglion.data.records.unit import Unit
from ganglion.data.source import PlainSource

if TYPE_CHECKING:
    import pyarrow as pa

_KINDS = "biufc"  # bool, signed and unsigned integers, floating point, complex
_UNIT = 64 * 2**20


class ArraySource(PlainSource, frozen=True, eq=False, tag="ganglion.data.sources.memory:ArraySource"):
    """NumPy and Arrow arrays, or what they can be made of.

    A record in which an Arrow array has no value is set aside, but for numbers of floating point, where it is NaN.

    Attributes:
        columns: by name, NumPy arrays of shape `(records, ...)`, or Arrow arrays; sequences of text or bytes become
            such. They are not copied; do not change them afterwards. As plain data each is `{"dtype", "shape", "data"}`
            with the values as bytes, or `{"arrow"}` with an IPC stream.
        required: columns in which NaN makes a record bad, such as a label.

    Raises:
        DataError: there is no column, a column has no first axis or values that records cannot have, or columns
            differ in their number of records.
    """

    columns: dict[str, Any]
    required: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        columns = {name: _column(name, column) for name, column in self.columns.items()}
        counts = {name: len(column) for name, column in columns.items()}
        if len(set(counts.values())) != 1:
            given = ", ".join(f"{name!r} has {count}" for name, count in counts.items()) or "there are no columns"
            raise DataError(f"Columns need the same number of records: {given}.")
        msgspec.structs.force_setattr(self, "columns", columns)
        for name in self.required:
            if name not in columns:
                raise DataError(f"The column {name!r} is required; there are {', '.join(columns)}.")

    @property
    def schema(self) -> Schema:
        """The fields of every record, in the order of the columns."""
        return tuple(_field(name, column) for name, column in self.columns.items())

    def units(self) -> Sequence[Unit]:
        """The records, about 64 MiB at a time."""
        count = len(next(iter(self.columns.values())))
        width = sum(column.nbytes for column in self.columns.values()) // max(1, count)
        step = max(1, _UNIT // max(1, width))
        return tuple(
            Unit(
                number=number,
                name=f"arrays, records {start} to {min(start + step, count)}",
                start=start,
                stop=min(start + step, count),
                size=width * (min(start + step, count) - start),
                records=None if self._may_be_bad else min(start + step, count) - start,
            )
            for number, start in enumerate(range(0, max(1, count), step))
        )

    def read_unit(self, unit: Unit, size: int, set_aside: SetAside) -> Iterator[Batch]:
        """Views of the arrays where they are NumPy arrays."""
        step = records_within(self.schema, size)
        for first in range(unit.start, unit.stop, step):
            last = min(first + step, unit.stop)
            columns = {name: column[first:last] for name, column in self.columns.items()}
            ids = unit.ids(first - unit.start, last - unit.start)
            yield from self._good(Batch(columns, ids), unit, set_aside)

    def fingerprint(self) -> str:
        """Digest of schema and values, whether usable or not, and of what is required."""
        header = msgspec.json.encode((len(next(iter(self.columns.values()))), self.schema))
        header += msgspec.json.encode(self.required) if self.required else b""
        return fingerprint_columns(header, list(self.columns), [self.columns])

    @property
    def _may_be_bad(self) -> bool:
        nulls = any(not isinstance(column, np.ndarray) and column.null_count for column in self.columns.values())
        return bool(self.required) or nulls

    def _good(self, batch: Batch, unit: Unit, set_aside: SetAside) -> Iterator[Batch]:
        if all(isinstance(column, np.ndarray) for column in batch.columns.values()) and not self.required:
            yield batch
            return
        import pyarrow as pa

        from ganglion.data.sources.arrow_columns import columns_of, flaws_of

        arrow = {name: column for name, column in batch.columns.items() if not isinstance(column, np.ndarray)}
        schema = tuple(field for field in self.schema if field.name in arrow)
        converted, flaws = columns_of(pa.table(arrow), schema) if arrow else ({}, {})
        columns = {**batch.columns, **converted}
        flaws = {**flaws_of(columns, self.required), **flaws}
        for row in sorted(flaws):
            set_aside(BadRecord.at(unit, int(batch.ids[row] - unit.ids(0, 1)[0]), flaws[row]))
        whole = batch.having({name: columns[name] for name in batch.columns})
        if len(flaws) < len(batch):
            yield whole.take(np.setdiff1d(np.arange(len(batch)), list(flaws))) if flaws else whole


def frame_source(frame: Any, required: tuple[str, ...] = ()) -> ArraySource:
    """A data frame as a source.

    Args:
        frame: of pandas, Polars, or any library whose frames hand their columns to Arrow (`__arrow_c_stream__`, or the
            older `__dataframe__`); a table of Arrow too. An index without a name is left out.
        required: as for `ArraySource`.

    Raises:
        DataError: it is none, or has columns that records cannot have.
    """
    import pyarrow as pa
    import pyarrow.interchange

    try:
        if hasattr(frame, "__arrow_c_stream__"):
            table = pa.table(frame)
        elif hasattr(frame, "__dataframe__"):
            table = pyarrow.interchange.from_dataframe(frame)
        else:
            raise DataError(
                f"{type(frame).__name__} is no data frame: it has neither __arrow_c_stream__ nor __dataframe__."
            )
    except (pa.ArrowException, TypeError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"The data frame cannot be handed to Arrow: {error}.") from error
    names = [str(name) for name in table.column_names]
    columns = dict(zip(names, table.columns, strict=True))
    return ArraySource({name: columns[name] for name in names if not name.startswith("__index_level_")}, required)


def _field(name: str, column: Column) -> Field:
    if isinstance(column, np.ndarray):
        return Field.of(name, column)
    from ganglion.data.sources.arrow_fields import field_of

    return field_of(name, column.type, "The arrays")


def _column(name: str, column: Any) -> Column:
    if isinstance(column, Mapping):
        column = column_from(column)
    if hasattr(column, "__arrow_c_array__") or hasattr(column, "__arrow_c_stream__"):
        return _arrow(name, column)
    array = np.asarray(column)
    if array.ndim == 1 and array.dtype.kind in "USO" and len(array) and isinstance(array[0], str | bytes):
        return _arrow(name, list(column))
    if array.ndim == 0 or array.dtype.kind not in _KINDS:
        raise DataError(
            f"Column {name!r} is {array.dtype} of shape {array.shape}; an array of numbers whose first axis counts "
            "records, or a sequence of text or bytes, is needed."
        )
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _arrow(name: str, column: Any) -> pa.Array:
    import pyarrow as pa

    try:
        array = pa.array(column) if isinstance(column, list) or not hasattr(column, "combine_chunks") else column
        array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
        array = pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array
    except pa.ArrowException as error:
        raise DataError(f"Column {name!r} is not of one kind: {error}.") from error
    return array.cast(pa.float64()) if pa.types.is_null(array.type) else array
