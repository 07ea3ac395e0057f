"""Arrow IPC files and streams as a source, mapped into memory: columns are views of the file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import msgspec
import pyarrow as pa

from ganglion.core.errors import DataError
from ganglion.data.files.access import fingerprints, is_local, open_file
from ganglion.data.records.bad_record import SetAside
from ganglion.data.records.batch import Batch
from ganglion.data.records.schema import Schema, records_within
from ganglion.data.records.unit import Unit
from ganglion.data.sources.arrow_batch import batch_of
from ganglion.data.sources.arrow_fields import check_fill, check_same, schema_of
from ganglion.data.sources.file_source import FileSource, check_required

_FILE = b"ARROW1\0\0"


class ArrowSource(FileSource, frozen=True, kw_only=True, tag="ganglion.data.sources.arrow:ArrowSource"):
    """Records of Arrow IPC files (each record batch is a unit) and streams (each stream is one), which Feather 2 is.

    Columns, nulls and what stands for them are as for `ParquetSource`. The format has no checksums: what is damaged is
    found where it does not fit together. A record batch that cannot be read ends its unit with an error.

    Attributes:
        columns: to be read, in order; empty for all.
        fill: by name, what stands for nulls.
        required: fields in which NaN makes a record bad, such as a label.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".arrow", ".arrows", ".feather", ".ipc")

    columns: tuple[str, ...] = ()
    fill: dict[str, Any] = msgspec.field(default_factory=dict)
    required: tuple[str, ...] = ()

    @property
    def schema(self) -> Schema:
        """The fields of the first file.

        Raises:
            DataError: a file is missing or is neither file nor stream, or a column is missing or cannot be a field.
        """
        return self._schema_at(self.files()[0].path)

    def units(self) -> Sequence[Unit]:
        """The record batches of all files, and all streams.

        Raises:
            DataError: a file has other columns than the first, or is damaged.
        """
        files = self.files()
        schema = self._schema_at(files[0].path)
        found: list[Unit] = []
        for file, fingerprint in zip(files, fingerprints(files), strict=True):
            with self._opened(file.path) as reader:
                check_same(schema, files[0].path, schema_of(reader.schema, self.columns, file.path), file.path)
                batches = reader.num_record_batches if isinstance(reader, pa.ipc.RecordBatchFileReader) else None
            for start in range(1 if batches is None else batches):
                unit = Unit(
                    number=len(found),
                    name=file.path if batches is None else f"{file.path} record batch {start}",
                    path=file.path,
                    start=start,
                    stop=start + 1,
                    size=file.size // (batches or 1),
                    fingerprint=fingerprint,
                )
                found.append(unit)
        return tuple(found)

    def read_unit(self, unit: Unit, size: int, set_aside: SetAside) -> Iterator[Batch]:
        """The records of one record batch, or of one stream, in order."""
        with self._opened(unit.path) as reader:
            schema = schema_of(reader.schema, self.columns, unit.path)
            first = 0
            for whole in self._batches(reader, unit):
                step = max(1, min(records_within(schema, size), size * len(whole) // max(1, whole.nbytes)))
                for start in range(0, len(whole), step):
                    part = whole.slice(start, step)
                    arrays = {field.name: part.column(field.name) for field in schema}
                    batch = batch_of(unit, first + start, arrays, schema, self.fill, self.required, set_aside)
                    if len(batch):
                        yield batch
                first += len(whole)

    def _batches(self, reader: Any, unit: Unit) -> Iterator[pa.RecordBatch]:
        try:
            if isinstance(reader, pa.ipc.RecordBatchFileReader):
                found = iter((reader.get_batch(unit.start),))
            else:
                found = iter(reader)
            for batch in found:
                batch.validate(full=True)  # offsets that point elsewhere would be followed
                yield batch
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{unit.name} cannot be read: {str(error).rstrip('.')}.") from error

    def _schema_at(self, path: str) -> Schema:
        with self._opened(path) as reader:
            schema = schema_of(reader.schema, self.columns, path)
        check_fill(schema, self.fill)
        check_required(schema, self.required)
        return schema

    @contextmanager
    def _opened(self, path: str) -> Iterator[Any]:
        """A reader of a file or a stream, whichever it is."""
        with open_file(path, retry=self.retry) as file:
            begin = file.read(len(_FILE))
            file.seek(0)
            try:
                source = pa.memory_map(path.removeprefix("file://")) if is_local(path) else pa.PythonFile(file, "r")
                reader = (pa.ipc.open_file if begin == _FILE else pa.ipc.open_stream)(source)
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{path} is no Arrow IPC file and no stream: {str(error).rstrip('.')}.") from error
            yield reader
