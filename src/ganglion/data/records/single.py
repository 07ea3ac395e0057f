"""Records one by one, as dictionaries, for functions that are given single records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ganglion.data.records.columns import Column

Record = dict[str, Any]
"""Single values as Python's own, arrays and sequences as NumPy arrays, text as `str`, bytes as `bytes`."""


def records_from(columns: Mapping[str, Column]) -> Iterator[Record]:
    """The records of columns, in order; arrays are views."""
    names = list(columns)
    for values in zip(*map(_values, columns.values()), strict=True):
        yield dict(zip(names, values, strict=True))


def _values(column: Column) -> Any:
    if isinstance(column, np.ndarray):
        return column.tolist() if column.ndim == 1 else column
    if not str(column.type).startswith("list<"):
        return column.to_pylist()
    values, ends = column.flatten().to_numpy(zero_copy_only=False), column.value_lengths().to_numpy().cumsum()
    return np.split(values, ends[:-1]) if len(ends) else []
