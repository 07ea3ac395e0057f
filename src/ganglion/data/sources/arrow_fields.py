"""Between Arrow and records: which field an Arrow column is, and its values as a column of that field.

Values of every length become NumPy arrays where they can, without a copy where there is no null. A null among
floating-point numbers is NaN; any other null is a reason to set its record aside, unless something stands for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ganglion.core.errors import DataError
from ganglion.data.records.columns import Array, Column
from ganglion.data.records.schema import BYTES, TEXT, Field, Schema

_Mask = npt.NDArray[np.bool_]


def field_of(name: str, kind: pa.DataType, place: str) -> Field:
    """The field that an Arrow column is read as.

    Numbers and booleans stay what they are; strings are `text`, binary is `bytes`; lists of numbers are sequences,
    those of a fixed size, and tensors of a fixed shape, have their shape; dates, times and durations count their unit
    as int64; dictionaries are read as what they stand for.

    Raises:
        DataError: records cannot have such a column; the message names it and says what to do.
    """
    if isinstance(kind, pa.DictionaryType):
        return field_of(name, kind.value_type, place)
    shape, inner = _fixed_shape(kind)
    if shape or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        if (dtype := _number(inner if shape else kind.value_type)) is not None:
            return Field(name, dtype, shape, sequence=not shape)
    elif (dtype := _number(kind)) is not None:
        return Field(name, dtype)
    elif _is_text(kind):
        return Field(name, TEXT)
    elif _is_bytes(kind):
        return Field(name, BYTES)
    raise DataError(
        f"{place}: the column {name!r} holds {kind}, which records cannot have; numbers, text, bytes, and lists of "
        "numbers are possible. Name the columns to read, without it."
    )


def schema_of(schema: pa.Schema, columns: Sequence[str], place: str) -> Schema:
    """The fields of some columns of a file, or of all.

    Raises:
        DataError: a column is missing, is there twice, or cannot be a field.
    """
    names = list(columns) or schema.names
    for name in names:
        if (found := schema.names.count(name)) != 1:
            what = "no column" if not found else f"{found} columns"
            raise DataError(f"{place} has {what} {name!r}; it has {', '.join(schema.names) or 'none'}.")
    return tuple(field_of(name, schema.field(name).type, place) for name in names)


def check_same(expected: Schema, first: str, found: Schema, place: str) -> None:
    """See that a file has the fields of the first one.

    Raises:
        DataError: it has not; the message names the column and both files.
    """
    fields = {field.name: field for field in found}
    for field in expected:
        if field.name not in fields:
            raise DataError(
                f"{place} has no column {field.name!r}, which {first} has; all files need the same columns."
            )
        if (other := fields.pop(field.name)) != field:
            raise DataError(
                f"The column {field.name!r} changes between files: {first} has {field}, {place} has {other}; all "
                "files need the same columns."
            )
    for name in fields:
        raise DataError(f"{place} has a column {name!r}, which {first} has not; all files need the same columns.")


def check_fill(schema: Schema, fill: Mapping[str, Any]) -> None:
    """See that what stands for nulls is of fields that there are, and can stand there.

    Raises:
        DataError: it is not.
    """
    fields = {field.name: field for field in schema}
    for name, value in fill.items():
        if name not in fields:
            raise DataError(f"What fills {name!r} was given; the columns are {', '.join(fields) or 'none'}.")
        try:
            _filler(fields[name], value)
        except (ValueError, TypeError, OverflowError, pa.ArrowException) as error:
            raise DataError(f"{value!r} cannot fill nulls of {fields[name]}: {error}.") from error


def column_of(array: pa.Array, field: Field, fill: Mapping[str, Any]) -> tuple[Column, _Mask | None]:
    """The values of an Arrow column as a column of its field.

    Args:
        array: of a type for which `field_of` returned `field`.
        field: what it is read as.
        fill: by name, what stands for nulls.

    Returns:
        The column, and which records have a null that nothing stands for: shape `(records,)`, None where none has.
    """
    if isinstance(array.type, pa.DictionaryType):
        array = array.dictionary_decode()
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if field.shape:
        return _arrays(array, field, fill)
    if field.sequence:
        return _sequences(array, field, fill)
    missing = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None
    if not field.fixed:
        array = array.cast(field.arrow_type)
        if missing is None:
            return array, None
        filler = (
            _filler(field, fill[field.name]) if field.name in fill else pa.scalar("" if field.dtype == TEXT else b"")
        )
        return array.fill_null(filler), None if field.name in fill else missing
    return _filled(_values(array, field), missing, field, fill)


def _filled(values: Array, missing: _Mask | None, field: Field, fill: Mapping[str, Any]) -> tuple[Array, _Mask | None]:
    if missing is None:
        return values, None
    if field.name in fill:
        values = values.copy()
        values[missing] = _filler(field, fill[field.name])
        return values, None
    return values, None if values.dtype.kind == "f" and not field.shape else missing


def _values(array: pa.Array, field: Field) -> Array:
    """Numbers as NumPy array: nulls are NaN among floating-point numbers, else zero."""
    if pa.types.is_temporal(array.type):
        array = array.cast(pa.int32()) if array.type.bit_width == 32 else array
        array = array.cast(pa.int64())
    if array.null_count:
        array = array.fill_null(pa.scalar(np.nan if np.dtype(field.dtype).kind == "f" else 0).cast(array.type))
    dtype: np.dtype[Any] = np.dtype(array.type.to_pandas_dtype())
    if dtype.kind == "b" or not len(array):
        return np.asarray(array.to_numpy(zero_copy_only=False), dtype)
    # `to_numpy` imports pandas where that is installed, which takes a quarter of a second and 25 MiB.
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * dtype.itemsize)


def _arrays(array: pa.Array, field: Field, fill: Mapping[str, Any]) -> tuple[Array, _Mask | None]:
    """Lists of a fixed size, maybe of such lists."""
    missing = np.zeros(len(array), bool)
    records, each = len(array), 1
    while isinstance(array.type, pa.FixedSizeListType):
        if array.null_count:
            nulls = array.is_null().to_numpy(zero_copy_only=False)
            missing |= nulls.reshape(records, each).any(axis=1)
        size = array.type.list_size
        array, each = array.values.slice(array.offset * size, len(array) * size), each * size
    nan = np.dtype(field.dtype).kind == "f"
    if array.null_count and not nan:
        missing |= array.is_null().to_numpy(zero_copy_only=False).reshape(records, each).any(axis=1)
    values = _values(array, field).reshape(records, *field.shape)
    return _filled(values, missing if missing.any() else None, field, fill)


def _sequences(array: pa.Array, field: Field, fill: Mapping[str, Any]) -> tuple[pa.Array, _Mask | None]:
    array = array.cast(pa.list_(array.type.value_type))
    missing = array.is_null().to_numpy(zero_copy_only=False)
    inner = array.flatten()
    if array.null_count:  # a null list may have values behind it, which `flatten` leaves out
        sizes = pc.fill_null(pc.list_value_length(array), 0).to_numpy()
    else:
        sizes = np.diff(array.offsets.to_numpy())
    offsets = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64))).astype(np.int32)
    if inner.null_count and np.dtype(field.dtype).kind != "f":
        nulls = np.concatenate(([0], np.cumsum(inner.is_null().to_numpy(zero_copy_only=False))))
        missing |= np.diff(nulls[offsets]) > 0
    values = pa.array(_values(inner, field))
    column = pa.ListArray.from_arrays(pa.array(offsets), values).cast(field.arrow_type)
    if not missing.any():
        return column, None
    if field.name in fill:
        filler = pa.array([fill[field.name]], field.arrow_type)
        places = np.where(missing, len(column), np.arange(len(column)))
        return pa.concat_arrays([column, filler]).take(pa.array(places)), None
    return column, missing


def _filler(field: Field, value: Any) -> Any:
    if field.fixed:
        return np.broadcast_to(np.asarray(value).astype(field.dtype, casting="same_kind"), field.shape)
    return pa.scalar(value, field.arrow_type)


def _fixed_shape(kind: pa.DataType) -> tuple[tuple[int, ...], pa.DataType]:
    if isinstance(kind, pa.FixedShapeTensorType):
        return (tuple(kind.shape), kind.value_type) if kind.permutation is None else ((), kind)
    shape: list[int] = []
    while isinstance(kind, pa.FixedSizeListType):
        shape.append(kind.list_size)
        kind = kind.value_type
    return tuple(shape), kind


def _number(kind: pa.DataType) -> str | None:
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        return "int64"
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return str(np.dtype(kind.to_pandas_dtype()).name)
    return None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )
