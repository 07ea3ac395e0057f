"""Records in memory, column by column.

A column is a NumPy array of shape `(records, ...)` where every record takes the same number of bytes, else an Arrow
array: `string`, `binary`, or a list of numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # loading records of fixed length needs no Arrow, which takes a quarter of a second to import
    import pyarrow as pa

Array = npt.NDArray[Any]
Column: TypeAlias = "Array | pa.Array"
Columns = dict[str, Column]


def records_of(columns: Mapping[str, Column]) -> int:
    """Number of records; the columns have equally many."""
    return len(next(iter(columns.values()))) if columns else 0


def bytes_of(columns: Mapping[str, Column]) -> int:
    """Bytes of the values; of a slice of a larger array only those of the slice."""
    return sum(column.nbytes for column in columns.values())


def take(columns: Mapping[str, Column], records: npt.NDArray[np.integer]) -> Columns:
    """Copies of some records, by their numbers, in any order."""
    return {
        name: column.take(records, axis=0) if isinstance(column, np.ndarray) else column.take(_arrow().array(records))
        for name, column in columns.items()
    }


def part(columns: Mapping[str, Column], start: int, stop: int) -> Columns:
    """Views of the records `start` to `stop` (exclusive)."""
    return {name: column[start:stop] for name, column in columns.items()}


def join(pieces: Sequence[Mapping[str, Column]]) -> Columns:
    """The records of several pieces with the same columns, one piece after the other; at least one piece."""
    first = pieces[0]
    if len(pieces) == 1:
        return dict(first)
    joined: Columns = {}
    for name, column in first.items():
        parts = [piece[name] for piece in pieces]
        joined[name] = np.concatenate(parts) if isinstance(column, np.ndarray) else _arrow().concat_arrays(parts)
    return joined


def _arrow() -> Any:
    import pyarrow

    return pyarrow
