"""Parquet files as a source: each row group is a unit, read page by page in bounded memory, checksums compared."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ganglion.core.errors import DataError
from ganglion.data.files.access import BUFFER, fingerprints, is_local, open_file
from ganglion.data.records.bad_record import BadRecord, SetAside
from ganglion.data.records.batch import Batch
from ganglion.data.records.schema import Schema
from ganglion.data.records.unit import Unit
from ganglion.data.sources.arrow_batch import batch_of
from ganglion.data.sources.arrow_fields import check_fill, check_same, schema_of
from ganglion.data.sources.file_source import FileSource, check_required
from ganglion.data.sources.parquet_footer import Chunk, Footer, read_footer
from ganglion.data.sources.parquet_pages import Loss
from ganglion.data.sources.parquet_row_group import RowGroup, open_parquet


class ParquetSource(FileSource, frozen=True, kw_only=True, tag="ganglion.data.sources.parquet:ParquetSource"):
    """Records of Parquet files; each row group is a unit.

    Numbers, booleans, text, bytes, lists of numbers (sequences) and lists of a fixed size (arrays) can be read;
    dates and times count their unit. A null among floating-point numbers is NaN; a record with any other null is set
    aside, unless something stands for it. So are the records of a page that does not match its checksum.

    Attributes:
        columns: to be read, in order; empty for all.
        fill: by name, what stands for nulls.
        required: fields in which NaN makes a record bad, such as a label.
        verify: whether checksums of pages are compared, where the file has any.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".parquet", ".parq", ".pq")

    columns: tuple[str, ...] = ()
    fill: dict[str, Any] = msgspec.field(default_factory=dict)
    required: tuple[str, ...] = ()
    verify: bool = True

    @property
    def schema(self) -> Schema:
        """The fields of the first file.

        Raises:
            DataError: a file is missing or no Parquet file, or a column is missing or cannot be a field.
        """
        return self._schema_at(self.files()[0].path)

    def units(self) -> Sequence[Unit]:
        """The row groups of all files.

        Raises:
            DataError: a file has other columns than the first, or its footer is damaged.
        """
        files = self.files()
        schema = self._schema_at(files[0].path)
        found: list[Unit] = []
        for file, fingerprint in zip(files, fingerprints(files), strict=True):
            footer = read_footer(file.path, fingerprint, self.retry)
            with self._opened(file.path) as opened:
                check_same(schema, files[0].path, self._schema_of(opened, file.path), file.path)
            for number in range(len(footer.groups)):
                chunks = _chunks(footer, number, schema, file.path)
                unit = Unit(
                    number=len(found),
                    name=f"{file.path} row group {number}",
                    path=file.path,
                    start=number,
                    stop=number + 1,
                    size=sum(chunk.size for chunk in chunks),
                    records=self._count(chunks, schema),
                    fingerprint=fingerprint,
                )
                found.append(unit)
        return tuple(found)

    def read_unit(self, unit: Unit, size: int, set_aside: SetAside) -> Iterator[Batch]:
        """The records of one row group, in order, but for those of damaged pages."""
        footer = read_footer(unit.path, unit.fingerprint, self.retry)
        with self._opened(unit.path) as file:
            schema = self._schema_of(file, unit.path)
            metadata = file.metadata
        if unit.start >= len(footer.groups):
            raise DataError(f"{unit.path} has no row group {unit.start}; it has changed. Begin again with what it is.")
        chunks = _chunks(footer, unit.start, schema, unit.path)
        # A power of two, to which the decoder rounds the buffers up that it decodes into.
        stretch = 1 << max(1, size // _record_bytes(chunks, schema)).bit_length() - 1
        with (
            self._here(unit, footer, chunks) as path,
            RowGroup(path, metadata, unit, chunks, stretch=stretch, memory=size // 4, verify=self.verify) as group,
        ):
            for _stop, runs, losses in group.stretches():
                _report(unit, losses, set_aside)
                while runs:  # nothing is kept of what has been given away: the next stretch needs its memory
                    first, arrays = runs.pop(0)
                    batch = batch_of(unit, first, arrays, schema, self.fill, self.required, set_aside)
                    del arrays
                    if len(batch):
                        yield batch
                    del batch

    def _count(self, chunks: Sequence[Chunk], schema: Schema) -> int | None:
        """How many records a row group has, where none of its values makes one bad."""
        for chunk, field in zip(chunks, schema, strict=True):
            real = field.fixed and not field.shape and np.dtype(field.dtype).kind == "f"
            if field.name in self.required or (chunk.nulls != 0 and not real and field.name not in self.fill):
                return None
        return chunks[0].rows if chunks else 0

    def _schema_at(self, path: str) -> Schema:
        with self._opened(path) as file:
            schema = self._schema_of(file, path)
        check_fill(schema, self.fill)
        check_required(schema, self.required)
        return schema

    def _schema_of(self, file: pq.ParquetFile, path: str) -> Schema:
        try:
            return schema_of(file.schema_arrow, self.columns, path)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read as Parquet: {error}.") from error

    @contextmanager
    def _opened(self, path: str) -> Iterator[pq.ParquetFile]:
        """A file of which the footer is read."""
        if is_local(path):
            with open_parquet(path.removeprefix("file://"), path) as file:
                yield file
            return
        with open_file(path, retry=self.retry) as stream, open_parquet(stream, path) as file:
            yield file

    @contextmanager
    def _here(self, unit: Unit, footer: Footer, chunks: Sequence[Chunk]) -> Iterator[str]:
        """A path on this machine at which the unit can be read.

        Of a file elsewhere the columns are copied to a file without a name, at the same offsets, so that each byte
        is fetched once although headers of pages are read before pages; it takes no memory.
        """
        if is_local(unit.path):
            yield unit.path.removeprefix("file://")
            return
        with tempfile.TemporaryFile() as copy, open_file(unit.path, retry=self.retry) as stream:
            end = stream.seek(0, os.SEEK_END)
            spans = [(chunk.start, chunk.stop) for chunk in chunks]
            for start, stop in [*spans, (footer.start, end)]:
                stream.seek(start)
                copy.seek(start)
                while start < stop and (piece := stream.read(min(BUFFER, stop - start))):
                    start += copy.write(piece)
            copy.flush()
            yield f"/dev/fd/{copy.fileno()}"


def _chunks(footer: Footer, group: int, schema: Schema, path: str) -> tuple[Chunk, ...]:
    """The columns of the fields in one row group."""
    chunks = footer.groups[group].chunks
    for field in schema:
        if field.name not in chunks:
            raise DataError(f"{path} cannot be read as Parquet: its footer has no column {field.name!r}.")
    return tuple(chunks[field.name] for field in schema)


def _report(unit: Unit, losses: list[Loss], set_aside: SetAside) -> None:
    reported: set[int] = set()
    for loss in sorted(losses, key=lambda loss: (loss.first, loss.last)):
        for row in range(loss.first, loss.last):
            if row not in reported:
                reported.add(row)
                set_aside(BadRecord.at(unit, row, loss.reason, offset=loss.offset))


def _record_bytes(chunks: Sequence[Chunk], schema: Schema) -> int:
    """Bytes that one record takes in memory, about."""
    sizes = {chunk.name: chunk.size // max(1, chunk.rows) for chunk in chunks}
    return max(1, sum(field.record_bytes + (0 if field.fixed else sizes[field.name]) for field in schema))
