"""From tables of Arrow to columns of given fields, with what is wrong with rows that cannot be records."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ganglion.data.records.columns import Array, Column, Columns
from ganglion.data.records.schema import TEXT, Field, Schema
from ganglion.data.sources.arrow_fields import column_of, field_of

Flaws = dict[int, str]
"""What is wrong with rows, by their numbers."""

_Mask = npt.NDArray[np.bool_]


def text_field_of(column: pa.Field, place: str) -> Field:
    """The field for a column that Arrow found in text: what looks like a time there stays text.

    Raises:
        DataError: records cannot have such values.
    """
    if pa.types.is_null(column.type):  # no value was seen; where none is there, it is NaN
        return Field(column.name, "float64")
    if pa.types.is_list(column.type) and pa.types.is_null(column.type.value_type):
        return Field(column.name, "float64", sequence=True)
    if pa.types.is_temporal(column.type) or pa.types.is_binary(column.type):
        return Field(column.name, TEXT)
    return field_of(column.name, column.type, place)


def arrow_type_of(field: Field) -> pa.DataType:
    """The Arrow type that values of a field are read as; those of arrays as lists."""
    if not field.fixed:
        return field.arrow_type
    kind = pa.from_numpy_dtype(np.dtype(field.dtype))
    for _ in field.shape:
        kind = pa.list_(kind)
    return kind


def columns_of(table: pa.Table, schema: Schema, required: Sequence[str] = ()) -> tuple[Columns, Flaws]:
    """Convert the columns of a table.

    Args:
        table: with a column for each field, of `arrow_type_of` it; of other columns nothing is taken.
        schema: the fields.
        required: fields in which NaN makes a row bad. A value that is missing does so in every field but those of
            floating point, where it is NaN.

    Returns:
        The columns, of all rows, and what is wrong with those that are bad; their values are arbitrary.
    """
    columns: Columns = {}
    flaws: Flaws = {}
    for field in schema:
        array = _whole(table.column(field.name))
        missing: _Mask | None
        column: Column
        if field.shape and not pa.types.is_fixed_size_list(array.type):
            column, wrong, missing = _arrays(array, field)
            _note(flaws, wrong, f"{field.name!r} is not {'x'.join(map(str, field.shape))} {field.dtype}")
        else:
            column, missing = column_of(array, field, {})
        if missing is not None:
            _note(flaws, missing, f"{field.name!r} has no value")
        columns[field.name] = column
    for row, reason in flaws_of(columns, required).items():
        flaws.setdefault(row, reason)
    return columns, flaws


def flaws_of(columns: Columns, required: Sequence[str]) -> Flaws:
    """Which records have NaN in a column where a value is required."""
    flaws: Flaws = {}
    for name in required:
        if (nan := nan_rows(columns[name])) is not None:
            _note(flaws, nan, f"{name!r} is NaN")
    return flaws


def nan_rows(column: Column) -> _Mask | None:
    """Which records of a column have NaN in them; `None` where its values cannot be NaN."""
    if isinstance(column, np.ndarray):
        if column.dtype.kind not in "fc":
            return None
        found: _Mask = np.any(np.isnan(column).reshape(len(column), -1), axis=1)
        return found
    if not (pa.types.is_list(column.type) and pa.types.is_floating(column.type.value_type)):
        return None
    rows = np.zeros(len(column), np.bool_)
    rows[_parents(column)[np.isnan(column.flatten().to_numpy(zero_copy_only=False))]] = True
    return rows


def describe_arrow_error(error: Exception) -> str:
    """What Arrow says, as part of a sentence."""
    return str(error).rstrip(" .\n") or type(error).__name__


def _note(flaws: Flaws, rows: _Mask, reason: str) -> None:
    for row in np.flatnonzero(rows).tolist():
        flaws.setdefault(row, reason)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole


def _parents(lists: pa.Array) -> npt.NDArray[np.int64]:
    """For each value of lists, the list that it is in."""
    found: npt.NDArray[np.int64] = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def _arrays(lists: pa.Array, field: Field) -> tuple[Array, _Mask, _Mask]:
    """Arrays of the field's shape from lists of lists; which are of another shape, and which lack a value in them."""
    rows = len(lists)
    wrong, missing = np.zeros(rows, np.bool_), np.zeros(rows, np.bool_)
    owners: npt.NDArray[np.int64] = np.arange(rows)
    for size in field.shape:
        lengths = pc.fill_null(pc.list_value_length(lists), -1).to_numpy(zero_copy_only=False)
        wrong[owners[lengths != size]] = True
        owners = owners[_parents(lists)]
        lists = lists.flatten()
    values, lacking = column_of(lists, Field(field.name, field.dtype), {})
    if lacking is not None:
        missing[owners[lacking]] = True
    filled = np.zeros((rows, *field.shape), field.dtype)
    filled[~wrong] = np.asarray(values)[~wrong[owners]].reshape(-1, *field.shape)
    return filled, wrong, missing
