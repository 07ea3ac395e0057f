"""From values that a person's code makes to columns of given fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ganglion.core.errors import DataError
from ganglion.data.records.columns import Array, Column, Columns
from ganglion.data.records.schema import BYTES, TEXT, Field, Schema, describe


def checked_value(field: Field, value: Any) -> Any:
    """One record's value of a field, converted to the field's type if nothing is lost by it.

    Raises:
        DataError: it cannot be; the message says what was given.
    """
    if field.dtype == TEXT and isinstance(value, str):
        return value
    if field.dtype == BYTES and isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if field.dtype in (TEXT, BYTES):
        raise DataError(f"{field.name!r} is {type(value).__name__}, not {field.dtype}")
    array = _numbers(field, value)
    if field.sequence and array.ndim == 1:
        return array
    if field.sequence or array.shape != field.shape:
        raise DataError(f"{field.name!r} has the shape {array.shape}; the field is {field}")
    return array


def checked_record(schema: Schema, record: Mapping[str, Any]) -> list[Any]:
    """The values of one record, in the order of the fields; errors as for `checked_value`."""
    _check_names(schema, record)
    return [checked_value(field, record[field.name]) for field in schema]


def checked_columns(schema: Schema, columns: Mapping[str, Any]) -> Columns:
    """Columns of several records; errors as for `checked_value`."""
    _check_names(schema, columns)
    found = {field.name: _checked_column(field, columns[field.name]) for field in schema}
    if len({len(column) for column in found.values()}) != 1:
        lengths = ", ".join(f"{name} {len(column)}" for name, column in found.items())
        raise DataError(f"columns have different numbers of records: {lengths}")
    return found


def columns_from(schema: Schema, records: Sequence[Sequence[Any]]) -> Columns:
    """Columns of records that were checked; at least one."""
    return {
        field.name: np.array(values, field.dtype) if field.fixed else pa.array(values, field.arrow_type)
        for field, values in zip(schema, zip(*records, strict=True), strict=True)
    }


def _check_names(schema: Schema, found: Mapping[str, Any]) -> None:
    if not isinstance(found, Mapping):
        raise DataError(f"it is {type(found).__name__}, not a mapping from the names of fields to values")
    if set(found) != {field.name for field in schema}:
        raise DataError(f"it has {', '.join(map(str, found)) or 'nothing'}; the fields are {describe(schema)}")


def _checked_column(field: Field, column: Any) -> Column:
    if not field.fixed:
        if isinstance(column, pa.Array) and column.type == field.arrow_type and not column.null_count:
            return column
        values: Iterable[Any] = column.to_pylist() if isinstance(column, pa.Array) else column
        return pa.array([checked_value(field, value) for value in values], field.arrow_type)
    array = _numbers(field, column)
    if array.shape[1:] != field.shape or not array.ndim:
        raise DataError(f"{field.name!r} has the shape {array.shape}; records of {field} are needed")
    return array


def _numbers(field: Field, value: Any) -> Array:
    try:
        array: Array = np.asarray(value)
        converted = array.astype(field.dtype) if array.dtype.kind in "biufc" or not array.size else None
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{field.name!r} is not {field.dtype}: {error}") from error
    if converted is None:
        raise DataError(f"{field.name!r} is {array.dtype}, not {field.dtype}")
    if converted.dtype.kind in "biu" and array.dtype != converted.dtype and not np.array_equal(converted, array):
        raise DataError(f"{field.name!r} has values that {field.dtype} cannot hold")
    if converted.dtype.kind == "f" and array.dtype.kind == "c":
        raise DataError(f"{field.name!r} is {array.dtype}, not {field.dtype}")
    return converted
