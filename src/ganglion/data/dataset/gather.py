"""Gathering: records from anywhere in mapped columns into one buffer, in the order asked for.

Rows are copied by `numpy.take` in a mode that does not check indices (the modes that do go through a buffer of their
own), after they were checked once. What has to be done to every value on the way, such as scaling, is done piece by
piece while the piece is in the processor's cache. Columns may lie in several files: rows are then copied file by file
and put in order afterwards, again in pieces that stay in the cache.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from ganglion.core.errors import DataError
from ganglion.data.dataset.arrow_layout import storage
from ganglion.data.dataset.buffers import aligned, lay_out, size_of
from ganglion.data.dataset.record_reader import RecordReader, StoredFile
from ganglion.data.dataset.segment import arrow_column
from ganglion.data.records.columns import Array, Column, Columns
from ganglion.data.records.schema import Field

Rewrite = Callable[[Array, Array], None]
"""Makes values of those in its first argument and puts them into the second, which has as many records."""

PIECE = 2**20
"""Bytes that are gathered at a time where something else is done to them: few enough to stay in the cache, and
enough that threads seldom wait for each other in the interpreter between two pieces."""

GROUPED_PIECE = 2**18
"""Bytes of the widest column that are gathered at a time where there are several files: they lie in a second buffer."""

_AROUND = 2**22  # bytes of other columns at both ends of one that the kernel maps with it
_GROUPED = 32  # rows for each file in a piece, at least, so that its fixed cost is shared
_CONVERTED = 2048  # values that NumPy converts at a time: with its 8,192, what it goes through leaves the first cache


class Gather:
    """Gathers records of columns that lie in one or several pieces of memory.

    It may be used by several threads.

    Attributes:
        count: records.
        fields: of the columns of fixed length, in the order in which they were given.

    Args:
        segments: columns of each piece, with the same names and types in each; records are numbered through them.
        files: where the segments are stored, if they are.
        resident: bytes of stored columns that may be in this process's memory because they are mapped; all if `None`.
            The smallest are used as they are mapped, the others are read record by record.

    Raises:
        DataError: there is no segment.
    """

    def __init__(
        self,
        segments: Sequence[Mapping[str, Column]],
        *,
        files: Sequence[StoredFile] | None = None,
        resident: int | None = None,
    ) -> None:
        if not segments:
            raise DataError("There is nothing to gather from: no segment was given.")
        names = list(segments[0])
        self._columns: dict[str, list[Column]] = {name: [segment[name] for segment in segments] for name in names}
        lengths = [len(next(iter(segment.values()))) for segment in segments]
        self._starts: npt.NDArray[np.int64] = np.cumsum([0, *lengths])
        self.count = int(self._starts[-1])
        self.fields = tuple(
            Field.of(name, column) for name, column in segments[0].items() if isinstance(column, np.ndarray)
        )
        self._reader, self._read = None, frozenset[str]()
        if files is not None and resident is not None:
            self._reader = RecordReader(files, self._starts)
            sizes = {name: sum(column.nbytes for column in columns) for name, columns in self._columns.items()}
            self._read = _too_large(sizes, resident - _AROUND * len(segments))
        self._record_bytes = {field.name: field.record_bytes for field in self.fields}
        self._scratch = threading.local()

    def take(self, records: npt.NDArray[np.integer[Any]], names: Sequence[str] | None = None) -> Columns:
        """New columns with these records.

        Args:
            records: integers from 0 to `count` - 1, of shape `(n,)`, in any order, with repetition.
            names: which columns; all if `None`.

        Returns:
            Arrays of shape `(n, *field.shape)`, aligned to 64 bytes, and Arrow arrays of columns without fixed length.

        Raises:
            DataError: a record is out of range, or there is no such column.
        """
        chosen = list(self._columns) if names is None else list(names)
        fields = tuple(field for field in self.fields if field.name in chosen)
        fixed = lay_out(aligned(size_of(fields, records.size)), fields, records.size)
        self.into(records, fixed)
        others = [name for name in chosen if name not in fixed]
        arrow = {name: self._take_arrow(name, records) for name in others}
        return {name: fixed[name] if name in fixed else arrow[name] for name in chosen}

    def into(
        self,
        records: npt.NDArray[np.integer[Any]],
        out: Mapping[str, Array],
        rewrite: Mapping[str, Rewrite] | None = None,
    ) -> None:
        """Gather columns of fixed length into memory that is there.

        Args:
            records: as for `take`.
            out: for each column that is wanted, an array of shape `(n, ...)`: contiguous, of the column's dtype and
                shape unless the column is rewritten.
            rewrite: for some of them, what is done to the values on the way.

        Raises:
            DataError: as for `take`.
        """
        wanted = self._checked(records)
        unknown = [name for name in out if not isinstance(self._columns.get(name, [None])[0], np.ndarray)]
        if unknown:
            raise DataError(f"There is no column {unknown[0]!r} of fixed length; there are {list(self._columns)}.")
        if not wanted.size:
            return
        direct = len(self._starts) == 2
        whole = {name: out[name] for name in out if direct and name not in (rewrite or {}) and name not in self._read}
        for name, target in whole.items():
            np.take(self._columns[name][0], wanted, axis=0, out=target, mode="clip")
        rest = [name for name in out if name not in whole]
        for piece in self._pieces(rest, wanted.size):
            grouping = None if direct or self._read.issuperset(rest) else _Grouping(wanted[piece], self._starts)
            for name in rest:
                write = (rewrite or {}).get(name)
                target = out[name][piece] if write is None else self._space(name, "ordered", len(wanted[piece]))
                if self._reader is not None and name in self._read:
                    self._reader.into(name, wanted[piece], target)
                elif grouping is None:
                    np.take(self._columns[name][0], wanted[piece], axis=0, out=target, mode="clip")
                else:
                    grouping.take(self._columns[name], self._space(name, "grouped", len(target)), target)
                if write is not None:
                    _rewritten(write, target, out[name][piece])

    def _checked(self, records: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.intp]:
        wanted = records.astype(np.intp, copy=False)
        if wanted.size and int(wanted.view(np.uintp).max()) >= self.count:  # negative ones are large without their sign
            raise DataError(
                f"Records {records.min()} to {records.max()} were asked for; there are 0 to {self.count - 1}."
            )
        return wanted

    def _pieces(self, names: Sequence[str], count: int) -> Iterator[slice]:
        if not names:
            return
        sizes = [self._record_bytes[name] for name in names]
        if len(self._starts) == 2:
            rows = max(1, PIECE // max(1, sum(sizes)))
        else:
            rows = max(1, GROUPED_PIECE // max(1, *sizes), _GROUPED * (len(self._starts) - 1))
        rows = -(-count // -(-count // rows))  # as many pieces, of equal size
        for first in range(0, count, rows):
            yield slice(first, min(first + rows, count))

    def _space(self, name: str, use: str, rows: int) -> Array:
        """Memory of this thread for one column of a piece."""
        spaces: dict[str, Array] = self._scratch.__dict__
        key = f"{use} {name}"
        if key not in spaces or len(spaces[key]) < rows:
            field = next(field for field in self.fields if field.name == name)
            spaces[key] = lay_out(aligned(size_of((field,), rows)), (field,), rows)[name]
        return spaces[key][:rows]

    def _take_arrow(self, name: str, records: npt.NDArray[np.integer[Any]]) -> Any:
        if name not in self._columns:
            raise DataError(f"There is no column {name!r}; there are {list(self._columns)}.")
        wanted, segments = self._checked(records), self._columns[name]
        import pyarrow as pa

        if self._reader is not None and name in self._read:
            field = Field.of(name, segments[0])
            size = storage(field).itemsize if field.sequence else 1
            begins, values = self._reader.variable(name, wanted, size)
            return arrow_column(field, len(wanted), begins, values)
        if len(segments) == 1:
            return segments[0].take(pa.array(wanted))
        grouping = _Grouping(wanted, self._starts)
        parts = [segments[holder].take(pa.array(local)) for holder, local in grouping]
        return pa.concat_arrays(parts).take(pa.array(grouping.places)) if parts else segments[0][:0]


def _rewritten(write: Rewrite, values: Array, out: Array) -> None:
    """Rewrite values; NumPy's conversions among them go through buffers that stay in the processor's first cache."""
    usual = np.setbufsize(_CONVERTED)
    try:
        write(values, out)
    finally:
        np.setbufsize(usual)


class _Grouping:
    """Records grouped by the segment that holds them, and how to put them back in order.

    Attributes:
        places: for each record that was asked for, its place among the grouped ones.
    """

    def __init__(self, records: npt.NDArray[np.intp], starts: npt.NDArray[np.int64]) -> None:
        holders = np.searchsorted(starts[1:-1], records, side="right").astype(np.uint16 if len(starts) < 2**16 else int)
        order = np.argsort(holders, kind="stable")  # of 16 bits: a radix sort
        self.places = np.empty_like(order)
        self.places[order] = np.arange(order.size)
        counts = np.bincount(holders)
        self._holders = np.flatnonzero(counts)
        self._ends = np.cumsum(counts[self._holders])
        self._records = records[order] - starts[holders[order]]

    def __iter__(self) -> Iterator[tuple[int, npt.NDArray[np.intp]]]:
        begin = 0
        for holder, end in zip(self._holders.tolist(), self._ends.tolist(), strict=True):
            yield holder, self._records[begin:end]
            begin = end

    def take(self, segments: Sequence[Column], grouped: Array, out: Array) -> None:
        begin = 0
        for holder, local in self:
            np.take(segments[holder], local, axis=0, out=grouped[begin : begin + len(local)], mode="clip")
            begin += len(local)
        np.take(grouped, self.places, axis=0, out=out, mode="clip")


def _too_large(sizes: Mapping[str, int], resident: int) -> frozenset[str]:
    """Names of the columns for which there is no room, when the smallest are taken first."""
    refused = set()
    for name, size in sorted(sizes.items(), key=itemgetter(1)):
        resident -= size
        if resident < 0:
            refused.add(name)
    return frozenset(refused)
