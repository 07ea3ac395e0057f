"""Statistics of columns, found in one pass: what transforms are fitted with.

Values are put together in blocks of records whose borders depend on the data alone, and the blocks along a fixed tree
(see `moments`), so that statistics are the same, bit for bit, whatever the size of the batches that are read.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec
import numpy as np

from ganglion.artifacts.files import write_durably
from ganglion.artifacts.store import Artifact
from ganglion.core.errors import DataError, suggest
from ganglion.data.dataset.column_stream import find_fields, stream_columns
from ganglion.data.moments import Moments, MomentsTree
from ganglion.data.parts.dataset_part import check_part
from ganglion.data.parts.part import Part
from ganglion.data.parts.split import Divisible
from ganglion.data.records.bad_record import SetAside, refuse
from ganglion.data.records.columns import Column, Columns, join, part, records_of, take
from ganglion.data.records.schema import BYTES, TEXT, Field
from ganglion.data.source import PlainSource
from ganglion.data.vocabulary import MOST, Value, Vocabulary

if TYPE_CHECKING:
    import pyarrow as pa

_FORMAT = 1
_BLOCK_VALUES, _BLOCK_RECORDS = 2**18, 8192
_READING = 2**23


class Identified(Divisible, Protocol):
    """A prepared dataset, or what looks like one."""

    @property
    def artifact(self) -> Artifact:
        """Its identity."""
        ...


class ColumnStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one column.

    Attributes:
        field: of the column.
        values: moments of all its finite numbers, in arrays and sequences too; empty of text and bytes.
        channels: of images with up to four channels, moments of each; empty otherwise.
        lengths: moments of the lengths of text (in characters), bytes and sequences; empty of others.
        missing: values that are NaN, and records of any other field without a value.
        infinite: values that are infinite; they are in no moment.
        vocabulary: of text and integers the distinct values with their counts, the most frequent first.
        undercount: by how much these counts may be too small, at most; 0 where all distinct values are listed.
    """

    field: Field
    values: Moments = Moments()
    channels: tuple[Moments, ...] = ()
    lengths: Moments = Moments()
    missing: int = 0
    infinite: int = 0
    vocabulary: tuple[tuple[Value, int], ...] = ()
    undercount: int = 0


class Statistics(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="ganglion.data.statistics:Statistics"
):
    """What is known of the columns of some records; plain data.

    Attributes:
        records: how many.
        columns: by name.
        key: digest of what they were made of: dataset and part, or source.
    """

    records: int
    columns: dict[str, ColumnStatistics]
    key: str

    def __getitem__(self, column: str) -> ColumnStatistics:
        """Those of one column.

        Raises:
            DataError: there are none.
        """
        if column not in self.columns:
            raise DataError(f"There are no statistics of {column!r}. {suggest(column, self.columns)}")
        return self.columns[column]

    def numbers(self, column: str) -> ColumnStatistics:
        """Those of a column of numbers.

        Raises:
            DataError: there are none, or no finite number was found.
        """
        found = self[column]
        if not found.values.count:
            raise DataError(f"The column {column!r} ({found.field}) had no finite number in {self.records} records.")
        return found

    def vocabulary(
        self, column: str, *, most: int | None = None, at_least: int = 1
    ) -> tuple[str, ...] | tuple[int, ...]:
        """The distinct values of a column, the most frequent first, then in order of the values.

        Args:
            column: its name.
            most: keep so many; `None` for all.
            at_least: leave out values that were found less often.

        Raises:
            DataError: the column has none, or all were asked for and there were more than could be counted.
        """
        found = self[column]
        if not found.vocabulary and not found.undercount:
            raise DataError(f"The column {column!r} ({found.field}) has no vocabulary; text and integers have one.")
        if found.undercount and most is None and at_least <= found.undercount:
            raise DataError(
                f"The column {column!r} has more distinct values than were counted; say how many are wanted "
                "(most=...), or count more of them (most_values=...)."
            )
        kept = [value for value, count in found.vocabulary if count >= at_least][:most]
        return tuple(kept)  # type: ignore[return-value]  # a column has values of one type


def statistics_of(
    dataset: Identified,
    part: Part,
    columns: Sequence[str] | None = None,
    *,
    folder: str | Path | None = None,
    most_values: int = MOST,
) -> Statistics:
    """Statistics of a part of a dataset: of the training part, for everything that is fitted.

    No record outside the part is looked at.

    Args:
        dataset: the dataset.
        part: of it; `whole(dataset.count)` if there is nothing that must not be known.
        columns: which; all for `None`.
        folder: where results are kept, and found again; nowhere for `None`.
        most_values: distinct values that are counted exactly, and listed at most.

    Raises:
        DataError: there is no such column, or the part is of another dataset.
    """
    check_part(part, dataset)
    fields = find_fields(dataset, columns)

    def pieces() -> Iterator[Columns]:
        for first, found in stream_columns(dataset, fields):
            mask = part.has(np.arange(first, first + records_of(found)))
            yield found if mask.all() else take(found, np.flatnonzero(mask))

    key = _key(dataset.artifact.digest, msgspec.json.encode(part), fields, most_values)
    return _remembered(folder, key, lambda: _collect(iter([pieces()]), fields, key, most_values))


def source_statistics(
    source: PlainSource,
    columns: Sequence[str] | None = None,
    *,
    set_aside: SetAside = refuse,
    folder: str | Path | None = None,
    most_values: int = MOST,
) -> Statistics:
    """Statistics of all records of a source, for a first look at it.

    For what is fitted use `statistics_of` a training part: these know the held-out records too.

    Args:
        source: the source.
        columns: which; all for `None`.
        set_aside: told of bad records; without it, one is an error.
        folder: where results are kept, and found again; nowhere for `None`.
        most_values: distinct values that are counted exactly, and listed at most.

    Raises:
        DataError: there is no such column, or the source cannot be read.
        OutageError: the source is away.
    """
    known = {field.name: field for field in source.schema}
    for name in columns or ():
        if name not in known:
            raise DataError(f"The source has no field {name!r}. {suggest(name, known)}")
    fields = tuple(known.values()) if columns is None else tuple(known[name] for name in columns)

    def units() -> Iterator[Iterator[Columns]]:
        for unit in source.units():
            yield (batch.columns for batch in source.read_unit(unit, _READING, set_aside))

    key = _key(source.fingerprint() if folder is not None else "", b"", fields, most_values)
    return _remembered(folder, key, lambda: _collect(units(), fields, key, most_values))


def _collect(units: Iterable[Iterator[Columns]], fields: Sequence[Field], key: str, most_values: int) -> Statistics:
    collectors = [_Collector(field, most_values) for field in fields]
    records = 0
    for unit in units:
        for columns in unit:
            records += records_of(columns)
            for collector in collectors:
                collector.add(columns[collector.field.name])
        for collector in collectors:
            collector.finish_unit()
    return Statistics(records=records, columns={one.field.name: one.result() for one in collectors}, key=key)


class _Collector:
    """Collects the statistics of one column, block by block."""

    def __init__(self, field: Field, most_values: int) -> None:
        self.field = field
        values = math.prod(field.shape) if field.fixed else 256
        self._block = max(1, min(_BLOCK_RECORDS, _BLOCK_VALUES // max(1, values)))
        self._waiting: list[Columns] = []
        self._records = 0
        image = field.fixed and len(field.shape) == 3 and field.shape[2] <= 4
        self._trees = [MomentsTree() for _ in range(field.shape[2] if image else 1)]
        self._lengths = MomentsTree()
        self._missing = self._infinite = 0
        single = field.dtype == TEXT or (
            field.dtype != BYTES and not field.shape and np.dtype(field.dtype).kind in "biu"
        )
        self._vocabulary = Vocabulary(most_values) if single else None

    def add(self, column: Column) -> None:
        """Take records in; blocks are worked on as they get full."""
        start = 0
        while start < len(column):
            stop = min(len(column), start + self._block - self._records)
            self._waiting.append(part({"": column}, start, stop))
            self._records += stop - start
            start = stop
            if self._records == self._block:
                self.finish_unit()

    def finish_unit(self) -> None:
        """Work on what is waiting: a block ends with a unit."""
        if self._waiting:
            self._work(join(self._waiting)[""])
            self._waiting, self._records = [], 0

    def result(self) -> ColumnStatistics:
        """The statistics."""
        moments = [tree.total() for tree in self._trees]
        total = Moments()
        for one in moments:
            total = total.merged(one)
        return ColumnStatistics(
            field=self.field,
            values=total,
            channels=tuple(moments) if len(moments) > 1 else (),
            lengths=self._lengths.total(),
            missing=self._missing,
            infinite=self._infinite,
            vocabulary=self._vocabulary.most_frequent() if self._vocabulary else (),
            undercount=self._vocabulary.undercount if self._vocabulary else 0,
        )

    def _work(self, block: Column) -> None:
        if not isinstance(block, np.ndarray):
            self._missing += block.null_count
            present = block.drop_null()
            self._lengths.add(Moments.of(_lengths(present)))
            if not self.field.sequence:
                if self._vocabulary is not None:
                    self._vocabulary.add(present)
                return
            block = present.flatten().to_numpy(zero_copy_only=False)
        if self._vocabulary is not None:
            self._vocabulary.add(block)
        if block.dtype.kind == "c":
            return
        for channel, tree in enumerate(self._trees):
            values = block if len(self._trees) == 1 else block[..., channel]
            if values.dtype.kind == "f":
                finite = np.isfinite(values)
                if not finite.all():
                    missing = int(np.isnan(values).sum())
                    self._missing += missing
                    self._infinite += int(values.size - finite.sum()) - missing
                    values = values[finite]
            tree.add(Moments.of(values))


def _lengths(column: pa.Array) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    import pyarrow.compute as pc

    kind = str(column.type)
    if kind.startswith("list<"):
        found = pc.list_value_length(column)
    else:
        found = pc.utf8_length(column) if kind == "string" else pc.binary_length(column)
    lengths: np.ndarray[tuple[int, ...], np.dtype[np.int64]] = found.to_numpy(zero_copy_only=False).astype(np.int64)
    return lengths


def _key(of: str, part: bytes, fields: Sequence[Field], most_values: int) -> str:
    material = (_FORMAT, of, hashlib.sha256(part).digest(), tuple(fields), most_values)
    return hashlib.sha256(msgspec.msgpack.encode(material)).hexdigest()


def _remembered(folder: str | Path | None, key: str, compute: Callable[[], Statistics]) -> Statistics:
    """What was found before, else what is found now."""
    if folder is None:
        return compute()
    path = Path(folder) / f"{key}.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Statistics)
    except FileNotFoundError:
        found = compute()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, (msgspec.json.encode(found),))
        return found
    except msgspec.DecodeError as error:
        raise DataError(f"{path} does not hold statistics ({error}); delete it.") from error
