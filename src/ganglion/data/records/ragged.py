"""Sequences of any length as NumPy arrays: how long each is, and all values one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ganglion.data.transform import BadRecordsError

if TYPE_CHECKING:
    import pyarrow as pa

Lengths = npt.NDArray[np.int64]


def take_apart(column: pa.Array, name: str) -> tuple[Lengths, npt.NDArray[Any]]:
    """Lengths and values of a column of sequences.

    Raises:
        BadRecordsError: records have no value at all.
    """
    check_present(column, name)
    return (
        column.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64),
        column.flatten().to_numpy(zero_copy_only=False),
    )


def put_together(lengths: Lengths, values: npt.NDArray[Any]) -> pa.Array:
    """A column of sequences from lengths and values."""
    import pyarrow as pa

    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(values))


def check_present(column: pa.Array, name: str) -> None:
    """Refuse records without a value.

    Raises:
        BadRecordsError: there are some.
    """
    if column.null_count:
        missing = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))
        raise BadRecordsError({int(record): f"{name!r} has no value" for record in missing})


def places_within(lengths: Lengths) -> Lengths:
    """For each value its place in its sequence, from 0."""
    starts = np.cumsum(lengths) - lengths
    places: Lengths = np.arange(int(lengths.sum())) - np.repeat(starts, lengths)
    return places
