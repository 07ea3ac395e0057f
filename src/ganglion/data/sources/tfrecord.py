"""TFRecord files as a source: checked records that are `tf.train.Example` messages, or bytes of any other kind."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO, Literal

import msgspec
import numpy as np

from ganglion.core.errors import DataError
from ganglion.data.files.access import open_file
from ganglion.data.prefetch import prefetch
from ganglion.data.records.bad_record import BadRecord, SetAside
from ganglion.data.records.batch import Batch
from ganglion.data.records.columns import Columns
from ganglion.data.records.schema import BYTES, Field, Schema
from ganglion.data.records.unit import RECORDS, Unit
from ganglion.data.sources.example import encode
from ganglion.data.sources.example_columns import infer_fields, read_examples
from ganglion.data.sources.file_source import FileSource
from ganglion.data.sources.tfrecord_frames import Frames, Stretch, read_frames, read_stretches, write_frames

_INFERRED_FROM = 256
_LEAST = 2**16  # bytes read at a time, at least
_RECORD = Field("record", BYTES)


class TFRecordSource(FileSource, frozen=True, kw_only=True, tag="ganglion.data.sources.tfrecord:TFRecordSource"):
    """Records of TFRecord files, plain or compressed; each file is a unit.

    A record that does not match its checksum, or its fields, is set aside; where a length is broken, reading goes on
    at the next record that matches.

    Attributes:
        fields: to be read, for `example`; empty infers them from the first records: one value is a single value,
            equally many are a vector, byte strings are `bytes`. A field of numbers may also stand for a byte string
            that holds exactly its values.
        format: `example` for `tf.train.Example` messages; `bytes` for records as they are, in the one field `record`.
        fill: by name, what stands for a feature that a record does not have; else such a record is set aside.
        verify: whether the checksums of records are compared.

    Raises:
        DataError: fields or fill were given for `bytes`, or fill for a field that there is not.
    """

    fields: tuple[Field, ...] = ()
    format: Literal["example", "bytes"] = "example"
    fill: dict[str, Any] = msgspec.field(default_factory=dict)
    verify: bool = True

    def __post_init__(self) -> None:
        if self.format == "bytes" and (self.fields or self.fill):
            raise DataError(f"Records as bytes have the one field {_RECORD.name!r}; leave out fields and fill.")

    @property
    def schema(self) -> Schema:
        """The fields given, or those of the first 256 records.

        Raises:
            DataError: there is no record, or they are no `tf.train.Example` messages with fixed kinds of values.
        """
        if self.format == "bytes":
            return (_RECORD,)
        schema = self.fields or infer_fields(itertools.islice(self._first_records(), _INFERRED_FROM))
        names = [field.name for field in schema]
        for name in self.fill:
            if name not in names:
                raise DataError(f"What fills {name!r} was given; the fields are {', '.join(names)}.")
        return schema

    def read_unit(self, unit: Unit, size: int, set_aside: SetAside) -> Iterator[Batch]:
        """The intact records of one file, in order."""
        schema = self.schema
        with (
            open_file(unit.path, decompress=True, retry=self.retry) as stream,
            closing(self._frames(stream, max(_LEAST, size // 2))) as found,
        ):
            for frames in found:
                for damage in frames.damages:
                    set_aside(
                        BadRecord.at(unit, damage.number, damage.reason, offset=damage.offset, payload=damage.payload)
                    )
                if len(frames):
                    batch = self._batch(unit, frames, schema, set_aside)
                    del frames  # nothing is kept of what has been given away: what is read ahead needs its memory
                    if len(batch):
                        yield batch
                    del batch

    def _frames(self, stream: BinaryIO, size: int) -> Generator[Frames, None, None]:
        """What the file holds, read ahead by one stretch in a thread.

        That thread compares checksums, too, unless its stretch is already waited for. Then who waits compares them,
        and the thread reads on, so that the one that has less to do does it.
        """
        waited_for = Event()

        def stretches() -> Iterator[Stretch]:
            for stretch in read_stretches(stream, size, verify=self.verify):
                if not waited_for.is_set():
                    stretch.check()
                yield stretch

        with closing(prefetch(stretches(), 1)) as ahead:

            def take() -> Frames | None:
                waited_for.set()
                stretch = next(ahead, None)
                waited_for.clear()
                return None if stretch is None else stretch.frames()

            yield from iter(take, None)  # keeps nothing of what it gives away

    def _batch(self, unit: Unit, frames: Frames, schema: Schema, set_aside: SetAside) -> Batch:
        ids = unit.number * RECORDS + frames.numbers
        unit.ids(0, int(frames.numbers[-1]) + 1)  # refuses numbers that have no id
        if self.format == "bytes":
            return Batch(_raw(frames), ids)
        columns, rows, problems = read_examples(frames, schema, self.fill)
        for row, reason in sorted(problems.items()):
            number, offset = int(frames.numbers[row]), int(frames.offsets[row])
            set_aside(BadRecord.at(unit, number, reason, offset=offset, payload=frames.record(row)))
        return Batch(columns, ids[rows])

    def _first_records(self) -> Iterator[bytes]:
        for file in self.files():
            with open_file(file.path, decompress=True, retry=self.retry) as stream:
                for frames in read_frames(stream, _LEAST):
                    yield from frames


def write_tfrecord(path: str | Path, records: Iterable[bytes | Mapping[str, Any]]) -> int:
    """Write a TFRecord file.

    Args:
        path: of the file, which is made anew.
        records: bytes as they are, or features by name (text, bytes, numbers, arrays) that become a `tf.train.Example`.

    Returns:
        How many records were written.

    Raises:
        DataError: a feature cannot be written.
    """
    with Path(path).open("wb") as stream:
        return write_frames(stream, (each if isinstance(each, bytes) else encode(each) for each in records))


def _raw(frames: Frames) -> Columns:
    import pyarrow as pa

    # Records and what lies between them are an array as they are; of that each second value is taken.
    ends = np.stack([frames.starts, frames.starts + frames.lengths], axis=1).reshape(-1)
    offsets = np.concatenate([[0], ends])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(frames.data)]
    array = pa.Array.from_buffers(pa.large_binary(), len(ends), buffers)
    return {_RECORD.name: array.take(pa.array(np.arange(1, len(ends), 2))).cast(pa.binary())}
