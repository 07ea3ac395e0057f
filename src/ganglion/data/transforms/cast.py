"""`Cast`: values of another type, if that can hold them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ganglion.data.records.batch import Batch
from ganglion.data.records.columns import Column
from ganglion.data.records.draw import Draw
from ganglion.data.records.ragged import check_present, put_together, take_apart
from ganglion.data.records.schema import BYTES, TEXT, Field, Schema
from ganglion.data.transform import BadRecordsError, Transform, find_field, refuse_field

_Mask = npt.NDArray[np.bool_]


class Cast(Transform, frozen=True, tag="ganglion.data.transforms.cast:Cast"):
    """Fields get another dtype; a record with a value that it cannot hold is bad.

    Numbers, alone, in arrays and in sequences, become other numbers: an integer has to be in the range of the new
    dtype; NaN, infinity and fractions are no integers; only 0 and 1 are booleans; a finite number must not become
    infinite, but may be rounded. NaN stay NaN among floating-point numbers. Text becomes numbers, and single numbers
    become text; text becomes bytes and back, in UTF-8.

    Attributes:
        dtypes: new dtype by the name of the field.
    """

    dtypes: dict[str, str]

    def schema(self, given: Schema) -> Schema:
        """The fields with their new dtypes."""
        changed = {name: self._field(find_field(given, name, self), dtype) for name, dtype in self.dtypes.items()}
        return tuple(changed.get(field.name, field) for field in given)

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Convert columns."""
        columns = dict(batch.columns)
        for name, dtype in self.dtypes.items():
            columns[name] = _cast(columns[name], name, dtype)
        return batch.having(columns)

    def _field(self, field: Field, dtype: str) -> Field:
        kinds = {"text" if name in (TEXT, BYTES) else "number" for name in (field.dtype, dtype)}
        if kinds == {"text", "number"} and (field.shape or field.sequence or BYTES in (field.dtype, dtype)):
            raise refuse_field(field, self, f"it cannot become {dtype}")
        if "complex" in field.dtype and "complex" not in dtype:
            raise refuse_field(field, self, f"it cannot become {dtype}; map it to what you need of complex numbers")
        return Field(field.name, dtype, field.shape, field.sequence)


def _cast(column: Column, name: str, dtype: str) -> Column:
    if isinstance(column, np.ndarray):
        if dtype == TEXT:
            return _cast_arrow(column, dtype)
        made, bad = _cast_numbers(column, np.dtype(dtype))
        _refuse(np.any(bad.reshape(len(column), -1), axis=1), name, dtype)
        return made
    if not str(column.type).startswith("list<"):
        check_present(column, name)
        return _cast_arrow(column, dtype)
    lengths, values = take_apart(column, name)
    made, bad = _cast_numbers(values, np.dtype(dtype))
    owner = np.repeat(np.arange(len(lengths)), lengths)
    _refuse(np.bincount(owner[bad], minlength=len(lengths)) > 0, name, dtype)
    return put_together(lengths, made)


def _cast_numbers(values: npt.NDArray[Any], dtype: np.dtype[Any]) -> tuple[npt.NDArray[Any], _Mask]:
    """The values in another dtype, and where that cannot hold them."""
    with np.errstate(all="ignore"):
        made = values.astype(dtype)
    if dtype.kind == "b":
        return made, ~((values == 0) | (values == 1))
    if dtype.kind in "iu" and values.dtype.kind == "f":
        limits = np.iinfo(dtype)
        exact = values.astype(np.float64)
        with np.errstate(invalid="ignore"):
            inside = (exact >= float(limits.min)) & (exact < float(limits.max + 1)) & (np.trunc(exact) == exact)
        return made, ~inside
    if dtype.kind in "iu":
        return made, (made.astype(values.dtype) != values) | ((made < 0) != (values < 0))
    return made, ~np.isfinite(made) & np.isfinite(values)


def _refuse(bad: npt.NDArray[Any], name: str, dtype: str) -> None:
    if bad.any():
        raise BadRecordsError(
            {int(record): f"{name!r} has a value that {dtype} cannot hold" for record in np.flatnonzero(bad)}
        )


def _cast_arrow(column: Column, dtype: str) -> Column:
    """Text, bytes and numbers from and to each other; a value that cannot be read makes all fail."""
    import pyarrow as pa

    if dtype in (TEXT, BYTES):
        return pa.array(column).cast(Field("", dtype).arrow_type)
    made: Column = pa.array(column).cast(pa.from_numpy_dtype(np.dtype(dtype))).to_numpy(zero_copy_only=False)
    return made
