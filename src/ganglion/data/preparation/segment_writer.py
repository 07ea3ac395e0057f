"""Records written to segments, in bounded memory: where a segment ends is a matter of the records alone."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np
import numpy.typing as npt

from ganglion.artifacts.store import FolderStore
from ganglion.core import faults
from ganglion.data.dataset.arrow_layout import ALIGNMENT, IDS, Buffer, Layout, lay_out, storage
from ganglion.data.dataset.checksum import BlockChecksums
from ganglion.data.dataset.manifest import KIND
from ganglion.data.preparation.spool import Spool
from ganglion.data.records.batch import Batch
from ganglion.data.records.columns import Array
from ganglion.data.records.schema import Field, Schema

LONGEST = 2**31 - 1
"""Bytes of one record, at most: where records begin is stored in 32 bits."""


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """A segment in the store.

    Attributes:
        digest: of its file.
        size: of its file.
        records: how many.
        ids: the smallest and the largest.
        columns: where their buffers are.
        checksums: of its blocks.
    """

    digest: str
    size: int
    records: int
    ids: tuple[int, int]
    columns: dict[str, tuple[Buffer, ...]]
    checksums: bytes


class SegmentWriter:
    """Writes batches to segments of the store.

    Attributes:
        segments: those that are finished.

    Args:
        schema: of the batches.
        store: where segments go.
        segment_bytes: largest size of the records of one; a record that is larger gets its own.
        memory: bytes of records that are held; what is more waits in a file. It changes no byte of a segment.
    """

    def __init__(self, schema: Schema, store: FolderStore, *, segment_bytes: int, memory: int) -> None:
        self.segments: list[Written] = []
        self._schema = schema
        self._store = store
        self._limit = segment_bytes
        self._memory = memory
        self._fixed = sum(field.record_bytes for field in schema if field.fixed)
        self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def write(self, batch: Batch) -> None:
        """Append records; their columns must not change afterwards."""
        while len(batch):
            records, size = self._room(batch)
            if records:
                self._append(batch.part(0, records))
                self._records += records
                self._bytes += size
            if records < len(batch):
                self.finish()
            batch = batch.part(records, len(batch))

    def finish(self) -> None:
        """Put the segment into the store; without records there is none."""
        if self._records == 0:
            return
        sizes = {name: [spool.size for spool in spools] for name, spools in self._spools.items()}
        layout = lay_out(self._schema, self._records, sizes)
        checksums = BlockChecksums()
        faults.point("data.segment", number=len(self.segments))
        blob = self._store.put_parts(self._file(layout, checksums), KIND)
        self.segments.append(
            Written(
                digest=blob.digest,
                size=blob.size,
                records=self._records,
                ids=self._ids,
                columns=layout.buffers,
                checksums=checksums.encoded(),
            )
        )
        self._close()
        self._open()

    def _open(self) -> None:
        self._records = self._bytes = 0
        self._ids = (2**63 - 1, 0)
        waiting = self._store.root / "incoming"
        self._spools = {
            field.name: [Spool(waiting) for _ in range(1 if field.fixed else 2)]
            for field in (*self._schema, Field(IDS, "int64"))
        }
        for field in self._schema:
            if not field.fixed:
                self._spools[field.name][0].append(np.zeros(1, "<i4"))

    def _close(self) -> None:
        for spools in self._spools.values():
            for spool in spools:
                spool.close()

    def _room(self, batch: Batch) -> tuple[int, int]:
        """How many records of a batch belong to this segment, and their bytes."""
        room = self._limit - self._bytes
        variable = [batch.columns[field.name] for field in self._schema if not field.fixed]
        if not variable:
            records = min(len(batch), max(0, room) // self._fixed)
            records = records or int(self._records == 0)
            return records, records * self._fixed
        ends = np.cumsum(np.full(len(batch), self._fixed, np.int64) + sum(lengths(column) for column in variable))
        records = int(np.searchsorted(ends, room, side="right")) or int(self._records == 0)
        return records, int(ends[records - 1]) if records else 0

    def _append(self, batch: Batch) -> None:
        for field in self._schema:
            spools = self._spools[field.name]
            column = batch.columns[field.name]
            if isinstance(column, np.ndarray):
                spools[0].append(_stored(column, field))
            else:
                begins = _offsets(column)
                values = _values(column, field)
                spools[0].append((begins[1:] - begins[0] + spools[1].size // values.itemsize).astype("<i4"))
                spools[1].append(values)
        self._spools[IDS][0].append(batch.ids.astype("<i8"))
        self._ids = min(self._ids[0], int(batch.ids.min())), max(self._ids[1], int(batch.ids.max()))
        if sum(spool.held for spools in self._spools.values() for spool in spools) > self._memory:
            for spools in self._spools.values():
                for spool in spools:
                    spool.spill()

    def _file(self, layout: Layout, checksums: BlockChecksums) -> Iterator[memoryview]:
        def parts() -> Iterator[memoryview]:
            yield memoryview(layout.head)
            for name, buffers in layout.buffers.items():
                for buffer, spool in zip(buffers, self._spools[name], strict=True):
                    yield from spool.parts()
                    yield memoryview(bytes(-buffer.size % ALIGNMENT))
            yield memoryview(layout.foot)

        for part in parts():
            checksums.update(part)
            yield part


def lengths(column: Any) -> npt.NDArray[np.int64]:
    """Bytes of the values of each record of an Arrow column."""
    begins = _offsets(column)
    width = column.type.value_type.bit_width if str(column.type).startswith("list<") else 8
    return np.diff(begins).astype(np.int64) * max(1, width // 8)


def _offsets(column: Any) -> npt.NDArray[np.int32]:
    """Where the records of an Arrow column begin in its values, and where the last ends."""
    if len(column) == 0:
        return np.zeros(1, np.int32)
    return np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]


def _values(column: Any, field: Field) -> Array:
    """The values of all records of an Arrow column."""
    begins = _offsets(column)
    first, last = int(begins[0]), int(begins[-1])
    if field.sequence:
        values: Array = column.values.slice(first, last - first).to_numpy(zero_copy_only=False)
        return values.astype(storage(field), copy=False)
    data = column.buffers()[2]
    return np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)[first:last]


def _stored(column: Array, field: Field) -> Array:
    """A column as the numbers that are written."""
    little = column.astype(column.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).view(storage(field))
