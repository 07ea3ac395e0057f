"""Binary files in which every record takes the same number of bytes, such as those of CIFAR-10."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import ClassVar, Literal

import numpy as np

from ganglion.core.errors import DataError
from ganglion.data.files.access import DataFile, is_local, open_file
from ganglion.data.files.compression import compression, is_empty, read_whole
from ganglion.data.records.bad_record import BadRecord, SetAside
from ganglion.data.records.batch import Batch
from ganglion.data.records.columns import Columns
from ganglion.data.records.schema import Schema, records_within
from ganglion.data.records.unit import Unit
from ganglion.data.sources.file_source import FileSource, check_required

_UNIT = 64 * 2**20


class FixedLengthSource(
    FileSource, frozen=True, kw_only=True, tag="ganglion.data.sources.fixed_length:FixedLengthSource"
):
    """Records whose fields follow each other without gaps, the values of an array with the last dimension fastest.

    A record that is cut off at the end of a file is set aside, and one with NaN where a value is required.

    Attributes:
        fields: in their order in the file; numbers and arrays of them.
        order: of the bytes of a number.
        skip: bytes before the first record of each file.
        required: fields in which NaN makes a record bad, such as a label.

    Raises:
        DataError: a field has no fixed length, records would have no bytes, or `skip` is negative.
    """

    suffixes: ClassVar[tuple[str, ...]] = tuple(
        f".bin{compressed}" for compressed in ("", ".gz", ".bz2", ".xz", ".zst")
    )

    fields: Schema
    order: Literal["little", "big"] = "little"
    skip: int = 0
    required: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in self.fields:
            if not field.fixed:
                raise DataError(f"The field {field} has no fixed length; numbers and arrays of them are possible.")
        check_required(self.fields, self.required)
        if sum(field.record_bytes for field in self.fields) == 0 or self.skip < 0:
            raise DataError("Records of fixed length need fields that take bytes, and `skip` is 0 or more.")

    @property
    def schema(self) -> Schema:
        """The fields of every record."""
        return self.fields

    def divide(self, file: DataFile) -> Iterable[Unit]:
        """The units of one file: of one on this machine that is not compressed, about 64 MiB each."""
        size = self._record.itemsize
        if is_local(file.path):
            with open_file(file.path) as plain:
                local = not compression(plain.peek(16)[:16])
        if not is_local(file.path) or not local:
            yield Unit(number=0, name=file.path, path=file.path, start=self.skip, size=file.size)
            return
        step = max(1, _UNIT // size) * size
        end = max(file.size, self.skip + 1)
        for start in range(self.skip, end, step):
            stop = min(start + step, end)
            known = not self.required and (stop - start) % size == 0
            name = file.path if end - self.skip <= step else f"{file.path} from byte {start}"
            yield Unit(
                number=0,
                name=name,
                path=file.path,
                start=start,
                stop=stop,
                size=stop - start,
                records=(stop - start) // size if known else None,
            )

    def read_unit(self, unit: Unit, size: int, set_aside: SetAside) -> Iterator[Batch]:
        """The records of one unit, in order."""
        step = records_within(self.fields, size)
        width = self._record.itemsize
        first, flaw = 0, ""
        with closing(open_file(unit.path, decompress=True, retry=self.retry)) as file:
            if is_empty(file):
                set_aside(BadRecord.at(unit, 0, "the file is empty", offset=0))
                return
            file.seek(unit.start)
            left = (unit.stop - unit.start) // width if unit.stop else None
            while not flaw and left != 0:
                records = step if left is None else min(step, left)
                data, flaw = read_whole(file, records * width)
                whole = len(data) // width
                if whole:
                    yield from self._batches(unit, first, data[: whole * width], set_aside)
                first += whole
                left = None if left is None else left - whole
                if whole < records or flaw:
                    rest = data[whole * width :]
                    if rest or flaw:
                        self._cut_off(unit, first, rest, flaw, set_aside)
                    return
            if unit.stop and (rest := file.read((unit.stop - unit.start) % width)):
                self._cut_off(unit, first, rest, "", set_aside)

    def _batches(self, unit: Unit, first: int, data: bytes, set_aside: SetAside) -> Iterator[Batch]:
        records = np.frombuffer(data, self._record)
        columns: Columns = {}
        for field in self.fields:
            column = np.empty((len(records), *field.shape), field.dtype)
            column[...] = records[field.name] != 0 if field.dtype == "bool" else records[field.name]
            columns[field.name] = column
        batch = Batch(columns, unit.ids(first, first + len(records)))
        bad = np.zeros(len(records), np.bool_)
        for name in self.required:
            column = np.asarray(columns[name]).reshape(len(records), -1)
            wrong = (column != column).any(axis=1) & ~bad  # only NaN differs from itself
            for row in np.flatnonzero(wrong).tolist():
                offset = unit.start + (first + row) * self._record.itemsize
                payload = records[row : row + 1].tobytes()
                set_aside(BadRecord.at(unit, first + row, f"{name!r} is NaN", offset=offset, payload=payload))
            bad |= wrong
        if not bad.all():
            yield batch.take(np.flatnonzero(~bad)) if bad.any() else batch

    def _cut_off(self, unit: Unit, record: int, rest: bytes, flaw: str, set_aside: SetAside) -> None:
        width = self._record.itemsize
        reason = f"it is cut off after {len(rest)} of {width} bytes{': ' * bool(flaw)}{flaw}"
        set_aside(BadRecord.at(unit, record, reason, offset=unit.start + record * width, payload=rest))

    @property
    def _record(self) -> np.dtype[np.void]:
        # Booleans are read as numbers: NumPy takes any byte for one, of which 2 would be neither.
        kinds = [
            np.dtype("u1" if field.dtype == "bool" else field.dtype).newbyteorder(self.order) for field in self.fields
        ]
        return np.dtype([(field.name, kind, field.shape) for field, kind in zip(self.fields, kinds, strict=True)])
