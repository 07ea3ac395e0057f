"""`Pack`: sequences of any length one after the other in records of fixed length, so that none of it is wasted."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ganglion.core.errors import DataError
from ganglion.data.records.batch import Batch
from ganglion.data.records.columns import Columns
from ganglion.data.records.draw import Draw
from ganglion.data.records.ragged import Lengths, places_within, take_apart
from ganglion.data.records.schema import Field, Schema
from ganglion.data.records.unit import RECORDS
from ganglion.data.transform import BadRecordsError, Combiner, Transform, find_field, refuse_field


class Pack(Transform, frozen=True, tag="ganglion.data.transforms.pack:Pack"):
    """Sequences become records of `length` values, several sequences in each, as language models are trained on them.

    Sequences are taken in their order, within each unit of the source; no value is lost, and empty sequences leave no
    trace. The last record of a unit is filled up with padding. Packed records are new ones: they are numbered from 0 in
    each unit, and have only the fields that are named here. With each value stands which document of the record it
    belongs to (1, 2, ...; 0 for padding), so that attention can be kept within documents, and its place there.

    Attributes:
        columns: one or more fields of sequences, as long as each other in every record (such as tokens and their
            weights); a record where they are not is bad.
        length: values in a packed record.
        padding: value where there is none.
        split: a sequence that does not fit in what is left of a record goes on in the next one, so that only the last
            is padded. Otherwise it is put into the next one whole, and one longer than `length` is bad.
        document: name of the field for the documents, of type int32.
        position: name of the field for the places, of type int32; they begin with 0 in every record.

    Raises:
        DataError: no column is named, or the length is not positive.
    """

    columns: tuple[str, ...]
    length: int
    padding: int | float = 0
    split: bool = True
    document: str = "document"
    position: str = "position"

    def __post_init__(self) -> None:
        if isinstance(self.columns, str):
            msgspec.structs.force_setattr(self, "columns", (self.columns,))
        if not self.columns or self.length < 1:
            raise DataError(
                f"Records of {self.length} values of {len(self.columns)} fields cannot be packed; 1 of each is needed."
            )

    @property
    def keeps_records(self) -> bool:
        """No: records are joined."""
        return False

    def schema(self, given: Schema) -> Schema:
        """The packed fields, then `document` and `position`."""
        packed = []
        for name in self.columns:
            field = find_field(given, name, self)
            if not field.sequence:
                raise refuse_field(field, self, "sequences can be packed")
            if np.array(self.padding).astype(field.dtype) != self.padding:
                raise refuse_field(field, self, f"the padding {self.padding} is no {field.dtype}")
            packed.append(Field(name, field.dtype, (self.length,)))
        return (*packed, *(Field(name, "int32", (self.length,)) for name in (self.document, self.position)))

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Pack some records as though they were a unit."""
        packer = _Packer(self, tuple(Field.of(name, column) for name, column in batch.columns.items()))
        return Batch.join([packer.add(batch), packer.finish()])

    def combiner(self, given: Schema) -> Combiner:
        """Packs the records of one unit."""
        return _Packer(self, given)


class _Packer:
    """Packs the records of one unit; what does not fill a record waits for the next batch."""

    def __init__(self, pack: Pack, given: Schema) -> None:
        self._pack = pack
        self._fields = pack.schema(given)
        self._open = self._blank(1)
        self._filled = 0
        self._documents = 0
        self._next: int | None = None

    def add(self, batch: Batch) -> Batch:
        """Take records in; nothing is changed before all of them are known to be good."""
        columns, lengths = self._sequences(batch)
        if self._next is None:
            self._next = int(batch.ids[0]) // RECORDS * RECORDS
        used = np.flatnonzero(lengths)
        starts = self._starts(lengths[used])
        if not len(used):
            return self._batch(self._blank(0))
        end = int(starts[-1] + lengths[used[-1]])
        length = self._pack.length
        rows = self._blank(end // length + 1)
        for name, row in self._open.items():
            rows[name][: self._filled] = row[: self._filled]
        within = places_within(lengths[used])
        places = np.repeat(starts, lengths[used]) + within
        begins = places // length * length
        documents = np.repeat(np.arange(1, len(used) + 1), lengths[used])
        before = documents[np.searchsorted(places, begins)] - 1  # documents that ended before the value's record began
        before[begins == 0] = -self._documents
        for name, values in columns.items():
            rows[name][places] = values
        rows[self._pack.document][places] = documents - before
        rows[self._pack.position][places] = np.minimum(within, places - begins)
        whole = end // length * length
        self._open = {name: row[whole:] for name, row in rows.items()}
        self._filled = end - whole
        self._documents = int(self._open[self._pack.document][: self._filled].max(initial=0))
        return self._batch({name: row[:whole] for name, row in rows.items()})

    def finish(self) -> Batch:
        """The last record, filled up with padding."""
        rows = self._open if self._filled else self._blank(0)
        self._open, self._filled, self._documents = self._blank(1), 0, 0
        return self._batch(rows)

    def _sequences(self, batch: Batch) -> tuple[dict[str, npt.NDArray[Any]], Lengths]:
        lengths: Lengths | None = None
        columns = {}
        reasons: dict[int, str] = {}
        for name in self._pack.columns:
            mine, columns[name] = take_apart(batch.columns[name], name)
            lengths = mine if lengths is None else lengths
            for record in np.flatnonzero(mine != lengths).tolist():
                reasons[record] = f"{name!r} has {mine[record]} values and {self._pack.columns[0]!r} {lengths[record]}"
        assert lengths is not None, "there is a column"
        if not self._pack.split:
            for record in np.flatnonzero(lengths > self._pack.length).tolist():
                reasons[record] = (
                    f"{self._pack.columns[0]!r} has {lengths[record]} values, more than the {self._pack.length} of a "
                    "packed record, and must not be split"
                )
        if reasons:
            raise BadRecordsError(reasons)
        return columns, lengths

    def _starts(self, lengths: Lengths) -> Lengths:
        """Where sequences begin, counted from the beginning of the open record."""
        if self._pack.split:
            return self._filled + np.cumsum(lengths) - lengths
        starts, place = np.empty(len(lengths), np.int64), self._filled
        for number, length in enumerate(lengths.tolist()):
            left = -place % self._pack.length
            if length > left and left:
                place += left
            starts[number] = place
            place += length
        return starts

    def _blank(self, records: int) -> dict[str, npt.NDArray[Any]]:
        """Room for records: padding, and zeros for documents and positions."""
        size = records * self._pack.length
        added = (self._pack.document, self._pack.position)
        return {
            field.name: np.full(size, 0 if field.name in added else self._pack.padding, field.dtype)
            for field in self._fields
        }

    def _batch(self, rows: dict[str, npt.NDArray[Any]]) -> Batch:
        columns: Columns = {name: row.reshape(-1, self._pack.length) for name, row in rows.items()}
        count = len(columns[self._pack.document])
        first = self._next or 0
        self._next = first + count if self._next is not None else None
        return Batch(columns, np.arange(first, first + count, dtype=np.int64))
