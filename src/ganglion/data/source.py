"""Where records come from: a schema, a count, and columns read in order.

A source is read in *column batches*: one array for each field, the first axis counting records. Sources that derive
from `PlainSource` are plain data as well, so that a pipeline step can hand one to a process that reads it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Protocol, Self, cast

import msgspec
import numpy as np
import numpy.typing as npt

from ganglion.core.errors import DataError
from ganglion.core.registry import load_object
from ganglion.data.fingerprint import fingerprint_columns

Array = npt.NDArray[Any]
Columns = dict[str, Array]


class Field(msgspec.Struct, frozen=True):
    """One column of a source or a dataset.

    Attributes:
        name: key of the column.
        dtype: NumPy name of its values, such as `uint8` or `float32`; never an object or a string type.
        shape: of one record; `()` for a number.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()

    @classmethod
    def of(cls, name: str, column: Array) -> Self:
        """The field that `column`, of shape `(records, *shape)`, belongs to."""
        return cls(name, column.dtype.name, column.shape[1:])

    @property
    def record_bytes(self) -> int:
        """Bytes that one record takes in memory and in a shard."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)

    def __str__(self) -> str:
        return " ".join((self.name, self.dtype, "x".join(map(str, self.shape)))).rstrip()


Schema = tuple[Field, ...]


def records_within(schema: Schema, size: int) -> int:
    """How many records of `schema` fit in `size` bytes; at least one."""
    return max(1, size // max(1, sum(field.record_bytes for field in schema)))


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

    @property
    def count(self) -> int:
        """Number of records.

        Raises:
            DataError: as for `schema`.
        """
        ...

    def fingerprint(self) -> str:
        """Digest of what will be read: equal when schema and records are equal, however they are stored.

        Raises:
            DataError: as for `scan`.
        """
        ...

    def read(self, start: int, stop: int) -> Columns:
        """Records `start` to `stop` (exclusive), in native byte order.

        Raises:
            DataError: the range is not within the source, or as for `scan`.
        """
        ...

    def scan(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Columns]:
        """The records from `start` to `stop` in one pass, at most `size` at a time.

        Raises:
            DataError: the range is not within the source, or its data is truncated, damaged or of the wrong shape; a
                pass to the end also finds what follows the last record.
        """
        ...


class PlainSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """A source that is plain data; subclasses give `schema`, `count` and `scan`.

    The tag of a subclass is its import path, `module:Class`, by which `source_from` finds it.
    """

    @property
    def schema(self) -> Schema:
        """The fields of every record."""
        raise NotImplementedError

    @property
    def count(self) -> int:
        """Number of records."""
        raise NotImplementedError

    def scan(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Columns]:
        """The records from `start` to `stop` in one pass, at most `size` at a time."""
        raise NotImplementedError

    def read(self, start: int, stop: int) -> Columns:
        """Records `start` to `stop` (exclusive)."""
        for batch in self.scan(max(1, stop - start), start, stop):
            return batch
        return {field.name: np.empty((0, *field.shape), field.dtype) for field in self.schema}

    def fingerprint(self) -> str:
        """Digest of schema and records, read through once."""
        return fingerprint_source(self)


def fingerprint_source(source: Source) -> str:
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
    if isinstance(value, np.ndarray):
        return {"dtype": value.dtype.name, "shape": value.shape, "data": value.tobytes()}
    raise NotImplementedError(f"{type(value).__name__} is not plain data")
