"""The seam for sources: where records come from, unit by unit.

A source divides what it reads into *units* that are independent of each other, so that any number of workers may share
the work; which records there are, their order and their ids do not depend on who reads. A record that cannot be read
does not end the reading: it is handed to whoever sets bad records aside. Sources that derive from `PlainSource` are
plain data, so that a pipeline step can hand one to a process that reads it. Everything wraps this one contract:
transforms, mixtures and limits of sources are sources themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

import msgspec
import numpy as np

from ganglion.core.errors import DataError
from ganglion.core.registry import load_object
from ganglion.data.records.bad_record import SetAside, refuse
from ganglion.data.records.batch import Batch
from ganglion.data.records.column_data import column_data
from ganglion.data.records.columns import Columns, join, part, records_of
from ganglion.data.records.fingerprint import fingerprint_columns
from ganglion.data.records.schema import Field, Schema, records_within
from ganglion.data.records.unit import Unit

if TYPE_CHECKING:
    from ganglion.data.sources.transformed import TransformedSource
    from ganglion.data.transform import Transform

_READING = 2**23  # bytes that a convenience holds of a unit


class Source(Protocol):
    """Records in a fixed order, each with the same fields.

    A source holds nothing open between calls; every call sees the data as it is then.
    """

    @property
    def schema(self) -> Schema:
        """The fields of every record.

        Raises:
            DataError: the source is missing or is not what it should be.
        """
        ...

    def units(self) -> Sequence[Unit]:
        """The pieces that are read independently of each other, in the order of the records.

        Raises:
            DataError: as for `schema`.
        """
        ...

    def read_unit(self, unit: Unit, size: int, set_aside: SetAside) -> Iterator[Batch]:
        """The records of one unit, in order.

        Args:
            unit: one of `units()`.
            size: bytes that the columns of a batch may take, about; at least one record is in each. It changes how
                records are grouped, and nothing else.
            set_aside: told of each record that cannot be read.

        Raises:
            DataError: nothing (more) of the unit can be read, or from `set_aside`, to whom a record was one too many.
            OutageError: the source is away and stayed away longer than retries are worth.
        """
        ...

    def fingerprint(self) -> str:
        """Digest of what will be read and how; equal fingerprints mean equal records.

        Raises:
            DataError: as for `schema`.
        """
        ...


class PlainSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """A source that is plain data; subclasses give `schema`, `units` and `read_unit`, and mostly `fingerprint`.

    The tag of a subclass is its import path, `module:Class`, by which `source_from` finds it.
    """

    @property
    def schema(self) -> Schema:
        """The fields of every record."""
        raise NotImplementedError

    @contextmanager
    def snapshot(self) -> Iterator[Self]:
        """The source as it is now: what is read of it meanwhile, by any process, is of one state.

        Sources that others write to while they are read have more to do here than others.
        """
        yield self

    def units(self) -> Sequence[Unit]:
        """The pieces that are read independently of each other, in the order of the records."""
        raise NotImplementedError

    def read_unit(self, unit: Unit, size: int, set_aside: SetAside) -> Iterator[Batch]:
        """The records of one unit, in order."""
        raise NotImplementedError

    @property
    def count(self) -> int:
        """Number of records, counted by reading where it is not known otherwise; one that is bad is an error."""
        return sum(
            sum(len(batch) for batch in self.read_unit(unit, _READING, refuse))
            if unit.records is None
            else unit.records
            for unit in self.units()
        )

    def scan(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Columns]:
        """The records from `start` to `stop` in one pass, at most `size` at a time; one that is bad is an error."""
        position = 0
        for unit in self.units():
            if unit.records is not None and position + unit.records <= start:
                position += unit.records
                continue
            for batch in self.read_unit(unit, _READING, refuse):
                first = max(0, start - position)
                last = len(batch) if stop is None else min(len(batch), stop - position)
                for begin in range(first, last, size):
                    yield part(batch.columns, begin, min(begin + size, last))
                position += len(batch)
                if stop is not None and position >= stop:
                    return

    def read(self, start: int, stop: int) -> Columns:
        """Records `start` to `stop` (exclusive).

        Raises:
            DataError: there are not so many, or one is bad.
        """
        found = list(self.scan(max(1, stop - start), start, stop))
        records = sum(map(records_of, found))
        if not 0 <= start <= stop or records < stop - start:
            raise DataError(f"Records {start} to {stop} were asked for; there are {self.count}.")
        return join(found) if found else {field.name: field.empty() for field in self.schema}

    def transform(self, *transforms: Transform, seed: int = 0) -> TransformedSource:
        """The records after transforms, as a source; see `ganglion.data.transforms`.

        Args:
            transforms: what is done, in order.
            seed: of those that are random.
        """
        from ganglion.data.sources.transformed import TransformedSource

        return TransformedSource(source=self, transforms=transforms, seed=seed)

    def map(
        self,
        function: Any,
        *,
        records: bool = False,
        torch: bool = False,
        random: bool = False,
        fields: Sequence[Field] | None = None,
        **arguments: Any,
    ) -> TransformedSource:
        """The records become what a function returns for a dictionary of columns; see `transforms.Map`.

        Args:
            function: a callable or its import path.
            records: give it single records.
            torch: give it tensors.
            random: give it random numbers, too.
            fields: of what it returns, if that cannot be found out.
            arguments: given to it by name, beside the records; plain data, or `Statistics`.
        """
        from ganglion.data.transforms.function import function_of
        from ganglion.data.transforms.map import Map

        announced = None if fields is None else tuple(fields)
        return self.transform(
            Map(function_of(function, arguments), records=records, torch=torch, random=random, fields=announced)
        )

    def filter(
        self, function: Any, *, records: bool = False, random: bool = False, **arguments: Any
    ) -> TransformedSource:
        """Only records for which a function returns true; arguments as for `map`; see `transforms.Filter`."""
        from ganglion.data.transforms.filter import Filter
        from ganglion.data.transforms.function import function_of

        return self.transform(Filter(function_of(function, arguments), records=records, random=random))

    def select(self, *columns: str) -> TransformedSource:
        """Only these fields, in this order."""
        from ganglion.data.transforms.fields import Select

        return self.transform(Select(columns))

    def drop(self, *columns: str) -> TransformedSource:
        """All fields but these."""
        from ganglion.data.transforms.fields import Drop

        return self.transform(Drop(columns))

    def rename(self, **names: str) -> TransformedSource:
        """Some fields under other names: `rename(old="new")`."""
        from ganglion.data.transforms.fields import Rename

        return self.transform(Rename(names))

    def cast(self, **dtypes: str) -> TransformedSource:
        """Some fields with another dtype: `cast(label="int64")`; a value that it cannot hold makes its record bad."""
        from ganglion.data.transforms.cast import Cast

        return self.transform(Cast(dtypes))

    def fingerprint(self) -> str:
        """Digest of schema and records, read through once."""
        return fingerprint_source(self)


def fingerprint_source(source: PlainSource) -> str:
    """Read a source through, 8 MiB at a time, and digest what it yields."""
    schema = source.schema
    batches = source.scan(records_within(schema, 2**23))
    return fingerprint_columns(msgspec.json.encode((source.count, schema)), [field.name for field in schema], batches)


def check_range(start: int, stop: int | None, count: int) -> tuple[int, int]:
    """Fill in `stop` and refuse a range that is not within `count` records.

    Raises:
        DataError: not `0 <= start <= stop <= count`.
    """
    stop = count if stop is None else stop
    if not 0 <= start <= stop <= count:
        raise DataError(f"Records {start} to {stop} were asked for; there are {count}.")
    return start, stop


def source_data(source: PlainSource) -> dict[str, Any]:
    """Describe a source as plain data (msgpack, arrays as bytes)."""
    return cast("dict[str, Any]", msgspec.to_builtins(source, builtin_types=(bytes,), enc_hook=_describe))


def source_from(data: Source | dict[str, Any]) -> Source:
    """Rebuild a source from what `source_data` returned; a source is returned as it is.

    Raises:
        DataError: the data does not describe a source.
    """
    if not isinstance(data, dict):
        return data
    path = data.get("type")
    if not isinstance(path, str):
        raise DataError(
            f"A source is described by its import path under 'type'; given: {', '.join(data) or 'nothing'}."
        )
    cls = load_object(path)
    if not (isinstance(cls, type) and issubclass(cls, PlainSource)):
        raise DataError(f"{path} is not a source; a class derived from PlainSource is needed.")
    try:
        return msgspec.convert(data, cls)
    except msgspec.ValidationError as error:
        raise DataError(f"{data!r} does not describe {cls.__name__}: {error}.") from error


def _describe(value: Any) -> Any:
    if isinstance(value, np.ndarray) or hasattr(value, "__arrow_c_array__"):
        return column_data(value)
    raise NotImplementedError(f"{type(value).__name__} is not plain data")
