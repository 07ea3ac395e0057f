"""The first records of a source, for trying a pipeline on a sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from ganglion.core.errors import DataError
from ganglion.data.columns import Columns
from ganglion.data.schema import Schema
from ganglion.data.source import PlainSource, check_range, source_from


class LimitedSource(PlainSource, frozen=True, tag="ganglion.data.limited:LimitedSource"):
    """The first records of another source.

    Attributes:
        source: the other source, or its plain data.
        most: how many records to keep; a source that has fewer is kept whole.

    Raises:
        DataError: `most` is less than 1.
    """

    source: Any
    most: int

    def __post_init__(self) -> None:
        if self.most < 1:
            raise DataError(f"A source was limited to {self.most} records; at least 1 is needed.")
        msgspec.structs.force_setattr(self, "source", source_from(self.source))

    @property
    def schema(self) -> Schema:
        """The fields of the other source."""
        return self._inner.schema

    @property
    def count(self) -> int:
        """Number of records."""
        return min(self.most, self._inner.count)

    def scan(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Columns]:
        """The records from `start` to `stop` in one pass, at most `size` at a time."""
        start, stop = check_range(start, stop, self.count)
        return self._inner.scan(size, start, stop)

    @property
    def _inner(self) -> PlainSource:
        inner: PlainSource = self.source
        return inner


def limit(source: PlainSource, most: int | None) -> PlainSource:
    """`source`, cut to its first `most` records; `None` keeps it as it is."""
    return source if most is None else LimitedSource(source=source, most=most)
